"""Escapes: SystemExit out of a task that a handler or tool has made. asyncio would end the loop by it, and so every run
of the worker; here it ends that task only, as an error that whoever awaits the task gets. Knows no run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any

from interlock.engine.raised import bearable

_foreign: ContextVar[bool] = ContextVar("interlock_foreign", default=False)

Factory = Callable[..., "asyncio.Future[Any]"]


def bar_exits() -> None:
    """From now on no task made in this one, or in one of those, ends the loop. Whatever made its tasks still does."""
    _foreign.set(True)
    loop = asyncio.get_running_loop()
    factory: Any = loop.get_task_factory()
    if not isinstance(factory, _Barred):
        loop.set_task_factory(_Barred(factory))


class _Barred:
    """A task factory that makes foreign tasks of coroutines that bear it."""

    def __init__(self, make: Factory | None) -> None:
        self._make = make

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **how: Any) -> Any:
        if _foreign.get():
            coro = _Bearing(coro)
        return asyncio.Task(coro, loop=loop, **how) if self._make is None else self._make(loop, coro, **how)


class _Bearing(Coroutine[Any, Any, Any]):
    """A coroutine that behaves as the one inside, and looks like it; but SystemExit comes out as an error."""

    def __init__(self, inside: Coroutine[Any, Any, Any]) -> None:
        self._inside = inside

    def send(self, value: Any) -> Any:
        try:
            return self._inside.send(value)
        except SystemExit as escaping:
            raise bearable(escaping) from escaping

    def throw(self, *raised: Any) -> Any:
        try:
            return self._inside.throw(*raised)
        except SystemExit as escaping:
            raise bearable(escaping) from escaping

    def close(self) -> None:
        self._inside.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inside.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)
