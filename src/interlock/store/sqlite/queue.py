"""The queue: rows of tool calls, places among those of a limited tool, and what people say of dead ones; inside a
transaction that somebody else opened.

A place counts from its reservation until the result (or the end of the attempt's time) is committed. A rate counts what
was let begin within its period, exactly: no more than so many in any stretch of time as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from interlock.store.protocol import Answer, CallRow, Commit, Later, Leave, Reserve, Reserved, Stale
from interlock.store.sqlite.queries import queries


class Queue:
    """Everything about calls."""

    def __init__(self, run: Callable[..., apsw.Cursor]) -> None:
        self._run = run
        self._sql = queries()

    def keep(self, commit: Commit) -> None:
        """The queue as a commit leaves it."""
        for call in commit.calls:
            self._run(self._sql["put_call"], _columns(commit, call))
        for effect in commit.calls_over:
            self._run(self._sql["drop_call"], (commit.run, effect))

    def reserve(self, asked: Reserve) -> Answer:
        row = self._run(self._sql["run_for_commit"], (asked.run,)).fetchone()
        if row is None or row[:2] != (asked.worker, asked.fence):
            return Stale()
        wait = self._full(asked) or self._too_fast(asked)
        if wait is not None:
            return wait
        if asked.rate:
            self._run(self._sql["note_start"], (asked.tool, asked.at))
        place = (asked.run, asked.effect, asked.tool, asked.way, asked.attempt, asked.fence, asked.until)
        self._run(self._sql["reserve_call"], place)
        return Reserved(asked.at)

    def _full(self, asked: Reserve) -> Later | None:
        since = asked.at - asked.grace_ms
        self._run(self._sql["forget_reserved"], (asked.tool, since))
        if not asked.concurrency:
            return None
        others = (asked.tool, since, asked.run, asked.effect)
        counted: list[Any] = self._run(self._sql["calls_under_way"], others).fetchall()
        taken, first = counted[0]
        return Later(first + asked.grace_ms, full=True) if taken >= asked.concurrency else None

    def _too_fast(self, asked: Reserve) -> Later | None:
        if not asked.rate:
            return None
        self._run(self._sql["forget_starts"], (asked.tool, asked.at - asked.per_ms))
        at: Any = self._run(self._sql["start_that_counts"], (asked.tool, asked.rate - 1)).get
        return None if at is None else Later(at + asked.per_ms, full=False)

    def close(self, run: int, leave: Leave) -> str:
        """Say for somebody what becomes of a dead call, or of one in doubt; else who said so first."""
        status = "in doubt" if leave.item.kind == "clear" else "dead"
        row = self._run(self._sql["call_to_see_to"], (run, leave.call, status)).fetchone()
        if row is None:
            return "unknown"
        if row[0]:
            return str(row[0])
        self._run(self._sql["see_to_call"], (run, leave.call, leave.closes or leave.item.kind))
        return ""


def _columns(commit: Commit, call: CallRow) -> tuple[object, ...]:
    return (commit.run, call.effect, call.status, call.tool, call.way, call.attempt, call.seq, call.until, call.due,
            call.failed, call.limited, call.redoes, commit.fence)  # fmt: skip
