"""Version: the two digests of a machine. Shape is what a live run can't change under; content is taken up at its next
turn. Both are the same in every process: no addresses, no order of a set, nothing of where the code lies.

A handler counts by its own source, its defaults and the plain values it closes over; what it calls does not.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import CodeType
from typing import Any

from pydantic import BaseModel, TypeAdapter

from interlock.canonical import Json, encode, fingerprint
from interlock.machine.definition import Definition
from interlock.machine.limits import nanousd
from interlock.machine.servers import ServerTool
from interlock.machine.states import AskState, CodeState, Final, ModelState, Row, State, UseState, WaitState
from interlock.machine.tools import Tool

AnyTool = Tool[Any, Any, Any]

_PROSE = {"title", "description", "examples", "default"}  # schema keywords that don't say what a value may be
_NAMED = {"properties", "$defs", "patternProperties"}  # whose keys are names, not keywords


def shape_of(machine: Definition[Any, Any]) -> str:
    """Name, start, states with kind, outcomes and moves, finals, `otherwise`, the record's schema without its prose."""
    return fingerprint(
        {
            "name": machine.name,
            "start": machine.start,
            "table": {name: _row_shape(machine.table[name]) for name in sorted(machine.table)},
            "otherwise": machine.otherwise,
            "record": _bare(_schema(machine.record)),
        }
    )


def content_of(machine: Definition[Any, Any]) -> str:
    """Prompts, code, models, tools, grants, bounds, limits, prices, and the record's schema with its prose."""
    rows = {name: row for name, row in machine.table.items() if isinstance(row, Row)}
    return fingerprint(
        _plain(
            {
                "states": {name: [*_state_content(row.state), row.visits] for name, row in rows.items()},
                "tools": {tool.name: _tool_content(tool) for row in rows.values() for tool in _tools(row.state)},
                "limits": {name: getattr(machine.limits, name) for name in machine.limits.__slots__},
                "prices": {model: [p.input, p.output, p.cached_input] for model, p in machine.prices.items()},
                "deps": None if machine.deps is None else source_of(machine.deps),
                "record": _schema(machine.record),
            }
        )
    )


def source_of(function: Callable[..., Any]) -> Json:
    """What a function does, as JSON: its source, else its byte code; with its defaults and plain closed-over values."""
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    if not isinstance(code, CodeType):
        return f"{type(plain).__module__}.{getattr(plain, '__qualname__', type(plain).__qualname__)}"
    try:
        text: Json = textwrap.dedent(inspect.getsource(plain))
    except (OSError, TypeError):  # made by exec, or shipped without its source
        text = _code(code)
    cells = [_simple(_held(cell)) for cell in getattr(plain, "__closure__", None) or ()]
    defaults = [_simple(value) for value in getattr(plain, "__defaults__", None) or ()]
    named = {name: _simple(value) for name, value in (getattr(plain, "__kwdefaults__", None) or {}).items()}
    return [text, cells, defaults, _plain(named)]


def _row_shape(row: Row[Any, Any] | Final) -> Json:
    if isinstance(row, Final):
        return ["final", row.status]
    return [row.state.kind, sorted(row.state.outcomes), sorted(row.moves.items())]


def _state_content(state: State[Any, Any, Any]) -> list[Json]:
    own: list[Json] = [state.kind, float(state.within)]
    if isinstance(state, CodeState):
        names = [tool.name for tool in state.tools]
        return [
            *own,
            source_of(state.handler),
            state.models,
            names,
            state.calls,
            state.max_tokens,
            state.reads,
            state.writes,
        ]
    if isinstance(state, ModelState):
        said = [_prompt(state.prompt), state.instructions, state.models, state.thread]
        window = [state.window.bytes, state.window.over, state.window.pin, state.window.summary_tokens]
        bounds = [state.max_tokens, state.calls, window]
        return [*own, *said, *bounds, [tool.name for tool in state.tools], state.reads, dict(state.writes)]
    if isinstance(state, UseState):
        return [*own, state.tool.name, dict(state.args), state.into, state.approve]
    if isinstance(state, AskState):
        return [*own, _prompt(state.prompt), state.of, dict(state.writes)]
    return [*own, state.signal, state.writes] if isinstance(state, WaitState) else own


def _tool_content(tool: AnyTool) -> Json:
    terms = [tool.does, tool.within, tool.keyed, tool.key_valid_for, nanousd(tool.usd_max), tool.trusted]
    asks = [tool.approve, tool.approve_within, *(["isolate"] * tool.isolate)]
    limits: list[Json] = [tool.concurrency, tool.rate] if tool.limited else []
    probe = None if tool.probe is None else source_of(tool.probe)
    undo = None if tool.undo is None else source_of(tool.undo)
    if isinstance(tool, ServerTool):
        return [tool.said, probe, undo, *terms, *asks, *limits]
    return [tool.description, tool.schema, source_of(tool.function), probe, undo, *terms, *asks, *limits]


def _tools(state: State[Any, Any, Any]) -> tuple[AnyTool, ...]:
    if isinstance(state, UseState):
        return (state.tool,)
    return state.tools if isinstance(state, CodeState | ModelState) else ()


def _prompt(prompt: str | Callable[[Any], str]) -> Json:
    return prompt if isinstance(prompt, str) else source_of(prompt)


def _schema(record: type[BaseModel]) -> Json:
    return _plain(TypeAdapter(record).json_schema())


def _bare(schema: Json, named: bool = False) -> Json:
    """A schema without its prose. `named`: the keys of this object are names of fields, so all of them stay."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if named or key not in _PROSE}
    return {
        key: value if key in ("const", "enum") and not named else _bare(value, not named and key in _NAMED)
        for key, value in kept.items()
    }


def _plain(value: Any) -> Json:
    """JSON with one form for equal values: keys sorted, numbers by value, a set's default in one order."""
    if isinstance(value, Mapping):
        if value.get("uniqueItems") is True and isinstance(value.get("default"), list):
            value = {**value, "default": sorted(value["default"], key=encode)}
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal | float):
        exact = Decimal(str(value)).normalize()
        return int(exact) if exact.is_finite() and exact == exact.to_integral_value() else str(exact)
    return value


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet: the function refers to itself
        return None


def _simple(value: Any) -> Json:
    """A value that looks the same in every process, else only its type's name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_simple(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted((_simple(item) for item in value), key=encode)
    if isinstance(value, CodeType):
        return _code(value)
    return repr(value) if isinstance(value, bytes | complex) else type(value).__qualname__


def _code(code: CodeType) -> Json:
    return [code.co_code.hex(), list(code.co_names), [_simple(const) for const in code.co_consts]]
