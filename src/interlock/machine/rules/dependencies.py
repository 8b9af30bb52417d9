"""Rule on dependencies: what handlers and tools ask for is what `deps` opens."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self, get_args, get_origin

from interlock.machine.rules.annotations import Unresolved, resolved, serves, shown
from interlock.machine.rules.handlers import turn_arguments
from interlock.machine.rules.remark import AnyDefinition, Remark, on_tool, rows, tool_uses
from interlock.machine.rules.tools import dependency
from interlock.machine.states import CodeState

_OPENERS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    contextlib.AbstractAsyncContextManager,
)
_SAYS_NOTHING = (None, type(None), Any)


def dependencies(machine: AnyDefinition) -> Iterator[Remark]:
    """Every `Call[X]` and `Turn[..., X]` gets an X."""
    opened = opened_by(machine.deps)
    for needed, remark in _needs(machine):
        if needed in _SAYS_NOTHING:
            continue
        if machine.deps is None:
            yield remark(f"needs `{shown(needed)}`, but the machine opens nothing: add `deps=`")
        elif not serves(opened, needed):
            yield remark(f"needs `{shown(needed)}`, but `deps` opens `{shown(opened)}`: make them one")


def opened_by(deps: Callable[[], Any] | None) -> Any:
    """What the context manager of `deps` gives; `Any` where its annotation doesn't say."""
    if deps is None:
        return None
    enters = getattr(deps, "__aenter__", None) if inspect.isclass(deps) else None
    try:
        hint = resolved(enters or deps).get("return", Any)
    except Unresolved:
        return Any
    if enters is not None:
        return deps if hint is Self or str(hint).endswith(".Self") else hint
    return next(iter(get_args(hint)), Any) if get_origin(hint) in _OPENERS else Any


def opener(machine: AnyDefinition) -> Iterator[Remark]:
    """`deps` is a function without required parameters; it is called once per worker."""
    deps: object = machine.deps
    if deps is None:
        return
    if not callable(deps):
        yield Remark(
            "`deps` can't be called: pass the function, such as an `@asynccontextmanager`", source=machine.source
        )
        return
    try:
        inspect.signature(deps).bind()
    except TypeError as wrong:
        yield Remark(f"`deps` is called with nothing ({wrong}): give its parameters defaults", source=machine.source)
    except ValueError:
        return  # a builtin without a signature: opening it will tell


def _needs(machine: AnyDefinition) -> Iterator[tuple[Any, Callable[[str], Remark]]]:
    for state, row in rows(machine):
        if isinstance(row.state, CodeState):
            wanted = turn_arguments(row.state.handler)
            yield (wanted[1] if len(wanted) > 1 else None), partial(Remark, state=state, source=row.state.source)
    for tool, state in tool_uses(machine):
        yield dependency(tool), partial(on_tool, tool, state)
