"""Remark: what a rule says, and the words and look-ups that all rules share. Knows no rule.

A remark on a state goes on where the state's name ends ("`pay` writes ..."); one on the machine is a whole sentence.
A rule never raises on a broken machine: it passes over what another rule refuses.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from interlock.machine.definition import Definition
from interlock.machine.states import CodeState, Final, ModelState, Row, Source, UseState
from interlock.machine.tools import Tool

AnyDefinition = Definition[Any, Any]
AnyTool = Tool[Any, Any, Any]
AnyRow = Row[Any, Any]

NOWHERE = Source()
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_SHOWN = 8  # names listed when none is near; more would bury the message


@dataclass(frozen=True, slots=True)
class Remark:
    """What one rule has to say about one place."""

    message: str
    state: str | None = None
    source: Source = NOWHERE
    severity: Literal["error", "warning"] = "error"


Rule = Callable[[AnyDefinition], Iterator[Remark]]


def rows(machine: AnyDefinition) -> Iterator[tuple[str, AnyRow]]:
    """The rows that are states with moves."""
    return ((name, row) for name, row in machine.table.items() if isinstance(row, Row))


def finals(machine: AnyDefinition) -> Iterator[tuple[str, Final]]:
    return ((name, row) for name, row in machine.table.items() if isinstance(row, Final))


def columns(machine: AnyDefinition) -> Mapping[str, FieldInfo] | None:
    """The record's fields by name; None when the record is no model (which the rule `record` refuses)."""
    record: object = machine.record  # whatever was passed: the annotation is what this checks
    return record.model_fields if isinstance(record, type) and issubclass(record, BaseModel) else None


def tools_of(row: AnyRow) -> tuple[AnyTool, ...]:
    """The tools a row may call; what isn't a tool is left out."""
    state = row.state
    if isinstance(state, UseState):
        listed: tuple[object, ...] = (state.tool,)
    else:
        listed = state.tools if isinstance(state, CodeState | ModelState) else ()
    return tuple(tool for tool in listed if isinstance(tool, Tool))


def tool_uses(machine: AnyDefinition) -> Iterator[tuple[AnyTool, str]]:
    """Each tool once, with the first state that may call it."""
    seen: list[AnyTool] = []
    for name, row in rows(machine):
        for tool in tools_of(row):
            if not any(tool is other for other in seen):
                seen.append(tool)
                yield tool, name


def on_tool(tool: AnyTool, state: str, message: str, severity: Literal["error", "warning"] = "error") -> Remark:
    return Remark(f"tool `{tool.name}`: {message}", state, Source(tool.file, tool.line), severity)


def is_name(text: object) -> bool:
    """Fit for a log, a diagram and a provider's tool name: ASCII letters, digits, `_`, no digit first, up to 64."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_time(seconds: object) -> bool:
    """A finite number of seconds above 0."""
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return known and math.isfinite(seconds) and seconds > 0  # type: ignore[arg-type,operator] # `known` says so


def near(name: str, names: Collection[str]) -> str:
    """The end of a message on an unknown name: what was probably meant, else what there is."""
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"did you mean `{close[0]}`?"
    if not names:
        return "there is none"
    listed = ", ".join(f"`{each}`" for each in list(names)[:_SHOWN])
    return f"there {'is' if len(names) == 1 else 'are'} {listed}{', ...' if len(names) > _SHOWN else ''}"


def doubles(names: Collection[str]) -> list[str]:
    """The names that occur more than once, each once."""
    listed = list(names)
    return [name for name in dict.fromkeys(listed) if listed.count(name) > 1]
