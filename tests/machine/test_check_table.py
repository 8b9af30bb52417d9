"""What a machine may not be: its table, where outcomes lead, its numbers. One test per refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interlock.errors import InvalidMachine
from interlock.machine.check import AFTERWARDS, RULES, findings_of
from interlock.machine.limits import Limits
from interlock.machine.states import final, wait
from interlock.machine.table import Machine
from tests.machine.support_example import Case, support
from tests.machine.support_refusals import alone, assert_says, choose, defined, peek, person, said, stands_at, think

# -- the table


def test_the_example_has_no_finding() -> None:
    assert findings_of(support) == []


def test_every_error_is_raised_at_once_with_its_place_and_remedy() -> None:
    with pytest.raises(InvalidMachine) as raised:
        Machine(
            "desk",
            Case,
            table={
                "first": choose(prompt="{oder_id}", writes={"good": ["replay"]}).then({"god": "done"}),
                "lost": final("failed"),
                "done": final(),
            },
        )
    rules = [finding.rule for finding in raised.value.findings]
    assert sorted(rules) == ["field", "outcome", "outcome", "prompt", "unreachable"]
    assert all(finding.file.endswith(".py") and finding.line > 0 for finding in raised.value.findings)
    assert "did you mean `reply`?" in str(raised.value)
    assert "test_check_t" in str(raised.value)


def test_a_warning_alone_refuses_nothing() -> None:
    assert Machine("desk", Case, table=alone(person())).start == "first"


def test_an_empty_table_is_refused() -> None:
    found = said("table", {})
    assert_says(found, None, "empty", "add a state")
    assert (found.file, found.line) == ("there.py", 7)


def test_a_state_without_moves_is_refused() -> None:
    found = findings_of(defined({"first": think, "done": final()}))
    assert_says(found[0], "first", "no moves", ".then(")


def test_something_else_in_the_table_is_refused() -> None:
    found = [finding for finding in findings_of(defined({**alone(choose()), "odd": "done"})) if finding.rule == "table"]
    assert_says(found[0], "odd", "is a str", "final()")


def test_a_final_in_the_first_row_is_refused() -> None:
    found = [each for each in findings_of(defined({"done": final(), **alone(choose())})) if each.rule == "table"]
    assert_says(found[0], "done", "first row and final")


def test_a_machine_without_a_final_is_refused() -> None:
    found = said("final", {"first": choose().then({"good": "first"})})
    assert_says(found, None, "no row is final", "final()")


def test_a_final_with_another_status_is_refused() -> None:
    odd: Any = "halfway"
    found = said("final", {"first": choose().then({"good": "done"}), "done": final(odd)})
    assert_says(found, "done", "halfway", '"completed" or "failed"')
    assert stands_at(found, "final(odd)")


@pytest.mark.parametrize("name", ["", "a b", "1st", "é", "a-b", "a" * 65, "x; DROP"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert_says(said("name", alone(choose()), name=name), None, repr(name), "letters, digits")
    renamed = {"first": choose().then({"good": name}), name: final()}
    assert_says(said("name", renamed), repr(name), "letters, digits")
    assert_says(said("name", alone(choose(writes={name: []}), **{name: "done"})), "first", repr(name))


@pytest.mark.parametrize("name", ["timeout", "in_doubt", "retry", "called"])
def test_an_outcome_that_is_the_engines_is_refused(name: str) -> None:
    found = said("reserved", alone(choose(writes={name: [], "good": []}), **{name: "done", "good": "done"}))
    assert_says(found, "first", f"`{name}`", "rename")
    assert stands_at(found, "return model_state(")


# -- where outcomes lead


def test_a_destination_that_is_no_state_is_refused() -> None:
    table = {"first": choose().then({"good": "dnoe"}), "done": final()}
    found = [finding for finding in findings_of(defined(table)) if finding.rule == "destination"]
    assert_says(found[0], "first", "`dnoe`", "did you mean `done`?")
    assert stands_at(found[0], '"good": "dnoe"')


def test_an_otherwise_that_is_no_state_is_refused() -> None:
    assert_says(said("destination", alone(choose()), otherwise="dome"), None, "`otherwise`", "did you mean `done`?")


def test_an_outcome_without_a_move_is_refused() -> None:
    found = said("outcome", alone(think, ok="done"))
    assert_says(found, "first", "no move", '"no": <state>')


def test_a_move_for_an_outcome_that_never_comes_is_refused() -> None:
    found = said("outcome", alone(think, ok="done", no="done", noo="done"))
    assert_says(found, "first", "never ends `noo`", "did you mean `no`?")
    assert stands_at(found, "declared.then(moves")


def test_an_engine_outcome_that_this_kind_of_state_never_has_is_refused() -> None:
    found = said("outcome", alone(wait(seconds=5), elapsed="done", timeout="done"))
    assert_says(found, "first", "never ends `timeout`", "remove")


def test_called_needs_no_move_and_is_none_without_tools() -> None:
    assert findings_of(defined(alone(choose(tools=[peek])))) == []
    assert_says(said("outcome", alone(choose(), good="done", called="first")), "first", "never ends `called`")


def test_a_state_that_nothing_leads_to_is_refused() -> None:
    found = said("unreachable", {**alone(choose()), "island": choose().then({"good": "done"})})
    assert_says(found, "island", "`first`", "lead to it")


def test_otherwise_and_engine_outcomes_are_ways_to_reach_a_state() -> None:
    table = {**alone(choose()), "rest": person().then({"good": "done", "timeout": "done"})}
    assert findings_of(defined(table, otherwise="rest")) == []
    routed = {"first": choose().then({"good": "done", "stalled": "rest"}), "done": final(), "rest": final("failed")}
    assert findings_of(defined(routed)) == []


def test_a_state_that_cannot_end_is_refused() -> None:
    table = {
        "first": think.then({"ok": "done", "no": "trap"}),
        "trap": choose().then({"good": "trap"}),
        "done": final(),
    }
    assert_says(said("endless", table), "trap", "can't reach a final", "add one")


def test_questions_that_go_round_in_circles_are_refused_unless_visits_bound_them() -> None:
    moves = {"good": "done", "again": "first", "timeout": "done"}
    asked = person(writes={"good": [], "again": []})
    found = said("loop", {"first": asked.then(moves), "done": final()})
    assert_says(found, "first", "without bound", "`visits=`")
    assert findings_of(defined({"first": asked.then(moves, visits=3), "done": final()})) == []
    assert findings_of(defined({"first": asked.then(moves), "done": final()}, limits=Limits(visits=3))) == []


def test_a_question_that_nobody_answers_is_warned_of() -> None:
    found = said("nobody_answers", alone(person()))
    assert found.severity == "warning"
    assert_says(found, "first", "nobody answers", '"timeout"')


# -- numbers


@pytest.mark.parametrize("within", [0, -1.5, float("inf"), float("nan")])
def test_a_state_without_a_deadline_is_refused(within: float) -> None:
    assert_says(said("time", alone(choose(within=within))), "first", "within=", "above 0")
    moves = {"good": "done", "timeout": "done"}
    assert_says(said("time", alone(person(within=within), **moves)), "first", "within=")
    assert_says(said("time", alone(wait(seconds=within), elapsed="done")), "first", "within=")


def test_a_wait_for_both_or_neither_is_refused() -> None:
    assert_says(said("time", alone(wait(), elapsed="done")), "first", "either a signal or seconds")
    assert_says(said("time", alone(wait("paid", seconds=5), arrived="done")), "first", "either a signal or seconds")


@pytest.mark.parametrize("visits", [0, -1, 1.5, True])
def test_visits_that_are_no_count_are_refused(visits: Any) -> None:
    table = {"first": choose().then({"good": "done"}, visits=visits), "done": final()}
    assert_says(said("visits", table), "first", "whole number from 1")


@pytest.mark.parametrize(
    "limits",
    [
        {"turns": 0},
        {"turns": 2.5},
        {"attempts": 0},
        {"calls": -1},
        {"visits": 0},
        {"usd": -0.01},
        {"usd": float("nan")},
        {"seconds": 0},
        {"seconds": float("inf")},
        {"warn_at": 0},
        {"warn_at": 1.2},
        {"wrap_up": 1},
        {"mode": "soft"},
        {"on_warn": "email"},
        {"repeats": 1},
        {"illegal_moves": None},
    ],
)
def test_limits_that_bound_nothing_are_refused(limits: dict[str, Any]) -> None:
    found = said("limits", alone(choose()), limits=Limits(**limits))
    assert_says(found, None, f"`{next(iter(limits))}`", "must be")


@pytest.mark.parametrize(
    "settings", [{"max_tokens": 0}, {"max_tokens": 1.5}, {"calls": 0}, {"model": ""}, {"thread": "a b"}]
)
def test_a_model_state_without_bounds_is_refused(settings: dict[str, Any]) -> None:
    assert_says(said("offer", alone(choose(**settings))), "first", "give" if "model" not in settings else "provider")


def test_a_list_of_models_names_each_once_and_at_least_one() -> None:
    assert_says(said("offer", alone(choose(model=[]))), "first", "names no model", "openai:gpt-5-mini")
    assert_says(said("offer", alone(choose(model=["a:b", "c:d", "a:b"]))), "first", "'a:b' twice", "leave one out")
    assert findings_of(defined(alone(choose(model=("a:b", "c:d"))))) == []


def test_a_model_state_and_a_question_offer_something() -> None:
    nothing = [each for each in findings_of(defined(alone(choose(writes={}), stalled="done"))) if each.rule == "offer"]
    assert_says(nothing[0], "first", "offers no outcome")
    nobody = said("offer", alone(person(of=" "), good="done", timeout="done"))
    assert_says(nobody, "first", "asks nobody", "role")


# -- running out


def test_running_out_leads_to_a_final_a_person_or_what_is_kept_back() -> None:
    moves = {"good": "done", "limit_reached": "rest"}
    table = {"first": choose().then(moves), "rest": think.then({"ok": "done", "no": "done"}), "done": final()}
    found = said("wrap_up", table)
    assert_says(found, "first", "`limit_reached`", "`rest`", "1 turns where 0 are kept back", "limits.wrap_up")
    assert findings_of(defined(table, limits=Limits(wrap_up=0.5))) == []


def test_otherwise_fits_what_is_kept_back_too() -> None:
    table = {**alone(choose()), "rest": think.then({"ok": "done", "no": "done"})}
    assert_says(said("wrap_up", table, otherwise="rest"), None, "`otherwise`", "`rest`")
    assert findings_of(defined(table, otherwise="rest", limits=Limits(wrap_up=0.5))) == []
    assert findings_of(defined(table | {"rest": final("failed")}, otherwise="rest")) == []


def test_wrapping_up_does_not_go_round_in_circles() -> None:
    moves = {"good": "done", "budget_spent": "rest"}
    table = {"first": choose().then(moves), "rest": think.then({"ok": "done", "no": "first"}), "done": final()}
    assert_says(said("wrap_up", table, limits=Limits(wrap_up=0.9)), "first", "circles")


def test_what_goes_wrong_in_otherwise_itself_goes_to_a_person() -> None:
    machine = defined({**alone(choose()), "rest": person().then({"good": "done", "timeout": "done"})}, otherwise="rest")
    assert machine.destination("first", "error") == "rest"
    assert machine.destination("rest", "limit_reached") is None


# -- the rules


def test_every_rule_is_tried() -> None:
    """A rule without a test of its refusal is a rule that may not refuse."""
    beside = Path(__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(beside.glob("test_check_*.py")))
    for rule in (*RULES, *AFTERWARDS):
        assert f'"{rule}"' in text, rule
