"""Dead calls: tool calls that failed for good and wait for a person to redo or drop them; also of runs that have ended.
Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from interlock.canonical import Json
from interlock.errors import BadInput, WaitClosed
from interlock.history import payloads
from interlock.history.calls import DEAD, IN_DOUBT
from interlock.history.events import AttemptFailed, CallDropped, CallPrevented, CallRedone, Event, ToolCalled
from interlock.reading import OpenWait, RunView, read_events
from interlock.store.protocol import CallRow, RunRow, Store


@dataclass(frozen=True, slots=True)
class DeadCall:
    """A call that nobody makes any more unless a person says so. `kind`, `message`: how its last attempt failed.
    `since`: when it died (ms since 1970). `asked`: what somebody said of it that its run hasn't read yet."""

    run: str
    machine: str
    effect: int
    tool: str
    args: Mapping[str, Json]
    attempts: int
    kind: str
    message: str
    since: int
    redoes: int | None
    asked: str

    def as_json(self) -> dict[str, Json]:
        return {
            "run": self.run,
            "machine": self.machine,
            "effect": self.effect,
            "tool": self.tool,
            "args": dict(self.args),
            "attempts": self.attempts,
            "kind": self.kind,
            "message": self.message,
            "since": self.since,
            "redoes": self.redoes,
            "asked": self.asked,
        }


def dead_calls(store: Store) -> list[DeadCall]:
    """Every one in the store, in the order of runs and effects."""
    return [_read(store, row, call) for row, call in store.calls((DEAD,))]


def dead_calls_of(store: Store, run_id: str) -> list[DeadCall]:
    """Those of one run. Raises `UnknownRun`."""
    snapshot = store.snapshot(store.find(run_id).number)
    return [_read(store, snapshot.row, call) for call in snapshot.calls if call.status == DEAD]


def dead_call(store: Store, run_id: str, effect: int) -> DeadCall:
    """One that nobody has seen to yet. Raises `WaitClosed` that says who was first, `BadInput` for one that isn't
    dead."""
    row = store.find(run_id)
    for call in dead_calls_of(store, row.id):
        if call.effect == effect:
            if call.asked:
                raise WaitClosed(f"run {row.id}: {seen_to(store, row.id, effect, call.asked)}")
            return call
    raise WaitClosed(f"run {row.id}: {seen_to(store, row.id, effect, '')}")


def who_asks(view: RunView, effect: int) -> OpenWait | None:
    """The wait that asks whether an effect happened. None: it is in doubt, and nobody asks. Raises `WaitClosed`."""
    for wait in view.waits:
        if wait.why == "doubt" and wait.effect == effect:
            return wait
    call = view.state.calls.get(str(effect))
    if call is not None and call.status == IN_DOUBT:
        return None
    raise WaitClosed(f"run {view.id} asks nothing about effect {effect}")


def seen_to(store: Store, run_id: str, effect: int, asked: str) -> str:
    """Who was first, and with what, in words. Raises `BadInput` when the effect never was a dead call."""
    if asked and asked != "unknown":
        return f"effect {effect} was seen to first: {asked}"
    for _, event, _ in read_events(store, store.find(run_id).number):
        if isinstance(event, CallRedone) and event.effect == effect:
            return f"effect {effect} was done again by {event.by}, as effect {event.again}"
        if isinstance(event, CallDropped) and event.effect == effect:
            return f"effect {effect} was dropped by {event.by}"
    raise BadInput(f"run {run_id} has no dead call of effect {effect}; `interlock show {run_id}` lists them")


def _read(store: Store, row: RunRow, call: CallRow) -> DeadCall:
    intent = _event(store, row, call.seq)
    failed = _event(store, row, call.failed) if call.failed else None
    kind, message = "", ""
    if isinstance(failed, AttemptFailed):
        kind, message = failed.kind, failed.message
    elif isinstance(failed, CallPrevented):
        kind, message = failed.outcome, failed.why
    return DeadCall(
        run=row.id,
        machine=row.machine,
        effect=call.effect,
        tool=call.tool,
        args=intent.args if isinstance(intent, ToolCalled) else {},
        attempts=call.attempt,
        kind=kind,
        message=message,
        since=failed.at if failed is not None else row.changed_at,
        redoes=call.redoes,
        asked=call.asked,
    )


def _event(store: Store, row: RunRow, seq: int) -> Event:
    (stored,) = store.events(row.number, seq, seq)
    return payloads.event_in(stored.body, store.payload)
