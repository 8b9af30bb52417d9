"""The outbox in the file: rows leased, settled and decided on, inside a transaction that somebody else opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from interlock.store.protocol import (
    DecideNotice,
    Done,
    Notice,
    SettleNotice,
    Shut,
    Stale,
    TakenNotice,
    TakeNotices,
    Taking,
)
from interlock.store.sqlite.queries import queries


class Outbox:
    """Everything about notices, on the connection that writes."""

    def __init__(self, db: apsw.Connection, run: Callable[..., apsw.Cursor]) -> None:
        self._db = db
        self._run = run
        self._sql = queries()

    def put(self, run: int, notices: tuple[Notice, ...], at: int) -> None:
        """Those of a commit, in its transaction."""
        for notice in notices:
            self._run(self._sql["put_notice"], (notice.id, run, notice.seq, notice.body, at))

    def take(self, take: TakeNotices) -> Taking:
        rows: list[Any] = self._run(self._sql["take_notices"], (take.at, take.limit, take.until)).fetchall()
        return Taking(tuple([TakenNotice(*row) for row in rows]))

    def settle(self, settled: SettleNotice) -> Done | Stale:
        self._run(
            self._sql["settle_notice"],
            (settled.number, settled.attempt, settled.status, settled.due, settled.message, settled.at),
        )
        return Done() if self._db.changes() == 1 else Stale()

    def decide(self, decided: DecideNotice) -> Done | Shut:
        self._run(self._sql["decide_notice"], (decided.id, decided.status, decided.at, decided.by, decided.reason))
        if self._db.changes() == 1:
            return Done()
        row: Any = self._run(self._sql["notice_status"], (decided.id,)).fetchone()
        return Shut("unknown" if row is None else row[0])
