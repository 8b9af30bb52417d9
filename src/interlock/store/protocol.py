"""The store, as the engine sees it: one way in (`write`, a batch of frozen values, one answer each) and a few reads.

A write is atomic by itself; a batch shares one transaction when all goes well, and is redone in parts when any of it
raises, so that a bad write can't fail a stranger's. An answer is given only after COMMIT. A store decides nothing
about machines: it compares, it writes, it answers. Times are ms since 1970 and come in with the write; a store that
has a clock all workers share may use that instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from interlock.canonical import Json
from interlock.errors import Finding
from interlock.machine.limits import Amounts
from interlock.policy.breaker import Breaker, Change, Terms

# -- rows -------------------------------------------------------------------------------------------------------------


class StoredEvent(Struct, frozen=True, gc=False):
    """One event as bytes. `hash` = SHA-256 of the hash before it and the SHA-256 of `body`."""

    seq: int
    body: bytes
    hash: bytes


class Cell(Struct, frozen=True, gc=False):
    """Where one value of the record stands in the log: event `seq`, at `path` (a JSON array of keys and indexes).

    `item` -1 is the field's whole value and replaces every earlier cell of the field; 0, 1, ... are appended items,
    which follow the whole value (or the empty list).
    """

    field: str
    item: int
    seq: int
    path: str
    origin: str = ""


class Account(Struct, frozen=True, gc=False):
    """What a run may use, has used, and has set aside."""

    ceiling: Amounts
    spent: Amounts = Amounts()
    held: Amounts = Amounts()


class Wait(Struct, frozen=True, gc=False):
    """A durable wait of one run. Open while `closed` is empty; `closed` says how: decision, signal, timer, cancel,
    rollback.
    `seq` is the event that opened it (its prompt and form stand there)."""

    run: int
    number: int
    kind: str
    why: str
    seq: int
    of: str = ""
    signal: str | None = None
    due: int | None = None
    opened_at: int = 0
    closed: str = ""


class InboxItem(Struct, frozen=True, gc=False):
    """Something left for the run's owner. `id` is unique in the store: leaving it twice leaves it once."""

    id: str
    kind: str  # decision, extend, pause, resume, cancel, rollback, signal, evidence; `unreadable`: see its body
    body: Json
    left_at: int = 0


class CallRow(Struct, frozen=True, gc=False):
    """One tool call on the queue; by (run, effect). `status`: reserved, under way, due, in doubt or dead. `seq`,
    `failed`: the events with what is asked for and with its last failure. `until`: its attempt may be on its way until
    then. `fence`: the token that its result must come under. `limited`: it counts among its tool's calls; `reserved`:
    it does so until then, whether or not it has begun. `asked`: what a person said of a dead one, not yet read."""

    effect: int
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
    run: int = 0
    fence: int = 0
    reserved: int = 0
    asked: str = ""


class RunRow(Struct, frozen=True, gc=False):
    """One run as its row stands. `live` is the folded state (JSON), which the engine alone reads and writes."""

    number: int
    id: str
    machine: str
    shape: str
    content: str
    tenant: str
    key: str | None
    status: str  # ready, running (held by a worker), waiting, paused, completed, failed, cancelled
    reason: str
    state: str
    turn: int
    seq: int
    head: bytes
    turn_seq: int  # the seq before the current turn's first event: the journal starts after it
    fence: int
    worker: int | None
    wake_at: int | None
    deadline_at: int | None
    mail: bool
    created_at: int
    changed_at: int
    live: bytes
    account: Account


class WorkerRow(Struct, frozen=True, gc=False):
    """A process that claims runs. `beat` rises while it lives; `alive` False when the OS shows it gone."""

    number: int
    name: str
    host: str
    pid: int
    beat: int
    joined_at: int
    beat_at: int
    alive: bool | None  # None: this store can't tell
    machines: tuple[tuple[str, str], ...] = ()  # (machine, shape) that it takes runs of


class NoticeRow(Struct, frozen=True, gc=False):
    """A notice in the outbox. `run` is the run's id; `message` what went wrong last; `by` and `reason` a person's."""

    id: str
    run: str
    machine: str
    seq: int
    body: bytes
    status: str  # due, sending, delivered, dead, dropped
    attempts: int
    due: int
    message: str
    by: str
    reason: str
    made_at: int
    changed_at: int


class Snapshot(Struct, frozen=True, gc=False):
    """A run as it lives now: enough to go on, whatever the length of its history."""

    row: RunRow
    cells: tuple[Cell, ...]
    values: Mapping[int, bytes]  # bodies of the events that cells point at, by seq
    journal: tuple[StoredEvent, ...]  # events of the current turn
    waits: tuple[Wait, ...]  # open ones
    inbox: tuple[InboxItem, ...]  # not yet consumed, oldest first
    calls: tuple[CallRow, ...] = ()  # its queue


