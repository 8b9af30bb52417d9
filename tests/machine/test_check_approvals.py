"""Who approves a machine's calls: what may not be said of it, one test per refusal, and what it is counted into."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from interlock.machine.check import findings_of
from interlock.machine.draw import mermaid
from interlock.machine.limits import Price
from interlock.machine.states import use
from interlock.machine.tools import Call, Tool, tool
from interlock.machine.version import content_of, shape_of
from interlock.machine.worst_case import worst_turn
from tests.machine.support_refusals import alone, assert_says, choose, defined, said, stands_at


@tool(does="write", approve="legal")
def sign(call: Call[None], order_id: str) -> str:
    return order_id


def using(**settings: Any) -> dict[str, Any]:
    return alone(use(sign, args={"order_id": "order_id"}, **settings), done="done")


@pytest.mark.parametrize("role", ["", "  ", 3, True, ["finance"]])
def test_an_approver_is_a_role_in_words(role: Any) -> None:
    @tool(does="write", approve=role)
    def odd(call: Call[None], order_id: str) -> str:
        return order_id

    found = said("approval", alone(choose(tools=[odd])))
    assert_says(found, "first", "tool `odd`", "name the role", repr(role))
    assert stands_at(found, "@tool(does=")


@pytest.mark.parametrize("role", ["", 3])
def test_an_approver_of_a_use_is_a_role_in_words(role: Any) -> None:
    assert_says(said("approval", using(approve=role)), "first", "name the role", repr(role))


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "day"])
def test_an_approver_has_a_time_to_answer_in(seconds: Any) -> None:
    @tool(does="write", approve="legal", approve_within=seconds)
    def odd(call: Call[None], order_id: str) -> str:
        return order_id

    assert_says(said("approval", alone(choose(tools=[odd]))), "first", "tool `odd`", "approve_within=")


def test_two_approvers_of_one_call_are_refused() -> None:
    assert_says(said("approval", using(approve="finance")), "first", "`finance`", "`legal`", "leave one")


def test_who_writes_without_an_approval_is_its_authors_choice() -> None:
    @tool(does="destroy")
    def wipe(call: Call[None], order_id: str) -> str:
        return order_id

    free = alone(use(wipe, args={"order_id": "order_id"}), done="done")
    assert [
        *findings_of(defined(free)),
        *findings_of(defined(using())),
        *findings_of(defined(using(approve="legal"))),
    ] == []


def test_who_approves_is_content_and_not_shape() -> None:
    """It may change under a live run, which takes it up; an answer that was given before counts for nothing then."""
    free = defined(alone(use(sign, args={"order_id": "order_id"}), done="done"))
    asked = defined(using(approve="legal"))
    assert content_of(free) != content_of(asked) and shape_of(free) == shape_of(asked)
    other = Tool(**{**vars_of(sign), "approve": "finance"})
    renamed = defined(alone(use(other, args={"order_id": "order_id"}), done="done"))
    assert content_of(renamed) != content_of(free) and shape_of(renamed) == shape_of(free)
    longer = Tool(**{**vars_of(sign), "approve_within": 5.0})
    patient = defined(alone(use(longer, args={"order_id": "order_id"}), done="done"))
    assert content_of(patient) != content_of(free)


def vars_of(declared: Tool[Any, Any, Any]) -> dict[str, Any]:
    return {column.name: getattr(declared, column.name) for column in fields(declared)}


def test_a_persons_time_is_no_active_time() -> None:
    """`within` is hers; the call has what any `use` has, or twice the tool's own."""
    hours = defined(using(approve="legal", within=4 * 3600.0))
    assert worst_turn(hours, "first", no_price).active_ms == 60_000
    slow = Tool(**{**vars_of(sign), "within": 100.0})
    called = defined(alone(use(slow, args={"order_id": "order_id"}, approve="legal", within=1.0), done="done"))
    assert worst_turn(called, "first", no_price).active_ms == 200_000
    plain = Tool(**{**vars_of(sign), "approve": None})
    bare = defined(alone(use(plain, args={"order_id": "order_id"}, within=7.0), done="done"))
    assert worst_turn(bare, "first", no_price).active_ms == 7_000


def no_price(name: str) -> Price:
    raise AssertionError(f"{name} is asked for")


def test_without_a_word_a_person_has_a_day_and_a_call_a_minute() -> None:
    plain = Tool(**{**vars_of(sign), "approve": None})
    assert use(plain, args={}, approve="legal").within == 86_400
    assert use(plain, args={}).within == 60 and sign.approve_within == 86_400


def test_the_diagram_says_who_approves() -> None:
    assert "use sign, if legal approves" in mermaid(defined(using()))
    plain = Tool(**{**vars_of(sign), "approve": None})
    asked = defined(alone(use(plain, args={"order_id": "order_id"}, approve="finance"), done="done"))
    assert "use sign, if finance approves" in mermaid(asked)
