"""Rules on tools: that a declaration can be kept, and that a state grants and calls what exists."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from interlock.machine.address import NoAddress, address_of
from interlock.machine.rules.annotations import Unresolved, fits, resolved, shown
from interlock.machine.rules.remark import (
    AnyDefinition,
    AnyTool,
    Remark,
    columns,
    doubles,
    is_name,
    is_time,
    near,
    on_tool,
    rows,
    tool_uses,
    tools_of,
)
from interlock.machine.states import CodeState, ModelState, UseState
from interlock.machine.tools import Call, Tool

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ISOLATED_SECONDS_MIN = 2.0
"""What starting a process and loading a module in it takes on a busy machine."""

_DOES = ("read", "write", "send", "destroy")


def grant(machine: AnyDefinition) -> Iterator[Remark]:
    """A state is granted tools, each once, and no two tools share a name with each other or with an outcome."""
    for state, row in rows(machine):
        granted: tuple[object, ...] = row.state.tools if isinstance(row.state, CodeState | ModelState) else ()
        if isinstance(row.state, UseState):
            granted = (row.state.tool,)
        for thing in granted:
            if not isinstance(thing, Tool):
                name = getattr(thing, "__name__", repr(thing))
                yield Remark(
                    f"is granted `{name}`, which is no tool: declare it with `@tool(...)`", state, row.state.source
                )
        names = [tool.name for tool in tools_of(row)]
        for name in doubles(names):
            yield Remark(f"is granted two tools `{name}`: grant it once, or give one `name=`", state, row.state.source)
        for name in (name for name in names if row.state.kind == "model" and name in row.state.outcomes):
            message = f"has a tool and an outcome `{name}`, and a model chooses by name: rename one"
            yield Remark(message, state, row.state.source)


def tool_name(machine: AnyDefinition) -> Iterator[Remark]:
    """In one machine a tool's name means one tool."""
    first: dict[str, AnyTool] = {}
    for tool, state in tool_uses(machine):
        if not is_name(tool.name):
            yield on_tool(tool, state, "is no name; use letters, digits and `_`, no digit first, at most 64")
        if first.setdefault(tool.name, tool) is not tool:
            other = f"{first[tool.name].file}:{first[tool.name].line}"
            yield on_tool(tool, state, f"another tool of this name stands at {other}: give one `name=`")


def tool_terms(machine: AnyDefinition) -> Iterator[Remark]:
    """What a tool promises can be kept."""
    for tool, state in tool_uses(machine):
        if tool.does not in _DOES:
            yield on_tool(tool, state, f'`does={tool.does!r}` is none of "read", "write", "send", "destroy"')
        if not is_time(tool.within):
            yield on_tool(tool, state, f"`within={tool.within!r}`: give it seconds above 0, not infinite")
        if isinstance(tool.usd_max, bool) or not (math.isfinite(tool.usd_max) and tool.usd_max >= 0):
            yield on_tool(tool, state, f"`usd_max={tool.usd_max!r}`: give it dollars from 0 up")
        yield from (on_tool(tool, state, problem) for problem in _limits(tool))
        if tool.key_valid_for is not None and not (tool.keyed and is_time(tool.key_valid_for)):
            yield on_tool(tool, state, "`key_valid_for=` needs `keyed=True` and seconds above 0")
        if tool.isolate:
            yield from (on_tool(tool, state, problem) for problem in _isolation(tool))
        if tool.isolate and is_time(tool.within) and tool.within < ISOLATED_SECONDS_MIN:
            slow = f"`within={tool.within!r}` is less than its process may take to start: give it more"
            yield on_tool(tool, state, slow, "warning")
        for needless in _needless(tool):
            yield on_tool(tool, state, needless, "warning")


def tool_signature(machine: AnyDefinition) -> Iterator[Remark]:
    """A tool's parameters are a `Call`, then named and typed ones that a schema can be made of."""
    for tool, state in tool_uses(machine):
        if tool.is_served:  # its server says what it takes
            continue
        problems = list(_signature(tool))
        yield from (on_tool(tool, state, problem) for problem in problems or _schemas(tool))


def probe(machine: AnyDefinition) -> Iterator[Remark]:
    """A probe takes what its tool takes."""
    for tool, state in tool_uses(machine):
        if tool.probe is None or tool.is_served:
            continue
        names = list(inspect.signature(tool.function).parameters)[1:]
        try:
            inspect.signature(tool.probe).bind(None, **dict.fromkeys(names))
        except (TypeError, ValueError) as wrong:
            wanted = ", ".join(["call", *names])
            yield on_tool(tool, state, f"its probe doesn't take what it takes ({wrong}): write `probe({wanted})`")


def undo(machine: AnyDefinition) -> Iterator[Remark]:
    """An undo takes the call, the tool's result, then what its tool takes."""
    for tool, state in tool_uses(machine):
        given: object = tool.undo  # whatever was passed
        if given is None or tool.undo is None:
            continue
        if not callable(given):
            yield on_tool(tool, state, f"`undo={given!r}` is no function: write `undo(call, result, ...)`")
            continue
        if tool.is_served:
            continue
        names = list(inspect.signature(tool.function).parameters)[1:]
        try:
            inspect.signature(tool.undo).bind(None, None, **dict.fromkeys(names))
        except (TypeError, ValueError) as wrong:
            wanted = ", ".join(["call", "result", *names])
            yield on_tool(tool, state, f"its undo doesn't take what it is given ({wrong}): write `undo({wanted})`")


