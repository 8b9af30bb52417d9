"""Mail: what others left in a run's inbox, made into events by the run's owner, each exactly once and in order."""

from __future__ import annotations

from collections.abc import Callable

from interlock.canonical import Json
from interlock.engine import approvals, letters, rollback
from interlock.engine.abandoning import abandon
from interlock.engine.live_run import LiveRun
from interlock.engine.parked import is_parked
from interlock.engine.people import RETRY, take_signal
from interlock.engine.redo import take_drop, take_redo
from interlock.errors import BadInput
from interlock.history import events as e
from interlock.machine.outcomes import EXHAUSTED
from interlock.policy.accounts import overruns
from interlock.store.protocol import InboxItem


async def read(run: LiveRun) -> None:
    """Take in everything unread. Afterwards it is committed."""
    if run.mail:
        run.inbox = list(run.world.store.snapshot(run.number).inbox)
    items, run.inbox, run.mail = run.inbox, [], False
    # A decision closed its wait when it was accepted: what came before it and would close that wait too is too late.
    for item in sorted(items, key=lambda item: item.kind != "decision"):
        _take_in(run, item)
    if items:
        _end_answered(run, {item.id for item in items})
        await run.durable()


def _end_answered(run: LiveRun, taken: set[str]) -> None:
    """A wait whose answer was accepted, and then wasn't one, is over as well: its state asks again."""
    waits = {number: seq for number, (_, _, seq, *_) in run.state.waiting.items() if run.is_stored(seq)}
    if not waits:
        return
    stored = run.world.store.snapshot(run.number)
    if any(item.id not in taken for item in stored.inbox):
        return  # what has come meanwhile may be the answer
    still_open = {str(wait.number) for wait in stored.waits}
    for number in waits.keys() - still_open:
        run.add(e.WaitEnded(wait=int(number), how="decision", outcome="", by="unknown"))
        approvals.not_said(run, int(number), waits[number])


def _take_in(run: LiveRun, item: InboxItem) -> None:
    try:
        letters.check(item.kind, item.body)
        if run.ended and item.kind not in _AFTER_THE_END:
            _dropped(run, item)
        else:
            _READERS.get(item.kind, _dropped)(run, item)
    except (BadInput, LookupError, TypeError, ValueError) as wrong:  # left by who doesn't know what it takes
        why = f"it can't be read: {wrong}"[:300]
        run.add(e.AnswerDropped(kind=item.kind, body=item.body, why=why, inbox=item.id))


def _decision(run: LiveRun, item: InboxItem) -> None:
    if approvals.decided(run, item):
        return
    body = item.body
    wait = run.state.waiting.get(str(body["wait"]))
    if wait is None:
        _dropped(run, item)
        return
    _, why, _, _, _, effect = wait
    if any(row.number == body["wait"] for row in run.world.store.snapshot(run.number).waits):
        raise BadInput("it was left without closing its wait, which goes on")
    said = {"by": body["by"], "reason": body.get("reason", "")}
    run.add(
        e.WaitEnded(
            wait=body["wait"],
            how="decision",
            outcome=body["outcome"],
            fields=body.get("fields", {}),
            inbox=item.id,
            **said,
        )
    )
    if why == "doubt" and body["outcome"] not in ("happened", "did_not"):  # it clears nothing: somebody is asked again
        run.add(e.AnswerDropped(kind=item.kind, body=body, why=f"no answer `{body['outcome']}` here"))
    elif why == "doubt":
        happened = body["outcome"] == "happened"
        value = body.get("fields", {}).get("result") if happened else None
        run.add(e.DoubtCleared(effect=effect, way="person", happened=happened, value=value, **said))


def _signal(run: LiveRun, item: InboxItem) -> None:
    body = item.body
    run.add(e.SignalArrived(name=body["name"], fields=body.get("fields", {}), by=body["by"], inbox=item.id))
    for number, (kind, _, _, due, signal, _) in list(run.state.waiting.items()):
        in_time = due is None or item.left_at < due  # else the timer was first, whenever a worker looks
        if kind == "signal" and signal == body["name"] and in_time:
            take_signal(run, int(number), signal)


def _extend(run: LiveRun, item: InboxItem) -> None:
    body = item.body
    for name, more in body["more"].items():
        if run.state.ceiling[name] + more > letters.CEILING_MAX:
            raise BadInput(f"more {name} than can be counted")
    run.add(e.Extended(more=body["more"], by=body["by"], reason=body.get("reason", ""), inbox=item.id))
    for number, (_, why, seq, *_) in list(run.state.waiting.items()):
        if why == "budget" or (why in ("escalated", "undo") and _outcome_at(run, seq) in EXHAUSTED):
            outcome = "go_on" if why == "budget" else RETRY
            run.add(e.WaitEnded(wait=int(number), how="extend", outcome=outcome, by=body["by"]))


