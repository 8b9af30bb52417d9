"""SqliteStore: one file, one connection that writes, one that reads, and the locks and mark beside it.

A batch is one transaction under the writer's lock; if any write of it raises, its halves are redone on their own. An
answer is given after COMMIT. What a write means is in `writes` and `claims`; here is only when it lasts.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import apsw

from interlock.clock import Clock
from interlock.errors import Finding, InterlockError, StoreError
from interlock.policy.breaker import Breaker, Change
from interlock.store.protocol import (
    Answer,
    Beat,
    CallRow,
    Failed,
    Join,
    NoticeRow,
    Part,
    RunFilter,
    RunRow,
    Snapshot,
    StoredEvent,
    Wait,
    WorkerRow,
    Write,
)
from interlock.store.sqlite import opening
from interlock.store.sqlite.epoch import RESTORED, EpochFile, Mark
from interlock.store.sqlite.faults import explain
from interlock.store.sqlite.findings import findings
from interlock.store.sqlite.locks import FileLocks, NoLocks, NoWriterLock, WorkerLocks, WriterLock
from interlock.store.sqlite.opening import Durability
from interlock.store.sqlite.reads import Reads
from interlock.store.sqlite.writes import Writes

T = TypeVar("T")
MEMORY = ":memory:"
_EVERY_RUN = RunFilter()
_NOBODYS_FAULT = (apsw.BusyError, apsw.LockedError, apsw.IOError, apsw.ReadOnlyError, apsw.CorruptError)
"""What no part of a batch is to blame for: each part would only wait for the same."""
_SCHEME = "sqlite:///"


def open_sqlite(
    url: str, *, clock: Clock, durability: Durability = "power", create: bool = True, readonly: bool = False
) -> SqliteStore:
    """The store at a URL ("sqlite:///runs.db", "sqlite:////var/lib/runs.db") or a plain path."""
    path = url.removeprefix(_SCHEME)
    return SqliteStore(path, clock=clock, durability=durability, create=create, readonly=readonly)


class SqliteStore:
    """Where runs last: an SQLite file, or ":memory:" for tests, which lasts as long as this object.

    `durability`: what an acknowledged commit survives: loss of "power", or only a "crash" of the process.
    `create=False` refuses a missing file; `readonly=True` too, and never writes. Raises `StoreError` (`ForeignStore`,
    `NewerStore`) with one sentence; a refused file is left as it is. `restored` tells that this opening found the file
    to be older than its mark, and parked its open runs.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock,
        durability: Durability = "power",
        create: bool = True,
        readonly: bool = False,
        page_size: int = 8192,
        vfs: str | None = None,
    ) -> None:
        self.path = str(path)
        self.url = _SCHEME + self.path
        self.readonly = readonly
        self.restored = False
        self._clock = clock
        self._closed = False
        self._inode = 0
        self._writing = threading.RLock()
        self._reading = self._writing if self.path == MEMORY else threading.RLock()
        try:
            if self.path == MEMORY:
                self._open_memory(page_size)
            elif readonly:
                self._open_readonly(vfs)
            else:
                self._open_file(durability, create, page_size, vfs)
        except (apsw.Error, OSError) as wrong:
            raise explain(self.path, wrong) from wrong

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        """One answer each, in order, after COMMIT. Nothing is raised for a write's own fault: it answers `Failed`."""
        if self.readonly or self._closed:
            why = "is closed" if self._closed else "was opened for reading only"
            return [Failed(StoreError(f"{self.path}: the store {why}; nothing was written")) for _ in batch]
        with self._writing:
            try:
                with self._writer_lock:
                    self._check_still_there()
                    answers = self._together(batch)
            except (StoreError, OSError) as wrong:
                error = explain(self.path, wrong)
                return [Failed(error) for _ in batch]
            if any(isinstance(write, Beat | Join | Part) for write in batch):
                self._mark()
        return answers

    def _check_still_there(self) -> None:
        """A backup moved into place while we run: what we wrote would go to a file that nobody opens again."""
        if self._inode and os.stat(self.path).st_ino != self._inode:
            raise StoreError(f"{self.path}: was replaced while it was open; nothing was written. Start again")

    def _together(self, batch: Sequence[Write]) -> list[Answer]:
        try:
            return self._transaction(batch)
        except Exception as wrong:
            if len(batch) == 1 or isinstance(wrong, _NOBODYS_FAULT):
                return [Failed(explain(self.path, wrong)) for _ in batch]
        half = len(batch) // 2
        return [*self._together(batch[:half]), *self._together(batch[half:])]

    def _transaction(self, batch: Sequence[Write]) -> list[Answer]:
        with self._transacting() as writes:
            return [writes.carry_out(write) for write in batch]

    @contextlib.contextmanager
    def _transacting(self) -> Iterator[Writes]:
        try:
            self._writes.begin()
            yield self._writes
            self._writes.commit()
        except BaseException:
            self._writes.undo()
            raise

    # -- reading ------------------------------------------------------------------------------------------------------

    def find(self, run_id: str) -> RunRow:
        return self._read(lambda reads: reads.find(run_id))

    def snapshot(self, number: int) -> Snapshot:
        return self._read(lambda reads: reads.snapshot(number))

    def events(self, number: int, first: int = 1, last: int | None = None) -> list[StoredEvent]:
        return self._read(lambda reads: reads.events(number, first, last))

    def runs(self, which: RunFilter = _EVERY_RUN) -> list[RunRow]:
        return self._read(lambda reads: reads.runs(which))

    def waits(self) -> list[tuple[RunRow, Wait]]:
        return self._read(lambda reads: reads.waits())

    def calls(self, statuses: tuple[str, ...]) -> list[tuple[RunRow, CallRow]]:
        return self._read(lambda reads: reads.calls(statuses))

    def workers(self) -> list[WorkerRow]:
        return self._read(lambda reads: reads.workers())

    def breakers(self, *, all: bool = False) -> list[Breaker]:
        return self._read(lambda reads: reads.breakers(all))

    def breaker_log(self, name: str | None = None) -> list[Change]:
        return self._read(lambda reads: reads.breaker_log(name))

    def notices(self, *, all: bool = False, run: int | None = None) -> list[NoticeRow]:
        return self._read(lambda reads: reads.notices(all, run))

    def next_notice(self) -> int | None:
        return self._read(lambda reads: reads.next_notice())

    def strays(self) -> list[tuple[int, int]]:
        return self._read(lambda reads: reads.strays())

    def payload(self, digest: bytes) -> bytes:
        return self._read(lambda reads: reads.payload(digest))

    def identity(self) -> tuple[str, int, int]:
        return self._read(lambda reads: reads.identity())

    def spent_since(self, at: int) -> int:
        return self._read(lambda reads: reads.spent_since(at))

    def check(self) -> list[Finding]:
        return self._read(lambda reads: findings(self.path, self._reader, reads))

    def _read(self, question: Callable[[Reads], T]) -> T:
        with self._reading:
            try:
                return question(self._reads)
            except InterlockError:
                raise
            except (apsw.Error, OSError, OverflowError) as wrong:
                raise explain(self.path, wrong) from wrong

    # -- opening, closing, epochs -------------------------------------------------------------------------------------

    def begin_epoch(self) -> int:
        """Declare this file restored from a backup: every open run is parked until a person releases it, every worker
        is struck off. Answers how many runs were parked."""
        with self._writing, self._writer_lock:
            return self._begin_epoch()

    def close(self) -> None:
        """Let go of everything. Workers that haven't parted are seen as dead from now on. May be called again."""
        with self._writing, self._reading:
            if self._closed:
                return
            if not self.readonly:
                with contextlib.suppress(apsw.Error, StoreError):
                    self._mark()
            self._closed = True
            self._reader.close()
            self._db.close()
            self._locks.close()
            self._writer_lock.close()

    def _open_memory(self, page_size: int) -> None:
        self._db = self._reader = apsw.Connection(MEMORY)
        self._db.execute(f"PRAGMA page_size={page_size}; PRAGMA temp_store=MEMORY")
        opening.lay_schema(self._db, self._clock)
        self._epoch: EpochFile | None = None
        self._equip(NoLocks(), NoWriterLock())

    def _open_readonly(self, vfs: str | None) -> None:
        opening.check_place(self.path, create=False)
        opening.check_owner(self.path, vfs)
        self._db = self._reader = opening.connect_reader(self.path, vfs)
        opening.check_migrations(self.path, self._reader)
        opening.check_is_current(self.path, self._reader)
        self._epoch = None
        self._equip(FileLocks(self.path), NoWriterLock())

    def _open_file(self, durability: Durability, create: bool, page_size: int, vfs: str | None) -> None:
        opening.check_place(self.path, create)
        if not opening.is_absent(self.path):
            opening.check_owner(self.path, vfs)
        writer_lock = WriterLock(self.path + ".lock")
        try:
            with writer_lock:
                if opening.is_absent(self.path):
                    opening.make_store(self.path, self._clock, page_size, vfs)
                self._db = opening.connect_writer(self.path, durability, vfs)
                opening.check_migrations(self.path, self._db)
                opening.lay_schema(self._db, self._clock)
            self._reader = opening.connect_reader(self.path, vfs)
        except BaseException:
            writer_lock.close()
            raise
        self._epoch = EpochFile(self.path)
        self._inode = os.stat(self.path).st_ino
        self._equip(FileLocks(self.path), writer_lock)
        self._enter_epoch()

    def _equip(self, locks: WorkerLocks, writer_lock: WriterLock | NoWriterLock) -> None:
        self._locks = locks
        self._writer_lock = writer_lock
        self._reads = Reads(self._reader, locks)
        self._writes = Writes(self._db, locks)

    def _enter_epoch(self) -> None:
        assert self._epoch is not None
        # Under the writer's lock to the end: between the commit and the mark the store looks like a restored one.
        with self._writer_lock:
            mark, seen = Mark(*self._reads.identity()), self._epoch.read()
            self.restored = mark.proves_restored(seen)
            if self.restored or mark.incarnation == 0:
                self._begin_epoch()

    def _begin_epoch(self) -> int:
        with self._transacting() as writes:
            parked = writes.begin_epoch(RESTORED, self._clock.now_ms())
        self._mark()
        return parked

    def _mark(self) -> None:
        if self._epoch is not None:
            with self._reading:
                self._epoch.write(Mark(*self._reads.identity()))
