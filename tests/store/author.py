"""Writes for store tests: an author keeps the log of one run and builds the writes an engine would. Knows no store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from interlock.canonical import encode
from interlock.history.chain import link, seed
from interlock.machine.limits import Amounts
from interlock.store.protocol import (
    Account,
    Cell,
    Claim,
    Claimed,
    Commit,
    InboxItem,
    Join,
    Joined,
    Lease,
    Leave,
    RowChange,
    Start,
    Started,
    Store,
    StoredEvent,
    Wait,
)

NOW = 1_767_225_600_000
MACHINE = ("desk", "5ha9e")
ROW = RowChange("ready", "", "look_up", 1, 0, "c0de", None, None, b'{"at":"look_up"}')
ACCOUNT = Account(Amounts(10, 20, 3000, 500_000, 60_000))


class Author:
    """The log of one run, as its writer knows it."""

    def __init__(self, run: str = "a1", key: str | None = None, tenant: str = "", machine: str = MACHINE[0]) -> None:
        self.run, self.key, self.tenant, self.machine = run, key, tenant, machine
        self.number = 0
        self.worker = 0
        self.fence = 0
        self.seq = 0
        self.head = seed(run)

    def event(self, **fields: Any) -> StoredEvent:
        """The next event of the log."""
        body = encode({"type": "noted", "at": NOW + self.seq, **fields})
        self.seq, self.head = self.seq + 1, link(self.head, body)
        return StoredEvent(self.seq, body, self.head)

    def start(self, digest: str = "d1", row: RowChange = ROW, cells: Sequence[Cell] = (), at: int = NOW) -> Start:
        return Start(
            self.run, self.machine, MACHINE[1], self.tenant, self.key, digest, self.event(question="why?"), row,
            tuple(cells), ACCOUNT, (), at,
        )  # fmt: skip

    def commit(self, row: RowChange = ROW, events: int = 1, at: int = NOW + 10, **more: Any) -> Commit:
        """The next commit, with new events (one, unless told) unless `told` gives them."""
        after = self.seq
        told = more.pop("told", None)
        facts = told if told is not None else tuple(self.event(step=n) for n in range(events))
        name = more.pop("id", f"{self.run}:{after}:{self.fence}".encode())
        account = more.pop("account", ACCOUNT)
        return Commit(name, self.number, self.worker, self.fence, after, facts, row, account, at, **more)

    def holds(self, lease: Lease) -> None:
        """Write from this lease on."""
        row = lease.snapshot.row
        self.number, self.worker, self.fence, self.seq, self.head = (
            row.number, lease.worker, lease.fence, row.seq, row.head,
        )  # fmt: skip


def join(store: Store, name: str = "w", at: int = NOW) -> int:
    [answer] = store.write([Join(name, "host", 4711, at)])
    assert isinstance(answer, Joined), answer
    return answer.worker


def begin(store: Store, author: Author, **more: Any) -> Author:
    """Start the author's run."""
    [answer] = store.write([author.start(**more)])
    assert isinstance(answer, Started) and answer.new, answer
    author.number = answer.number
    return author


def claim(store: Store, worker: int, at: int = NOW + 1, limit: int = 10, **more: Any) -> Claimed:
    [answer] = store.write([Claim(worker, more.pop("machines", (MACHINE,)), limit, at, **more)])
    assert isinstance(answer, Claimed), answer
    return answer


def running(store: Store, run: str = "a1", **more: Any) -> Author:
    """An author whose run was started and is held by a worker of its own."""
    author = begin(store, Author(run), **more)
    [lease] = claim(store, join(store, f"holder of {run}"), run=run).leases
    author.holds(lease)
    return author


def note(name: str, kind: str = "signal", body: Any = None) -> InboxItem:
    return InboxItem(name, kind, body, NOW + 5)


def leave(run: str, name: str, kind: str = "signal", at: int = NOW + 5, **more: Any) -> Leave:
    return Leave(run, note(name, kind, more.pop("body", {"said": name})), at, **more)


def person_wait(number: int = 1, due: int | None = None, kind: str = "person") -> Wait:
    return Wait(0, number, kind, "ask", 2, of="support", due=due, opened_at=NOW + number)


def status(word: str, **more: Any) -> RowChange:
    return replace(ROW, status=word, **more)
