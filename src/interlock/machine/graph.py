"""The table as a graph: which state can follow which, and for what reason. Pure reading; refuses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from interlock.machine.definition import Definition
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, Row, WaitState

AnyDefinition = Definition[Any, Any]
Graph = Mapping[str, frozenset[str]]


def engine_outcomes(row: Row[Any, Any]) -> frozenset[str]:
    """What the engine may say at the end of a turn in this row. Any turn may take its workers down: `error`."""
    if isinstance(row.state, AskState):
        return frozenset({EngineOutcome.TIMEOUT, EngineOutcome.LIMIT_REACHED, EngineOutcome.ERROR})
    if isinstance(row.state, WaitState):
        timed = {EngineOutcome.TIMEOUT} if row.state.signal is not None else set()
        return frozenset({EngineOutcome.LIMIT_REACHED, EngineOutcome.ERROR, *timed})
    return frozenset(EngineOutcome)


def declared(machine: AnyDefinition) -> Graph:
    """Where the rows themselves lead: their moves, and `called` back to the state."""
    return {name: _known(machine, _moves(row, name)) for name, row in machine.table.items()}


def possible(machine: AnyDefinition) -> Graph:
    """Every step a run can take: moves, `otherwise`, and a person's `retry` where an engine outcome has no place."""
    return {name: _known(machine, _steps(machine, name)) for name in machine.table}


def reached(graph: Graph, start: Iterable[str]) -> frozenset[str]:
    """`start` and everything that can follow."""
    found: set[str] = set()
    todo = list(start)
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo.extend(graph.get(state, ()))
    return frozenset(found)


def reverse(graph: Graph) -> Graph:
    return {name: frozenset(other for other, after in graph.items() if name in after) for name in graph}


def cyclic(graph: Graph) -> frozenset[str]:
    """The states that can follow themselves."""
    return frozenset(name for name, after in graph.items() if name in reached(graph, after))


def only(graph: Graph, names: Iterable[str]) -> Graph:
    """The part of a graph between these states."""
    kept = frozenset(names)
    return {name: after & kept for name, after in graph.items() if name in kept}


def _moves(row: object, name: str) -> set[str]:
    if not isinstance(row, Row):
        return set()
    looped = {name} if "called" in row.state.outcomes and "called" not in row.moves else set()
    return {*row.moves.values(), *looped}


def _steps(machine: AnyDefinition, name: str) -> set[str]:
    row = machine.table[name]
    if not isinstance(row, Row):
        return set()
    silent = {machine.destination(name, outcome) for outcome in engine_outcomes(row) if outcome not in row.moves}
    # None is a person, who may choose any move of the row or `retry`: a new turn in the same state.
    return _moves(row, name) | {name if to is None else to for to in silent}


def _known(machine: AnyDefinition, names: set[str]) -> frozenset[str]:
    return frozenset(name for name in names if name in machine.table)


def is_acting(machine: AnyDefinition, name: str) -> bool:
    """A state whose turns count: neither final nor a question to a person."""
    row = machine.table[name]
    return isinstance(row, Row) and not isinstance(row.state, AskState)
