"""Lines: who waits in this process for a place among the calls of a tool. Knows no run and no store."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class Lines:
    """Who waits in this process for a place of which tool, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def wait(self, tool: str, seconds: float) -> None:
        """Until a place of this tool may be free, or so long."""
        line = self._waiting.setdefault(tool, deque())
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(told)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await told
        finally:
            with contextlib.suppress(ValueError):
                line.remove(told)
            if not line:
                self._waiting.pop(tool, None)

    def freed(self, tool: str) -> None:
        """A call of this tool has ended, and that is committed."""
        line = self._waiting.get(tool, ())
        for told in line:
            if not told.done():
                told.set_result(None)
                return
