"""Draw: a machine as a mermaid state diagram, and as a table of plain text. Everything comes from the table itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from interlock.machine.definition import Definition
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, Final, ModelState, Row, State, UseState, WaitState

AnyDefinition = Definition[Any, Any]
Edge = tuple[str, str, str]
"""From, outcome, to."""

_ENGINE = frozenset(EngineOutcome)
_STYLES = (
    "classDef person fill:#fff3c4,stroke:#b58900",
    "classDef completed fill:#d9f2d9,stroke:#2e7d32",
    "classDef failed fill:#f8d7da,stroke:#b71c1c",
)
# Ids that mermaid reads as its own words get a tail; what is shown is the label.
_TAKEN = frozenset({"state", "note", "end", "class", "classDef", "direction", "as", "style", "click", "default"})


def edges(machine: AnyDefinition) -> Iterator[Edge]:
    """Every move of every row, `called` back to its state included; the engine's outcomes where a row routes them."""
    for name, row in machine.table.items():
        if isinstance(row, Row):
            looped = ["called"] if "called" in row.state.outcomes and "called" not in row.moves else []
            for outcome in (*looped, *row.moves):
                yield name, outcome, row.moves.get(outcome, name)


def mermaid(machine: AnyDefinition) -> str:
    """A `stateDiagram-v2`. Moves between the same two states share an arrow; the engine's outcomes are in brackets."""
    lines = ["stateDiagram-v2", f"    %% {_escaped(machine.name)}"]
    lines += [f'    state "{_escaped(_title(name, row))}" as {_id(name)}' for name, row in machine.table.items()]
    if machine.table:
        lines.append(f"    [*] --> {_id(machine.start)}")
    lines += [f"    {_id(start)} --> {_id(to)}: {_label(names)}" for (start, to), names in _arrows(machine).items()]
    lines += [f"    {_id(name)} --> [*]" for name, row in machine.table.items() if isinstance(row, Final)]
    if machine.otherwise is not None:
        lines.append(f"    note right of {_id(machine.otherwise)}: otherwise")
    lines += [f"    {style}" for style in _STYLES]
    lines += [f"    class {_id(name)} {kind}" for name, row in machine.table.items() if (kind := _class(row))]
    return "\n".join(lines) + "\n"


def table(machine: AnyDefinition) -> str:
    """Aligned text, a line per move: state, kind, outcome, where it leads. A state is named once."""
    lines = [("state", "kind", "outcome", "to"), *_lines(machine)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rest = "a person" if machine.otherwise is None else machine.otherwise
    return "\n".join(line.rstrip() for line in [*shown, "", f"every other engine outcome > {rest}"]) + "\n"


def _lines(machine: AnyDefinition) -> Iterator[tuple[str, str, str, str]]:
    after: dict[str, list[Edge]] = {}
    for edge in edges(machine):
        after.setdefault(edge[0], []).append(edge)
    for name, row in machine.table.items():
        if isinstance(row, Final):
            yield name, "final", "", row.status
        for number, (_, outcome, to) in enumerate(after.get(name, [])):
            yield ("" if number else name, "" if number else _kind(row), outcome, to)


def _kind(row: Row[Any, Any] | Final) -> str:
    if isinstance(row, Final):
        return "final"
    return row.state.kind if row.visits is None else f"{row.state.kind}, {row.visits} visits"


def _arrows(machine: AnyDefinition) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for start, outcome, to in edges(machine):
        if to in machine.table:
            found.setdefault((start, to), []).append(f"[{outcome}]" if outcome in _ENGINE else outcome)
    return found


def _label(outcomes: list[str]) -> str:
    return ", ".join(_escaped(outcome) for outcome in outcomes)


def _title(name: str, row: Row[Any, Any] | Final) -> str:
    if isinstance(row, Final):
        return f"{name} ({row.status})"
    return f"{name} ({_does(row.state)}{'' if row.visits is None else f', at most {row.visits}'})"


def _does(state: State[Any, Any, Any]) -> str:
    if isinstance(state, ModelState):
        return f"model {', else '.join(state.models)}"
    if isinstance(state, UseState):
        role = state.approve or state.tool.approve
        return f"use {state.tool.name}{'' if role is None else f', if {role} approves'}"
    if isinstance(state, AskState):
        return f"ask {state.of}"
    if isinstance(state, WaitState):
        return f"wait for {state.signal}" if state.signal is not None else f"wait {state.within:g} s"
    return state.kind


def _class(row: Row[Any, Any] | Final) -> str:
    if isinstance(row, Final):
        return row.status
    return "person" if isinstance(row.state, AskState) else ""


def _id(name: str) -> str:
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
    return f"{plain}_" if plain in _TAKEN or plain[:1].isdigit() else plain


def _escaped(text: str) -> str:
    """Text that ends no label, line or quote in mermaid, which takes HTML's numbered entities written `#34;`."""
    return "".join(letter if letter.isalnum() or letter in " _-.,:()[]/" else f"#{ord(letter)};" for letter in text)
