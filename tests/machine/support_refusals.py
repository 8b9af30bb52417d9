"""Machines that are sound but for one thing, and how to ask what `check` says of them. For the tests beside it."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from interlock.errors import Finding
from interlock.machine.check import findings_of
from interlock.machine.definition import Definition
from interlock.machine.limits import Limits
from interlock.machine.states import Source, ask, final, model_state, state
from interlock.machine.tools import Call, tool
from interlock.machine.turn import Turn
from tests.machine.support_example import Case

THERE = Source("there.py", 7)


@state(writes=["reply"])
def think(turn: Turn[Case]) -> Literal["ok", "no"]:
    return "ok" if turn.record.facts else "no"


@tool(does="read")
def peek(call: Call[None], order_id: str) -> str:
    return order_id


def choose(**settings: Any) -> Any:
    """A model state that is sound but for `settings`."""
    return model_state(**{"prompt": "Well?", "model": "openai:gpt-5-mini", "writes": {"good": ["reply"]}, **settings})


def person(**settings: Any) -> Any:
    """A question that is sound but for `settings`."""
    return ask(**{"prompt": "Well?", "of": "support", "writes": {"good": ["reply"]}, **settings})


def defined(table: Mapping[str, Any], record: Any = Case, **settings: Any) -> Definition[Any, Any]:
    plain: dict[str, Any] = {"deps": None, "limits": Limits(), "otherwise": None, "prices": {}, "name": "desk"}
    return Definition(record=record, table=table, source=THERE, **{**plain, **settings})


def said(rule: str, table: Mapping[str, Any], **settings: Any) -> Finding:
    """The one finding of a machine that should have one."""
    found = findings_of(defined(table, **settings))
    assert [finding.rule for finding in found] == [rule], found
    return found[0]


def alone(declared: Any, **moves: str) -> dict[str, Any]:
    """A table of one state that leads to one final."""
    return {"first": declared.then(moves or {"good": "done"}), "done": final()}


def stands_at(finding: Finding, text: str) -> bool:
    """The finding points to a line, of a file beside this one, that holds `text`."""
    return text in linecache.getline(str(Path(__file__).with_name(finding.file)), finding.line)


def assert_says(finding: Finding, state: str | None, *words: str) -> None:
    assert finding.state == state
    for word in words:
        assert word in finding.message, finding.message