# -- writes -----------------------------------------------------------------------------------------------------------


class RowChange(Struct, frozen=True, gc=False):
    """The run row's columns after a commit."""

    status: str  # ready, waiting, paused or final; `running` is the store's word for a held ready run
    reason: str
    state: str
    turn: int
    turn_seq: int
    content: str
    wake_at: int | None
    deadline_at: int | None
    live: bytes


class Start(Struct, frozen=True, gc=False):
    """Create a run: its row, account, cells and event 1. The same (tenant, machine, key) again answers the run that
    exists when `input_digest` is equal, `Taken` when it isn't."""

    id: str
    machine: str
    shape: str
    tenant: str
    key: str | None
    input_digest: str
    event: StoredEvent
    row: RowChange
    cells: tuple[Cell, ...]
    account: Account
    payloads: tuple[tuple[bytes, bytes], ...]
    at: int


class Started(Struct, frozen=True, gc=False):
    id: str
    number: int
    new: bool


class Taken(Struct, frozen=True, gc=False):
    """The key belongs to a run with other input."""

    id: str


class Join(Struct, frozen=True, gc=False):
    """Register a worker, with the (machine, shape) pairs that it takes runs of. Answer: `Joined`."""

    name: str
    host: str
    pid: int
    at: int
    machines: tuple[tuple[str, str], ...] = ()


class Joined(Struct, frozen=True, gc=False):
    worker: int


class Part(Struct, frozen=True, gc=False):
    """A worker leaves in good order: what it still holds is released. Answer: `Done`."""

    worker: int
    at: int


class Done(Struct, frozen=True, gc=False):
    pass


class Beat(Struct, frozen=True, gc=False):
    """A worker lives. Answer: `Beaten`."""

    worker: int
    at: int


class Beaten(Struct, frozen=True, gc=False):
    """`beats` of the other workers that hold runs (number -> counter); `mail`: runs held by this worker with unread
    mail; `known` False: the worker was struck off and holds nothing any more; `breakers`: those not at rest."""

    beats: Mapping[int, int]
    mail: tuple[int, ...]
    known: bool = True
    breakers: tuple[Breaker, ...] = ()


class Claim(Struct, frozen=True, gc=False):
    """Lease up to `limit` runs of the given (machine, shape) pairs and raise their fences: ready ones, waiting ones
    that are due or have mail, and held ones whose holder is permitted to lose them: its OS lock is free, or its beat
    still is what `still` says (the claimant saw it stand for a whole lease), or the run's deadline has passed.

    `run` claims that one only (by id), if it may be claimed. Paused runs are claimed only when they have mail; ended
    ones too, or when a call that a person had done again hasn't come to its end.
    `at_rest`: the named run is claimed though nothing is due, if nobody holds it and it hasn't ended.
    `mine`: said after the answer to a claim was lost: the runs that the claimant knows it holds. Others that it holds
    are leased to it anew.
    """

    worker: int
    machines: tuple[tuple[str, str], ...]
    limit: int
    at: int
    still: Mapping[int, int] = {}
    run: str | None = None
    mine: tuple[int, ...] | None = None
    at_rest: bool = False


class Lease(Struct, frozen=True, gc=False):
    """A worker's right to a run. `previous` and `why` (dead, still, deadline) when it was taken from another."""

    worker: int
    fence: int
    snapshot: Snapshot
    previous: str = ""
    why: str = ""


class Claimed(Struct, frozen=True, gc=False):
    """`next_wake`: the earliest due time among runs of these machines that weren't claimable yet."""

    leases: tuple[Lease, ...]
    next_wake: int | None


class Guard(Struct, frozen=True, gc=False):
    """A breaker that an intent passes: it must be closed, or half-open with this `probe` not sent yet, which then is
    leased until `until`."""

    name: str
    probe: int = 0
    until: int = 0


class Notice(Struct, frozen=True, gc=False):
    """What somebody outside is to be told of event `seq`. `id` is what a receiver knows it by."""

    id: str
    seq: int
    body: bytes


