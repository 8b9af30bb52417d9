"""Rule on running out: after `limit_reached` and `budget_spent` a run ends, asks a person, or wraps up within what
`Limits.wrap_up` keeps back. Presumes a machine in which every other rule holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from interlock.machine.graph import Graph, cyclic, engine_outcomes, is_acting, reached
from interlock.machine.limits import DIMENSIONS, Price
from interlock.machine.outcomes import EXHAUSTED
from interlock.machine.rules.remark import AnyDefinition, Remark, rows
from interlock.machine.worst_case import PriceOf, ceiling_of, heaviest, worst_turn

_LIMITED_BY = {"turns": "turns", "calls": "calls", "tokens": "tokens", "nanousd": "usd", "active_ms": "seconds"}
_COUNTED = tuple(name for name in DIMENSIONS if name != "nanousd")


def wrap_up(machine: AnyDefinition) -> Iterator[Remark]:
    """In every dimension but money, whose prices nobody knows here."""
    return wrap_up_within(machine, lambda _: Price(0, 0), _COUNTED)


def wrap_up_within(
    machine: AnyDefinition, price_of: PriceOf, dimensions: Collection[str] = DIMENSIONS
) -> Iterator[Remark]:
    """Each place where running out leads to a state that acts and doesn't fit the allowance."""
    routed = {to for _, row in rows(machine) for outcome, to in row.moves.items() if outcome in EXHAUSTED}
    places = routed | ({machine.otherwise} if machine.otherwise is not None else set())
    verdicts = {name: _problem(machine, name, price_of, dimensions) for name in places}
    for state, row in rows(machine):
        for outcome in sorted(EXHAUSTED & row.moves.keys()):
            problem = verdicts[row.moves[outcome]]
            if problem is not None:
                yield Remark(f"leads by `{outcome}` to `{row.moves[outcome]}`, {problem}", state, row.source)
    problem = verdicts[machine.otherwise] if machine.otherwise is not None else None
    if problem is not None and _falls_through(machine):
        message = f"`limit_reached` and `budget_spent` lead by `otherwise` to `{machine.otherwise}`, {problem}"
        yield Remark(message, source=machine.source)


def _falls_through(machine: AnyDefinition) -> bool:
    """Some row leaves running out to `otherwise`."""
    return any(
        not (EXHAUSTED & engine_outcomes(row)) <= row.moves.keys()
        for name, row in rows(machine)
        if name != machine.otherwise
    )


def _problem(machine: AnyDefinition, first: str, price_of: PriceOf, dimensions: Collection[str]) -> str | None:
    if not is_acting(machine, first):
        return None
    remedy = "lead to a final or a person, or raise `limits.wrap_up`"
    graph = _until_person(machine)
    region = reached(graph, [first])
    if cyclic(graph) & region:
        return "from where it may go round in circles while wrapping up: lead to a final or a person"
    weights = {name: worst_turn(machine, name, price_of) for name in region}
    ceiling = ceiling_of(machine, price_of)
    # Where no limit is stated, the ceiling is the worst case, wrapping up included: it fits.
    for dimension in (name for name in dimensions if getattr(machine.limits, _LIMITED_BY[name]) is not None):
        column = {name: getattr(amounts, dimension) for name, amounts in weights.items()}
        needed = heaviest(graph, frozenset({first}), column, len(region), {}).weight
        kept = int(getattr(ceiling, dimension) * machine.limits.wrap_up)
        if needed > kept:
            return f"which needs {needed:,} {dimension} where {kept:,} are kept back: {remedy}"
    return None


def _until_person(machine: AnyDefinition) -> Graph:
    """What can follow by itself, as far as the next person or final; a person's `retry` isn't by itself."""
    acting = [(name, row) for name, row in rows(machine) if is_acting(machine, name)]
    steps = {
        name: {machine.destination(name, outcome) for outcome in (*row.state.outcomes, *engine_outcomes(row))}
        for name, row in acting
    }
    return {name: frozenset(to for to in after if to in steps and to is not None) for name, after in steps.items()}
