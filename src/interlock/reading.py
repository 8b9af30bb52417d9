"""Reading: a run as a person or program reads it, and whether its log still says what its rows say. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec.structs import replace

from interlock.canonical import Json, decode, sha256
from interlock.engine.live_run import account_of, cell_of, pointers_of, row_of
from interlock.engine.parked import RESTORED
from interlock.engine.rows import row_of_call
from interlock.errors import BadInput, DamagedStore, StoreError, WaitClosed
from interlock.history import chain, payloads
from interlock.history.calls import Queued
from interlock.history.deeds import Plan, plan
from interlock.history.events import Event, RunStarted, Upgraded, WaitOpened
from interlock.history.fold import FINAL, RunState, value_of, walk
from interlock.history.notices import notice_id, notice_of
from interlock.machine.limits import Amounts, dollars
from interlock.policy.breaker import Breaker, contradiction
from interlock.store.protocol import CallRow, NoticeRow, RunFilter, RunRow, Snapshot, Store, StoredEvent, Wait


@dataclass(frozen=True, slots=True)
class OpenWait:
    """A wait with what it asks: `form` maps each outcome to the JSON schema of its fields."""

    run: str
    number: int
    kind: str
    why: str
    of: str
    prompt: str
    outcome: str | None
    effect: int | None
    signal: str | None
    form: dict[str, Json]
    opened_at: int
    due: int | None
    state: str = ""
    leads: Mapping[str, Json] = field(default_factory=dict)
    call: Mapping[str, Json] = field(default_factory=dict)
    binding: str | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands. Money in nano-dollars; times in ms since 1970."""

    row: RunRow
    state: RunState
    record: dict[str, Json]
    waits: tuple[OpenWait, ...]
    forked_from: Mapping[str, Json]  # the run, its turn, and the event before it; empty: it was started

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def status(self) -> str:
        return self.row.status

    @property
    def ended(self) -> bool:
        return self.row.status in FINAL

    @property
    def spent(self) -> Amounts:
        return self.row.account.spent

    def as_json(self) -> dict[str, Json]:
        """What `show --json` prints."""
        spent, ceiling, held = self.row.account.spent, self.row.account.ceiling, self.row.account.held
        return {
            "run": self.id,
            "machine": self.row.machine,
            "version": {"shape": self.row.shape, "content": self.row.content},
            "key": self.row.key,
            "status": self.status,
            "reason": self.row.reason,
            "state": self.row.state,
            "turns": spent.turns,
            "record": self.record,
            "cost": {
                "usd": float(dollars(spent.nanousd)),
                "nanousd": spent.nanousd,
                "tokens": spent.tokens,
                "tokens_in": self.state.tokens_in,
                "tokens_out": self.state.tokens_out,
            },
            "account": {"ceiling": ceiling.as_dict(), "spent": spent.as_dict(), "held": held.as_dict()},
            "waiting": [wait_json(wait) for wait in self.waits],
            "forked_from": {**self.forked_from} or None,
            "rolling_back_to": self.state.rollback[0] if self.state.rollback else None,
            "calls": [call_json(int(effect), call) for effect, call in self.state.calls.items()],
            "in_doubt": sorted(int(number) for number in self.state.doubts),
            "created_at": self.row.created_at,
            "changed_at": self.row.changed_at,
        }


def call_json(effect: int, call: Queued) -> dict[str, Json]:
    """A call on the queue."""
    return {
        "effect": effect,
        "status": call.status,
        "tool": call.tool,
        "attempt": call.attempt,
        "due": call.due,
        "redoes": call.redoes,
    }


def wait_json(wait: OpenWait) -> dict[str, Json]:
    return {
        "run": wait.run,
        "wait": wait.number,
        "kind": wait.kind,
        "why": wait.why,
        "of": wait.of,
        "prompt": wait.prompt,
        "outcome": wait.outcome,
        "effect": wait.effect,
        "signal": wait.signal,
        "form": wait.form,
        "opened_at": wait.opened_at,
        "due": wait.due,
        **({"call": {"tool": wait.call["tool"], "args": wait.call["args"]}} if wait.call else {}),
    }


def state_of(row: RunRow) -> RunState:
    account = row.account
    return RunState.revive(
        decode(row.live), (account.ceiling.as_dict(), account.spent.as_dict(), account.held.as_dict())
    )


def read_run(store: Store, run_id: str) -> RunView:
    """A run by id (or its beginning, or `@last`). Raises `UnknownRun`."""
    row = store.find(run_id)
    snapshot = store.snapshot(row.number)
    waits = tuple(open_wait(store, snapshot.row, wait) for wait in snapshot.waits)
    (first,) = store.events(row.number, 1, 1)
    start = payloads.join(first.body, store.payload)
    return RunView(
        snapshot.row, state_of(snapshot.row), _record(store, snapshot, start), waits, start.get("forked_from", {})
    )


