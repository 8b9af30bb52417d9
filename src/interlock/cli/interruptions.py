"""Interruptions: Ctrl-C while a run is hosted here. The first asks it to stop in good order, the next ends the program.

Neither raises: an exception out of nowhere would tear a commit from its answer, and a run that was just made would lie
in the store without a word. The program may end at any moment, as it may be killed at any moment. Knows no run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from interlock.cli.wording import visible

INTERRUPTED = 130
_SHOW_CURSOR = "\x1b[?25h"


class Interruptions:
    """Takes over Ctrl-C, in the main thread, until it is left.

    `remedy`: how to go on, as soon as there is something to go on with; the last words of a program that ends at once.
    """

    def __init__(self, drain_seconds: float) -> None:
        self.remedy = ""
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._heard = False
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interruptions:
        if self._main:
            # Not the loop's own handler: while user code blocks the loop, that one would never be called.
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def heard(self) -> asyncio.Event:
        """Set at the first Ctrl-C, also at one that came before. Called from the loop that will wait for it."""
        self._loop = asyncio.get_running_loop()
        if self._heard:
            self._stop.set()
        return self._stop

    def _interrupted(self, _: int, __: FrameType | None) -> None:
        if self._heard:
            self._end()
        self._heard = True
        _say(f"interrupted: finishing the turn, {self._drain_seconds:g} s at most; Ctrl-C again stops at once")
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: all is done
                self._loop.call_soon_threadsafe(self._stop.set)

    def _end(self) -> None:
        with contextlib.suppress(Exception):  # whoever was interrupted may be writing to it
            sys.stdout.flush()
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), _SHOW_CURSOR.encode())
        _say("; ".join(part for part in ("interrupted", self.remedy) if part))
        os._exit(INTERRUPTED)


def _say(line: str) -> None:
    """A line of our own on stderr, past Python's buffer: its writer may be the very code that was interrupted."""
    end = "\n" if sys.stderr.isatty() else ""  # after the terminal's own ^C
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{end}interlock: {visible(line)}\n".encode())
