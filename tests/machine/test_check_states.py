"""What a machine may not be: its record, the fields that states name, its handlers. One test per refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from interlock.machine.check import findings_of
from interlock.machine.states import state, use, wait
from interlock.machine.turn import Turn
from tests.machine.support_example import Case
from tests.machine.support_refusals import alone, assert_says, choose, defined, peek, person, said, stands_at


class Other(BaseModel):
    name: str = ""


class Tide:
    """Not a shop."""


# -- the record and its fields


def test_a_record_that_is_no_model_is_refused() -> None:
    assert_says(said("record", alone(choose()), record=dict), None, "BaseModel")
    assert_says(said("record", alone(choose()), record=Case(question="", order_id="")), None, "BaseModel")


def test_a_field_that_cannot_be_stored_is_refused() -> None:
    class Held(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        reply: str = ""
        tide: Tide

    assert_says(said("record", alone(choose()), record=Held), None, "`Held`", "`tide`", "JSON")


def test_a_field_whose_type_is_unknown_is_refused() -> None:
    class Held(BaseModel):
        reply: str = ""
        odd: Nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the point

    assert_says(said("record", alone(choose()), record=Held), None, "Nowhere", "import")


def test_a_default_that_does_not_fit_its_field_is_refused() -> None:
    class Held(BaseModel):
        reply: str = None  # type: ignore[assignment]

    assert_says(said("record", alone(choose()), record=Held), None, "default of `reply`", "mend")


def test_a_record_that_takes_undeclared_fields_is_refused() -> None:
    class Held(BaseModel):
        model_config = ConfigDict(extra="allow")
        reply: str = ""

    assert_says(said("record", alone(choose()), record=Held), None, "undeclared")


def test_a_field_known_by_an_alias_only_is_refused() -> None:
    class Held(BaseModel):
        reply: str = Field(default="", alias="Reply")

    assert_says(said("record", alone(choose()), record=Held), None, "alias", "validate_by_name")


@pytest.mark.parametrize(
    ("declared", "moves", "verb"),
    [
        (lambda: choose(writes={"good": ["replay"]}), {"good": "done"}, "writes `replay`"),
        (lambda: choose(reads=["replay"]), {"good": "done"}, "reads `replay`"),
        (lambda: person(writes={"good": ["replay"]}), {"good": "done", "timeout": "done"}, "writes `replay`"),
        (lambda: wait("paid", writes=["replay"]), {"arrived": "done"}, "writes `replay`"),
        (lambda: use(peek, args={"order_id": "replay"}), {"done": "done"}, "passes on `replay`"),
        (
            lambda: use(peek, args={"order_id": "order_id"}, into="replay"),
            {"done": "done"},
            "puts its result into `replay`",
        ),
        (lambda: choose(prompt="It is {replay}"), {"good": "done"}, "mentions `{replay}`"),
    ],
)
def test_an_unknown_field_is_refused_wherever_it_is_named(
    declared: Callable[[], Any], moves: dict[str, str], verb: str
) -> None:
    found = next(iter(findings_of(defined(alone(declared(), **moves)))))
    assert_says(found, "first", verb, "not in Case", "did you mean `reply`?")


def test_a_handlers_grants_name_known_fields() -> None:
    @state(writes=["replay"], reads=["order_id", "order_id"])
    def odd(turn: Turn[Case]) -> Literal["good"]:
        return "good"

    found = findings_of(defined(alone(odd)))
    assert [each.rule for each in found] == ["field", "field"]
    assert_says(found[0], "first", "writes `replay`")
    assert_says(found[1], "first", "reads `order_id` twice")
    assert stands_at(found[0], "@state(writes=")


def test_a_frozen_field_is_not_written() -> None:
    class Held(BaseModel):
        reply: str = Field(default="", frozen=True)

    assert_says(said("writable", alone(choose()), record=Held), "first", "frozen", "unfreeze")


def test_a_prompt_mentions_only_what_its_state_reads() -> None:
    found = said("prompt", alone(choose(prompt="{order_id}? {question}", reads=["question"])))
    assert_says(found, "first", "`{order_id}`", "add it to `reads=`")


def test_other_braces_in_a_prompt_are_literal() -> None:
    assert findings_of(defined(alone(choose(prompt='{"a": 1} {} {order.id} {0} {{question}} {question!r}')))) == []


def test_a_prompt_function_takes_the_record_alone() -> None:
    assert findings_of(defined(alone(choose(prompt=lambda record: "Well?")))) == []
    assert_says(said("prompt", alone(choose(prompt=lambda a, b: "Well?"))), "first", "record alone")


# -- handlers


def test_a_handler_that_does_not_say_what_it_returns_is_refused() -> None:
    def odd(turn: Turn[Case]):  # type: ignore[no-untyped-def]
        return "good"

    found = said("returns", alone(state()(odd), stalled="done"))
    assert_says(found, "first", "doesn't say", "Literal[")
    assert stands_at(found, "def odd(")


@pytest.mark.parametrize("annotation", ["str", "Literal['good', 3]", "None"])
def test_a_handler_whose_return_is_no_literal_of_strings_is_refused(annotation: str) -> None:
    def odd(turn: Turn[Case]) -> Any:
        return turn.record.reply

    odd.__annotations__["return"] = annotation
    found = [each for each in findings_of(defined(alone(state()(odd), stalled="done"))) if each.rule == "returns"]
    assert_says(found[0], "first", "Literal[")


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    def odd(turn: Turn[Nowhere]) -> Literal["good"]:  # type: ignore[name-defined]  # noqa: F821 - that is the point
        return "good"

    assert_says(said("returns", alone(state()(odd), stalled="done")), "first", "Nowhere", "import")


def test_a_returned_string_that_is_no_outcome_is_refused_at_its_line() -> None:
    @state()
    def odd(turn: Turn[Case]) -> Literal["good", "bad"]:
        if turn.record.facts:
            return "bad"
        return "goood"  # type: ignore[return-value]

    found = findings_of(defined(alone(odd, good="done", bad="done")))
    assert [each.rule for each in found] == ["returned", "returned"]
    assert_says(found[0], "first", "declares `good` but never returns it")
    assert_says(found[1], "first", "'goood'", "did you mean `good`?")
    assert stands_at(found[1], 'return "goood"')


def test_an_outcome_that_no_return_mentions_is_refused() -> None:
    @state()
    def odd(turn: Turn[Case]) -> Literal["good", "bad", "ugly"]:
        def inner() -> str:
            return "ugly"

        return "good" if inner() else "bad"

    assert_says(said("returned", alone(odd, good="done", bad="done", ugly="done")), "first", "`ugly`", "never returns")


def test_a_computed_return_is_left_to_the_type_checker() -> None:
    @state()
    def fine(turn: Turn[Case]) -> Literal["good", "bad"]:
        answer: Literal["good", "bad"] = "bad" if turn.record.facts else "good"
        return answer

    assert findings_of(defined(alone(fine, good="done", bad="done"))) == []


def test_a_handler_over_another_record_is_refused() -> None:
    @state()
    def odd(turn: Turn[Other]) -> Literal["good"]:
        return "good"

    assert_says(said("handler", alone(odd)), "first", "`Other`", "`Case`")


def test_a_handler_takes_the_turn_alone_and_returns_once() -> None:
    def two(turn: Turn[Case], more: str) -> Literal["good"]:
        return "good"

    async def many(turn: Turn[Case]) -> Any:
        yield "good"

    many.__annotations__["return"] = Literal["good"]
    declare: Any = state()
    assert_says(said("handler", alone(declare(two))), "first", "one parameter")
    assert_says(said("handler", alone(declare(many))), "first", "yields")


def test_a_plain_handler_is_granted_no_effects() -> None:
    @state(tools=[peek])
    def odd(turn: Turn[Case]) -> Literal["good"]:
        return "good"

    assert_says(said("plain", alone(odd)), "first", "async def")
