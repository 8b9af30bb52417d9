"""LiveRun: a leased run in memory: its folded state, its record, and the draft of its next commit.

The only builder of commits. Facts are added synchronously (`add`); an effect's intent waits for `durable()`, which
commits on the next tick of the loop; results that may be had again linger a few milliseconds to share a commit. One
commit is in flight at a time. Knows no handler, model or tool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from interlock.canonical import Json, decode, encode
from interlock.engine import threads
from interlock.engine.alarms import Alarms
from interlock.engine.breakers import guard_of
from interlock.engine.conversation import Conversation
from interlock.engine.rounds import Rounds
from interlock.engine.rows import changed_calls
from interlock.engine.world import World
from interlock.errors import InterlockError, StaleLease, StoreError
from interlock.history import chain, payloads
from interlock.history.events import (
    Event,
    ModelCalled,
    ModelReplied,
    Paused,
    RollbackBegun,
    RollbackGivenUp,
    RolledBack,
    ToolCalled,
    ToolReturned,
    Transitioned,
    Upgraded,
    WaitEnded,
    WaitOpened,
    stamped,
    to_json,
)
from interlock.history.fold import FINAL, Pointer, RunState, record_of, value_of, walk
from interlock.history.notices import notice_id, notice_of
from interlock.machine.limits import Amounts
from interlock.machine.table import AnyMachine
from interlock.policy.grants import union
from interlock.store.protocol import (
    Account,
    Answer,
    Cell,
    Commit,
    Committed,
    Failed,
    Guard,
    InboxItem,
    Lease,
    Leave,
    Notice,
    Refused,
    RowChange,
    Snapshot,
    Stale,
    StoredEvent,
    Wait,
)

RESUBMISSIONS_MAX = 6


class Interrupted(InterlockError):
    """The store refused a commit: somebody paused or cancelled the run, closed a wait first, or left evidence
    before its end: read the mail. Or a breaker is open: look which."""


class Write(Struct, frozen=True, gc=False):
    """One change of the record by a turn: set a field, or add items to a list. `at`: where the value already stands
    in the log as (event, path), so that it isn't stored again."""

    how: str  # set, add
    name: str
    value: Json
    at: tuple[int, tuple[str | int, ...]] | None = None

    def as_change(self) -> tuple[str, str, Json]:
        if self.at is None:
            return (self.how, self.name, self.value)
        seq, path = self.at
        return (f"{self.how}@", self.name, [seq, *path])


