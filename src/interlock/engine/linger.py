"""Linger: what may wait for company is put off together: one timer for all runs of a loop. Knows no run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

STEPS = 8
"""A busy loop may be late by more than a linger before company could have come: from an effect's result to the next
effect's intent it takes several rounds of the loop. So a linger is as many steps, and each is a round at least."""


class Linger:
    """Calls back what was put off, after some seconds and `STEPS` rounds of the loop, whichever is later."""

    def __init__(self) -> None:
        self._steps: deque[list[Callable[[], None]]] = deque([] for _ in range(STEPS))
        self._waiting = 0
        self._ticking = False

    def put_off(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` later. All that is put off at one time waits as long as the first of it."""
        self._steps[-1].append(call)
        self._waiting += 1
        if not self._ticking:
            self._tick_in(seconds / STEPS)

    def _tick_in(self, seconds: float) -> None:
        self._ticking = True
        asyncio.get_running_loop().call_later(seconds, self._tick, seconds)

    def _tick(self, seconds: float) -> None:
        self._ticking = False
        due = self._steps.popleft()
        self._steps.append([])
        self._waiting -= len(due)
        if self._waiting:
            self._tick_in(seconds)
        for call in due:
            call()