class Commit(Struct, frozen=True, gc=False):
    """What happened to one run, as one fact. Compare-and-set on (run, worker, fence, seq = `after`).

    Committed again with the same `id` right after, it answers `Committed` and writes nothing. `begins`: it starts an
    effect, and is refused while a pause, cancel or rollback lies unread; so is one that `ends` the run by a turn's
    outcome, also while evidence lies unread: what was accepted before the end comes before it, and nobody reads it
    afterwards. `closes`: (wait, how) closed by compare-and-set, else refused. `renews`: its cells are the whole record,
    every earlier one goes. `shape`: the run is of this shape from now on. `takes`: inbox ids consumed. `release`: the
    lease ends with this commit. `guards`: breakers that its intents pass, else refused. `calls`: rows of its queue as
    they now are; `calls_over`: effects whose calls left it. `notices`: put into the outbox.
    """

    id: bytes
    run: int
    worker: int
    fence: int
    after: int
    events: tuple[StoredEvent, ...]
    row: RowChange
    account: Account
    at: int
    cells: tuple[Cell, ...] = ()
    opens: tuple[Wait, ...] = ()
    closes: tuple[tuple[int, str], ...] = ()
    takes: tuple[str, ...] = ()
    payloads: tuple[tuple[bytes, bytes], ...] = ()
    calls: tuple[CallRow, ...] = ()
    calls_over: tuple[int, ...] = ()
    begins: bool = False
    ends: bool = False
    renews: bool = False
    shape: str | None = None
    release: bool = False
    guards: tuple[Guard, ...] = ()
    notices: tuple[Notice, ...] = ()


class Committed(Struct, frozen=True, gc=False):
    """`mail`: something unread lies in the run's inbox."""

    mail: bool


class Stale(Struct, frozen=True, gc=False):
    """Another worker holds the run, or the log is longer than this commit knows. Nothing was written."""


class Refused(Struct, frozen=True, gc=False):
    """Nothing was written: `halt` (pause, cancel or rollback unread; at the end, evidence), `wait` (closed by somebody
    else), `breaker` (open, or half-open with another's probe)."""

    why: str


class Leave(Struct, frozen=True, gc=False):
    """Leave something in a run's inbox. With `wait`, close that wait by compare-and-set first (`closes` says how:
    decision or signal): accepted means that this one won. A decision after the due time is refused. With `call`, that
    call must be dead (for a `clear`: in doubt) and nobody have seen to it (`closes` says what is done, and by whom).

    Answers: `Left`, `Shut` (the wait or call is closed, due or unknown), `Over` (the run has ended; it then takes only
    late results, and what is said of its calls).
    """

    run: str
    item: InboxItem
    at: int
    wait: int | None = None
    closes: str = ""
    call: int | None = None


class Left(Struct, frozen=True, gc=False):
    """Durable. `held`: a worker that lives holds the run and will read it; else it lies until a host takes the run."""

    held: bool


class Shut(Struct, frozen=True, gc=False):
    how: str


class Over(Struct, frozen=True, gc=False):
    status: str


class Report(Struct, frozen=True, gc=False):
    """How a call went that passed a breaker. `said`: `answered`, `failed` (`why`), or of a probe `unsent`. `calls`: how
    many were answered since its worker last reported. `probe`: the number of the probe that it was; 0: none.
    Answer: `Standing`."""

    name: str
    said: str
    at: int
    sent_at: int
    terms: Terms
    calls: int = 0
    probe: int = 0
    why: str = ""


class Probe(Struct, frozen=True, gc=False):
    """Ask to be the probe of a breaker, leased until `until`. Answer: `Standing`."""

    name: str
    at: int
    until: int
    by: str


class Trip(Struct, frozen=True, gc=False):
    """A person opens a breaker, until they reset it or until `until`. Answer: `Standing`."""

    name: str
    at: int
    by: str
    reason: str = ""
    until: int | None = None


class Reset(Struct, frozen=True, gc=False):
    """A person closes a breaker. Answer: `Standing`."""

    name: str
    at: int
    by: str
    reason: str = ""


class Standing(Struct, frozen=True, gc=False):
    """How a breaker stands now. `granted`: the number of the probe that was given to who asked; 0: none was."""

    breaker: Breaker
    granted: int = 0


class Reserve(Struct, frozen=True, gc=False):
    """Take a place among the calls of a tool that are under way, for the attempt that its run is about to begin.

    Taken if fewer than `concurrency` others are reserved or may be on their way (0: any number), and fewer than `rate`
    have been taken within the last `per_ms` (0: any number), counted over all runs and workers. It lasts until `until`,
    or the commit of the attempt's intent, which says anew how long. `grace_ms`: how long after their time others are
    still counted. Who is refused stands in line until it asks again, or `patience_ms` after it should have; the turn's
    deadline moves to `deadline_at`, if that is later. Answers: `Reserved`, `Later`, `Stale` (the run is another's).
    """

    run: int
    worker: int
    fence: int
    effect: int
    attempt: int
    tool: str
    way: str
    until: int
    at: int
    grace_ms: int
    concurrency: int = 0
    rate: int = 0
    per_ms: int = 0
    patience_ms: int = 75_000
    deadline_at: int | None = None


class Reserved(Struct, frozen=True, gc=False):
    """The place is taken from `at` on."""

    at: int


