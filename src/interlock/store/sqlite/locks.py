"""Locks beside the store: one for whoever writes, one for each living worker. Knows no table.

They are `flock` locks: the system drops them the moment their process dies, however it dies, so "its lock is free"
proves a death that no silence could. Files of dead workers are removed by whoever holds the writer lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Protocol

from interlock.errors import StoreError

_PATIENCE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.0001
_LONGEST_PAUSE_SECONDS = 0.002
_COURTESY_SECONDS = 0.0005


class WriterLock:
    """Held around one write transaction. Fair among processes: after a contended turn the holder steps back a moment.

    Waiting here is for another process, so it takes real time whatever clock the store was given.
    """

    def __init__(self, path: str, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._path = path
        self._patience = patience_seconds
        self._contended = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _close_in_forks(self)

    def __enter__(self) -> None:
        self._contended = not _locked(self._file, fcntl.LOCK_EX)
        if self._contended:
            self._wait()

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, at: TracebackType | None) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
        if self._contended:
            time.sleep(_COURTESY_SECONDS)

    def _wait(self) -> None:
        give_up = time.monotonic() + self._patience
        pause = _FIRST_PAUSE_SECONDS
        while not _locked(self._file, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                raise StoreError(
                    f"{self._path.removesuffix('.lock')}: locked out: another process has held the writer's lock "
                    f"for {self._patience:g} s; nothing was written"
                )
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class WorkerLocks(Protocol):
    """Who lives. What was taken or left in a transaction takes effect with `settle`, or is undone."""

    def take(self, number: int) -> bool: ...

    def leave(self, number: int) -> None: ...

    def alive(self, number: int) -> bool | None: ...

    def settle(self) -> None: ...

    def undo(self) -> None: ...

    def sweep(self, known: set[int]) -> None: ...

    def close(self) -> None: ...


class FileLocks:
    """A file `<store>.w<number>` per worker, locked for as long as its process lives."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._mine: dict[int, int] = {}
        self._taken: list[int] = []
        self._left: list[int] = []
        _close_in_forks(self)

    def take(self, number: int) -> bool:
        """False when a living process has this number (of a store that was since replaced by a backup)."""
        file = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not _locked(file, fcntl.LOCK_EX):
            os.close(file)
            return False
        self._mine[number] = file
        self._taken.append(number)
        return True

    def leave(self, number: int) -> None:
        self._left.append(number)

    def alive(self, number: int) -> bool:
        if number in self._mine:
            return True
        try:
            file = os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who look at once don't take each other for the worker.
            return not _locked(file, fcntl.LOCK_SH)
        finally:
            os.close(file)

    def settle(self) -> None:
        for number in self._left:
            self._drop(number)
        self._taken.clear()
        self._left.clear()

    def undo(self) -> None:
        for number in self._taken:
            self._drop(number)
        self._taken.clear()
        self._left.clear()

    def sweep(self, known: set[int]) -> None:
        """Remove lock files that no living process and no row stands for."""
        store = Path(self._store)
        pattern = re.compile(re.escape(store.name) + r"\.w(\d+)")
        for name in os.listdir(store.parent):
            match = pattern.fullmatch(name)
            if match and int(match[1]) not in known and not self.alive(int(match[1])):
                self._drop(int(match[1]))

    def close(self) -> None:
        """Let go of every lock, as a death would; the files stay, so that what these workers held is seen as free."""
        for file in self._mine.values():
            os.close(file)
        self._mine.clear()

    def _drop(self, number: int) -> None:
        Path(self._path(number)).unlink(missing_ok=True)
        file = self._mine.pop(number, None)
        if file is not None:
            os.close(file)

    def _path(self, number: int) -> str:
        return f"{self._store}.w{number}"


class NoLocks:
    """For a store in memory or one that is only read: nobody can tell who lives."""

    def take(self, number: int) -> bool:
        return True

    def leave(self, number: int) -> None: ...

    def alive(self, number: int) -> bool | None:
        return None

    def settle(self) -> None: ...

    def undo(self) -> None: ...

    def sweep(self, known: set[int]) -> None: ...

    def close(self) -> None: ...


class NoWriterLock:
    """For a store in memory: there is no other process."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def close(self) -> None: ...


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# A forked child shares its parent's locks and would keep them after the parent's death: it lets go of them at once.
_open: weakref.WeakSet[WriterLock | FileLocks] = weakref.WeakSet()


def _close_in_forks(locks: WriterLock | FileLocks) -> None:
    _open.add(locks)


def _let_go() -> None:
    for locks in _open:
        locks.close()


os.register_at_fork(after_in_child=_let_go)
