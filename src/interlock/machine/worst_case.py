"""Worst case: the most that one run of a machine can use, from its table alone. Prices are passed in; knows no account.

Two steps. What the heaviest turn of each state uses follows from its grants: a model state asks its model once and once
more for each illegal move (and before that for a summary, where its window takes one), then makes its tool calls; a
code state spends all its effects on the dearest thing it may use; every effect takes all its attempts, at each of its
models; a model call sends a full window. Questions to people cost nothing and count no turn, so they are passed
through.

Then, for each dimension, the heaviest walk of at most `limits.turns` turns. Without `visits` that is exact: after k
turns the best way to be in a state is the best way to be in one before it after k - 1. With `visits` it is a bound that
holds: the lesser of that walk (which may visit too often; if it doesn't, it is exact) and of filling the turns with the
heaviest states as often as each may be visited, in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import ceil
from typing import Any

from interlock.machine.definition import Definition
from interlock.machine.graph import Graph, cyclic, is_acting, only, possible, reached
from interlock.machine.limits import DIMENSIONS, Amounts, Price, nanousd
from interlock.machine.states import CodeState, ModelState, Row, State, UseState, WaitState
from interlock.machine.tools import Tool
from interlock.machine.window import WINDOW_BYTES

AnyDefinition = Definition[Any, Any]
PriceOf = Callable[[str], Price]

_STEPS_MAX = 20_000
"""Beyond so many steps of the exact search (thousands of turns, some 20 ms) the bound by filling is taken: one pass."""


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most one run can use, without regard to ceilings other than turns and seconds. `paths`: by which states, for
    each dimension. `exact`: some run could use it all; else it is a bound that no run passes."""

    amounts: Amounts
    paths: Mapping[str, str]
    exact: bool

    @property
    def turns(self) -> int:
        return self.amounts.turns

    @property
    def calls(self) -> int:
        return self.amounts.calls

    @property
    def tokens(self) -> int:
        return self.amounts.tokens

    @property
    def nanousd(self) -> int:
        return self.amounts.nanousd

    @property
    def active_ms(self) -> int:
        return self.amounts.active_ms

    @property
    def path(self) -> str:
        """The dearest way, in money; where nothing costs money, the longest in time."""
        return self.paths["nanousd" if self.nanousd else "active_ms"]


@dataclass(frozen=True, slots=True)
class Walk:
    """How often each state in the order visited (a bound by filling: in the order of weight), and what they weigh."""

    weight: int
    steps: tuple[tuple[str, int], ...]
    exact: bool

    def __str__(self) -> str:
        return " > ".join(state if count == 1 else f"{state} x{count}" for state, count in self.steps)

    def visits(self, name: str) -> int:
        return sum(count for state, count in self.steps if state == name)


def worst_case(machine: AnyDefinition, price_of: PriceOf, *, input_tokens: int | None = None) -> WorstCase:
    """What the heaviest run uses. `input_tokens`: the most one model call may send, else what the window allows in the
    machine's mode. Raises what `price_of` raises for a model without a price."""
    walks = heaviest_walks(machine, price_of, DIMENSIONS, input_tokens=input_tokens)
    found = {dimension: walk.weight for dimension, walk in walks.items()}
    found["active_ms"] = min(found["active_ms"], _ms(machine.limits.seconds))
    paths = {dimension: str(walk) for dimension, walk in walks.items()}
    return WorstCase(Amounts(**found), paths, all(walk.exact for walk in walks.values()))


def ceiling_of(machine: AnyDefinition, price_of: PriceOf, *, input_tokens: int | None = None) -> Amounts:
    """What one run may use: its `Limits` where they are given, else the worst case, with what is kept back for wrapping
    up on top. Raises as `worst_case` does. Takes milliseconds: keep the answer."""
    limits = machine.limits
    stated = {"turns": limits.turns, "active_ms": _ms(limits.seconds), "calls": limits.calls, "tokens": limits.tokens}
    stated["nanousd"] = None if limits.usd is None else nanousd(limits.usd)
    unstated = [name for name, limit in stated.items() if limit is None]
    walks = heaviest_walks(machine, price_of, unstated, input_tokens=input_tokens)
    worst = {name: _with_reserve(walk.weight, limits.wrap_up) for name, walk in walks.items()}
    return Amounts(**{name: worst[name] if limit is None else limit for name, limit in stated.items()})


