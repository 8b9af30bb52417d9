"""The worst case: what a turn can use, and that no walk through a random machine uses more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.errors import UnknownPrice
from interlock.machine.limits import DIMENSIONS, Amounts, Limits, Price
from interlock.machine.report import report_of
from interlock.machine.states import final, state, use, wait
from interlock.machine.tools import Call, tool
from interlock.machine.turn import Turn
from interlock.machine.window import WINDOW_BYTES
from interlock.machine.worst_case import Walk, acting, ceiling_of, heaviest, worst_case, worst_turn
from tests.machine.support_example import Case, support
from tests.machine.support_refusals import alone, choose, defined, peek, person

PRICE = Price(2_000_000_000, 10_000_000_000)  # 2 and 10 dollars per million


def priced(model: str) -> Price:
    return PRICE


def unpriced(model: str) -> Price:
    raise UnknownPrice(f"nobody states what {model} costs")


@tool(does="send", usd_max=0.25)
async def post(call: Call[None], order_id: str) -> str:
    return order_id


@tool(does="read", usd_max=0.10)
async def fetch(call: Call[None], order_id: str) -> str:
    return order_id


@state(models=["a:b"], tools=[post, fetch], calls=3, max_tokens=100, within=20)
async def work(turn: Turn[Case]) -> Literal["good"]:
    return "good"


@state(within=5)
def plain(turn: Turn[Case]) -> Literal["good"]:
    return "good"


LIMITS = Limits(turns=4, attempts=2, illegal_moves=1, seconds=600)


def turn_of(declared: Any, outcome: str, limits: Limits = LIMITS) -> Amounts:
    return worst_turn(defined(alone(declared, **{outcome: "done"}), limits=limits), "first", priced)


# -- a turn


def test_a_model_turn_asks_again_for_each_illegal_move_and_then_calls() -> None:
    model = choose(tools=[post, fetch], calls=3, max_tokens=100, within=20)
    asked, called = 2 * 2, 3 * 2
    tokens = asked * (WINDOW_BYTES + 100)
    cost = asked * (WINDOW_BYTES * 2_000 + 100 * 10_000) + called * 250_000_000
    assert turn_of(model, "good") == Amounts(1, asked + called, tokens, cost, 20_000)


def test_each_model_of_a_list_may_use_up_all_its_attempts() -> None:
    several = choose(model=["a:b", "c:d", "e:f"], max_tokens=100, within=20)
    asked = 3 * 2 * 2
    cost = asked * (WINDOW_BYTES * 2_000 + 100 * 10_000)
    assert turn_of(several, "good") == Amounts(1, asked, asked * (WINDOW_BYTES + 100), cost, 20_000)
    code = replace(work, models=("a:b", "c:d"), tools=())
    assert turn_of(code, "good").calls == 2 * 2 * 3


def test_a_code_turn_spends_every_effect_on_the_dearer_thing() -> None:
    tokens = 3 * 2 * (WINDOW_BYTES + 100)
    assert turn_of(work, "good") == Amounts(1, 6, tokens, 6 * 250_000_000, 20_000)


def test_the_rest_costs_what_it_says() -> None:
    assert turn_of(plain, "good") == Amounts(turns=1, active_ms=5_000)
    used = use(post, args={"order_id": "order_id"}, within=7)
    assert turn_of(used, "done") == Amounts(turns=1, calls=2, nanousd=500_000_000, active_ms=7_000)
    assert turn_of(wait("paid"), "arrived") == Amounts(turns=1)
    assert turn_of(person(), "good") == Amounts()


def test_an_estimate_takes_fewer_tokens_for_the_same_window() -> None:
    used = turn_of(choose(max_tokens=100), "good", replace(LIMITS, mode="estimate"))
    assert used.tokens == 4 * (WINDOW_BYTES * 2 // 5 + 100)


def test_a_dearer_cached_input_counts() -> None:
    machine = defined(alone(choose(max_tokens=100)), limits=LIMITS)
    dear = worst_turn(machine, "first", lambda _: Price(0, 0, 5_000_000_000))
    assert dear.nanousd == 4 * WINDOW_BYTES * 5_000


# -- a run


def test_the_dearest_way_is_named() -> None:
    loop = choose(tools=[peek], max_tokens=100)
    table = {"ask": loop.then({"good": "post"}), "post": use(post, args={}).then({"done": "done"}), "done": final()}
    table["lost"] = final("failed")
    worst = worst_case(defined(table, limits=LIMITS, otherwise="lost"), priced)
    assert worst.path == "ask x4"
    assert worst.turns == 4 and worst.exact
    free = worst_case(defined(table, limits=LIMITS, otherwise="lost"), lambda _: Price(0, 0))
    assert free.path == "ask > post"


def test_visits_bound_a_loop() -> None:
    row = choose(tools=[fetch], max_tokens=100).then({"good": "done"}, visits=2)
    worst = worst_case(defined({"ask": row, "done": final(), "lost": final("failed")}, otherwise="lost"), priced)
    assert worst.turns == 2
    assert str(worst.paths["calls"]) == "ask x2"


def test_a_persons_retry_counts() -> None:
    """Where an engine outcome has no place a person is asked, and may say `retry`: another turn in the state."""
    assert worst_case(defined(alone(plain), limits=LIMITS), priced).turns == 4
    assert worst_case(defined(alone(plain) | {"lost": final()}, limits=LIMITS, otherwise="lost"), priced).turns == 1


def test_a_walk_goes_on_through_questions() -> None:
    table = {
        "ask": person().then({"good": "work", "timeout": "done"}),
        "work": plain.then({"good": "ask"}),
        "done": final(),
    }
    worst = worst_case(defined(table, limits=LIMITS, otherwise="done"), priced)
    assert worst.turns == 4
    assert worst.paths["turns"] == "work x4"


def test_active_time_is_at_most_the_limit() -> None:
    assert worst_case(support, priced).active_ms == 120_000
    assert worst_case(defined(alone(plain), limits=replace(LIMITS, seconds=0.0015)), priced).active_ms == 2


def test_the_ceiling_is_the_limit_where_one_is_given() -> None:
    ceiling, worst = ceiling_of(support, priced), worst_case(support, priced)
    assert ceiling == Amounts(12, worst.calls, worst.tokens, 500_000_000, 120_000)
    limits = Limits(turns=3, calls=5, tokens=7, usd="0.01", seconds=2)  # type: ignore[arg-type] # as read from a file
    assert ceiling_of(defined(alone(plain), limits=limits), priced) == Amounts(3, 5, 7, 10_000_000, 2_000)


def test_what_is_kept_back_for_wrapping_up_comes_on_top_of_an_unstated_limit() -> None:
    """Else every run would have less than its own worst case before it must wrap up."""
    machine = defined(alone(work), limits=replace(LIMITS, wrap_up=0.3))
    ceiling, worst = ceiling_of(machine, priced), worst_case(machine, priced)
    for dimension in ("calls", "tokens", "nanousd"):
        whole = getattr(ceiling, dimension)
        assert whole - int(whole * 0.3) >= getattr(worst, dimension)
        assert whole <= getattr(worst, dimension) / 0.7 + 1


def test_thousands_of_turns_take_no_time_and_still_a_bound() -> None:
    loop = choose(tools=[fetch], max_tokens=100)
    table = {"ask": loop.then({"good": "post"}), "post": use(post, args={}).then({"done": "ask"}), "done": final()}
    limits = replace(LIMITS, turns=10_000_000)
    worst = worst_case(defined(table, limits=limits, otherwise="done"), priced)
    one = worst_turn(defined(table, limits=limits), "ask", priced)
    assert worst.nanousd == 10_000_000 * one.nanousd
    assert not worst.exact


# -- the report


def test_a_model_without_a_price_is_an_error() -> None:
    report = report_of(support, unpriced)
    assert not report.ok and report.worst is None and report.ceiling is None
    assert [(each.rule, each.state) for each in report.findings] == [
        (rule, state)
        for state in ("look_up", "answer")
        for rule in ("price", "price")  # two models each
    ]
    assert all(each.file == "support_example.py" and each.line for each in report.findings)
    with pytest.raises(UnknownPrice):
        worst_case(support, unpriced)


def test_a_sound_machine_is_reported_with_its_worst_case() -> None:
    report = report_of(support, priced)
    assert report.ok and report.findings == ()
    assert report.worst == worst_case(support, priced)
    assert report.ceiling == ceiling_of(support, priced)


def test_wrapping_up_fits_in_money_too() -> None:
    table = {
        "first": plain.then({"good": "done", "budget_spent": "sum_up"}),
        "sum_up": choose(max_tokens=100, within=1).then({"good": "done"}),
        "done": final(),
    }
    machine = defined(table, limits=Limits(turns=10, usd=1, wrap_up=0.5), otherwise="done")
    report = report_of(machine, priced)
    assert [each.rule for each in report.findings] == ["wrap_up"]
    assert "nanousd" in report.findings[0].message
    assert report_of(machine, lambda _: Price(1, 1)).ok


# -- against brute force


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, frozenset[str]], frozenset[str], dict[str, int], int, dict[str, int]]:
    names = "abcd"[: draw(st.integers(1, 4))]
    some = st.frozensets(st.sampled_from(names))
    graph = {name: draw(some) for name in names}
    weights = {name: draw(st.integers(0, 9)) for name in names}
    limited = draw(st.dictionaries(st.sampled_from(names), st.integers(1, 3)))
    return graph, draw(some), weights, draw(st.integers(1, 6)), limited


def walks(graph: Mapping[str, frozenset[str]], start: frozenset[str], turns: int) -> Iterator[tuple[str, ...]]:
    """Every walk of at most `turns` states."""
    todo: list[tuple[str, ...]] = [(), *((name,) for name in start)]
    while todo:
        walk = todo.pop()
        yield walk
        if walk and len(walk) < turns:
            todo += [(*walk, after) for after in graph[walk[-1]]]


@settings(max_examples=300, deadline=None, print_blob=True)
@given(problems())
@example(({"a": frozenset("a")}, frozenset("a"), {"a": 3}, 6, {"a": 2}))
def test_no_walk_is_heavier_and_an_exact_one_exists(problem: Any) -> None:
    graph, start, weights, turns, limited = problem
    found = heaviest(graph, start, weights, turns, limited)
    kept = [walk for walk in walks(graph, start, turns) if all(walk.count(name) <= n for name, n in limited.items())]
    best = max(sum(weights[name] for name in walk) for walk in kept)
    assert best <= found.weight
    if found.exact:
        assert best == found.weight
        assert tuple(name for name, count in found.steps for _ in range(count)) in kept
    if not limited:
        assert found.exact


def test_a_walk_is_told_in_short() -> None:
    assert str(Walk(1, (("a", 2), ("b", 1), ("a", 1)), True)) == "a x2 > b > a"
    assert str(Walk(0, (), True)) == ""


def test_every_dimension_has_its_way() -> None:
    assert set(worst_case(support, priced).paths) == set(DIMENSIONS)
    assert set(acting(support)) == {"look_up", "pay", "answer"}