class LiveRun:
    """One leased run. Everything that happens to it goes through `add`. `rounds`: those of the loop that it is on,
    which it shares with the worker's other runs."""

    def __init__(self, world: World, machine: AnyMachine, lease: Lease, rounds: Rounds | None = None) -> None:
        self.world = world
        self._rounds = rounds or Rounds()
        self.machine = machine
        self.worker = lease.worker
        self.fence = lease.fence
        self._load(lease.snapshot)
        self._accounted_at = world.clock.monotonic()
        self._asides = 0
        self._aside_since: float | None = None
        self.alarms = Alarms()
        self._lease_id, self._commits = world.commit_id()[:8], 0
        self._lingers = self._flushes = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._in_flight: Commit | None = None
        self._unsaved: list[Event] = []
        self._resubmitted = 0
        self.broken: Exception | None = None
        self.stood_aside = False
        self.beside = 0.0  # seconds that something may take beside the turn

    def _load(self, snapshot: Snapshot) -> None:
        row = snapshot.row
        account = row.account
        self.number, self.id, self.tenant = row.number, row.id, row.tenant
        self.state = RunState.revive(
            decode(row.live), (account.ceiling.as_dict(), account.spent.as_dict(), account.held.as_dict())
        )
        self.mail: bool = row.mail
        self.inbox = list(snapshot.inbox)
        bodies = {seq: payloads.join(body, self.world.store.payload) for seq, body in snapshot.values.items()}
        self.state.cells = pointers_of(snapshot)
        self.values: dict[str, Json] = {
            name: value_of(pointers, lambda seq, path: walk(bodies[seq], path))
            for name, pointers in self.state.cells.items()
        }
        self.journal: list[tuple[int, Event]] = [(s.seq, self._event_in(s.body)) for s in snapshot.journal]
        self.conversations: dict[str, Conversation] = {}
        self.talking: str | None = None  # the conversation that this turn goes on with
        self._head, self._after = row.head, row.seq
        self._effects = self.state.effects
        self._clear_draft()

    def _event_in(self, body: bytes) -> Event:
        return payloads.event_in(body, self.world.store.payload)

    def _clear_draft(self) -> None:
        self._draft: list[Event] = []
        self._stored: list[StoredEvent] = []
        self._payloads: dict[bytes, bytes] = {}
        self._opens: dict[int, Wait] = {}
        self._closes: list[tuple[int, str]] = []
        self._takes: list[str] = []
        self._notices: dict[int, Notice] = {}  # by the event that they tell of
        self._guards: list[Guard] = []
        self._begins = self._ends = self._renews = False
        self._shape: str | None = None

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return self.world.clock.now_ms()

    @property
    def ended(self) -> bool:
        return self.state.status in FINAL

    def next_effect(self) -> int:
        """A fresh effect number; numbers never come again."""
        self._effects += 1
        return self._effects

    def add(self, event: Event) -> tuple[int, Event]:
        """Take in one fact; returns it with its number and time. It is committed soon (see `soon`, `durable`).

        Raises `BadInput` for one that nobody could read; nothing has changed then.
        """
        state, clock = self.state, self.world.clock
        ms = self.since_last_event_ms()
        event = stamped(event, clock.now_ms(), ms, state.turn)
        seq = state.seq + 1
        body, large = payloads.split(event)  # raises for what can't be recorded, so before anything is taken in
        self._accounted_at += ms / 1000
        self._head = head = chain.link(self._head, body)
        state.apply(seq, event)
        self._stored.append(StoredEvent(seq, body, head))
        self._draft.append(event)
        if large:
            self._payloads.update(large)
        self.journal.append((seq, event))
        inbox = getattr(event, "inbox", None)
        if inbox is not None:
            self._takes.append(inbox)
        follow = _FOLLOW.get(type(event))
        if follow is not None:
            follow(self, seq, event)
        return seq, event

    def since_last_event_ms(self) -> int:
        """Active milliseconds that no event has accounted for yet."""
        until = self.world.clock.monotonic() if self._aside_since is None else self._aside_since
        return int((until - self._accounted_at) * 1000)

    def off_the_clock(self) -> None:
        """The time since the last event isn't the run's active time."""
        self._accounted_at = self.world.clock.monotonic()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The time of this block isn't the run's active time. Several may be side by side."""
        self._asides, self.stood_aside = self._asides + 1, True
        if self._aside_since is None:
            self._aside_since = self.world.clock.monotonic()
        try:
            yield
        finally:
            self._asides -= 1
            if self._asides == 0:
                since, self._aside_since = self._aside_since, None
                self._accounted_at += max(0.0, self.world.clock.monotonic() - max(since, self._accounted_at))

    # What an event changes beside the folded state: waits, journal, what the commit is.

    def _begin(self, seq: int, event: ModelCalled | ToolCalled) -> None:
        self._begins = True
        self._guards.append(guard_of(event, self.world.timing.grace))

    def _tell(self, seq: int, event: Event) -> None:
        """Have the outside told, in the commit of this event."""
        if self.world.notifier is None:
            return
        body = notice_of(self.id, self.machine.name, event)
        if body is not None:
            self._notices[seq] = Notice(notice_id(self.id, seq, self._head), seq, body)

    def _open_wait(self, seq: int, event: WaitOpened) -> None:
        self._tell(seq, event)
        self._opens[event.wait] = Wait(
            run=self.number,
            number=event.wait,
            kind=event.kind,
            why=event.why,
            seq=seq,
            of=event.of,
            signal=event.signal,
            due=event.due,
            opened_at=event.at,
        )

    def _end_wait(self, seq: int, event: WaitEnded) -> None:
        if event.wait in self._opens:
            self._opens[event.wait] = opened = replace(self._opens[event.wait], closed=event.how)
            self._notices.pop(opened.seq, None)  # it was over before anybody could be told
        elif event.how != "decision":  # whoever decided has closed the row already
            self._closes.append((event.wait, event.how))

    def _end_turn(self, seq: int, event: Transitioned) -> None:
        self._ends = self._ends or event.status is not None
        if event.status is not None:
            self._tell(seq, event)
        if self.talking is not None:
            self.conversations[self.talking].extend(self.journal)
            self.talking = None
        if event.to != event.state:
            self.conversations.pop(f"@{event.state}", None)
        self.journal = []

    def _leave_turn(self, seq: int, event: Event) -> None:
        self.talking, self.journal = None, []
        self.conversations.clear()  # read anew from the log, as far as they are still true

    def _go_back(self, seq: int, event: RolledBack) -> None:
        self._leave_turn(seq, event)
        self._renews = True
        body_at = cache(self._body_at)  # many cells point into one event
        self.values = record_of(self.state.cells, lambda at, path: walk(body_at(at), path))

    def _take_shape(self, seq: int, event: Upgraded) -> None:
        self._leave_turn(seq, event)
        self._shape, self._renews = event.shape, True
        self.values = {new: self.values[old] for old, new in event.carried.items()} | dict(event.values)

    def _body_at(self, seq: int) -> Json:
        (stored,) = self.world.store.events(self.number, seq, seq)
        return payloads.join(stored.body, self.world.store.payload)

    def inbox_taken(self, item: str) -> None:
        """Say that an inbox item went into an event that has no place for its id."""
        self._takes.append(item)

    def transition(self, event: Transitioned, writes: Sequence[Write]) -> None:
        """End the turn with these changes of the record."""
        self.add(replace(event, changes=tuple([write.as_change() for write in writes])) if writes else event)
        for write in writes:
            if write.how == "set":
                self.values[write.name] = write.value
            else:
                self.values[write.name] = [*self.values.get(write.name, []), *write.value]

    def origin_of(self, fields: Sequence[str]) -> str:
        """The union of the origins of these fields."""
        return union(pointer.origin for name in fields for pointer in self.state.cells.get(name, ()))

    def enters(self, thread: str) -> bool:
        """Whether this turn enters a conversation anew (and so prompts it), rather than going on with it."""
        known = self.state.threads.get(thread)
        goes_on = known is not None and any(not last and first <= self.state.turn_seq for first, last in known.ranges)
        return not goes_on

    async def conversation(self, thread: str) -> Conversation:
        """The messages of a thread as they were when this turn began."""
        if thread not in self.conversations:
            known, upto = self.state.threads.get(thread), self.state.turn_seq
            if known is not None and known.head <= upto:
                await self.durable()
                self.conversations[thread] = threads.read(thread, known, upto, self)
            else:
                self.conversations[thread] = Conversation()
        return self.conversations[thread]

    def stretch(self, first: int, last: int) -> Iterator[tuple[int, Event]]:
        """Committed events `first` to `last`, with their numbers."""
        for stored in self.world.store.events(self.number, first, last):
            yield stored.seq, self._event_in(stored.body)

    def history(self) -> Iterator[Event]:
        """Every event of the run, newest first, uncommitted ones included: for the rare look back."""
        yield from (event for _, event in reversed(self.drafted()))
        for stored in reversed(self.world.store.events(self.number)):
            yield self._event_in(stored.body)

    def event_at(self, seq: int) -> Event:
        """One event of the run's log, by number."""
        for at, event in self.journal:
            if at == seq:
                return event
        (stored,) = self.world.store.events(self.number, seq, seq)
        return self._event_in(stored.body)

    # -- committing -------------------------------------------------------------------------------------------------

    def soon(self) -> None:
        """What was added is committed within `timing.linger`, in company if there is any."""
        if not self._lingers:
            self._lingers = True
            self._rounds.put_off(self.world.timing.linger, partial(self._lingered, self._commits))

    def _lingered(self, commits: int) -> None:
        self._lingers = False
        if not self._stored or self._in_flight is not None or self._flushes:
            return
        if commits != self._commits:  # what lies here now came later, and may linger as long
            self.soon()
        else:
            self._flush()

    async def durable(self) -> None:
        """Return when everything added so far is committed. Raises `StaleLease`, `Interrupted`, `StoreError`."""
        if self.broken is not None:
            raise self.broken
        if not self._stored and self._in_flight is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self.state.seq, waiter))
        if not self._flushes:
            self._flushes = True
            self._rounds.next(self._flush)
        await waiter

    def _flush(self) -> None:
        self._flushes = False
        if self._stored and self._in_flight is None and self.broken is None:
            self._submit(self._build(release=False))

    def _submit(self, commit: Commit) -> None:
        self._in_flight = commit
        self.world.committer.tell(commit, self._answered)

    def _answered(self, answer: Answer) -> None:
        commit = self._in_flight
        assert commit is not None  # only a commit in flight is answered
        match answer:
            case Committed():
                self._resubmitted = 0
                self._in_flight = None
                self._after = commit.events[-1].seq if commit.events else commit.after
                self.mail = answer.mail
                self._tell_waiters(self._after)
                if self._waiters:
                    self._flush()
                elif self._stored:
                    self.soon()
            case Failed() if self._resubmitted < RESUBMISSIONS_MAX:
                # The acknowledgement may be all that was lost: the identical commit recognises itself.
                delay = self.world.timing.resubmit * 2**self._resubmitted
                self._resubmitted += 1
                asyncio.get_running_loop().call_later(delay, self._submit, commit)
            case Failed():
                self._break(answer.error)
            case Refused():
                self._break(Interrupted(answer.why))
            case Stale():
                self._leave_evidence()
                self._break(StaleLease(f"run {self.id} is held by another worker"))
            case _:
                self._break(StoreError(f"a commit was answered {type(answer).__name__}"))

    def _tell_waiters(self, upto: int) -> None:
        waiters, self._waiters = self._waiters, []
        for seq, waiter in waiters:
            if seq > upto:
                self._waiters.append((seq, waiter))
            elif not waiter.done():
                waiter.set_result(None)

    def _break(self, error: Exception) -> None:
        self.broken = error
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _build(self, release: bool) -> Commit:
        state = self.state
        calls, calls_over = changed_calls(state) if state.touched else ((), ())
        commit = Commit(
            id=self._commit_id(),
            run=self.number,
            worker=self.worker,
            fence=self.fence,
            after=self._after,
            events=tuple(self._stored),
            row=row_of(state, self._deadline_at() if state.status == "ready" else None),
            account=account_of(state),
            at=self.now,
            cells=tuple([cell_of(name, pointer) for name, pointer in state.moved]) if state.moved else (),
            opens=tuple(self._opens.values()),
            closes=tuple(self._closes),
            takes=tuple(self._takes),
            payloads=tuple(self._payloads.items()),
            calls=calls,
            calls_over=calls_over,
            notices=tuple(self._notices.values()) if self._notices else (),
            begins=self._begins,
            ends=self._ends,
            renews=self._renews,
            shape=self._shape,
            release=release,
            guards=tuple(self._guards),
        )
        state.moved = []
        self._unsaved = self._draft
        self._clear_draft()
        return commit

    def _commit_id(self) -> bytes:
        """Never given twice: drawn once per lease, counted from there."""
        self._commits += 1
        return self._lease_id + self._commits.to_bytes(8, "big")

    def _deadline_at(self) -> int | None:
        """When others may take this turn over although its worker seems alive. Its own worker ends it sooner."""
        return self.deadline_after(self.beside)

    def deadline_after(self, beside: float) -> int | None:
        """The same, if something takes so long beside the turn."""
        left = self.turn_seconds_left()
        return None if left is None else self.now + int((left + beside + 2 * self.world.timing.grace) * 1000)

    def turn_seconds_left(self) -> float | None:
        """Active seconds that this turn may still take; None in a final state, and while a person's rollback lasts."""
        if self.state.rollback:
            return None
        row = self.machine.table.get(self.state.state)
        within = getattr(getattr(row, "state", None), "active", None)
        return None if within is None else max(0.0, within - self.state.turn_ms / 1000)

    async def release(self) -> None:
        """Commit what there is and give the lease back. Raises as `durable` does."""
        if self._in_flight is not None:
            await self.durable()
        if self.broken is not None:
            raise self.broken
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self.state.seq, waiter))
        self._submit(self._build(release=True))
        await waiter

    def is_stored(self, seq: int) -> bool:
        """Whether an event is known to be committed."""
        return seq <= self._after

    # -- when a commit didn't go through ----------------------------------------------------------------------------

    def drafted(self) -> list[tuple[int, Event]]:
        """Facts that aren't in the store, with the numbers they were given."""
        facts = [*(self._unsaved if self._in_flight is not None else []), *self._draft]
        return list(zip(range(self._after + 1, self._after + 1 + len(facts)), facts, strict=True))

    def reload(self, snapshot: Snapshot) -> None:
        """Forget everything that isn't in the store."""
        self._in_flight = None
        self.broken = None
        self._resubmitted = 0
        self._load(snapshot)

    def _leave_evidence(self) -> None:
        """A result that this worker paid for and may no longer commit is left for the run's new owner."""
        for _, event in self.drafted():
            if isinstance(event, ModelReplied | ToolReturned):
                leave_evidence(self.world, self.id, self.fence, event)


