"""Inline: plain functions run right here, on the loop, for where there are no threads: in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from interlock.engine.raised import RAISED, bearable


def at_once(function: Callable[[], Any], late: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
    """Runs a plain function right here: for virtual time, which knows no threads."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(function())
    except RAISED as raised:
        future.set_exception(bearable(raised))
    return future
