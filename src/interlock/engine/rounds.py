"""Rounds: calls that wait for a round of the loop, or for several, made together: one handle or timer for all runs.

Knows no run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

STEPS = 8
"""A busy loop may be late by more than a linger before company could have come: from an effect's result to the next
effect's intent it takes several rounds of the loop. So a linger is as many steps, and each is a round at least."""


class Rounds:
    """The rounds of one loop."""

    def __init__(self) -> None:
        self._next: list[Callable[[], None]] = []
        self._steps: deque[list[Callable[[], None]]] = deque([] for _ in range(STEPS))
        self._put_off = 0

    def next(self, call: Callable[[], None]) -> None:
        """Call it in the loop's next round, after what is ready now."""
        self._next.append(call)
        if len(self._next) == 1:
            asyncio.get_running_loop().call_soon(self._call_next)

    def _call_next(self) -> None:
        due, self._next = self._next, []
        call_each(due)

    def put_off(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it after so many seconds and `STEPS` rounds, whichever is later. All that is put off at one time waits
        as long as the first of it."""
        self._steps[-1].append(call)
        self._put_off += 1
        if self._put_off == 1:
            self._step_in(seconds / STEPS)

    def _step_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._step, seconds)

    def _step(self, seconds: float) -> None:
        due = self._steps.popleft()
        self._steps.append([])
        self._put_off -= len(due)
        if self._put_off:
            self._step_in(seconds)
        call_each(due)


def call_each(calls: Iterable[Callable[[], None]]) -> None:
    """One that raises is told to the loop; it doesn't cost the others their turn."""
    for call in calls:
        try:
            call()
        except Exception as bug:
            context = {"message": "a call of the engine's own failed", "exception": bug}
            asyncio.get_running_loop().call_exception_handler(context)
