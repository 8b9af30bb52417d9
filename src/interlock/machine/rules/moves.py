"""Rules on where outcomes lead: every outcome has a place, every state is on a way from the start to an end."""

from __future__ import annotations

from collections.abc import Iterator

from interlock.machine.graph import Graph, cyclic, declared, engine_outcomes, only, possible, reached, reverse
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.rules.remark import AnyDefinition, Remark, finals, near, rows
from interlock.machine.states import AskState, CodeState

_ENGINE = frozenset(EngineOutcome)


def destination(machine: AnyDefinition) -> Iterator[Remark]:
    """Every move, and `otherwise`, leads to a row of the table."""
    for state, row in rows(machine):
        for outcome, to in row.moves.items():
            if to not in machine.table:
                hint = near(str(to), machine.table)
                yield Remark(f"leads by `{outcome}` to `{to}`, which is no state; {hint}", state, row.source)
    if machine.otherwise is not None and machine.otherwise not in machine.table:
        hint = near(machine.otherwise, machine.table)
        yield Remark(f"`otherwise` is `{machine.otherwise}`, which is no state; {hint}", source=machine.source)


def outcome(machine: AnyDefinition) -> Iterator[Remark]:
    """Each declared outcome has a move, and each move an outcome that can come."""
    for state, row in rows(machine):
        if isinstance(row.state, CodeState) and not row.state.outcomes:
            continue  # the rule `returns` says what is wrong; the outcomes aren't known
        for missing in row.state.outcomes:
            if missing not in row.moves and missing != "called":
                yield Remark(f'has no move for its outcome `{missing}`: add `"{missing}": <state>`', state, row.source)
        possible_here = {*row.state.outcomes, *engine_outcomes(row)}
        for extra in row.moves:
            if extra in _ENGINE - possible_here:
                yield Remark(f"never ends `{extra}`: remove the move", state, row.source)
            elif extra not in possible_here:
                hint = near(extra, sorted(possible_here - _ENGINE) or sorted(possible_here))
                yield Remark(f"never ends `{extra}`; {hint}", state, row.source)


def unreachable(machine: AnyDefinition) -> Iterator[Remark]:
    """Every row can be reached from the first."""
    if not machine.table:
        return
    seen = reached(possible(machine), [machine.start])
    for state, row in machine.table.items():
        if state not in seen:
            source = getattr(row, "source", machine.source)
            yield Remark(f"can't be reached from `{machine.start}`: lead to it, or remove it", state, source)


def endless(machine: AnyDefinition) -> Iterator[Remark]:
    """From every state the declared moves can reach a final; `otherwise` is no plan."""
    if not any(finals(machine)):
        return
    ending = reached(reverse(declared(machine)), [name for name, _ in finals(machine)])
    for state, row in rows(machine):
        if state not in ending:
            yield Remark("can't reach a final by any move: add one that leads there", state, row.source)


def loop(machine: AnyDefinition) -> Iterator[Remark]:
    """`limits.turns` bounds every loop except one of questions only, whose turns are not counted."""
    if machine.limits.visits is not None:
        return
    unbounded = [name for name, row in rows(machine) if isinstance(row.state, AskState) and row.visits is None]
    for state in sorted(cyclic(only(_plain(machine), unbounded))):
        message = "asks again and again without bound: add `visits=` to its row, or lead elsewhere"
        yield Remark(message, state, machine.row(state).source)


def _plain(machine: AnyDefinition) -> Graph:
    """Every step that no person decides anew: the moves and `otherwise`, without a person's `retry`."""
    silent = {name: machine.destination(name, EngineOutcome.TIMEOUT) for name, _ in rows(machine)}
    graph = declared(machine)
    return {name: graph[name] | {to for to in (to,) if to is not None} for name, to in silent.items()}


def nobody_answers(machine: AnyDefinition) -> Iterator[Remark]:
    """A question with no place for `timeout` asks a person what to do when no person answered."""
    for state, row in rows(machine):
        if isinstance(row.state, AskState) and machine.destination(state, "timeout") is None:
            message = 'waits for another person, without end, when nobody answers: add `"timeout": <state>`'
            yield Remark(message, state, row.source, "warning")
