"""What a machine may not be: who approves its calls. One test per refusal."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.machine.check import findings_of
from interlock.machine.states import use
from interlock.machine.tools import Call, tool
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
