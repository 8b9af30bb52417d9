"""Bootstrap: the threads that plain functions run in. Real threads, held up by events and not by time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from interlock.bootstrap import Threads


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a function that never returns waits for, until the test is over."""
    made = threading.Event()
    yield made
    made.set()


def soon(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def test_each_function_has_a_thread_while_there_are_any() -> None:
    threads, together = Threads(3), threading.Barrier(3)

    async def main() -> None:
        for _ in range(5):
            await asyncio.gather(*(threads(lambda: together.wait(10)) for _ in range(3)))

    soon(main)
    threads.close()


def test_a_function_that_is_given_up_while_it_waits_never_begins(gate: threading.Event) -> None:
    threads = Threads(1)
    begun: list[str] = []

    async def main() -> None:
        first = threads(gate.wait)
        second = threads(lambda: begun.append("second"))
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await first
        await threads(lambda: begun.append("third"))

    soon(main)
    threads.close()
    assert begun == ["third"]


def test_threads_that_never_came_back_are_counted_until_they_do(gate: threading.Event) -> None:
    threads, begun = Threads(2), threading.Semaphore(0)

    def lasting() -> None:
        begun.release()
        gate.wait()

    async def main() -> None:
        lost = [threads(lasting) for _ in range(2)]
        for _ in lost:
            await asyncio.to_thread(begun.acquire)
        assert threads.leaked() == 0, "they are under way, and somebody waits"
        for future in lost:
            future.cancel()
        await asyncio.sleep(0)
        assert threads.leaked() == 2
        await threads(lambda: None)
        assert threads.leaked() == 2, "others are hired in their place"
        gate.set()
        while threads.leaked():
            await asyncio.sleep(0.01)

    soon(main)
    threads.close()


def test_a_thread_that_never_comes_back_is_replaced(gate: threading.Event) -> None:
    threads = Threads(2)

    async def main() -> None:
        for _ in range(5):
            started = [threading.Event() for _ in range(2)]
            lost = [threads(lambda event=event: (event.set(), gate.wait())) for event in started]
            waiting = threads(lambda: "answered")
            while not all(event.is_set() for event in started):
                await asyncio.sleep(0.001)
            for future in lost:
                future.cancel()
            assert await waiting == "answered"

    soon(main)
    threads.close()


def test_a_thread_that_was_written_off_ends_when_its_function_does(gate: threading.Event) -> None:
    before = threading.active_count()
    threads = Threads(1)

    async def main() -> None:
        for _ in range(3):
            started = threading.Event()
            lost = threads(lambda started=started: (started.set(), gate.wait()))
            while not started.is_set():
                await asyncio.sleep(0.001)
            lost.cancel()
            await threads(lambda: None)
        gate.set()
        while threading.active_count() > before + 1:
            await asyncio.sleep(0.001)

    soon(main)
    threads.close()


def test_what_a_function_returns_too_late_is_told(gate: threading.Event) -> None:
    threads = Threads(1)

    async def main() -> None:
        started, told = threading.Event(), asyncio.get_running_loop().create_future()
        future = threads(lambda: (started.set(), gate.wait()) and "late", told.set_result)
        while not started.is_set():
            await asyncio.sleep(0.001)
        future.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await told == "late"

    soon(main)
    threads.close()


def test_a_thread_that_cannot_be_started_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is told that the process has as many threads as it may; the call isn't made later all the same."""
    start, fails = threading.Thread.start, [True]

    def limited(self: threading.Thread) -> None:
        if self.name == "interlock-plain" and fails:
            fails.pop()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    ran: list[str] = []

    async def main() -> None:
        threads = Threads(2)
        with pytest.raises(RuntimeError):
            await threads(lambda: ran.append("refused"))
        await threads(lambda: ran.append("second"))
        both = threading.Barrier(2, timeout=10)  # passed only by two threads at once
        await asyncio.gather(threads(both.wait), threads(both.wait))
        threads.close()

    asyncio.run(main())
    assert ran == ["second"]