def _record(store: Store, snapshot: Snapshot, start: dict[str, Json]) -> dict[str, Json]:
    """The record as its cells give it, without reading history; its fields in the order of the first event."""
    bodies = {1: start, **{seq: payloads.join(body, store.payload) for seq, body in snapshot.values.items()}}
    cells = pointers_of(snapshot)
    order = [name for name in bodies[1]["record"] if name in cells]
    return {name: value_of(cells[name], lambda seq, path: walk(bodies[seq], path)) for name in [*order, *cells]}


def open_wait(store: Store, row: RunRow, wait: Wait) -> OpenWait:
    (stored,) = store.events(row.number, wait.seq, wait.seq)
    event = payloads.event_in(stored.body, store.payload)
    assert isinstance(event, WaitOpened)
    return OpenWait(
        run=row.id,
        number=wait.number,
        kind=wait.kind,
        why=wait.why,
        of=event.of,
        prompt=event.prompt,
        outcome=event.outcome,
        effect=event.effect,
        signal=event.signal,
        form=dict(event.form),
        opened_at=wait.opened_at,
        due=wait.due,
        state=event.state,
        leads=dict(event.leads),
        call=dict(event.call),
        binding=event.binding,
    )


def read_events(
    store: Store, number: int, first: int = 1, last: int | None = None
) -> Iterator[tuple[int, Event, bytes]]:
    """(event number, event, hash) of a run, payloads filled in."""
    for stored in store.events(number, first, last):
        yield stored.seq, _event(store, stored), stored.hash


def _event(store: Store, stored: StoredEvent) -> Event:
    try:
        return payloads.event_in(stored.body, store.payload)
    except (KeyError, ValueError, TypeError) as wrong:
        raise StoreError(f"event {stored.seq} can't be read: {wrong}. See `interlock verify`") from wrong


def rollback_plan(store: Store, run_id: str, to: int) -> Plan:
    """What a rollback would do. Raises `WaitClosed` for a run that has ended, `BadInput` where there is no way back."""
    row = store.find(run_id)
    if row.status in FINAL:
        raise WaitClosed(
            f"run {row.id} has ended ({row.status}) and can't be rolled back; a fork goes on from there as a new run: "
            f"interlock fork {row.id} --at {to}"
        )
    going_on = state_of(row).rollback
    if going_on:
        raise BadInput(f"run {row.id} is being rolled back to turn {going_on[0]}: let that end first")
    if _parked_by_store(row, state_of(row)):
        raise BadInput(f"run {row.id} was parked because its store was restored: resume it first")
    return plan([(seq, event) for seq, event, _ in read_events(store, row.number)], to)


# -- verify -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Broken:
    """What `verify` found, and at which event."""

    run: str
    seq: int
    why: str

    def as_json(self) -> dict[str, Any]:
        return {"run": self.run, "seq": self.seq, "why": self.why}


@dataclass(frozen=True, slots=True)
class Verified:
    """How much `verify` looked at, and what it found."""

    runs: int
    events: int
    broken: list[Broken]


def verify_runs(store: Store, run_id: str | None = None) -> Verified:
    """One run, or all of the store; then also whether there are events that no run answers for."""
    rows = store.runs(RunFilter(limit=2**31)) if run_id is None else [store.find(run_id)]
    broken = [found for row in rows if (found := _looked_at(store, row)) is not None]
    if run_id is None:
        broken += [
            Broken("", seq, f"no run has the number {number}, of which there are events")
            for number, seq in store.strays()
        ]
        broken += [Broken("", 0, why) for why in _lasting(lambda: _contradicting_breakers(store))]
    return Verified(len(rows), sum(row.seq for row in rows), broken)


def _contradicting_breakers(store: Store) -> Iterator[str]:
    rows, logs = {row.name: row for row in store.breakers(all=True)}, store.breaker_log()
    for name in dict.fromkeys([*rows, *(change.name for change in logs)]):
        row = rows.get(name, Breaker(name))
        why = contradiction(row, [change for change in logs if change.name == name])
        if why is not None:
            yield why


def _lasting(look: Callable[[], Iterable[str]]) -> list[str]:
    """What is found twice: workers may be writing while we read."""
    found = list(look())
    return [why for why in look() if why in found] if found else []


def _looked_at(store: Store, row: RunRow) -> Broken | None:
    """What is wrong with one run. Damage to its part of the file says nothing of the others."""
    try:
        return verify_run(store, row)
    except DamagedStore as damage:
        return Broken(row.id, 0, str(damage))


def verify_run(store: Store, row: RunRow) -> Broken | None:
    """Is the chain whole, and are the run's rows what its log folds to? None: yes."""
    events = store.events(row.number)
    if len(events) > row.seq and store.find(row.id).seq > row.seq:
        events = events[: row.seq]  # a worker moved it on since its row was read
    found = chain.first_break(row.id, events, row.seq, row.head)
    if found is not None:
        return Broken(row.id, found.seq, found.why)
    return _fold_break(store, row, events)


