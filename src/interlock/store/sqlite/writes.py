"""Writing: each kind of write as comparisons, then statements, inside a transaction that somebody else opened.

A write that answers anything but success has written nothing, so a batch can go on. What raises spoils the whole
transaction. Lock order: run, wait, account, inbox. Knows no file and no COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from interlock.canonical import encode
from interlock.errors import StoreError, UnknownRun
from interlock.machine.limits import Amounts
from interlock.store.protocol import (
    Account,
    Answer,
    Beat,
    Beaten,
    Cell,
    Claim,
    Commit,
    Committed,
    DecideNotice,
    Done,
    Failed,
    Join,
    Joined,
    Leave,
    Left,
    Over,
    Part,
    Probe,
    Refused,
    Report,
    Reserve,
    Reset,
    SettleNotice,
    Shut,
    Stale,
    Start,
    Started,
    StoredEvent,
    Taken,
    TakeNotices,
    Trip,
    Wait,
    Write,
)
from interlock.store.sqlite.breakers import Breakers
from interlock.store.sqlite.claims import Claims
from interlock.store.sqlite.locks import WorkerLocks
from interlock.store.sqlite.outbox import Outbox
from interlock.store.sqlite.queries import queries
from interlock.store.sqlite.queue import Queue
from interlock.store.sqlite.reads import Reads

FINAL = frozenset({"completed", "failed", "cancelled"})
AFTER_THE_END = frozenset({"evidence", "redo", "drop", "clear"})
"""What an ended run still takes: late results, and what people say of its calls."""


class Writes:
    """Every write, on the one connection that writes."""

    def __init__(self, db: apsw.Connection, locks: WorkerLocks) -> None:
        self._db = db
        # One cursor for everything, BEGIN and COMMIT too: half the time of a new one per statement, and each statement
        # ends the one before, so that no unfinished read keeps a transaction open.
        cursor = db.cursor()
        self._run = cursor.execute
        self._many = cursor.executemany
        self._locks = locks
        self._sql = queries()
        self._at_work: dict[int, int] = {}  # worker -> time of its last commit in this transaction
        claims = Claims(self._run, locks, Reads(db, locks))
        self._breakers = breakers = Breakers(self._run)
        self._queue = Queue(self._run)
        self._outbox = outbox = Outbox(db, self._run)
        self._kinds: dict[type[Write], Callable[[Any], Answer]] = {
            Start: self._start,
            Commit: self._commit,
            Leave: self._leave,
            Claim: claims.claim,
            Join: self._join,
            Part: self._part,
            Beat: self._beat,
            Report: breakers.report,
            Probe: breakers.probe,
            Trip: breakers.trip,
            Reset: breakers.reset,
            Reserve: self._queue.reserve,
            TakeNotices: outbox.take,
            SettleNotice: outbox.settle,
            DecideNotice: outbox.decide,
        }

    def carry_out(self, write: Write) -> Answer:
        return self._kinds[type(write)](write)

    def begin(self) -> None:
        """Open a transaction."""
        self._at_work.clear()
        self._breakers.begin()
        self._run("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End it: whoever committed to a run lives, and who joined or left has done so."""
        for worker, at in self._at_work.items():
            self._run(self._sql["beat"], (worker, at))
        self._run("COMMIT")
        self._locks.settle()

    def undo(self) -> None:
        """End it as if it hadn't been. A failed COMMIT may or may not have ended it already."""
        if self._db.in_transaction:
            self._run("ROLLBACK")
        self._locks.undo()

    def begin_epoch(self, reason: str, at: int) -> int:
        """Park every open run, strike off every worker. How many runs were parked."""
        self._run(self._sql["raise_incarnation"])
        self._run(self._sql["strike_all_workers"])
        self._run(self._sql["park_open_runs"], (reason, at))
        return self._db.changes()

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _start(self, start: Start) -> Answer:
        known = self._run(self._sql["start_by_id"], (start.id,)).fetchone()
        if known is None and start.key is not None:
            known = self._run(self._sql["start_by_key"], (start.tenant, start.machine, start.key)).fetchone()
        if known is not None:
            run_id, number, digest = known
            return Started(run_id, number, new=False) if digest == start.input_digest else Taken(run_id)
        return Started(start.id, self._create(start), new=True)

    def _create(self, start: Start) -> int:
        self._run(self._sql["open_account"], _columns(start.account))
        account, row, event = self._db.last_insert_rowid(), start.row, start.event
        self._run(
            self._sql["start_run"],
            (start.id, start.tenant, start.machine, start.shape, row.content, start.key, start.input_digest,
             row.status, row.reason, row.state, row.turn, event.seq, event.hash, row.turn_seq, row.wake_at,
             row.deadline_at, account, start.at, row.live),
        )  # fmt: skip
        number = self._db.last_insert_rowid()
        self._append(number, (event,), start.cells, start.payloads)
        return number

    def _commit(self, commit: Commit) -> Answer:
        row = self._run(self._sql["run_for_commit"], (commit.run,)).fetchone()
        if row is None:
            return Stale()
        worker, fence, seq, last_id, status, wake_at, mail, account = row
        if last_id == commit.id:
            return Committed(bool(mail))
        if (worker, fence, seq) != (commit.worker, commit.fence, commit.after):
            return Stale()
        halts = commit.begins or commit.ends
        if halts and mail and self._run(self._sql["halt_unread"], (commit.run, commit.ends)).fetchone():
            return Refused("halt")
        if commit.closes and not all(self._is_open(commit.run, wait) for wait, _ in commit.closes):
            return Refused("wait")
        if commit.guards:
            if self._breakers.refuse(commit.guards):
                return Refused("breaker")
            self._breakers.use(commit.guards)
        if commit.shape is not None:
            self._run(self._sql["reshape_run"], (commit.run, commit.shape))
        if commit.renews:
            self._run(self._sql["drop_record"], (commit.run,))
        self._append(commit.run, commit.events, commit.cells, commit.payloads)
        self._waits(commit)
        self._run(self._sql["settle_account"], (account, *_columns(commit.account)))
        self._take(commit)
        if commit.calls or commit.calls_over:
            self._queue.keep(commit)
        if commit.ends:
            self._queue.leave_lines(commit.run)
        if commit.notices:
            self._outbox.put(commit.run, commit.notices, commit.at)
        self._at_work[commit.worker] = commit.at
        stays = not mail and not commit.release and (status, wake_at) == (_held(commit), commit.row.wake_at)
        return Committed(self._move(commit, stays))

    def _move(self, commit: Commit, stays: bool) -> bool:
        row, last = commit.row, commit.events[-1] if commit.events else None
        seq, head = (commit.after, None) if last is None else (last.seq, last.hash)  # without events it only releases
        columns = (commit.run, row.reason, row.state, row.turn, seq, head, row.turn_seq, row.content,
                   row.deadline_at, commit.id, commit.at, row.live)  # fmt: skip
        if stays:
            self._run(self._sql["commit_run"], columns)
            return False
        worker = None if commit.release else commit.worker
        status = row.status if commit.release else _held(commit)
        return bool(self._run(self._sql["commit_run_and_move"], (*columns, status, row.wake_at, worker)).get)

    def _append(
        self,
        run: int,
        events: tuple[StoredEvent, ...],
        cells: tuple[Cell, ...],
        payloads: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        self._many(self._sql["append_event"], [(run, event.seq, event.body, event.hash) for event in events])
        for cell in cells:
            if cell.item == -1:
                self._run(self._sql["drop_cells"], (run, cell.field))
            self._run(self._sql["put_cell"], (run, cell.field, cell.item, cell.seq, cell.path, cell.origin))
        if payloads:
            self._many(self._sql["keep_payload"], payloads)

    # -- waits and inbox ----------------------------------------------------------------------------------------------

    def _is_open(self, run: int, wait: int) -> bool:
        row = self._run(self._sql["wait_for_closing"], (run, wait)).fetchone()
        return row is not None and row[0] == ""

    def _waits(self, commit: Commit) -> None:
        for wait in commit.opens:
            self._run(self._sql["open_wait"], _wait_columns(commit.run, wait))
            if wait.closed:  # opened and closed by one commit: a signal that had arrived before
                self._run(self._sql["close_wait"], (commit.run, wait.number, wait.closed, commit.at))
        for number, how in commit.closes:
            self._run(self._sql["close_wait"], (commit.run, number, how, commit.at))

    def _take(self, commit: Commit) -> None:
        for item in commit.takes:
            self._run(self._sql["take_item"], (item, commit.run, commit.after + 1))
            if self._db.changes() != 1:
                raise StoreError(f"inbox item `{item}` isn't there to be taken: unknown, or taken before")

    def _leave(self, leave: Leave) -> Answer:
        run = self._run(self._sql["run_for_leaving"], (leave.run,)).fetchone()
        if run is None:
            return Failed(UnknownRun(f"no run `{leave.run}`"))
        number, status, worker = run
        known = self._run(self._sql["inbox_owner"], (leave.item.id,)).fetchone()
        if known is not None and known[0] != number:
            return Failed(StoreError(f"inbox id `{leave.item.id}` was used for another run"))
        if known is not None:
            return Left(held=self._is_held(worker))
        if status in FINAL and leave.item.kind not in AFTER_THE_END:
            return Over(status)
        if leave.item.kind == "rollback" and self._run(self._sql["cancel_unread"], (number,)).fetchone():
            return Over("cancelled")  # as good as: nobody will read what comes after it
        if leave.wait is not None:
            shut = self._close(number, leave.wait, leave)
            if shut:
                return Shut(shut)
        if leave.call is not None:
            shut = self._queue.close(number, leave)
            if shut:
                return Shut(shut)
        item = leave.item
        self._run(self._sql["leave_item"], (item.id, number, item.kind, encode(item.body), item.left_at or leave.at))
        self._run(self._sql["flag_mail"], (number,))
        return Left(held=self._is_held(worker))

    def _is_held(self, worker: int | None) -> bool:
        """A holder that is dead reads nothing more: another will, when it takes the run over."""
        return worker is not None and self._locks.alive(worker) is not False

    def _close(self, run: int, wait: int, leave: Leave) -> str:
        """Close a wait for somebody outside; else say who or what was first."""
        row = self._run(self._sql["wait_for_closing"], (run, wait)).fetchone()
        if row is None:
            return "unknown"
        closed, due, kind = row
        if leave.item.kind == "decision" and kind != "person":
            return "unknown"  # nobody is asked
        if closed:
            return str(closed)
        if due is not None and leave.at >= due:
            return "due"
        if self._run(self._sql["cancel_unread"], (run,)).fetchone():
            return "cancel"
        self._run(self._sql["close_wait"], (run, wait, leave.closes or leave.item.kind, leave.at))
        return ""

    # -- workers ------------------------------------------------------------------------------------------------------

    def _join(self, join: Join) -> Answer:
        self._locks.sweep(set(self._numbers("worker_numbers")))
        for number in self._numbers("idle_workers"):
            if self._locks.alive(number) is False:
                self._strike(number)
        machines = encode([f"{machine}/{shape}" for machine, shape in join.machines]).decode()
        while True:
            self._run(self._sql["join_worker"], (join.name, join.host, join.pid, join.at, machines))
            number = self._db.last_insert_rowid()
            if self._locks.take(number):
                return Joined(number)
            self._run(self._sql["strike_worker"], (number,))

    def _part(self, part: Part) -> Answer:
        self._run(self._sql["release_runs"], (part.worker,))
        self._strike(part.worker)
        return Done()

    def _strike(self, worker: int) -> None:
        self._run(self._sql["strike_worker"], (worker,))
        self._locks.leave(worker)

    def _beat(self, beat: Beat) -> Answer:
        self._run(self._sql["beat"], (beat.worker, beat.at))
        known = self._db.changes() == 1
        others: list[Any] = self._run(self._sql["other_beats"], (beat.worker,)).fetchall()
        mail = tuple(self._numbers("held_with_mail", beat.worker))
        return Beaten(dict(others), mail, known, self._breakers.troubled())

    def _numbers(self, query: str, *values: int) -> list[int]:
        found: list[Any] = self._run(self._sql[query], values).fetchall()
        return [number for (number,) in found]


def _held(commit: Commit) -> str:
    """A run that is ready and stays with its worker is running."""
    return "running" if commit.row.status == "ready" and not commit.release else commit.row.status


def _columns(account: Account) -> tuple[int, ...]:
    return (*_amounts(account.ceiling), *_amounts(account.spent), *_amounts(account.held))


def _amounts(amounts: Amounts) -> tuple[int, int, int, int, int]:
    return amounts.turns, amounts.calls, amounts.tokens, amounts.nanousd, amounts.active_ms


def _wait_columns(run: int, wait: Wait) -> tuple[Any, ...]:
    return (run, wait.number, wait.kind, wait.why, wait.seq, wait.of, wait.signal, wait.due, wait.opened_at)