class Later(Struct, frozen=True, gc=False):
    """Not now. `at`: when to ask again; `full`: all places are taken, so one may be free sooner, as calls end. `ahead`:
    how many came before; `pace_ms`: how long one of them took lately (None: too few did to say)."""

    at: int
    full: bool
    ahead: int = 0
    pace_ms: int | None = None


class TakeNotices(Struct, frozen=True, gc=False):
    """Lease up to `limit` notices until `until`: those due, and those whose lease ran out. Answer: `Taking`."""

    limit: int
    at: int
    until: int


class TakenNotice(Struct, frozen=True, gc=False):
    """A notice that is to be sent now, as attempt number `attempt`."""

    number: int
    id: str
    body: bytes
    attempt: int


class Taking(Struct, frozen=True, gc=False):
    notices: tuple[TakenNotice, ...]


class SettleNotice(Struct, frozen=True, gc=False):
    """How an attempt went: `delivered`, `due` (again, when `due` has come) or `dead`. Answer: `Done`, or `Stale` when
    its lease ran out and somebody else has the row."""

    number: int
    attempt: int
    status: str
    due: int
    message: str
    at: int


class DecideNotice(Struct, frozen=True, gc=False):
    """A person has a dead notice sent again (`due`), or one that isn't delivered `dropped`. Answer: `Done`, or `Shut`
    with how it stands."""

    id: str
    status: str
    at: int
    by: str
    reason: str


class Failed(Struct, frozen=True, gc=False):
    """This write raised; the others of its batch are not affected. `error` is a `StoreError`."""

    error: Exception


Write = (
    Start
    | Join
    | Part
    | Beat
    | Claim
    | Commit
    | Leave
    | Report
    | Probe
    | Trip
    | Reset
    | Reserve
    | TakeNotices
    | SettleNotice
    | DecideNotice
)
Answer = (
    Started
    | Taken
    | Joined
    | Done
    | Beaten
    | Claimed
    | Committed
    | Stale
    | Refused
    | Left
    | Shut
    | Over
    | Standing
    | Reserved
    | Later
    | Taking
    | Failed
)


# -- the store --------------------------------------------------------------------------------------------------------


class RunFilter(Struct, frozen=True, gc=False):
    """Which runs to list. Empty: all. Newest first."""

    machine: str | None = None
    statuses: tuple[str, ...] = ()
    changed_since: int | None = None
    limit: int = 1000


class Store(Protocol):
    """Where runs last. `write` is called by one thread at a time (the committer's); reads from any thread."""

    url: str

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        """Carry out a batch; one answer each, in order, after COMMIT. Raises nothing for a write's own fault."""
        ...

    def find(self, run_id: str) -> RunRow:
        """The run with this id or unambiguous beginning of an id; `@last` is the newest. Raises `UnknownRun`."""
        ...

    def snapshot(self, number: int) -> Snapshot:
        """A run as it lives now, for reading."""
        ...

    def events(self, number: int, first: int = 1, last: int | None = None) -> list[StoredEvent]:
        """Events `first` to `last` (both included) of a run, in order."""
        ...

    def runs(self, which: RunFilter = RunFilter()) -> list[RunRow]: ...  # noqa: B008 - frozen, and empty

    def waits(self) -> list[tuple[RunRow, Wait]]:
        """Every open wait for a person or signal, oldest first, with its run."""
        ...

    def calls(self, statuses: tuple[str, ...]) -> list[tuple[RunRow, CallRow]]:
        """Every tool call of these statuses, in the order of runs and effects, with its run."""
        ...

    def workers(self) -> list[WorkerRow]: ...

    def breakers(self, *, all: bool = False) -> list[Breaker]:
        """Breakers that aren't at rest, or all that there ever was something to say of, by name."""
        ...

    def breaker_log(self, name: str | None = None) -> list[Change]:
        """What happened to one breaker, or to all, oldest first."""
        ...

    def notices(self, *, all: bool = False, run: int | None = None) -> list[NoticeRow]:
        """Notices that aren't done with, or all there ever were, oldest first; of one run (by number), or of every."""
        ...

    def next_notice(self) -> int | None:
        """When the next notice is due, or the lease of one that is being sent runs out."""
        ...

    def strays(self) -> list[tuple[int, int]]:
        """Events that no run answers for: (the run's number, the first event's), for `verify`. Empty: all is well."""
        ...

    def payload(self, digest: bytes) -> bytes:
        """A stored payload by its SHA-256."""
        ...

    def identity(self) -> tuple[str, int, int]:
        """The store's id, its epoch, and the number of its last event."""
        ...

    def spent_since(self, at: int) -> int:
        """Nano-dollars recorded by events from `at` (ms since 1970) on."""
        ...

    def check(self) -> list[Finding]:
        """What is wrong with the file, its settings or its surroundings, for `doctor`. Empty: nothing."""
        ...

    def close(self) -> None: ...
