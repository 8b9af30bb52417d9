"""Rules on the table as it is written: names, rows, finals, numbers. Knows nothing of where moves lead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from interlock.machine.outcomes import RESERVED
from interlock.machine.rules.remark import AnyDefinition, Remark, finals, is_name, is_time, is_whole, rows
from interlock.machine.states import Final, Row, State

_NAMING = "is no name; use letters, digits and `_`, no digit first, at most 64"


def table(machine: AnyDefinition) -> Iterator[Remark]:
    """There are rows, each with its moves, and the first is a state."""
    if not machine.table:
        yield Remark("the table is empty: add a state and a final", source=machine.source)
        return
    written: Mapping[str, object] = machine.table  # whatever was passed: the annotation is what this checks
    for name, row in written.items():
        if isinstance(row, State):
            yield Remark("has no moves: write `.then({outcome: state})` after it", name, row.source)
        elif not isinstance(row, Row | Final):
            message = f"is a {type(row).__name__}, not a state: write `declared.then({{...}})` or `final()`"
            yield Remark(message, name, machine.source)
    start = machine.table[machine.start]
    if isinstance(start, Final):
        yield Remark("is the first row and final: put the state that starts first", machine.start, start.source)


def final(machine: AnyDefinition) -> Iterator[Remark]:
    """Some row ends the run."""
    if machine.table and not any(finals(machine)):
        yield Remark('no row is final: add one, such as `"done": final()`', source=machine.source)
    for name, row in finals(machine):
        if row.status not in ("completed", "failed"):
            yield Remark(f'ends `{row.status}`: a final is "completed" or "failed"', name, row.source)


def name(machine: AnyDefinition) -> Iterator[Remark]:
    """Machine, states and outcomes have names that a log, a diagram and a provider can carry."""
    if not is_name(machine.name):
        yield Remark(f"the machine's name {machine.name!r} {_NAMING}", source=machine.source)
    for state, row in machine.table.items():
        if not is_name(state):
            yield Remark(_NAMING, repr(state), getattr(row, "source", machine.source))
    for state, row in rows(machine):
        for outcome in row.state.outcomes:
            if not is_name(outcome):
                yield Remark(f"has the outcome {outcome!r}, which {_NAMING}", state, row.state.source)


def reserved(machine: AnyDefinition) -> Iterator[Remark]:
    """The engine's outcomes are the engine's to give."""
    for state, row in rows(machine):
        for outcome in row.state.outcomes:
            own = outcome == "called" and row.state.kind == "model"
            if outcome in RESERVED and not (own and outcome not in getattr(row.state, "writes", ())):
                message = f"declares the outcome `{outcome}`, which is the engine's: rename it"
                yield Remark(message, state, row.state.source)


def time(machine: AnyDefinition) -> Iterator[Remark]:
    """Every turn and every wait ends."""
    for state, row in rows(machine):
        if is_time(row.state.within):
            continue
        if row.state.kind == "wait" and row.state.within == -1:
            message = 'must wait for either a signal or seconds, above 0: `wait("paid")` or `wait(seconds=60)`'
        else:
            message = f"has `within={row.state.within!r}`: give it seconds above 0, not infinite"
        yield Remark(message, state, row.state.source)


def visits(machine: AnyDefinition) -> Iterator[Remark]:
    for state, row in rows(machine):
        if row.visits is not None and not is_whole(row.visits, 1):
            message = f"has `visits={row.visits!r}`: give a whole number from 1 up, or leave it out"
            yield Remark(message, state, row.source)


def limits(machine: AnyDefinition) -> Iterator[Remark]:
    for problem in machine.limits.problems():
        yield Remark(problem, source=machine.source)
