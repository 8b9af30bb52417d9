"""Drawings say everything the table says."""

from __future__ import annotations

from typing import Any

from interlock.machine.draw import edges, mermaid, table
from interlock.machine.states import final, wait
from tests.machine.support_example import support
from tests.machine.support_refusals import choose, defined, peek, person

SUPPORT = """\
state    kind   outcome  to
look_up  model  called   look_up
                owed     pay
                nothing  answer
                stalled  person
pay      use    done     answer
                denied   answer
                timeout  person
answer   code   sent     closed
                unsure   person
person   ask    handled  closed
                timeout  lost
closed   final           completed
lost     final           failed

every other engine outcome > a person
"""


def test_the_table_reads_like_the_source() -> None:
    assert table(support) == SUPPORT


def test_the_diagram_has_every_state_move_and_end() -> None:
    drawn = mermaid(support)
    assert drawn.startswith("stateDiagram-v2\n")
    for line in (
        'state "look_up (model openai:gpt-5-mini, else anthropic:claude-haiku-4-5)" as look_up',
        'state "lost (failed)" as lost',
        "[*] --> look_up",
        "look_up --> look_up: called",
        "look_up --> person: [stalled]",
        "pay --> answer: done, [denied]",
        "closed --> [*]",
        "class person person",
    ):
        assert f"    {line}\n" in drawn, line


def test_a_tool_loop_is_drawn_though_no_row_says_it() -> None:
    machine = defined({"first": choose(tools=[peek]).then({"good": "done"}), "done": final()})
    assert list(edges(machine)) == [("first", "called", "first"), ("first", "good", "done")]
    assert "first --> first: called" in mermaid(machine)


def test_visits_waits_and_otherwise_are_drawn() -> None:
    rows: dict[str, Any] = {
        "first": choose().then({"good": "second"}, visits=5),
        "second": wait("paid").then({"arrived": "third"}),
        "third": wait(seconds=90).then({"elapsed": "done"}),
        "rest": person().then({"good": "done", "timeout": "done"}),
        "done": final(),
    }
    machine = defined(rows, otherwise="rest")
    drawn = mermaid(machine)
    for words in ("at most 5", "wait for paid", "wait 90 s", "note right of rest: otherwise"):
        assert words in drawn, words
    assert "model, 5 visits" in table(machine)
    assert table(machine).endswith("every other engine outcome > rest\n")


def test_no_text_breaks_out_of_its_label() -> None:
    """A model's name or a role is free text; in the diagram it ends neither a label nor a line."""
    odd = 'x" as y\n[*] --> z; click z "javascript:1" %% <b>{'
    rows: dict[str, Any] = {
        "state": choose(model=odd).then({"good": "end"}),
        "end": person(of=odd).then({"good": "done", "timeout": "done"}),
        "done": final(),
    }
    drawn = mermaid(defined(rows, name=odd))
    lines = drawn.splitlines()
    assert not any(mark in drawn for mark in ('x"', "<b>", "--> z", "{"))
    assert sum("as state_" in line for line in lines) == 1
    assert "    [*] --> state_" in lines
    assert "    state_ --> end_: good" in lines