def arguments(machine: AnyDefinition) -> Iterator[Remark]:
    """`use` fills every required parameter of its tool, by name, with a field that fits."""
    for state, row in rows(machine):
        sound = [tool for tool in tools_of(row) if not (tool.is_served or list(_signature(tool)))]
        if isinstance(row.state, UseState) and sound:
            for problem in _arguments(row.state, machine):
                yield Remark(problem, state, row.state.source)


def _limits(tool: AnyTool) -> Iterator[str]:
    if tool.concurrency is not None and not _is_count(tool.concurrency):
        yield f"`concurrency={tool.concurrency!r}`: give it a whole number from 1 up"
    if tool.rate is not None:
        rate: Any = tool.rate
        sound = isinstance(rate, tuple) and len(rate) == 2 and _is_count(rate[0]) and is_time(rate[1])
        if not sound or rate[1] < 0.001:
            yield f"`rate={rate!r}`: give it how many calls and within how many seconds, as `(10, 60)`"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _needless(tool: AnyTool) -> Iterator[str]:
    if tool.does == "read" and tool.keyed:
        yield "a read is repeated anyway, so `keyed=True` says nothing: leave it out"
    if tool.does == "read" and tool.probe is not None:
        yield "a read is repeated anyway, so its probe is never asked: leave it out"
    if tool.does == "read" and tool.undo is not None:
        yield "a read leaves nothing to take back, so its undo is never called: leave it out"
    if tool.does != "read" and tool.keyed and tool.probe is not None and tool.key_valid_for is None:
        yield "its key never expires, so its probe is never asked: leave it out, or state `key_valid_for=`"


def _isolation(tool: AnyTool) -> Iterator[str]:
    try:
        address_of(tool, tool.function)
    except NoAddress as wrong:
        yield f"`isolate=True` has another process find it, but {wrong}"
    needed = dependency(tool)
    if needed not in (None, type(None), Any):
        without = f"`isolate=True` gives it a process without `{shown(needed)}`"
        yield f"{without}: take `Call[None]`, and open in there what it needs"


def _signature(tool: AnyTool) -> Iterator[str]:
    try:
        hints = resolved(tool.function)
    except Unresolved as wrong:
        yield f"its annotations can't be resolved ({wrong}): import them beside it"
        return
    parameters = list(inspect.signature(tool.function).parameters.values())
    first = hints.get(parameters[0].name) if parameters else None
    if first is not Call and get_origin(first) is not Call:
        yield "its first parameter must be the call: write `(call: Call[...], ...)`"
    for parameter in parameters[1:]:
        if parameter.kind in _STARRED:
            yield f"`*{parameter.name}` has no schema: name each parameter"
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY or parameter.name.startswith("_"):
            yield f"`{parameter.name}` can't be passed by name: use a plain one, without `/` or a leading `_`"
        elif parameter.name not in hints:
            yield f"`{parameter.name}` has no annotation: say its type, which the model is told"


def _schemas(tool: AnyTool) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # pydantic warns of names like `copy`, which do no harm here
            assert tool.schema
    except Exception as wrong:  # a user's own type may raise anything here
        yield f"no schema can be made of its parameters ({_first_line(wrong)}): use plain types or pydantic models"
    for parameter in tool.parameters:
        if parameter.default is not parameter.empty and not _default_fits(parameter):
            yield f"`{parameter.name}` has a default that doesn't fit its type: mend either"
    try:
        assert tool.result_schema is not None
    except Exception as wrong:
        yield f"its result can't be stored as JSON ({_first_line(wrong)}): return plain types or pydantic models"


def _default_fits(parameter: inspect.Parameter) -> bool:
    try:
        TypeAdapter(parameter.annotation).validate_python(parameter.default)
    except ValidationError:
        return False
    except Exception:  # no schema can be made of it, and that was said
        return True
    return True


def _first_line(wrong: Exception) -> str:
    return (str(wrong) or type(wrong).__name__).splitlines()[0]


def _arguments(use: UseState, machine: AnyDefinition) -> Iterator[str]:
    parameters = {parameter.name: parameter for parameter in use.tool.parameters}
    known = columns(machine) or {}
    for name in use.args:
        if name not in parameters:
            yield f"fills `{name}`, which `{use.tool.name}` doesn't take; {near(name, parameters)}"
    for name, parameter in parameters.items():
        if name not in use.args and parameter.default is parameter.empty:
            yield f'doesn\'t fill `{name}` of `{use.tool.name}`: add `"{name}": <field>` to `args=`'
    for name, source in use.args.items():
        if name in parameters and source in known and not fits(known[source].annotation, parameters[name].annotation):
            wanted, given = shown(parameters[name].annotation), shown(known[source].annotation)
            yield f"fills `{name}`, {_a(wanted)}, with `{source}`, {_a(given)}: take a field of that type"
    result = resolved(use.tool.function).get("return", Any)
    if use.into is not None and use.into in known and not fits(result, known[use.into].annotation):
        wanted, given = shown(known[use.into].annotation), shown(result)
        yield f"puts its result, {_a(given)}, into `{use.into}`, {_a(wanted)}: take a field of that type"


def _a(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} `{kind}`"


def dependency(tool: AnyTool) -> object:
    """The type a tool's `Call[...]` asks for; None where it doesn't say."""
    try:
        hints = {} if tool.is_served else resolved(tool.function)
    except Unresolved:
        return None
    first = next(iter(inspect.signature(tool.function).parameters), "")
    return next(iter(get_args(hints.get(first))), None) if get_origin(hints.get(first)) is Call else None
