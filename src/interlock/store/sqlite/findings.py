"""What `doctor` has to say about a store: its file, its settings, its surroundings, its workers. Changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw

from interlock.errors import Finding
from interlock.store.sqlite.epoch import RESTORED
from interlock.store.sqlite.mounts import DOUBTFUL, file_system
from interlock.store.sqlite.reads import Reads

_FREE_BYTES_MIN = 200_000_000
_LOG_BYTES_MAX = 256_000_000


def findings(path: str, db: apsw.Connection, reads: Reads) -> list[Finding]:
    """Errors first, each with its remedy."""
    found = [*_file(path, db), *_surroundings(path), *_runs(reads)]
    return sorted(found, key=lambda finding: finding.severity)


def _file(path: str, db: apsw.Connection) -> Iterator[Finding]:
    for (said,) in db.execute("PRAGMA quick_check(5)"):
        if said != "ok":
            yield Finding("damaged", f"{path}: {said}. Restore a backup, then `interlock verify`")
    if path == ":memory:":
        return
    mode = db.pragma("journal_mode")
    writable = os.access(path, os.W_OK) and os.access(Path(path).parent, os.W_OK)
    if mode != "wal" and writable:  # of a store on a read-only disk SQLite sees no WAL and can't tell
        yield Finding("journal", f"{path}: its journal mode is {mode}, not wal. Open it once with interlock")


def _surroundings(path: str) -> Iterator[Finding]:
    if path == ":memory:":
        return
    folder = Path(path).absolute().parent
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES_MIN:
        yield _warning("disk", f"{folder}: only {free // 1_000_000} MB are free. Make room before writes fail")
    kind = file_system(folder)
    if kind in DOUBTFUL:
        yield _warning("disk", f"{folder}: lies on {kind}, which may not keep locks. Use a local disk")
    log = Path(path + "-wal")
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        size = log.stat().st_size // 1_000_000
        yield _warning("log", f"{log}: {size} MB wait for a checkpoint: a program keeps a read open. Find and end it")
    if os.stat(path).st_mode & 0o004:
        yield _warning("access", f"{path}: every user of this machine may read it. `chmod o-r {path}`")


def _runs(reads: Reads) -> Iterator[Finding]:
    parked = reads.parked(RESTORED)
    if parked:
        yield Finding("restored", f"{parked} runs are parked: the store was restored. `interlock resume RUN` frees one")
    for worker in reads.workers():
        held = reads.held(worker.number)
        if worker.alive is False and held:
            who = f"worker {worker.name} (pid {worker.pid})"
            yield _warning("worker", f"{who} is dead and holds {held} runs. Start a worker: it takes them over")


def _warning(rule: str, message: str) -> Finding:
    return Finding(rule, message, severity="warning")
