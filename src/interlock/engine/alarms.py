"""Alarms: deadlines that mostly never come, with one timer of the loop for the earliest of them.

A turn sets one for itself and one for each attempt, thousands a second, and nearly all are cleared again. The timer is
left as it is when its deadline is cleared: it then finds nothing due, and is set for what is left. Knows no run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from types import TracebackType

Ring = Callable[[], None]


class Alarms:
    """The deadlines of one run, on the loop that advances it."""

    def __init__(self) -> None:
        self._set: dict[int, tuple[float, Ring]] = {}
        self._last = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    def set(self, seconds: float, ring: Ring) -> int:
        """Call `ring` after so long, unless cleared. Returns what to clear."""
        at = asyncio.get_running_loop().time() + seconds
        self._last += 1
        self._set[self._last] = (at, ring)
        if at < self._timer_at:
            self._arm(at)
        return self._last

    def clear(self, alarm: int) -> None:
        self._set.pop(alarm, None)

    def within(self, seconds: float) -> Within:
        """`with alarms.within(10): ...` raises TimeoutError when the block takes longer, as `asyncio.timeout` does."""
        return Within(self, seconds)

    def close(self) -> None:
        """The run is given back. What is still set belongs to code that was left behind, and rings all the same."""
        if self._timer is not None and not self._set:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = asyncio.get_running_loop().call_at(at, self._look), at

    def _look(self) -> None:
        now = max(asyncio.get_running_loop().time(), self._timer_at)  # a timer may be early by the clock's grain
        self._timer, self._timer_at = None, inf
        for alarm, (_, ring) in [item for item in self._set.items() if item[1][0] <= now]:
            if self._set.pop(alarm, None) is not None:  # unless an earlier one has cleared it
                ring()
        earliest = min((at for at, _ in self._set.values()), default=inf)
        if earliest < self._timer_at:
            self._arm(earliest)


class Within:
    """One bounded block of the task that enters it."""

    def __init__(self, alarms: Alarms, seconds: float) -> None:
        self._alarms = alarms
        self._seconds = seconds
        self._rung = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # a block with an await in it is run by a task
        self._task, self._cancelled_before = task, task.cancelling()
        self._alarm = self._alarms.set(self._seconds, partial(self._ring, task))

    def _ring(self, task: asyncio.Task[object]) -> None:
        self._rung = True
        task.cancel()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._alarms.clear(self._alarm)
        # If somebody else has cancelled the task as well, it is cancelled and not late.
        ours = self._rung and self._task.uncancel() <= self._cancelled_before
        if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError
