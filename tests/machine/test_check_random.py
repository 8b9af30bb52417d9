"""Random machines: sound ones pass every rule, one mistake in them is refused, and no rule raises on a heap of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from hypothesis import given, note, settings
from hypothesis import strategies as st

from interlock.machine.check import errors_of
from interlock.machine.definition import Definition
from interlock.machine.draw import mermaid, table
from interlock.machine.limits import Limits, Price
from interlock.machine.report import report_of
from interlock.machine.states import CodeState, Final, Row, Source, ask, final, model_state, state, use, wait
from interlock.machine.turn import Turn
from interlock.machine.version import content_of, shape_of
from tests.machine.support_example import Case
from tests.machine.support_refusals import defined, peek

FIELDS = ["question", "order_id", "reply"]
ENGINE = ["timeout", "stalled", "error", "limit_reached"]
Known = Definition[Any, Any]


def coded(outcomes: list[str]) -> Any:
    def handler(turn: Turn[Case]) -> Any:
        return turn.record.reply

    handler.__annotations__["return"] = Literal[tuple(outcomes)]
    return state(writes=["reply"])(handler)


@st.composite
def declared(draw: st.DrawFn) -> Any:
    """A state of any kind."""
    outcomes = draw(st.lists(st.sampled_from(["good", "bad", "ugly"]), min_size=1, unique=True))
    written = {outcome: draw(st.lists(st.sampled_from(FIELDS), unique=True)) for outcome in outcomes}
    tools = draw(st.sampled_from([[], [peek]]))
    return draw(
        st.sampled_from(
            [
                coded(outcomes),
                model_state("{question}", model="a:b", writes=written, tools=tools),
                ask("{question}", of="support", writes=written),
                use(peek, args={"order_id": "order_id"}, into="reply"),
                wait("paid", writes=["reply"]),
                wait(seconds=60),
            ]
        )
    )


@st.composite
def machines(draw: st.DrawFn) -> Known:
    """A sound machine: the first outcome of each row leads to the next, so all are reached and can end."""
    states = draw(st.lists(declared(), min_size=1, max_size=5))
    names = [f"s{number}" for number in range(len(states))]
    rows: dict[str, Any] = {}
    for number, one in enumerate(states):
        following = [*names, "done", "lost"][number + 1] if number + 1 < len(names) else "done"
        first, *rest = [outcome for outcome in one.outcomes if outcome != "called"]
        moves: dict[str, str] = {
            first: following,
            **{outcome: draw(st.sampled_from([*names, "done"])) for outcome in rest},
        }
        if one.kind == "ask":
            moves["timeout"] = "lost"
        elif one.kind not in ("wait",):
            moves |= {outcome: "lost" for outcome in draw(st.lists(st.sampled_from(ENGINE), unique=True))}
        rows[name_of(number)] = one.then(moves, visits=3 if one.kind == "ask" else draw(st.sampled_from([None, 2])))
    rows |= {"done": final(), "lost": final("failed")}
    return defined(rows, otherwise="lost", limits=Limits(turns=draw(st.integers(1, 20))), prices={"a:b": Price(1, 2)})


def name_of(number: int) -> str:
    return f"s{number}"


def with_first(machine: Known, change: Callable[[Row[Any, Any]], Row[Any, Any]]) -> Known:
    return replace(machine, table={**machine.table, machine.start: change(machine.row(machine.start))})


def misled(machine: Known) -> Known:
    return with_first(machine, lambda row: replace(row, moves={**row.moves, next(iter(row.moves)): "nowhere"}))


def silent(machine: Known) -> Known:
    first = next(outcome for outcome in machine.row(machine.start).state.outcomes if outcome != "called")
    return with_first(machine, lambda row: replace(row, moves={k: v for k, v in row.moves.items() if k != first}))


def trapped(machine: Known) -> Known:
    return with_first(machine, lambda row: replace(row, moves=dict.fromkeys(row.moves, machine.start)))


def unmoved(machine: Known) -> Known:
    rows: dict[str, Any] = dict(machine.table)
    return replace(machine, table={**rows, machine.start: rows[machine.start].state})


MISTAKES: dict[str, tuple[str, Callable[[Known], Known]]] = {
    "a destination that isn't there": ("destination", misled),
    "an outcome without a move": ("outcome", silent),
    "a move for nothing": (
        "outcome",
        lambda m: with_first(m, lambda row: replace(row, moves={**row.moves, "odd": "done"})),
    ),
    "no way out": ("endless", trapped),
    "an island": ("unreachable", lambda m: replace(m, table={**m.table, "island": coded(["a"]).then({"a": "done"})})),
    "no final": ("final", lambda m: replace(m, table={k: v for k, v in m.table.items() if not isinstance(v, Final)})),
    "a bad name": ("name", lambda m: replace(m, table={**m.table, "a b": final()})),
    "no deadline": ("time", lambda m: with_first(m, lambda row: replace(row, state=replace(row.state, within=0.0)))),
    "no visits": ("visits", lambda m: with_first(m, lambda row: replace(row, visits=0))),
    "no turns": ("limits", lambda m: replace(m, limits=Limits(turns=0))),
    "no such otherwise": ("destination", lambda m: replace(m, otherwise="nowhere")),
    "an otherwise that acts": (
        "wrap_up",
        lambda m: replace(
            m, table={**m.table, "rest": coded(["a"]).then({"a": "done", "error": "lost"})}, otherwise="rest"
        ),
    ),
    "an engine's outcome": (
        "reserved",
        lambda m: with_first(m, lambda row: coded(["in_doubt"]).then({"in_doubt": "done"})),
    ),
    "an unknown field": (
        "field",
        lambda m: with_first(m, lambda row: ask("", of="x", writes={"a": ["odd"]}).then({"a": "done"}, visits=1)),
    ),
    "no record": ("record", lambda m: replace(m, record=int)),
    "no moves at all": ("table", unmoved),
}


@settings(max_examples=50, deadline=None, print_blob=True)
@given(machines())
def test_a_sound_machine_passes_and_can_be_versioned_drawn_and_priced(machine: Known) -> None:
    assert errors_of(machine) == []
    assert shape_of(machine) != content_of(machine)
    assert all(name in mermaid(machine) and name in table(machine) for name in machine.table)
    report = report_of(machine, machine.prices.__getitem__)
    assert report.ok and report.worst is not None and report.ceiling is not None
    assert report.worst.turns <= machine.limits.turns


@settings(max_examples=60, deadline=None, print_blob=True)
@given(machines(), st.sampled_from(sorted(MISTAKES)))
def test_one_mistake_is_refused_by_its_rule(machine: Known, mistake: str) -> None:
    rule, change = MISTAKES[mistake]
    found = errors_of(change(machine))
    note(f"{mistake}: {found}")
    assert rule in {finding.rule for finding in found}
    assert all(finding.message and finding.file for finding in found)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(machines(), st.lists(st.sampled_from(sorted(MISTAKES)), max_size=6))
def test_no_heap_of_mistakes_makes_a_rule_raise(machine: Known, mistakes: list[str]) -> None:
    for mistake in mistakes:
        try:
            machine = MISTAKES[mistake][1](machine)
        except (AttributeError, KeyError, StopIteration, TypeError):  # this mistake can't be made after the others
            continue
    assert bool(errors_of(machine)) == bool(mistakes)


def test_a_machine_without_a_place_still_says_what_is_wrong() -> None:
    assert errors_of(replace(defined({}), source=Source()))[0].file == ""
    assert isinstance(coded(["a"]), CodeState)