def heaviest_walks(
    machine: AnyDefinition, price_of: PriceOf, dimensions: Iterable[str], *, input_tokens: int | None = None
) -> dict[str, Walk]:
    """For each of the dimensions, the walk through the machine that uses the most of it."""
    turns = {name: worst_turn(machine, name, price_of, input_tokens) for name in machine.table}
    graph = acting(machine)
    start = entered(machine, possible(machine), [machine.start])
    return {
        dimension: heaviest(graph, start, _column(turns, dimension), machine.limits.turns, caps(machine))
        for dimension in dimensions
    }


def worst_turn(machine: AnyDefinition, name: str, price_of: PriceOf, input_tokens: int | None = None) -> Amounts:
    """The most that one turn in this state uses. Nothing, for a final or a question to a person."""
    row = machine.table[name]
    if not isinstance(row, Row) or not is_acting(machine, name):
        return Amounts()
    tokens_in = _window(machine, row.state) if input_tokens is None else input_tokens
    used = _times(_effects(machine, row.state, price_of, tokens_in), machine.limits.attempts)
    parked = isinstance(row.state, WaitState)
    return used + Amounts(turns=1, active_ms=0 if parked else _ms(row.state.active))


def acting(machine: AnyDefinition) -> Graph:
    """Which acting state can follow which, questions to people passed through."""
    graph = possible(machine)
    names = [name for name in machine.table if is_acting(machine, name)]
    return {name: entered(machine, graph, graph[name]) for name in names}


def entered(machine: AnyDefinition, graph: Graph, states: Iterable[str]) -> frozenset[str]:
    """The acting states that come first from here on."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = list(states)
    while todo:
        state = todo.pop()
        if is_acting(machine, state):
            found.add(state)
        elif state not in seen:
            seen.add(state)
            todo.extend(graph[state])
    return frozenset(found)


def caps(machine: AnyDefinition) -> dict[str, int]:
    """How often a run may visit each state that has a bound of its own; `visits` of a row goes before the limits'."""
    rows = {name: row for name, row in machine.table.items() if isinstance(row, Row)}
    stated = {name: row.visits or machine.limits.visits for name, row in rows.items()}
    return {name: visits for name, visits in stated.items() if visits is not None}


def heaviest(
    graph: Graph, start: frozenset[str], weights: Mapping[str, int], turns: int, caps: Mapping[str, int]
) -> Walk:
    """The heaviest walk of at most `turns` states from one of `start`, or a bound of it (see the head of the file)."""
    filled = _fill(graph, start, weights, turns, caps)
    if turns * sum(len(after) for after in graph.values()) > _STEPS_MAX:
        return filled
    walk = _search(graph, start, weights, turns)
    if all(walk.visits(state) <= cap for state, cap in caps.items()):
        return walk
    return min(filled, Walk(walk.weight, walk.steps, False), key=lambda each: each.weight)


def _search(graph: Graph, start: frozenset[str], weights: Mapping[str, int], turns: int) -> Walk:
    """Layer k holds, for each state, the heaviest walk of k + 1 turns that ends there, and the state before."""
    layers: list[dict[str, tuple[int, str]]] = [{state: (weights[state], "") for state in sorted(start)}]
    while len(layers) < turns and layers[-1]:
        layers.append(_next_layer(graph, weights, layers[-1]))
    ends = [(layer[state][0], -k, state) for k, layer in enumerate(layers) for state in layer]
    if not ends:
        return Walk(0, (), True)
    weight, minus_k, state = max(ends)  # of equals the shortest
    states = []
    for k in range(-minus_k, -1, -1):
        states.append(state)
        state = layers[k][state][1]
    return Walk(weight, tuple((each, len(list(group))) for each, group in groupby(reversed(states))), True)