_FOLLOW: dict[type[Event], Callable[[LiveRun, int, Any], None]] = {
    ModelCalled: LiveRun._begin,
    ToolCalled: LiveRun._begin,
    WaitOpened: LiveRun._open_wait,
    WaitEnded: LiveRun._end_wait,
    Transitioned: LiveRun._end_turn,
    Paused: LiveRun._tell,
    RollbackBegun: LiveRun._leave_turn,
    RollbackGivenUp: LiveRun._leave_turn,
    RolledBack: LiveRun._go_back,
    Upgraded: LiveRun._take_shape,
}


def leave_evidence(world: World, run_id: str, fence: int, event: ModelReplied | ToolReturned) -> None:
    """Leave a late result in the run's inbox: once, whoever leaves it."""
    item = InboxItem(
        id=f"{run_id}/{event.effect}/{event.attempt}/{fence}", kind="evidence", body=to_json(event), left_at=0
    )
    world.committer.submit(Leave(run=run_id, item=item, at=world.clock.now_ms()))


def _first_due(state: RunState) -> int | None:
    return min((due for _, _, _, due, *_ in state.waiting.values() if due is not None), default=None)


def pointers_of(snapshot: Snapshot) -> dict[str, list[Pointer]]:
    """A snapshot's cells as the fold holds them."""
    cells: dict[str, list[Pointer]] = {}
    for cell in snapshot.cells:
        cells.setdefault(cell.field, []).append(Pointer(cell.item, cell.seq, tuple(decode(cell.path)), cell.origin))
    return cells


def row_of(state: RunState, deadline_at: int | None = None) -> RowChange:
    """The columns of a run's row that its log says."""
    return RowChange(
        status=state.status,
        reason=state.reason.encode("utf-8", "replace").decode(),  # as text: the log keeps it exactly
        state=state.state,
        turn=state.turn,
        turn_seq=state.turn_seq,
        content=state.content,
        wake_at=_first_due(state) if state.waiting else None,
        deadline_at=deadline_at,
        live=state.live(),
    )


def account_of(state: RunState) -> Account:
    # Each has the dimensions in their one order.
    return Account(Amounts(*state.ceiling.values()), Amounts(*state.spent.values()), Amounts(*state.held.values()))


def cell_of(name: str, pointer: Pointer) -> Cell:
    return Cell(name, pointer.item, pointer.seq, encode(list(pointer.path)).decode(), pointer.origin)
