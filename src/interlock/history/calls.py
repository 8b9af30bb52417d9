"""Calls: the queue of a run as its events say it: every tool call that was asked for and isn't done with.

    under way   an attempt was begun            due     it failed, and is tried again when its time has come
    in doubt    it may have happened            dead    it failed for good: a person redoes or drops it
What brought a result, was refused by its own tool, or ended with its turn is off the queue. Knows no store.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from interlock.history import events as e

UNDER_WAY, DUE, IN_DOUBT, DEAD = "under way", "due", "in doubt", "dead"

_PERHAPS_STILL_THERE = frozenset({"timeout", "cancelled", "lost", "abandoned"})
"""Failures of attempts that nobody saw the end of: until their time is up, they take a place of their tool's."""


class Queued(Struct, array_like=True, frozen=True, gc=False):
    """One call on the queue. `seq`: the event with what is asked for. `until`: its attempt may be on its way until then
    (ms since 1970; 0: it surely isn't). `due`: when it is tried again. `failed`: the event of its last failure.
    `limited`: its tool's calls are counted across runs. `redoes`: the dead call that is done again by this."""

    status: str
    tool: str
    way: str
    attempt: int
    seq: int
    until: int = 0
    due: int | None = None
    failed: int = 0
    limited: bool = False
    redoes: int | None = None


class HasCalls(Protocol):
    """A run, as far as it is seen here. `touched`: the calls that changed since they were last written as rows."""

    calls: dict[str, Queued]
    touched: set[str]


def _put(run: HasCalls, effect: int, call: Queued | None) -> None:
    key = str(effect)
    if call is None:
        del run.calls[key]
    else:
        run.calls[key] = call
    run.touched.add(key)


def began(run: HasCalls, seq: int, event: e.ToolCalled) -> None:
    """An attempt's intent."""
    until = event.at + event.send_within_ms + event.timeout_ms
    limited, key = event.reserved_at > 0, str(event.effect)
    run.calls[key] = Queued(UNDER_WAY, event.tool, event.way, event.attempt, seq, until, None, 0, limited, event.redoes)
    run.touched.add(key)


def returned(run: HasCalls, effect: int) -> None:
    """It brought a result."""
    key = str(effect)
    if run.calls.pop(key, None) is not None:
        run.touched.add(key)


def failed(run: HasCalls, seq: int, event: e.AttemptFailed) -> None:
    """An attempt brought none."""
    call = run.calls.get(str(event.effect))
    if call is None:  # of a model
        return
    until = call.until if event.kind in _PERHAPS_STILL_THERE else 0
    if event.doubt or event.dead or not event.final:
        status = IN_DOUBT if event.doubt else DEAD if event.dead else DUE
        _put(run, event.effect, replace(call, status=status, until=until, due=event.retry_at, failed=seq))
    else:
        _put(run, event.effect, None)


def prevented(run: HasCalls, effect: int) -> None:
    """No further attempt is made of it."""
    call = run.calls.get(str(effect))
    if call is not None and call.status == DUE:
        _put(run, effect, replace(call, status=DEAD, due=None))


def cleared(run: HasCalls, event: e.DoubtCleared) -> None:
    """It is known whether it happened. If not, and nobody tries it again, it is dead."""
    call = run.calls.get(str(event.effect))
    if call is None:
        return
    status = DEAD if call.due is None and event.way != "key" else DUE  # under its key it is done again at once
    _put(run, event.effect, None if event.happened else replace(call, status=status))


def evidenced(run: HasCalls, effect: int) -> None:
    """A late result: what was thought to have failed for good did happen."""
    call = run.calls.get(str(effect))
    if call is not None and call.status == DEAD:
        _put(run, effect, None)


def turn_ended(run: HasCalls) -> None:
    """Nobody tries again what was due: a read is done with, for anything else a person says."""
    for key, call in list(run.calls.items()):
        if call.status == IN_DOUBT and call.due is not None:
            _put(run, int(key), replace(call, due=None))
        elif call.status == DUE and call.redoes is None:
            _put(run, int(key), None if call.way == "repeat" else replace(call, status=DEAD, due=None))


def rolled_back(run: HasCalls, since: int) -> None:
    """What failed for good in the turns that are undone, or while they were, isn't to be done again."""
    for key, call in list(run.calls.items()):
        if call.status in (DEAD, DUE) and call.seq > since:
            _put(run, int(key), None)


def cancelled(run: HasCalls) -> None:
    """What was due falls away with the run; a redone call that hadn't begun is dead as before."""
    for key, call in list(run.calls.items()):
        if call.status == IN_DOUBT:
            _put(run, int(key), replace(call, due=None))
        elif call.status == DUE:
            _put(run, int(key), None if call.redoes is None else replace(call, status=DEAD, due=None))


def redone(run: HasCalls, event: e.CallRedone) -> None:
    """A person has a dead call done again, as an effect of its own."""
    call = run.calls.get(str(event.effect))
    if call is not None:
        _put(run, event.effect, None)
        again = replace(call, status=DUE, attempt=0, until=0, due=event.at, redoes=event.effect)
        _put(run, event.again, again)


def not_redone(run: HasCalls, effect: int) -> None:
    """Something stood in the way of a redone call: it is dead as before."""
    call = run.calls.get(str(effect))
    if call is not None:
        _put(run, effect, replace(call, status=DEAD, due=None))


def pending(run: HasCalls) -> list[int]:
    """Redone calls that haven't come to an end, oldest first."""
    return [int(key) for key, call in run.calls.items() if call.redoes is not None and call.status in (DUE, UNDER_WAY)]
