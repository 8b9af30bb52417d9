"""A run as the fold of its events: `RunState.apply` is the only place that says what an event changes.

The same fold builds the live state commit by commit, rebuilds it from the log, and is what `verify` compares the
stored rows with. Knows no store, clock or machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from msgspec import Struct, convert

from interlock.canonical import Json, encode_stored
from interlock.history import calls
from interlock.history import events as e
from interlock.history.calls import Queued
from interlock.history.events import Change, Event
from interlock.machine.limits import DIMENSIONS

FINAL = frozenset({"completed", "failed", "cancelled"})


class Pointer(Struct, frozen=True, gc=False):
    """Where a record value stands in the log, and where it came from. `item` -1: the whole field."""

    item: int
    seq: int
    path: tuple[str | int, ...]
    origin: str = ""


class Conversation(Struct, array_like=True):
    """Which stretches of the log are one conversation: `[first, last]` event numbers, `last` 0 while it goes on.
    `head` is the event with its first prompt, which is always sent."""

    head: int
    ranges: list[list[int]]
    origins: list[str] = []  # of what tools brought into it: they stay when the results have left the window
    trimmed: int = 0  # the event that says what is left out, and what is told in its place


def _zeros() -> dict[str, int]:
    return dict.fromkeys(DIMENSIONS, 0)


@dataclass(slots=True)
class RunState:
    """Everything about a run that its events say, kept small: it is rewritten with every commit."""

    status: str = "ready"  # ready, waiting, paused or final
    reason: str = ""
    state: str = ""
    turn: int = 1
    turn_seq: int = 0
    seq: int = 0
    content: str = ""
    mode: str = "hard"
    warn_at: float = 0.8
    on_warn: str = "person"
    reserve: float = 0.0
    ceiling: dict[str, int] = field(default_factory=_zeros)
    spent: dict[str, int] = field(default_factory=_zeros)
    held: dict[str, int] = field(default_factory=_zeros)
    tokens_in: int = 0  # of replies; the account's tokens also count what a doubt may have used
    tokens_out: int = 0
    wrapping: bool = False  # limits are used up: only what is reserved remains
    overrun: bool = False
    warned: dict[str, int] = field(default_factory=dict)  # dimension -> the ceiling it was said about
    effects: int = 0  # the last effect number given
    open: dict[str, Json] = field(default_factory=dict)  # effect -> [attempt, name, way, hold tokens, hold money, seq]
    doubts: dict[str, Json] = field(default_factory=dict)  # effect -> the same
    waits: int = 0  # the last wait number given
    waiting: dict[str, Json] = field(default_factory=dict)  # wait -> [kind, why, seq, due, signal, effect]
    signals: dict[str, list[int]] = field(default_factory=dict)  # name -> events not yet taken
    visits: dict[str, int] = field(default_factory=dict)
    prints: dict[str, list[Any]] = field(default_factory=dict)  # state -> [fingerprint, times in a row]
    turn_ms: int = 0
    turn_start_nanousd: int = 0
    takeovers: int = 0  # of this turn
    paused: bool = False
    threads: dict[str, Conversation] = field(default_factory=dict)
    pins: dict[str, list[Any]] = field(default_factory=dict)  # tool of a server -> [digest, event that pinned it]
    rollback: list[Any] = field(default_factory=list)  # while one is under way: [to, event, was paused before]
    cells: dict[str, list[Pointer]] = field(default_factory=dict)  # kept as rows, not in the live state
    moved: list[tuple[str, Pointer]] = field(default_factory=list)  # cells since they were last written as rows
    approvals: dict[str, Json] = field(default_factory=dict)  # effect -> [wait, binding, until, seq]: given, not used
    touched: set[str] = field(default_factory=set)  # calls since they were last written as rows
    calls: dict[str, Queued] = field(default_factory=dict)  # effect -> its tool call, as long as that isn't done with

    # -- applying ---------------------------------------------------------------------------------------------------

    def apply(self, seq: int, event: Event) -> None:
        """Take in event `seq`, which must be the next."""
        self.seq = seq
        ms = event.ms
        if ms:
            self.spent["active_ms"] += ms
            self.turn_ms += ms
        handler = _APPLY.get(type(event))
        if handler is not None:
            handler(self, seq, event)

    def _stand(self) -> None:
        """Say anew how an open run stands; for what pauses it or has it wait."""
        if self.status not in FINAL:
            self.status = "paused" if self.paused else "waiting" if self.waiting else "ready"

    def _settle(self, effect: int, tokens: int, nanousd: int) -> Json:
        """Close an open effect: its hold goes, what it really cost stays."""
        entry = self.open.pop(str(effect), None)
        if entry is not None:
            if entry[3]:
                self.held["tokens"] -= entry[3]
            if entry[4]:
                self.held["nanousd"] -= entry[4]
        if tokens:
            self.spent["tokens"] += tokens
        if nanousd:
            self.spent["nanousd"] += nanousd
        return entry

    def _change(self, seq: int, index: int, change: Change, origin: str) -> None:
        how, name, value = change
        if how.endswith("@"):
            at, *path = value
            self._point(how[:-1], name, int(at), tuple(path), origin, count=None)
        elif how == "set":
            self._point("set", name, seq, ("changes", index, 2), origin, count=None)
        else:
            self._point("add", name, seq, ("changes", index, 2), origin, count=len(value))

    def _point(
        self, how: str, name: str, seq: int, path: tuple[str | int, ...], origin: str, count: int | None
    ) -> None:
        if how == "set":
            made = [Pointer(-1, seq, path, origin)]
            self.cells[name] = made
        else:
            have = self.cells.setdefault(name, [])
            item = have[-1].item + 1 if have else 0
            places = [path] if count is None else [(*path, i) for i in range(count)]
            made = [Pointer(item + i, seq, place, origin) for i, place in enumerate(places)]
            have.extend(made)
        self.moved.extend((name, pointer) for pointer in made)

    def _end_turn(self, seq: int) -> None:
        if self.calls:
            calls.turn_ended(self)
        self.turn += 1
        self.turn_seq = seq
        self.turn_ms = 0
        self.turn_start_nanousd = self.spent["nanousd"]
        self.takeovers = 0
        if self.approvals:
            self.approvals.clear()

    # -- the live state -----------------------------------------------------------------------------------------------

    def live(self) -> bytes:
        """The state as stored with the run row: its values in the order of `LIVE`, without their names, for it is
        rewritten with every commit. The record and the account have rows of their own."""
        return encode_stored(_live_values(self))

    @classmethod
    def revive(cls, live: Json, account: tuple[dict[str, int], dict[str, int], dict[str, int]]) -> RunState:
        """The state that `live` was made of, also by an older interlock, which knew fewer values. `account` is
        (ceiling, spent, held). Cells are filled in by the caller."""
        values = dict(zip(LIVE, live, strict=False))
        values["threads"] = {name: Conversation(*known) for name, known in values["threads"].items()}
        values["calls"] = {effect: Queued(*known) for effect, known in values.get("calls", {}).items()}
        ceiling, spent, held = account
        return cls(**values, ceiling=ceiling, spent=spent, held=held)


_ROWS_OF_THEIR_OWN = {"ceiling", "spent", "held", "cells", "moved", "touched"}
LIVE = tuple(name for name in RunState.__dataclass_fields__ if name not in _ROWS_OF_THEIR_OWN)
"""What of the state is stored with the run row. A new value goes to the end of it."""
_live_values = attrgetter(*LIVE)


# -- what each event changes -----------------------------------------------------------------------------------------


def _run_started(run: RunState, seq: int, event: e.RunStarted) -> None:
    run.state, run.content = event.state, event.content
    run.mode, run.warn_at, run.on_warn, run.reserve = event.mode, event.warn_at, event.on_warn, event.wrap_up
    run.ceiling = {name: event.ceiling[name] for name in DIMENSIONS}
    run.turn_seq = seq
    for name in event.record:
        run._point("set", name, seq, ("record", name), event.origins.get(name, "user"), count=None)
    for name, over in event.threads.items():
        head = -len(over["messages"])  # numbered back from this event
        run.threads[name] = Conversation(head, [[head, 0 if over["goes_on"] else seq]], list(over["origins"]))


def _model_called(run: RunState, seq: int, event: e.ModelCalled) -> None:
    _effect_begun(run, seq, event.effect, event.attempt, event.model, "repeat", event.hold_tokens, event.hold_nanousd)
    if event.thread is None:
        return
    thread = run.threads.get(event.thread)
    if thread is None:
        run.threads[event.thread] = Conversation(seq, [[seq, 0]])
        return
    if not thread.ranges or thread.ranges[-1][1]:
        thread.ranges.append([seq, 0])


def _context_trimmed(run: RunState, seq: int, event: e.ContextTrimmed) -> None:
    thread, start = run.threads[event.thread], event.start
    thread.ranges = [[max(first, start), last] for first, last in thread.ranges if not last or last >= start]
    thread.trimmed = seq


def _tool_called(run: RunState, seq: int, event: e.ToolCalled) -> None:
    _effect_begun(run, seq, event.effect, event.attempt, event.tool, event.way, 0, event.hold_nanousd)
    if event.approval is not None:
        run.approvals.pop(str(event.effect), None)
    calls.began(run, seq, event)


def _effect_begun(
    run: RunState, seq: int, effect: int, attempt: int, name: str, way: str, tokens: int, nanousd: int
) -> None:
    if effect > run.effects:
        run.effects = effect
    run.open[str(effect)] = [attempt, name, way, tokens, nanousd, seq]
    run.spent["calls"] += 1
    if tokens:
        run.held["tokens"] += tokens
    if nanousd:
        run.held["nanousd"] += nanousd


def _model_replied(run: RunState, seq: int, event: e.ModelReplied) -> None:
    run._settle(event.effect, event.tokens_in + event.tokens_out, event.nanousd)
    run.tokens_in += event.tokens_in
    run.tokens_out += event.tokens_out


def _tool_returned(run: RunState, seq: int, event: e.ToolReturned) -> None:
    run._settle(event.effect, 0, event.nanousd)
    calls.returned(run, event.effect)
    if run.threads:
        _brought(run, event.origin)


def _brought(run: RunState, origin: str) -> None:
    """A result of this origin goes into the conversation that is under way, if one is."""
    for thread in run.threads.values():
        if origin not in thread.origins and thread.ranges and not thread.ranges[-1][1]:
            thread.origins.append(origin)


def _attempt_failed(run: RunState, seq: int, event: e.AttemptFailed) -> None:
    entry = run._settle(event.effect, event.tokens, event.nanousd)
    if event.doubt and entry is not None:
        run.doubts[str(event.effect)] = entry
    calls.failed(run, seq, event)


def _call_prevented(run: RunState, seq: int, event: e.CallPrevented) -> None:
    if event.effect > run.effects:
        run.effects = event.effect
    calls.prevented(run, event.effect)


def _doubt_cleared(run: RunState, seq: int, event: e.DoubtCleared) -> None:
    entry = run.doubts.pop(str(event.effect), None)
    if event.happened and entry is not None:
        _brought(run, f"tool:{entry[1]}")
    calls.cleared(run, event)


def _tool_pinned(run: RunState, seq: int, event: e.ToolPinned) -> None:
    run.pins[event.tool] = [event.digest, seq]


def _evidence_recorded(run: RunState, seq: int, event: e.EvidenceRecorded) -> None:
    run.spent["tokens"] += event.tokens
    run.spent["nanousd"] += event.nanousd
    calls.evidenced(run, event.effect)


def _call_redone(run: RunState, seq: int, event: e.CallRedone) -> None:
    run.effects = max(run.effects, event.again)
    for name, more in event.more.items():
        run.ceiling[name] += more
    calls.redone(run, event)


def _redo_refused(run: RunState, seq: int, event: e.RedoRefused) -> None:
    calls.not_redone(run, event.effect)


def _call_dropped(run: RunState, seq: int, event: e.CallDropped) -> None:
    calls.returned(run, event.effect)


def _transitioned(run: RunState, seq: int, event: e.Transitioned) -> None:
    state, to, outcome = event.state, event.to, event.outcome
    for index, change in enumerate(event.changes):
        run._change(seq, index, change, event.origin)
    run.visits[state] = run.visits.get(state, 0) + 1
    run.spent["turns"] += 1 if event.counts else 0
    if event.print is not None:
        before = run.prints.get(state)
        again = before[1] + 1 if before and before[0] == event.print else 1
        run.prints[state] = [event.print, again]
    run.wrapping = run.wrapping or outcome in ("limit_reached", "budget_spent")
    if to != state:
        _leave_conversations(run, seq, state)
    run.state, run.reason = to, outcome
    run._end_turn(seq)
    if event.status is not None:
        run.status = event.status
        run.waiting.clear()


def _leave_conversations(run: RunState, seq: int, state: str) -> None:
    run.threads.pop(f"@{state}", None)
    for thread in run.threads.values():
        if thread.ranges and not thread.ranges[-1][1]:
            thread.ranges[-1][1] = seq


def _wait_opened(run: RunState, seq: int, event: e.WaitOpened) -> None:
    run.waits = event.wait
    if event.effect is not None and event.effect > run.effects:  # asked about before it begins: its number is given
        run.effects = event.effect
    run.waiting[str(event.wait)] = [event.kind, event.why, seq, event.due, event.signal, event.effect]
    run.reason = event.outcome or event.why
    run._stand()


def _wait_ended(run: RunState, seq: int, event: e.WaitEnded) -> None:
    entry = run.waiting.pop(str(event.wait), None)
    if entry is not None and entry[1] == "budget" and event.how in ("rollback", "upgrade"):
        run.warned = {}  # nobody answered: it is said again
    if entry is not None and event.how == "signal":
        run.signals[entry[4]].pop(0)
    run._stand()


def _approved(run: RunState, seq: int, event: e.Approved) -> None:
    run.approvals[str(event.effect)] = [event.wait, event.binding, event.until, seq]


def _approval_refused(run: RunState, seq: int, event: e.ApprovalRefused) -> None:
    given = run.approvals.get(str(event.effect))
    if given is not None and given[0] == event.wait:
        del run.approvals[str(event.effect)]


def _warned(run: RunState, seq: int, event: e.Warned) -> None:
    run.warned[event.dimension] = event.ceiling


def _overrun(run: RunState, seq: int, event: e.Overrun) -> None:
    run.overrun = True


def _extended(run: RunState, seq: int, event: e.Extended) -> None:
    for name, more in event.more.items():
        run.ceiling[name] += more
    run.wrapping = False
    run.overrun = any(run.spent[name] > run.ceiling[name] for name in ("tokens", "nanousd"))


def _paused(run: RunState, seq: int, event: e.Paused) -> None:
    run.paused, run.reason = True, event.reason or f"paused by {event.by}"
    run._stand()


def _resumed(run: RunState, seq: int, event: e.Resumed) -> None:
    run.paused, run.reason, run.takeovers = False, "", 0
    if run.rollback:
        run.rollback = [*run.rollback[:2], False]
    run._stand()


def _cancelled(run: RunState, seq: int, event: e.Cancelled) -> None:
    run.status, run.reason, run.paused = "cancelled", event.reason or f"cancelled by {event.by}", False
    run.waiting.clear()
    run.approvals.clear()
    run.rollback = []
    calls.cancelled(run)


def _rollback_begun(run: RunState, seq: int, event: e.RollbackBegun) -> None:
    # A pause that was there before holds for the run, not for the person's own command; one that comes now holds both.
    run.rollback, run.paused = [event.to, seq, run.paused], False
    run.reason = f"rolling back to turn {event.to}"
    run._end_turn(seq)
    run._stand()


def _rolled_back(run: RunState, seq: int, event: e.RolledBack) -> None:
    run.state = event.state
    run.cells = {
        name: [Pointer(item, at, tuple(path), origin) for item, at, path, origin in pointers]
        for name, pointers in event.cells.items()
    }
    run.moved = [(name, pointer) for name, pointers in run.cells.items() for pointer in pointers]
    run.threads = {
        name: _gone_back(convert(known, Conversation), event.since, seq) for name, known in event.threads.items()
    }
    run.prints = {state: list(known) for state, known in event.prints.items()}
    run.signals = {name: list(arrived) for name, arrived in event.signals.items()}
    run.wrapping = event.wrapping
    calls.rolled_back(run, event.since)
    _rollback_over(run, seq, f"rolled back to turn {event.to}")


def _gone_back(thread: Conversation, since: int, seq: int) -> Conversation:
    """A conversation that was going on ends where the run returns to, and goes on after what it returns by."""
    going_on = any(not last for _, last in thread.ranges)
    thread.ranges = [[first, last or since] for first, last in thread.ranges] + ([[seq, 0]] if going_on else [])
    return thread


def _rollback_given_up(run: RunState, seq: int, event: e.RollbackGivenUp) -> None:
    calls.rolled_back(run, run.rollback[1])
    _rollback_over(run, seq, f"the rollback to turn {event.to} was given up")


def _rollback_over(run: RunState, seq: int, reason: str) -> None:
    run.paused = run.paused or bool(run.rollback and run.rollback[2])
    run.rollback, run.reason = [], reason
    run._end_turn(seq)
    run._stand()


def _upgraded(run: RunState, seq: int, event: e.Upgraded) -> None:
    run.cells = {new: run.cells[old] for old, new in event.carried.items()}
    for name in event.values:
        run._point("set", name, seq, ("values", name), event.origins.get(name, ""), count=None)
    run.moved = [(name, pointer) for name, pointers in run.cells.items() for pointer in pointers]
    run.threads = {
        _thread_name(name, event.states): _gone_back(thread, run.turn_seq, seq)
        for name, known in run.threads.items()
        if (thread := _known_by(known, run.turn_seq)) is not None
    }
    run.visits = {event.states.get(state, state): times for state, times in run.visits.items()}
    run.prints = {}
    run.state, run.content, run.reason = event.state, event.content, "upgraded"
    run._end_turn(seq)
    run._stand()


def _thread_name(name: str, states: Mapping[str, str]) -> str:
    return f"@{states.get(name[1:], name[1:])}" if name.startswith("@") else name


def _known_by(thread: Conversation, since: int) -> Conversation | None:
    """A conversation without what has come to it after a moment. None: it began after that."""
    if thread.head > since:
        return None
    thread.ranges = [[first, last] for first, last in thread.ranges if first <= since]
    return thread


def _signal_arrived(run: RunState, seq: int, event: e.SignalArrived) -> None:
    run.signals.setdefault(event.name, []).append(seq)


def _taken_over(run: RunState, seq: int, event: e.TakenOver) -> None:
    run.takeovers += 1


def _content_changed(run: RunState, seq: int, event: e.ContentChanged) -> None:
    run.content = event.content


_APPLY: dict[type[Event], Callable[[RunState, int, Any], None]] = {
    e.RunStarted: _run_started,
    e.ModelCalled: _model_called,
    e.ContextTrimmed: _context_trimmed,
    e.ModelReplied: _model_replied,
    e.ToolCalled: _tool_called,
    e.ToolReturned: _tool_returned,
    e.AttemptFailed: _attempt_failed,
    e.CallPrevented: _call_prevented,
    e.DoubtCleared: _doubt_cleared,
    e.EvidenceRecorded: _evidence_recorded,
    e.ToolPinned: _tool_pinned,
    e.CallRedone: _call_redone,
    e.RedoRefused: _redo_refused,
    e.CallDropped: _call_dropped,
    e.Transitioned: _transitioned,
    e.WaitOpened: _wait_opened,
    e.WaitEnded: _wait_ended,
    e.Approved: _approved,
    e.ApprovalRefused: _approval_refused,
    e.Warned: _warned,
    e.Overrun: _overrun,
    e.Extended: _extended,
    e.Paused: _paused,
    e.Resumed: _resumed,
    e.Cancelled: _cancelled,
    e.RollbackBegun: _rollback_begun,
    e.RolledBack: _rolled_back,
    e.RollbackGivenUp: _rollback_given_up,
    e.Upgraded: _upgraded,
    e.SignalArrived: _signal_arrived,
    e.TakenOver: _taken_over,
    e.ContentChanged: _content_changed,
}


def fold(history: list[Event]) -> RunState:
    """The state after these events, the first being event 1."""
    run = RunState()
    for seq, event in enumerate(history, start=1):
        run.apply(seq, event)
    return run


# -- the record ------------------------------------------------------------------------------------------------------


def record_of(
    cells: Mapping[str, list[Pointer]], value_at: Callable[[int, tuple[str | int, ...]], Json]
) -> dict[str, Json]:
    """The record's values by field, from its cells and a way to read the log."""
    return {name: value_of(pointers, value_at) for name, pointers in cells.items()}


def value_of(pointers: list[Pointer], value_at: Callable[[int, tuple[str | int, ...]], Json]) -> Json:
    """One field's value: its whole value, then the items appended to it."""
    first = pointers[0]
    if first.item >= 0:
        return [value_at(p.seq, p.path) for p in pointers]
    whole = value_at(first.seq, first.path)
    return [*whole, *(value_at(p.seq, p.path) for p in pointers[1:])] if len(pointers) > 1 else whole


def walk(body: Json, path: tuple[str | int, ...]) -> Json:
    """The value inside a stored event at `path`."""
    for step in path:
        body = body[step]
    return body
