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

PACE_MS = 60_000
PACE_STARTS = 3
"""A tool's pace goes by what was let begin lately, if that is enough to go by."""

OVERDUE_MS = 2_000
"""How long a place that a rate allows is kept for those whose time has come: a parked run is claimed first."""

PROMISED_MS = 600_000
"""How far ahead a time is promised at most: some of those in front may give up."""


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
            self._stand_in_line(asked, wait)
            return wait
        self._run(self._sql["leave_line"], (asked.run, asked.tool))
        self._run(self._sql["note_start"], (asked.tool, asked.at))
        place = (asked.run, asked.effect, asked.tool, asked.way, asked.attempt, asked.fence, asked.until)
        self._run(self._sql["reserve_call"], place)
        return Reserved(asked.at)

    def leave_lines(self, run: int) -> None:
        """The run has ended, and asks for nothing any more."""
        self._run(self._sql["leave_lines"], (run,))

    def _full(self, asked: Reserve) -> Later | None:
        since = asked.at - asked.grace_ms
        self._run(self._sql["forget_reserved"], (asked.tool, since))
        if not asked.concurrency:
            return None
        others = (asked.tool, since, asked.run, asked.effect)
        counted: list[Any] = self._run(self._sql["calls_under_way"], others).fetchall()
        taken, first = counted[0]
        if taken < asked.concurrency:
            return None
        return Later(first + asked.grace_ms, True, self._ahead(asked)[0], self._pace(asked))

    def _too_fast(self, asked: Reserve) -> Later | None:
        self._run(self._sql["forget_starts"], (asked.tool, asked.at - max(asked.per_ms, PACE_MS)))
        if not asked.rate:
            return None
        counts = (asked.tool, asked.at - asked.per_ms, asked.rate)
        rows: list[Any] = self._run(self._sql["starts_that_count"], counts).fetchall()
        starts: list[int] = [at for (at,) in reversed(rows)]
        ahead, due = self._ahead(asked)
        if len(starts) + due < asked.rate:
            return None
        return Later(_start(starts, max(ahead, due), asked), full=False, ahead=ahead)

    def _ahead(self, asked: Reserve) -> tuple[int, int]:
        values = (asked.tool, asked.run, asked.at, asked.at - OVERDUE_MS)
        counted: list[Any] = self._run(self._sql["ahead_in_line"], values).fetchall()
        ahead, due = counted[0]
        return ahead, due

    def _pace(self, asked: Reserve) -> int | None:
        """Milliseconds from one start to the next, of late."""
        counted: list[Any] = self._run(self._sql["pace"], (asked.tool, asked.at - PACE_MS)).fetchall()
        first, last, starts = counted[0]
        return max((last - first) // (starts - 1), asked.at - last) if starts >= PACE_STARTS else None

    def _stand_in_line(self, asked: Reserve, wait: Later) -> None:
        self._run(self._sql["forget_lines"], (asked.tool, asked.at))
        until = (asked.at if wait.full else wait.at) + asked.patience_ms
        at = None if wait.full else wait.at
        self._run(self._sql["stand_in_line"], (asked.tool, asked.run, at, until))
        if asked.deadline_at is not None:
            self._run(self._sql["wait_beside"], (asked.run, asked.deadline_at))

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


def _start(starts: list[int], ahead: int, asked: Reserve) -> int:
    """When a rate lets the next call begin, once `ahead` others have: each a period after the one `rate` before it."""
    free = asked.rate - len(starts)
    rounds, at = divmod(max(0, ahead - free), asked.rate)
    exact = [*starts, *[asked.at] * free][at] + asked.per_ms * (1 + rounds)
    return min(exact, max(asked.at + PROMISED_MS, starts[0] + asked.per_ms if starts else 0))
