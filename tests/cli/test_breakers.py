"""`interlock breakers, trip, reset`, and what status, show and log say of a breaker that is open."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.agent.model import ModelFailed
from interlock.cli.story import Told, tell
from interlock.testing import Played
from tests.cli.terminal import Terminal
from tests.laws.machines import Case
from tests.laws.several_models import DOWN, FIRST, OK, SECOND, THIRD, asks, brains
from tests.stage import Stage, play, stage

__all__ = ["stage"]

RED = ("--by", "ann", "--reason", "their status page\x1b[2J is red", "--yes")


def tripped(terminal: Terminal, name: str) -> str:
    """A run that was started, and a breaker that somebody opened before it could begin."""
    run = terminal.started()
    assert terminal.here("trip", name, *RED).code == 0
    return run


def test_trip_opens_a_breaker_and_says_until_when(terminal: Terminal) -> None:
    terminal.started()
    done = terminal.here("trip", "tool:look", *RED, "--json")
    assert done.json["ok"] is True
    assert done.json["breaker"].items() >= {"name": "tool:look", "state": "open", "until": None, "by": "ann"}.items()
    shown = terminal.here("trip", "look", "--for", "600", "--yes")
    assert shown.code == 0 and shown.out.startswith("tool:look  OPEN by ") and " until " in shown.out
    assert "somebody resets" not in shown.out


def test_a_name_that_no_call_had_is_remarked_on_with_the_one_that_is_near(terminal: Terminal) -> None:
    tripped(terminal, "model:openai:gpt-5-mini@http://127.0.0.1:9/v1")
    for near in ("model:openai:gpt-5-mni@http://127.0.0.1:9/v1", "model:openai:gpt-5-mini"):
        done = terminal.here("reset", near, "--yes")
        assert done.code == 0 and "there is model:openai:gpt-5-mini@http://127.0.0.1:9/v1" in done.err
    assert terminal.here("reset", "model:openai:gpt-5-mini@http://127.0.0.1:9/v1", "--yes").err == ""


def test_reset_closes_it_and_both_are_in_its_log(terminal: Terminal) -> None:
    tripped(terminal, "tool:look")
    assert terminal.here("reset", "look", "--by", "ben", "--reason", "mended", "--yes").code == 0
    done = terminal.here("breakers", "tool:look", "--json")
    assert [(line["what"], line["state"], line["by"]) for line in done.json["log"]] == [
        ("tripped", "open", "ann"),
        ("reset", "closed", "ben"),
    ]
    assert [each["state"] for each in done.json["breakers"]] == ["closed"]
    told = terminal.here("breakers", "look").out
    assert "by ben" in told and "mended" in told and "\x1b" not in told and "\\x1b[2J is red" in told


def test_status_and_show_name_what_stands_in_the_way(terminal: Terminal) -> None:
    run = tripped(terminal, "tool:look")
    done = terminal.here("run", terminal.target("note"), "--run", run)
    assert done.code == 3
    assert [each["name"] for each in terminal.here("--json").json["breakers"]] == ["tool:look"]
    hints = terminal.here("doctor", "--json").json["findings"]
    assert ["tool:look" in each["message"] for each in hints if each["rule"] == "breaker"] == [True]
    assert "tool:look  OPEN by ann until somebody resets it: their status page" in terminal.here().out
    [line] = [line for line in terminal.here("show", run).out.splitlines() if line.startswith("breaker")]
    assert line.startswith("breaker look OPEN by ann until somebody resets it: their status page\\x1b[2J is red")
    assert "look open" in terminal.here("log", run).out and "not called" in terminal.here("log", run).out


def test_a_breaker_that_the_run_has_nothing_to_do_with_is_not_shown_with_it(terminal: Terminal) -> None:
    run = tripped(terminal, "tool:another")
    assert not [line for line in terminal.here("show", run).out.splitlines() if line.startswith("breaker")]
    assert terminal.here("breakers").out.startswith("tool:another  OPEN")


def test_nothing_has_failed_yet(terminal: Terminal) -> None:
    terminal.started()
    assert terminal.here("breakers").out.startswith("no call has failed yet")
    assert terminal.here("breakers", "--json").json["breakers"] == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("trip", "gpt-5", "--yes"), ("gpt-5", "model:PROVIDER:NAME", "tool:NAME")),
        (("trip", "tool:look", "--for", "0", "--yes"), ("--for", "above 0")),
        (("trip", "tool:look", "--for", "nan", "--yes"), ("--for", "above 0")),
        (("trip", "tool:look", "--for", "1e12", "--yes"), ("seconds",)),
        (("trip", "tool:", "--yes"), ("tool:", "model:PROVIDER:NAME")),
        (("reset", "gpt-5", "--yes"), ("gpt-5", "model:PROVIDER:NAME")),
        (("trip", "tool:look"), ("open the breaker of tool:look", "--yes")),
        (("reset", "tool:look"), ("close the breaker of tool:look", "--yes")),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    terminal: Terminal, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    terminal.started()
    terminal.here(*args).refused(*words)
    assert terminal.here("breakers", "--json").json["breakers"] == []


def told(run: Played[Any]) -> list[str]:
    return [line.did for line in tell(enumerate(run.events, start=1)) if isinstance(line, Told)]


def test_a_fallback_is_told_with_what_it_passed_over() -> None:
    down = brains(first=DOWN, second=ModelFailed("quota", "no more", billed=False), third=OK)
    [did] = told(play(asks(FIRST, SECOND, THIRD, attempts=2), Case(), model=down))
    assert did.startswith("first outage x2; fallback second quota; fallback third 10>2")


def test_a_fallback_of_the_first_attempt_is_told_too(stage: Stage) -> None:
    stage.perform(lambda: stage.client().trip(f"model:{FIRST}"))
    [did] = told(stage.play(asks(FIRST, SECOND), Case(), model=brains(first=OK, second=OK)))
    assert did.startswith("first open; fallback second 10>2")
