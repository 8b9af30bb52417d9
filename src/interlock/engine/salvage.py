"""Salvage: after a refused commit, take the run as the store has it and add again what is still true of the draft.

Refused because of unread mail (`halt`) or a `breaker`: everything but the intents, which have not started, and the
run's end, which the turn, entered again, comes to from its journal. Refused because a wait was closed by somebody
else: only results; what followed from closing it falls away.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from interlock.canonical import Json
from interlock.engine.live_run import LiveRun, Write
from interlock.history import events as e
from interlock.history.fold import walk

_RESULTS = (
    e.ModelReplied,
    e.ToolReturned,
    e.AttemptFailed,
    e.CallPrevented,
    e.DoubtCleared,
    e.EvidenceRecorded,
    e.Overrun,
    e.ToolPinned,
    e.ToolRefused,
    e.ValueNoted,
    e.MoveRefused,
    e.TakenOver,
    e.ContentChanged,
)
_INTENTS = (e.ModelCalled, e.ToolCalled)


async def reload(run: LiveRun, why: str) -> None:
    """Start again from the store, with what was paid for; it is committed at once."""
    if why == "breaker":  # it was opened since we last heard of it
        run.world.breakers.look(run.world.store)
    drafted = run.drafted()
    run.reload(run.world.store.snapshot(run.number))
    moved: dict[int, int] = {}
    kept: dict[int, e.Event] = {}
    unborn = {(event.effect, event.attempt) for _, event in drafted if isinstance(event, _INTENTS)}
    for seq, event in drafted:
        if why == "wait" and isinstance(event, e.WaitEnded):
            break
        kept[seq] = event
        if _ends_run(event) or _falls_with(event, unborn) or (why == "wait" and not isinstance(event, _RESULTS)):
            continue
        moved[seq] = _again(run, event, kept, moved)
    await run.durable()


def _ends_run(event: e.Event) -> bool:
    return isinstance(event, e.Transitioned) and event.status is not None


def _falls_with(event: e.Event, unborn: set[tuple[int, int]]) -> bool:
    """Whether an event is an intent that wasn't committed, or says something of one."""
    if isinstance(event, e.DoubtCleared):
        return event.way == "key" and any(effect == event.effect for effect, _ in unborn)
    return (getattr(event, "effect", None), getattr(event, "attempt", None)) in unborn


def _again(run: LiveRun, event: e.Event, kept: dict[int, e.Event], moved: dict[int, int]) -> int:
    if not isinstance(event, e.Transitioned):
        seq, _ = run.add(event)
        return seq
    writes = [_write(run, change, kept, moved) for change in event.changes]
    run.transition(replace(event, changes=()), writes)
    return run.state.seq


def _write(run: LiveRun, change: e.Change, kept: dict[int, e.Event], moved: dict[int, int]) -> Write:
    how, name, value = change
    if not how.endswith("@"):
        return Write(how, name, value)
    seq, *path = value
    source: e.Event = kept[seq] if seq in kept else run.event_at(seq)
    found: Json = walk(_as_body(source), tuple(path))
    return Write(how[:-1], name, found, at=(moved.get(seq, seq), tuple(path)))


def _as_body(event: e.Event) -> Any:
    return e.to_json(event)
