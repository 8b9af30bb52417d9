"""The bare floor: the same rows and bytes as a finished store, written by nothing but a loop over SQLite.

Two commits a turn, the commits of 64 turns in one transaction, `synchronous=FULL`, the same schema without its guards.
Everything is read and laid out beforehand; only the writing is timed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

BATCH = 64

SCHEMA = """
CREATE TABLE account (number INTEGER PRIMARY KEY, c1, c2, c3, c4, c5, s1, s2, s3, s4, s5, h1, h2, h3, h4, h5);
CREATE TABLE run (number INTEGER PRIMARY KEY, id TEXT UNIQUE, tenant, machine, shape, content, status, reason, state,
                  turn, seq, head, turn_seq, fence, worker, commit_id, changed_at, live);
CREATE TABLE event (number INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL,
                    hash BLOB NOT NULL, UNIQUE (run, seq));
"""
APPEND = "INSERT INTO event (run, seq, body, hash) VALUES (?, ?, ?, ?)"
MOVE = "UPDATE run SET turn = ?2, seq = ?3, head = ?4, commit_id = ?5, changed_at = ?6, live = ?7 WHERE number = ?1"
SETTLE = "UPDATE account SET s1 = ?2, s2 = ?3, s3 = ?4, s4 = ?5, s5 = ?6, h3 = ?7, h4 = ?8 WHERE number = ?1"


@dataclass(frozen=True)
class Rows:
    """What one store holds: run rows, and for each run its events in order."""

    runs: list[tuple[Any, ...]]
    events: dict[int, list[tuple[int, int, str, bytes]]]
    live: str


def rows_of(path: Path) -> Rows:
    """Everything the floor has to write again."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        runs: list[tuple[Any, ...]] = db.execute(
            "SELECT number, id, tenant, machine, shape, content, status, reason, state, turn, seq, head, turn_seq,"
            " fence, worker, commit_id, changed_at, live FROM run"
        ).fetchall()
        events: dict[int, list[tuple[int, int, str, bytes]]] = {run[0]: [] for run in runs}
        for row in db.execute("SELECT run, seq, body, hash FROM event ORDER BY run, seq"):
            events[row[0]].append(row)
    finally:
        db.close()
    return Rows(runs, events, max((run[-1] for run in runs), key=len))


def turns_per_second(rows: Rows, path: Path, page_size: int = 8192) -> float:
    """Write it all into a fresh file at `path`."""
    db = apsw.Connection(str(path))
    try:
        db.execute(f"PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-16384; PRAGMA wal_autocheckpoint=2000")
        db.execute(SCHEMA)
        for run in rows.runs:
            db.execute(f"INSERT INTO run VALUES ({','.join('?' * len(run))})", run)
            db.execute("INSERT INTO account VALUES (?, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)", (run[0],))
        batches, turns = _batches(rows)
        cursor = db.cursor()
        began = time.perf_counter()
        for batch in batches:
            _write(cursor, batch, rows.live)
        return turns / (time.perf_counter() - began)
    finally:
        db.close()


_Commit = list[tuple[int, int, str, bytes]]


def _batches(rows: Rows) -> tuple[list[list[_Commit]], int]:
    """The commits of every run, two a turn, runs side by side, 64 in a transaction."""
    per_run = [_commits(events) for events in rows.events.values()]
    turns = sum(len(commits) for commits in per_run) // 2
    batches: list[list[_Commit]] = []
    for first in range(0, len(per_run), BATCH):
        group = per_run[first : first + BATCH]
        for step in range(max(map(len, group))):
            batches.append([commits[step] for commits in group if step < len(commits)])
    return batches, turns


def _commits(events: list[tuple[int, int, str, bytes]]) -> list[_Commit]:
    """Five events a turn after the first of the run: two commits of two and three."""
    made: list[_Commit] = []
    for at in range(1, len(events) - 5, 5):
        made += [events[at : at + 2], events[at + 2 : at + 5]]
    return made


def _write(cursor: apsw.Cursor, batch: list[_Commit], live: str) -> None:
    run = cursor.execute
    run("BEGIN IMMEDIATE")
    for events in batch:
        number, seq, _, head = events[-1]
        cursor.executemany(APPEND, events)
        run(MOVE, (number, seq // 5, seq, head, head[:16], 1_800_000_000_000 + seq, live))
        run(SETTLE, (number, seq, seq, seq * 100, seq * 100, seq, 900, 900))
    run("COMMIT")
