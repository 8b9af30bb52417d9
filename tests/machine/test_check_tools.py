"""What a machine may not be: its tools and what they depend on. One test per refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest

from interlock.machine.check import findings_of
from interlock.machine.states import final, state, use
from interlock.machine.tools import Call, Tool, tool
from interlock.machine.turn import Turn
from tests.machine.support_example import Case, Shop, open_shop, order_lines
from tests.machine.support_refusals import alone, assert_says, choose, defined, peek, said, stands_at


class Tide:
    """Not a shop."""


def declared(function: Callable[..., Any]) -> Tool[Any, Any, Any]:
    """`function` as a tool, whatever its signature."""
    declare: Any = tool(does="read")
    made: Tool[Any, Any, Any] = declare(function)
    return made


# -- tools


@pytest.mark.parametrize(
    ("undo", "words"),
    [
        (lambda call: None, ("undo(call, result, order_id)",)),
        (lambda call, order_id: None, ("undo(call, result, order_id)",)),
        (lambda call, result, other: None, ("undo(call, result, order_id)",)),
        ("later", ("'later'", "no function")),
    ],
)
def test_an_undo_that_does_not_take_what_it_is_given_is_refused(undo: Any, words: tuple[str, ...]) -> None:
    @tool(does="write", undo=undo)
    def book(call: Call[None], order_id: str) -> str:
        return order_id

    assert_says(said("undo", asks_tool(book)), "first", "tool `book`", *words)


def test_an_undo_takes_the_call_the_result_and_the_arguments() -> None:
    @tool(does="write", undo=lambda call, result, order_id: None)
    def book(call: Call[None], order_id: str) -> str:
        return order_id

    assert all(finding.rule != "undo" for finding in findings_of(defined(asks_tool(book))))


def asks_tool(granted: Any) -> dict[str, Any]:
    return alone(choose(tools=[granted]))


def test_a_function_that_is_no_tool_is_not_granted() -> None:
    def bare(order_id: str) -> str:
        return order_id

    assert_says(said("grant", asks_tool(bare)), "first", "`bare`", "@tool")


def test_a_tool_is_granted_once() -> None:
    assert_says(said("grant", alone(choose(tools=[peek, peek]))), "first", "two tools `peek`")


def test_a_tool_named_as_an_outcome_is_refused() -> None:
    found = said("grant", alone(choose(tools=[peek], writes={"peek": []}), peek="done"))
    assert_says(found, "first", "tool and an outcome `peek`", "rename")


def test_two_tools_of_one_name_are_refused() -> None:
    @tool(does="read", name="peek")
    def other(call: Call[None], order_id: str) -> str:
        return order_id

    table = {
        "first": choose(tools=[peek]).then({"good": "next"}),
        "next": choose(tools=[other]).then({"good": "done"}),
        "done": final(),
    }
    assert_says(said("tool_name", table), "next", "`peek`", "support_refusals.py:", "`name=`")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"within": 0}, "within=0"),
        ({"within": float("inf")}, "within=inf"),
        ({"usd_max": -1}, "usd_max=-1"),
        ({"usd_max": float("nan")}, "usd_max=nan"),
        ({"does": "erase"}, "erase"),
        ({"key_valid_for": 60.0}, "keyed=True"),
        ({"keyed": True, "key_valid_for": 0}, "above 0"),
    ],
)
def test_a_tool_whose_terms_cannot_be_kept_is_refused(settings: dict[str, Any], word: str) -> None:
    @tool(**{"does": "write", **settings})
    def odd(call: Call[None], order_id: str) -> str:
        return order_id

    found = said("tool_terms", asks_tool(odd))
    assert_says(found, "first", "tool `odd`", word)
    assert stands_at(found, "@tool(**")


@pytest.mark.parametrize("settings", [{"keyed": True}, {"probe": lambda call, order_id: None}])
def test_a_needless_promise_of_a_read_is_warned_of(settings: dict[str, Any]) -> None:
    @tool(does="read", **settings)
    def odd(call: Call[None], order_id: str) -> str:
        return order_id

    found = said("tool_terms", asks_tool(odd))
    assert found.severity == "warning"
    assert_says(found, "first", "repeated anyway")


@tool(does="read", within=10, isolate=True)
def apart(call: Call[None], order_id: str) -> str:
    return order_id


@tool(does="read", within=10, isolate=True)
def shopping(call: Call[Shop], order_id: str) -> str:
    return order_id


def _of_passing_name(call: Call[None], order_id: str) -> str:
    return order_id


kept: Any = _of_passing_name
del _of_passing_name


def test_an_isolated_tool_must_be_found_by_another_process() -> None:
    assert findings_of(defined(asks_tool(apart))) == []
    isolated: Any = tool(does="read", isolate=True, name="peek")

    def inner(call: Call[None], order_id: str) -> str:
        return order_id

    assert_says(said("tool_terms", asks_tool(isolated(inner))), "first", "inner`", "isolate=True", "top of a module")
    assert_says(said("tool_terms", asks_tool(isolated(kept))), "first", "_of_passing_name", "name of its own")


def test_an_isolated_tool_has_no_dependencies() -> None:
    found = said("tool_terms", asks_tool(shopping), deps=open_shop)
    assert_says(found, "first", "process without `Shop`", "Call[None]")


def test_an_isolated_tools_process_needs_time_to_start() -> None:
    found = said("tool_terms", asks_tool(replace(apart, within=0.5)))
    assert found.severity == "warning" and "less than its process may take to start" in found.message


def test_a_tools_first_parameter_is_the_call() -> None:
    def odd(order_id: str) -> str:
        return order_id

    assert_says(said("tool_signature", asks_tool(declared(odd))), "first", "first parameter must be the call")


def test_a_tools_parameters_are_named_and_typed() -> None:
    def odd(call: Call[None], plain, /, *more: str, _own: str = "", **rest: str) -> str:  # type: ignore[no-untyped-def]
        return ""

    found = findings_of(defined(asks_tool(declared(odd))))
    assert {each.rule for each in found} == {"tool_signature"}
    for words in ("`plain` can't be passed by name", "`*more` has no schema", "`_own` can't", "`*rest` has no schema"):
        assert any(words in each.message for each in found), words


def test_a_parameter_without_a_type_is_refused() -> None:
    def odd(call: Call[None], plain) -> str:  # type: ignore[no-untyped-def]
        return ""

    assert_says(said("tool_signature", asks_tool(declared(odd))), "first", "`plain` has no annotation")


def test_parameters_and_results_without_a_schema_are_refused() -> None:
    def odd(call: Call[None], tide: Tide) -> Tide:
        return tide

    found = findings_of(defined(asks_tool(declared(odd))))
    assert [each.rule for each in found] == ["tool_signature", "tool_signature"]
    assert_says(found[0], "first", "no schema", "plain types")
    assert_says(found[1], "first", "result can't be stored", "plain types")


def test_a_probe_takes_what_its_tool_takes() -> None:
    @tool(does="write", probe=lambda call, order: None)
    def odd(call: Call[None], order_id: str) -> str:
        return order_id

    assert_says(said("probe", asks_tool(odd)), "first", "tool `odd`", "probe(call, order_id)")


@tool(does="write")
def pay(call: Call[None], order_id: str, cents: int, note: str = "") -> str:
    return order_id


@pytest.mark.parametrize(
    ("args", "into", "words"),
    [
        ({"order_id": "order_id"}, None, ["doesn't fill `cents`", '"cents": <field>']),
        ({"order_id": "order_id", "cents": "refund_cents", "nte": "reply"}, None, ["`nte`", "did you mean `note`?"]),
        ({"order_id": "order_id", "cents": "reply"}, None, ["fills `cents`, an `int`, with `reply`, a `str`"]),
        ({"order_id": "facts", "cents": "refund_cents"}, None, ["fills `order_id`, a `str`, with `facts`"]),
        ({"order_id": "order_id", "cents": "refund_cents"}, "refund_cents", ["a `str`, into `refund_cents`, an `int`"]),
    ],
)
def test_use_fills_its_tools_parameters_with_fields_that_fit(
    args: dict[str, str], into: str | None, words: list[str]
) -> None:
    assert_says(said("arguments", alone(use(pay, args=args, into=into), done="done")), "first", *words)


# -- dependencies


def test_a_tool_that_needs_what_nothing_opens_is_refused() -> None:
    found = said("dependencies", asks_tool(order_lines))
    assert_says(found, "first", "tool `order_lines`", "`Shop`", "add `deps=`")
    assert found.file == "support_example.py"


@asynccontextmanager
async def open_tide() -> AsyncIterator[Tide]:
    yield Tide()


class Opened:
    """A context manager that is a class, and opens itself."""

    async def __aenter__(self) -> Opened:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def untyped():  # type: ignore[no-untyped-def]
    return open_tide()


def test_a_tool_that_needs_something_else_than_deps_opens_is_refused() -> None:
    assert_says(said("dependencies", asks_tool(order_lines), deps=open_tide), "first", "`Shop`", "`Tide`")
    assert_says(said("dependencies", asks_tool(order_lines), deps=Opened), "first", "`Shop`", "`Opened`")
    assert findings_of(defined(asks_tool(order_lines), deps=open_shop)) == []
    assert findings_of(defined(asks_tool(order_lines), deps=untyped)) == []


def test_a_handler_that_needs_something_else_than_deps_opens_is_refused() -> None:
    @state()
    def odd(turn: Turn[Case, Shop]) -> Literal["good"]:
        return "good"

    assert_says(said("dependencies", alone(odd), deps=open_tide), "first", "`Shop`", "`Tide`")
    assert_says(said("dependencies", alone(odd)), "first", "`Shop`", "add `deps=`")


def test_deps_is_called_with_nothing() -> None:
    assert_says(said("deps", alone(choose()), deps=lambda url: open_tide()), None, "url")
    assert_says(said("deps", alone(choose()), deps=3), None, "can't be called")
