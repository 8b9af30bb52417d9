"""Time and chance, passed in. Nothing else in interlock asks the system for either.

Three clocks: `SystemClock` (production), `ManualClock` (moved by hand), and `VirtualLoop`, an asyncio loop on a
manual clock that jumps to the next deadline when nothing is left to do: an hour passes in no time.
Knows no run, store or machine.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from interlock.errors import Stuck

T = TypeVar("T")


class Clock(Protocol):
    """What time it is, in three senses. Waiting is done by the asyncio loop, whose time is `monotonic`."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970 UTC: what people read, and due times. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; may stand still while the machine sleeps."""
        ...

    def boottime(self) -> float:
        """Seconds that never run backwards and also count suspended time: decides whether it is too late to send."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        # CLOCK_BOOTTIME is Linux; macOS' CLOCK_MONOTONIC_RAW counts sleep already, elsewhere monotonic must do.
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ManualClock:
    """A clock that a test moves: `clock.advance(3600)`. All three senses move together."""

    def __init__(self, start_ms: int = 1_767_225_600_000) -> None:
        self._start_ms = start_ms
        self._elapsed = 0.0

    def now_ms(self) -> int:
        return self._start_ms + round(self._elapsed * 1000)

    def monotonic(self) -> float:
        return self._elapsed

    def boottime(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (never back)."""
        if seconds < 0:
            raise ValueError("a clock is not moved back")
        self._elapsed += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of sleeping until the next deadline, moves the clock there."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stuck("nothing is scheduled and nothing is ready: the awaited thing will never happen")
        self._clock.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time. Everything that runs on it must stay on it: no threads, no sockets."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        super().__init__(_JumpingSelector(self.clock))

    def time(self) -> float:
        return self.clock.monotonic()


def run_virtually(main: Coroutine[Any, Any, T], clock: ManualClock | None = None) -> T:
    """Run `main` to its end on a fresh virtual loop. Raises `Stuck` when it waits for what nobody will do."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(main)