_SHAPING: frozenset[type[Event]] = frozenset({RunStarted, Upgraded})
"""What says the shape that a run has from then on."""


def _fold_break(store: Store, row: RunRow, events: list[StoredEvent]) -> Broken | None:
    state, fetch, event_in = RunState(), partial(_proven_payload, store), payloads.event_in
    shape = ""
    for stored in events:
        try:
            event = event_in(stored.body, fetch)
            state.apply(stored.seq, event)
            if type(event) in _SHAPING:
                shape = getattr(event, "shape")  # noqa: B009 - both have one; asking which is dear here
        except (KeyError, ValueError, TypeError, StoreError) as wrong:
            return Broken(row.id, stored.seq, f"this event can't be read: {wrong}")
    start = event_in(events[0].body, fetch) if events else None
    if not isinstance(start, RunStarted):
        return Broken(row.id, 1, "the log doesn't begin with the start of the run")
    opened = {seq: event_in(events[seq - 1].body, fetch) for _, _, seq, *_ in state.waiting.values()}
    for what, kept, folded in _compared(store, row, state, replace(start, shape=shape), opened):
        if kept != folded:
            return Broken(row.id, row.seq, f"the {what} differs from what the log says")
    for notice in store.notices(all=True, run=row.number):
        if not _is_said_by(events, row, notice, lambda stored: event_in(stored.body, fetch)):
            return Broken(row.id, notice.seq, f"notice {notice.id} says what its event doesn't")
    return None


def _is_said_by(
    events: list[StoredEvent], row: RunRow, notice: NoticeRow, event_of: Callable[[StoredEvent], Event]
) -> bool:
    """Whether a notice in the outbox is what its event has somebody told. One made after we read can't be known."""
    if notice.seq > len(events):
        return row.seq < notice.seq
    stored = events[notice.seq - 1]
    expected = notice_id(row.id, notice.seq, stored.hash), notice_of(row.id, row.machine, event_of(stored))
    return (notice.id, notice.body) == expected


def _proven_payload(store: Store, digest: bytes) -> bytes:
    body = store.payload(digest)
    if sha256(body) != digest:
        raise ValueError(f"the bytes of payload {digest.hex()} don't match its name")
    return body


def _compared(
    store: Store, row: RunRow, state: RunState, start: RunStarted, opened: Mapping[int, Event]
) -> Iterator[tuple[str, Any, Any]]:
    said, snapshot = row_of(state), store.snapshot(row.number)
    if snapshot.row.seq != row.seq:
        return  # it moved on while we read
    yield "machine", (row.machine, row.shape), (start.machine, start.shape)
    yield "key", (row.tenant, row.key), (start.tenant, start.key)
    yield "live state", row.live, said.live
    yield "account", row.account, account_of(state)
    yield "record", set(snapshot.cells), {cell_of(name, p) for name, cells in state.cells.items() for p in cells}
    yield "set of open waits", _open_rows(snapshot), _open_in_log(snapshot, state, opened)
    yield (
        "queue",
        {_of_log(call) for call in snapshot.calls if call.status != "reserved"},
        {_of_log(row_of_call(int(effect), call)) for effect, call in state.calls.items()},
    )
    turn = (row.state, row.turn, row.turn_seq, row.content)
    yield "run row", turn, (said.state, said.turn, said.turn_seq, said.content)
    yield "due time", row.wake_at, said.wake_at
    if not _parked_by_store(row, state):
        yield "status", "ready" if row.status == "running" else row.status, said.status
        yield "reason", row.reason, said.reason


def _of_log(call: CallRow) -> tuple[Any, ...]:
    """What of a call's row the log says."""
    return (call.effect, call.status, call.tool, call.way, call.attempt, call.seq, call.until, call.due, call.failed,
            call.redoes)  # fmt: skip


def _open_rows(snapshot: Snapshot) -> set[tuple[Any, ...]]:
    return {(w.number, w.kind, w.why, w.seq, w.of, w.due, w.signal, w.opened_at) for w in snapshot.waits}


def _open_in_log(snapshot: Snapshot, state: RunState, opened: Mapping[int, Event]) -> set[tuple[Any, ...]]:
    """Waits that the log leaves open, but for those whose decision lies unread in the inbox: it has closed the row."""
    said = [item.body for item in snapshot.inbox if item.kind == "decision"]
    decided = [body.get("wait") for body in said if isinstance(body, Mapping)]
    undecided = [seq for number, (_, _, seq, *_) in state.waiting.items() if int(number) not in decided]
    waits = [(seq, event) for seq in undecided if isinstance(event := opened[seq], WaitOpened)]
    return {(w.wait, w.kind, w.why, seq, w.of, w.due, w.signal, w.at) for seq, w in waits}


def _parked_by_store(row: RunRow, state: RunState) -> bool:
    """A restored store parks open runs before any worker can write it into their logs."""
    return (
        row.status == "paused" and row.worker is None and row.reason.startswith(RESTORED) and state.status not in FINAL
    )