def _outcome_at(run: LiveRun, seq: int) -> str | None:
    event = run.event_at(seq)
    return event.outcome if isinstance(event, e.WaitOpened) else None


def _pause(run: LiveRun, item: InboxItem) -> None:
    by, reason = item.body["by"], item.body.get("reason", "")
    if is_parked(run.state):  # it goes on being: only who resumes it releases it
        reason = f"{run.state.reason}; {reason or f'paused by {by}'}"
    run.add(e.Paused(by=by, reason=reason, inbox=item.id))


def _resume(run: LiveRun, item: InboxItem) -> None:
    released = is_parked(run.state)
    run.add(e.Resumed(by=item.body["by"], reason=item.body.get("reason", ""), released=released, inbox=item.id))


def _cancel(run: LiveRun, item: InboxItem) -> None:
    abandon(run, "cancelled")
    for number in list(run.state.waiting):
        run.add(e.WaitEnded(wait=int(number), how="cancel", by=item.body["by"]))
    run.add(e.Cancelled(by=item.body["by"], reason=item.body.get("reason", ""), inbox=item.id))


def _clear(run: LiveRun, item: InboxItem) -> None:
    """A person's word about an effect in doubt that nobody asks about, as when the run has ended."""
    body = item.body
    effect, happened = body["effect"], bool(body["happened"])
    if str(effect) not in run.state.doubts:
        _dropped(run, item)
        return
    for number, (_, why, _, _, _, about) in list(run.state.waiting.items()):
        if why == "doubt" and about == effect:
            run.add(e.WaitEnded(wait=int(number), how="cleared", by=body["by"]))
    said = {"by": body["by"], "reason": body.get("reason", ""), "inbox": item.id}
    run.add(e.DoubtCleared(effect=effect, way="person", happened=happened, value=body.get("result"), **said))


def _evidence(run: LiveRun, item: InboxItem) -> None:
    """A late result: it is the result if the attempt is still open, else it clears a doubt and corrects a charge."""
    late = e.from_json(item.body)
    assert isinstance(late, e.ModelReplied | e.ToolReturned)
    held = run.state.open.get(str(late.effect))
    if held is not None and held[0] == late.attempt:
        run.add(late)
        run.inbox_taken(item.id)
    else:
        _kept(run, late, item.id)
    for overrun in overruns(run.state, late.effect):
        run.add(overrun)


def _kept(run: LiveRun, late: e.ModelReplied | e.ToolReturned, inbox: str) -> None:
    tokens, nanousd = _charged(run, late)
    value: Json = late.value if isinstance(late, e.ToolReturned) else None
    doubt = run.state.doubts.get(str(late.effect))
    # Attempts under one key are one deed outside; otherwise an attempt says nothing of those after it.
    if doubt is not None and (doubt[0] == late.attempt or doubt[2] == "key"):
        # The question goes first: if a person answers it before this is committed, what followed falls away with it.
        for wait, (_, why, _, _, _, effect) in list(run.state.waiting.items()):
            if why == "doubt" and effect == late.effect:
                run.add(e.WaitEnded(wait=int(wait), how="evidence"))
        run.add(e.DoubtCleared(effect=late.effect, way="evidence", happened=True, value=value))
    spent = late.tokens_in + late.tokens_out if isinstance(late, e.ModelReplied) else 0
    run.add(
        e.EvidenceRecorded(
            effect=late.effect,
            attempt=late.attempt,
            value=value,
            tokens=spent - tokens,
            nanousd=late.nanousd - nanousd,
            inbox=inbox,
        )
    )


def _charged(run: LiveRun, late: e.ModelReplied | e.ToolReturned) -> tuple[int, int]:
    """What the attempt was charged while nobody knew, so that the evidence corrects it."""
    for event in run.history():
        if isinstance(event, e.AttemptFailed) and (event.effect, event.attempt) == (late.effect, late.attempt):
            return event.tokens, event.nanousd
    return late.tokens_in + late.tokens_out if isinstance(late, e.ModelReplied) else 0, late.nanousd


def _unreadable(run: LiveRun, item: InboxItem) -> None:
    run.add(e.AnswerDropped(kind=item.body["kind"], why="it can't be read", inbox=item.id))


def _dropped(run: LiveRun, item: InboxItem) -> None:
    run.add(e.AnswerDropped(kind=item.kind, body=item.body, why="nothing here waits for it", inbox=item.id))


_READERS: dict[str, Callable[[LiveRun, InboxItem], None]] = {
    "decision": _decision,
    "signal": _signal,
    "extend": _extend,
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "rollback": rollback.begin,
    "evidence": _evidence,
    "redo": take_redo,
    "drop": take_drop,
    "clear": _clear,
    "unreadable": _unreadable,
}

_AFTER_THE_END = frozenset({"evidence", "redo", "drop", "clear", "unreadable"})
"""What still means something to a run that has ended."""