def _next_layer(
    graph: Graph, weights: Mapping[str, int], layer: Mapping[str, tuple[int, str]]
) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for state, (weight, _) in layer.items():
        for after in sorted(graph[state]):
            total = weight + weights[after]
            # Of equals, staying where one is reads best: "look_up x10", not a walk to and fro.
            if after not in found or (total, state == after) > (found[after][0], found[after][1] == after):
                found[after] = (total, state)
    return found


def _fill(graph: Graph, start: frozenset[str], weights: Mapping[str, int], turns: int, caps: Mapping[str, int]) -> Walk:
    """The turns filled with the heaviest states; one that can't follow itself is visited once."""
    names = reached(graph, start)
    looping = cyclic(only(graph, names))
    left, weight = turns, 0
    steps: list[tuple[str, int]] = []
    for name in sorted(names, key=lambda each: (-weights[each], each)):
        count = min(left, caps.get(name, turns) if name in looping else 1)
        left -= count
        weight += count * weights[name]
        steps += [(name, count)] if count and weights[name] else []
    return Walk(weight, tuple(steps), False)


def _effects(machine: AnyDefinition, state: State[Any, Any, Any], price_of: PriceOf, tokens_in: int) -> Amounts:
    """One attempt of everything that one turn may try."""
    if isinstance(state, UseState):
        return _tool_attempt([state.tool])
    if isinstance(state, ModelState):
        asked = _model_attempts(state.models, state.max_tokens, price_of, tokens_in)
        called = _times(_tool_attempt(state.tools), state.calls)
        return _times(asked, 1 + machine.limits.illegal_moves) + called + _summary(state, price_of, tokens_in)
    if isinstance(state, CodeState) and state.is_async:
        model = _model_attempts(state.models, state.max_tokens, price_of, tokens_in)
        return _times(_greater(model, _tool_attempt(state.tools)), state.calls)
    return Amounts()


def _summary(state: ModelState, price_of: PriceOf, tokens_in: int) -> Amounts:
    if state.window.over != "summarise":
        return Amounts()
    return _model_attempts(state.models, state.window.summary_tokens, price_of, tokens_in)


def _model_attempts(models: Sequence[str], max_tokens: int, price_of: PriceOf, tokens_in: int) -> Amounts:
    """One attempt at each: when one fails for good, the next is asked."""
    cost = sum(price_of(model).cost_max(tokens_in, max_tokens) for model in models)
    return Amounts(calls=len(models), tokens=len(models) * (tokens_in + max_tokens), nanousd=cost)


def _tool_attempt(tools: Iterable[Tool[Any, Any, Any]]) -> Amounts:
    costs = [nanousd(tool.usd_max) for tool in tools]
    return Amounts(calls=1, nanousd=max(costs)) if costs else Amounts()


def _greater(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(**{name: max(getattr(one, name), getattr(other, name)) for name in DIMENSIONS})


def _times(amounts: Amounts, count: int) -> Amounts:
    return Amounts(**{name: getattr(amounts, name) * count for name in DIMENSIONS})


def _with_reserve(worst: int, share: float) -> int:
    """The least ceiling that leaves `worst` usable when `share` of it is kept back."""
    return ceil(worst / (1 - Fraction(str(share))))


def _column(turns: Mapping[str, Amounts], dimension: str) -> dict[str, int]:
    return {name: getattr(amounts, dimension) for name, amounts in turns.items()}


def _window(machine: AnyDefinition, state: State[Any, Any, Any]) -> int:
    """Tokens that one model call of this state may send. Estimate mode takes 2.5 bytes for a token."""
    window = state.window.bytes if isinstance(state, ModelState) else WINDOW_BYTES
    return window if machine.limits.mode == "hard" else window * 2 // 5


def _ms(seconds: Any) -> int:
    return -int(-seconds * 1000 // 1)  # rounded up
