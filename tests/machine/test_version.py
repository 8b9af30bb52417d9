"""Versions: the same in every process, changed by what they stand for and by nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from interlock.machine.definition import Definition
from interlock.machine.limits import Limits, Price
from interlock.machine.states import final, state, use
from interlock.machine.tools import Call, tool
from interlock.machine.turn import Turn
from interlock.machine.version import content_of, shape_of, source_of
from tests.machine.support_example import support
from tests.machine.support_refusals import alone, choose, defined, person

PRINT = """
from tests.machine.test_version import awkward
from tests.machine.support_example import support
from interlock.machine.version import content_of, shape_of
print(support.shape, support.content, shape_of(awkward()), content_of(awkward()))
"""


class Tagged(BaseModel):
    """A record whose default has no order of its own."""

    reply: str = ""
    tags: set[str] = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta"}


def awkward() -> Definition[Any, Any]:
    """Everything that tempts a digest to differ between processes: sets, closures, code without source."""
    space: dict[str, Any] = {"Turn": Turn, "Literal": Literal, "Tagged": Tagged}
    exec(
        "def made(turn: Turn[Tagged]) -> Literal['good']:\n    return 'good' if turn.run in {'a', 'b'} else 'good'",
        space,
    )
    seen, thing = frozenset({"one", "two", "three", "four"}), object()

    @tool(does="read")
    def look(call: Call[None], words: frozenset[str] = seen) -> str:
        return f"{seen} {thing}"

    table = {
        "first": state()(space["made"]).then({"good": "second"}),
        "second": use(look, args={}, into="reply").then({"done": "third"}),
        "third": choose(prompt=lambda record: f"{seen}").then({"good": "done"}),
        "done": final(),
    }
    return defined(table, record=Tagged)


def test_the_example_has_a_shape_and_a_content() -> None:
    assert support.shape == shape_of(support)
    assert support.content == content_of(support)
    assert len({support.shape, support.content}) == 2
    assert all(len(digest) == 16 and int(digest, 16) for digest in (support.shape, support.content))


@pytest.mark.parametrize("seed", ["1", "77"])
def test_versions_are_the_same_in_another_process(seed: str) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
    out = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    machine = awkward()
    assert out.stdout.split() == [support.shape, support.content, shape_of(machine), content_of(machine)]


def changed(**settings: Any) -> tuple[bool, bool]:
    """Whether (shape, content) of the example differ with these settings."""
    names = ("name", "record", "table", "deps", "limits", "otherwise", "prices", "source")
    other = Definition(**{**{name: getattr(support, name) for name in names}, **settings})
    return shape_of(other) != support.shape, content_of(other) != support.content


def with_row(name: str, **settings: Any) -> dict[str, Any]:
    row = support.row(name)
    return {**support.table, name: replace(row, state=replace(row.state, **settings))}


def test_the_place_of_a_declaration_counts_for_nothing() -> None:
    rows = list(support.table.items())
    assert changed(table=dict([rows[0], *reversed(rows[1:])])) == (False, False)
    assert changed(source=None) == (False, False)
    assert changed(table=with_row("look_up", source=None)) == (False, False)


def test_numbers_count_by_their_value() -> None:
    assert changed(limits=replace(support.limits, seconds=120.0, usd=Decimal("0.500"))) == (False, False)
    assert changed(table=with_row("look_up", within=30.0)) == (False, False)


@pytest.mark.parametrize(
    "table",
    [
        with_row("look_up", prompt="What is owed?"),
        with_row("look_up", instructions="Be brief."),
        with_row("look_up", models=("openai:gpt-5",)),
        with_row("look_up", max_tokens=801),
        with_row("look_up", writes={"owed": ("facts",), "nothing": ("facts",)}),
        with_row("look_up", within=31),
        with_row("answer", calls=3),
        with_row("person", of="finance"),
        {**support.table, "look_up": replace(support.row("look_up"), visits=3)},
    ],
)
def test_what_a_turn_does_is_content(table: dict[str, Any]) -> None:
    assert changed(table=table) == (False, True)


def test_limits_prices_and_the_rest_of_the_record_are_content() -> None:
    assert changed(limits=Limits(turns=13)) == (False, True)
    assert changed(prices={"openai:gpt-5-mini": Price(1, 2)}) == (False, True)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "other"},
        {"otherwise": "person"},
        {"table": {**support.table, "lost": final("completed")}},
        {"table": {**support.table, "more": final()}},
        {"table": {**support.table, "pay": replace(support.row("pay"), moves={"done": "answer"})}},
        {"table": dict(reversed(list(support.table.items())))},
    ],
)
def test_states_moves_and_finals_are_shape(settings: dict[str, Any]) -> None:
    assert changed(**settings)[0]


def record_shape(record: type[BaseModel]) -> str:
    return shape_of(defined(alone(choose()), record=record))


def test_a_fields_type_is_shape_and_its_prose_is_not() -> None:
    class Held(BaseModel):
        reply: str = ""

    one = record_shape(Held)

    class Held(BaseModel):  # type: ignore[no-redef]
        """Now with a word on it."""

        reply: str = Field(default="none yet", title="Reply", description="what we said")

    same = record_shape(Held)

    class Held(BaseModel):  # type: ignore[no-redef]
        reply: str | None = ""

    typed = record_shape(Held)

    class Held(BaseModel):  # type: ignore[no-redef]
        reply: str = ""
        title: str = ""
        description: str = ""

    assert one == same
    assert len({one, typed, record_shape(Held)}) == 3


def test_a_handlers_source_defaults_and_closed_over_values_are_content() -> None:
    def made(words: str, more: int = 1) -> Any:
        def prompt(record: Any, tail: int = more) -> str:
            return f"{words}{tail}"

        return prompt

    digests = [content_of(defined(alone(person(prompt=prompt)))) for prompt in (made("a"), made("b"), made("a", 2))]
    assert len(set(digests)) == 3
    assert content_of(defined(alone(person(prompt=made("a"))))) == digests[0]


def test_a_tools_terms_and_schema_are_content() -> None:
    def granted(**settings: Any) -> str:
        @tool(**{"does": "read", **settings})
        def look(call: Call[None], order_id: str) -> str:
            return order_id

        return content_of(defined(alone(choose(tools=[look]))))

    assert granted() == granted()
    assert len({granted(), granted(within=5), granted(usd_max=0.01), granted(does="write")}) == 4


def test_code_without_source_counts_by_what_it_does() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {}
        exec(f"def f(x): return {text}", space)
        return space["f"]

    assert source_of(made("x + 1")) == source_of(made("x + 1"))
    assert source_of(made("x + 1")) != source_of(made("x + 2"))
    assert source_of(made("x in {1, 'a', 'b'}")) == source_of(made("x in {'b', 'a', 1}"))
    assert source_of(len) == "builtins.len"
