"""Committers: the one road from the engine to the store. Two forms, chosen by the host.

`InlineCommitter` writes on the loop itself (virtual time, tests). `ThreadCommitter` owns a writer thread that takes
whatever is waiting, for whatever run, as one batch: group commit. Callers are answered only after COMMIT, with one
wake-up of the loop per batch. Knows no run and no machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from interlock.engine.rounds import call_each
from interlock.errors import StoreError
from interlock.store.protocol import Answer, Failed, Store, Write

BATCH_MAX = 256


Answered = Callable[[Answer], None]


class Committer(Protocol):
    """Takes writes, answers them after COMMIT."""

    def tell(self, write: Write, answered: Answered) -> None:
        """Queue one write. `answered` is called on this loop, also for the write's own fault: `Failed` is an answer."""
        ...

    def submit(self, write: Write) -> asyncio.Future[Answer]:
        """Queue one write, for who wants to wait for the answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.tell(write, lambda answer: None if future.done() else future.set_result(answer))
        return future

    def close(self) -> None:
        """Write what is queued, then stop."""
        ...


def _answers(store: Store, batch: list[Write]) -> list[Answer]:
    try:
        return store.write(batch)
    except Exception as wrong:  # a store that raises has written nothing of the batch
        error = wrong if isinstance(wrong, StoreError) else StoreError(f"the store failed: {wrong}")
        return [Failed(error) for _ in batch]


class InlineCommitter(Committer):
    """Writes what was submitted in this tick of the loop as one batch, on the loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Write, Answered]] = []

    def tell(self, write: Write, answered: Answered) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append((write, answered))

    def _write(self) -> None:
        batch, self._waiting = self._waiting, []
        answers = _answers(self._store, [write for write, _ in batch])
        _tell([answered for _, answered in batch], answers)

    def close(self) -> None:
        if self._waiting:
            self._write()


class ThreadCommitter(Committer):
    """A writer thread with group commit across runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[Write, Answered, asyncio.AbstractEventLoop]] = deque()
        self._waking: set[asyncio.AbstractEventLoop] = set()  # loops that will wake the writer in their next round
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="interlock-committer", daemon=True)
        self._thread.start()

    def tell(self, write: Write, answered: Answered) -> None:
        loop = asyncio.get_running_loop()
        if self._closing:  # nobody would ever answer
            loop.call_soon(answered, Failed(StoreError("the store is closed; nothing was written")))
            return
        self._waiting.append((write, answered, loop))
        # Once a round: what other runs submit in this one shares the batch, and waking a thread is dear.
        if loop not in self._waking:
            self._waking.add(loop)
            loop.call_soon(self._wake_writer, loop)

    def _wake_writer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waking.discard(loop)
        self._wake.set()

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing  # looked at before what is waiting, so that nothing submitted earlier is left
            while self._waiting:
                self._write([self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))])

    def _write(self, batch: list[tuple[Write, Answered, asyncio.AbstractEventLoop]]) -> None:
        answers = _answers(self._store, [write for write, _, _ in batch])
        by_loop: dict[asyncio.AbstractEventLoop, tuple[list[Answered], list[Answer]]] = {}
        for (_, answered, loop), answer in zip(batch, answers, strict=True):
            told, given = by_loop.setdefault(loop, ([], []))
            told.append(answered)
            given.append(answer)
        for loop, (told, given) in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(_tell, told, given)

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()


def _tell(told: list[Answered], answers: list[Answer]) -> None:
    call_each(partial(answered, answer) for answered, answer in zip(told, answers, strict=True))
