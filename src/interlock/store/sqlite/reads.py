"""Reading: rows into the protocol's values, on whatever connection it is given. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from interlock.canonical import decode
from interlock.errors import StoreError, UnknownRun
from interlock.machine.limits import Amounts
from interlock.policy.breaker import Breaker, Change
from interlock.store.protocol import (
    Account,
    CallRow,
    Cell,
    InboxItem,
    NoticeRow,
    RunFilter,
    RunRow,
    Snapshot,
    StoredEvent,
    Wait,
    WorkerRow,
)
from interlock.store.sqlite.breakers import breaker_row
from interlock.store.sqlite.locks import WorkerLocks
from interlock.store.sqlite.queries import queries

_WAIT_WIDTH = 10
_CALL_WIDTH = 15
_LAST_SEQ = (1 << 63) - 1


class Reads:
    """Every question that can be asked of one connection."""

    def __init__(self, db: apsw.Connection, locks: WorkerLocks) -> None:
        self._db = db
        self._locks = locks
        self._sql = queries()

    def find(self, run_id: str) -> RunRow:
        if run_id == "@last":
            row = self._one("last_run")
            if row is None:
                raise UnknownRun("there is no run in this store yet")
            return run_row(row)
        exact = self._one("run_by_id", run_id)
        if exact is not None:
            return run_row(exact)
        found = self._all("runs_by_prefix", run_id) if run_id else []
        if not found:
            raise UnknownRun(f"no run `{run_id}`")
        if len(found) > 1:
            raise UnknownRun(f"more than one run begins with `{run_id}`: give more of the id")
        return run_row(found[0])

    def snapshot(self, number: int) -> Snapshot:
        with self._at_one_moment():
            row = self._one("run_by_number", number)
            if row is None:
                raise UnknownRun(f"no run number {number}")
            run = run_row(row)
            return Snapshot(
                row=run,
                cells=tuple(Cell(*cell) for cell in self._all("cells", number)),
                values=dict(self._all("cell_values", number)),
                journal=tuple(self.events(number, run.turn_seq + 1)),
                waits=tuple(Wait(*wait) for wait in self._all("open_waits", number)),
                inbox=tuple(_item(item) for item in self._all("unread", number)),
                calls=tuple(_call(row) for row in self._all("calls_of_run", number)),
            )

    def events(self, number: int, first: int = 1, last: int | None = None) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in self._all("events", number, first, _LAST_SEQ if last is None else last)]

    def runs(self, which: RunFilter) -> list[RunRow]:
        statuses = json.dumps(which.statuses) if which.statuses else None
        return [run_row(row) for row in self._all("runs", which.machine, statuses, which.changed_since, which.limit)]

    def waits(self) -> list[tuple[RunRow, Wait]]:
        rows = self._all("waits_for_others")
        return [(run_row(row[_WAIT_WIDTH:]), Wait(*row[:_WAIT_WIDTH])) for row in rows]

    def calls(self, statuses: tuple[str, ...]) -> list[tuple[RunRow, CallRow]]:
        dead = statuses == ("dead",)  # asked often, and found by an index of their own
        rows = self._all("dead_calls") if dead else self._all("calls", json.dumps(statuses))
        return [(run_row(row[_CALL_WIDTH:]), _call(row[:_CALL_WIDTH])) for row in rows]

    def workers(self) -> list[WorkerRow]:
        return [self._worker(*row) for row in self._all("workers")]

    def _worker(self, number: int, *row: Any) -> WorkerRow:
        name, host, pid, beat, joined_at, beat_at, machines = row
        pairs = tuple([_pair(each) for each in decode(machines)])
        return WorkerRow(number, name, host, pid, beat, joined_at, beat_at, self._locks.alive(number), pairs)

    def breakers(self, all: bool) -> list[Breaker]:
        return [breaker_row(row) for row in self._all("breakers" if all else "troubled_breakers")]

    def breaker_log(self, name: str | None) -> list[Change]:
        return [Change(*row) for row in self._all("breaker_log", name)]

    def notices(self, all: bool, run: int | None) -> list[NoticeRow]:
        return [NoticeRow(*row) for row in self._all("notices", all, run)]

    def next_notice(self) -> int | None:
        due: int | None = self._value("next_notice")
        return due

    def strays(self) -> list[tuple[int, int]]:
        return self._all("stray_events")

    def payload(self, digest: bytes) -> bytes:
        row = self._one("payload", digest)
        if row is None:
            raise StoreError(f"no payload {digest.hex()} in this store")
        return bytes(row[0])

    def spent_since(self, at: int) -> int:
        with self._at_one_moment():
            return int(self._value("spent_from", self._first_event_since(at), at))

    def identity(self) -> tuple[str, int, int]:
        """The store's id, its incarnation, and the number of its last event."""
        row = self._one("identity")
        if row is None:
            raise StoreError("the store has no name: its file is damaged")
        return row[0], row[1], row[2]

    def parked(self, reason: str) -> int:
        return int(self._value("parked_runs", reason))

    def held(self, worker: int) -> int:
        return int(self._value("held_runs", worker))

    def _first_event_since(self, at: int) -> int:
        """By halving: events are appended in the order of time, but for the skew between workers' clocks."""
        low, high = 1, int(self._value("last_event")) + 1
        while low < high:
            middle = (low + high) // 2
            if (self._value("event_time", middle) or 0) < at:
                low = middle + 1
            else:
                high = middle
        return low

    @contextmanager
    def _at_one_moment(self) -> Iterator[None]:
        """All statements see the same state of the store."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def _all(self, name: str, *values: Any) -> list[Any]:
        return self._db.execute(self._sql[name], values).fetchall()

    def _one(self, name: str, *values: Any) -> Any:
        return self._db.execute(self._sql[name], values).fetchone()

    def _value(self, name: str, *values: Any) -> Any:
        return self._db.execute(self._sql[name], values).get


def run_row(row: tuple[Any, ...]) -> RunRow:
    account = Account(Amounts(*row[22:27]), Amounts(*row[27:32]), Amounts(*row[32:37]))
    values: list[Any] = [*row[:18], bool(row[18]), *row[19:22], account]
    return RunRow(*values)


def _pair(said: str) -> tuple[str, str]:
    machine, _, shape = said.rpartition("/")
    return machine, shape


def _call(row: tuple[Any, ...]) -> CallRow:
    columns: list[Any] = [*row[:9], bool(row[9]), *row[10:]]
    return CallRow(*columns)


def _item(row: tuple[Any, ...]) -> InboxItem:
    """One that can't be read is its run's misfortune: raising would fail the claim, and with it every other run's."""
    item_id, kind, body, left_at = row
    try:
        return InboxItem(item_id, kind, decode(body), left_at)
    except ValueError:
        return InboxItem(item_id, "unreadable", {"kind": kind}, left_at)
