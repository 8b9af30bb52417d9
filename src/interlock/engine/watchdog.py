"""Watchdog: says who blocks the loop. Knows no run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable

BLOCKED_SECONDS = 5.0
"""A loop that hasn't turned for so long is blocked by some handler."""


class Watchdog:
    """A thread that notices when the loop stands still, and says which task it stands in."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        say: Callable[[str], None] | None = None,
        seconds: float = BLOCKED_SECONDS,
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._thread_id = threading.get_ident()
        self._say = say or logging.getLogger("interlock").error
        self._turned = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="interlock-watchdog", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds / 5):
            self._turned.clear()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._turned.set)
            if not self._turned.wait(self._seconds) and not self._stopped.is_set():
                self._say(self._blocked_in())
                while not (self._turned.wait(1.0) or self._stopped.is_set()):
                    pass

    def _blocked_in(self) -> str:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread_id)
        where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
        who = task.get_name() if task else "a callback"
        return f"the loop has been blocked for {self._seconds:g} s by {who}\n{where}"

    def stop(self) -> None:
        self._stopped.set()
        self._turned.set()
