"""What people see: each verb in its words."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import pytest

from interlock.cli import app
from interlock.cli.story import Note, Told, tell
from interlock.client import Client
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.worker import Worker
from tests.cli.terminal import Terminal

EAGER = Timing(send_window=0.05, grace=0.05, lease=0.5, poll=0.05)


def test_help_names_every_verb_in_the_words_it_has_itself(terminal: Terminal) -> None:
    """The list is written beside the verbs, so that help loads none of them; this keeps it from lying."""
    said = terminal.here("--help").out
    with app.interlock.make_context("interlock", ["runs"]) as ctx:
        for name, (_, line) in app.VERBS.items():
            command = app.interlock.get_command(ctx, name)
            assert command is not None and command.name == name and name in said
            assert line.rstrip(".").split(",")[0].split(";")[0].split(":")[0][:12] in " ".join(said.split())
            assert {"--store", "--json"} <= {flag for option in command.params for flag in option.opts}, name


def test_show_says_why_what_it_cost_and_what_next(terminal: Terminal) -> None:
    run = terminal.played()
    said = terminal.here("show", run).out
    assert terminal.store in said and "WAITING for a person, in `person`" in said and "(due in 59 min)" in said
    assert "asks `ops`: Too large: abcdef. What now?" in said
    assert "$0 of $0.50 (0 %), held $0 | turns 1 of 10" in said and "in doubt: none" in said
    assert "path    measure > person" in said
    assert f"interlock resolve {run[:4]} handled --set said=... --set size=..." in said
    assert terminal.here("resolve", run, "drop", "--yes").code == 0
    said = terminal.here("show", run).out
    assert "an answer lies in the inbox" in said and "interlock work TARGET" in said


def test_what_models_tools_and_people_wrote_cannot_touch_the_terminal(terminal: Terminal) -> None:
    run = terminal.played(name="\x1b[2J\x1b]0;title\x07 \u202e ")
    terminal.here("resolve", run, "drop", "--by", "eve\x1b[31m", "--reason", "\x1b[1A\x1b[2K", "--yes")
    terminal.here("run", terminal.target("note"), "--run", run)
    for args in (
        [],
        ["show", run],
        ["log", run],
        ["waiting"],
        ["runs"],
        ["log", run, "--json"],
        ["show", run, "--json"],
    ):
        done = terminal.here(*args)
        assert done.code == 0 and not {"\x1b", "\x07", "\u202e"} & set(done.out + done.err), args
    assert "\\x1b[2J" in terminal.here("log", run).out and "eve\\x1b[31m" in terminal.here("log", run).out


def test_log_tells_turns_with_what_was_done_and_what_came_of_it(terminal: Terminal) -> None:
    run = terminal.played()
    lines = terminal.here("log", run).out.splitlines()
    assert lines[1].split() == ["turn", "time", "state", "did", "cost", "total", "then"]
    assert any('look("abcdef")' in line and "large > person" in line for line in lines)
    assert any("waits for a person of `ops`" in line for line in lines)


def test_equal_turns_in_a_row_are_one_line() -> None:
    """`3-5 look_up order_lines("A-17") 3x, same result ... stalled > person`."""
    history: list[e.Event] = [
        e.RunStarted(
            machine="m", shape="s", content="c", state="look_up", record={}, mode="hard", warn_at=0.8, on_warn="person",
            ceiling={"turns": 9, "calls": 9, "tokens": 9, "nanousd": 9, "active_ms": 9},
        )
    ]  # fmt: skip
    for turn in (1, 2, 3):
        last = turn == 3
        history += [
            e.ModelReplied(effect=turn, tokens_in=10, tokens_out=5, nanousd=1_000_000, turn=turn),
            e.Transitioned(
                state="look_up",
                outcome="stalled" if last else "called",
                to="person" if last else "look_up",
                print="same",
                turn=turn,
            ),
        ]
    told = [line for line in tell(enumerate(_with_calls(history), start=1)) if isinstance(line, Told)]
    (line,) = told
    assert (line.numbers, line.did, line.then) == ("1-3", 'order_lines("A-17") 3x, same result', "stalled > person")
    assert (line.cost, line.total) == (3_000_000, 3_000_000)


@pytest.mark.parametrize(("way", "told"), [("key", "called again, under its key"), ("repeat", "called again")])
def test_a_call_that_is_made_again_is_not_told_as_one_that_did_not_happen(way: str, told: str) -> None:
    history: list[e.Event] = [
        e.RunStarted(
            machine="m", shape="s", content="c", state="pay", record={}, mode="hard", warn_at=0.8, on_warn="person",
            ceiling={"turns": 9, "calls": 9, "tokens": 9, "nanousd": 9, "active_ms": 9},
        ),
        e.ToolCalled(effect=1, digest="1", tool="pay", way=way, args={}, turn=1),
        e.AttemptFailed(effect=1, kind="lost", message="", doubt=True, turn=1),
        e.DoubtCleared(effect=1, way=way, happened=False, turn=1),
    ]  # fmt: skip
    said = [line.text for line in tell(enumerate(history, start=1)) if isinstance(line, Note)]
    assert f"doubt about effect 1: {told}" in said and "did not happen" not in " ".join(said)


def _with_calls(history: list[e.Event]) -> list[e.Event]:
    found: list[e.Event] = []
    for event in history:
        if isinstance(event, e.ModelReplied):
            number = event.effect
            intent = e.ToolCalled(
                effect=number, digest=str(number), tool="order_lines", way="repeat", args={"id": "A-17"},
                turn=number,
            )  # fmt: skip
            found.append(intent)
        found.append(event)
    return found


def test_status_says_what_needs_somebody(terminal: Terminal) -> None:
    terminal.played()
    said = terminal.here().out
    assert "1 waiting" in said and "needs somebody" in said and "Too large: abcdef" in said and terminal.store in said
    assert "1 waiting" in terminal.here("waiting").out and "interlock resolve" in terminal.here("waiting").out


def test_every_run_of_a_machine_can_be_paused_at_once(terminal: Terminal) -> None:
    runs = {terminal.started() for _ in range(3)}
    other = terminal.started("sleeper")
    done = terminal.here("pause", "--machine", "note", "--yes", "--json")
    assert {each["run"] for each in done.json["runs"]} == runs
    assert terminal.here("pause", "--all", "--yes").out.count("will pause") == 4
    assert terminal.shown(other)["status"] == "ready"
    terminal.here("resume", "--all", "--yes").refused("no run to resume")


def test_graph_is_a_table_unless_said_otherwise(terminal: Terminal) -> None:
    assert terminal.here("graph", terminal.target("note")).out.startswith("state ")
    assert terminal.here("graph", terminal.target("note"), "--format", "mermaid").out.startswith("stateDiagram-v2")


def test_options_may_stand_before_the_verb(terminal: Terminal) -> None:
    run = terminal.played()
    assert app.ended(["--store", terminal.store, "--json", "show", run]) == 0


def test_the_store_may_be_named_by_the_environment(terminal: Terminal) -> None:
    run = terminal.played()
    done = terminal.run("show", "@last", "--json")
    assert done.code == 0 and done.json["run"] == run and done.json["store"] == terminal.store


def test_a_module_on_the_path_is_a_target(terminal: Terminal) -> None:
    assert terminal.run("check", "machines:note", "--json").json["ok"] is True
    assert terminal.run("check", "machines.py:note", "--json").json["ok"] is True


def test_input_may_come_from_a_file(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"name": "abc"}')
    done = terminal.here("run", terminal.target("note"), "--input", f"@{file}", "--json")
    assert done.code == 0 and done.json["record"]["name"] == "abc"


def test_a_doubt_is_shown_and_cleared_by_a_person(terminal: Terminal) -> None:
    """A write that may have happened: the run waits; what the person says happened is taken as its result."""
    run = asyncio.run(_in_doubt(terminal))
    shown = terminal.shown(run)
    (wait,) = shown["waiting"]
    assert wait["why"] == "doubt" and shown["in_doubt"] == [wait["effect"]]
    said = terminal.here("show", run).out
    (call,) = [each for each in terminal.here("log", run, "--json").lines if each["type"] == "tool_called"]
    (failed,) = [each for each in terminal.here("log", run, "--json").lines if each["type"] == "attempt_failed"]
    assert f"{call['tool']}(name=" in said and failed["message"] in said
    assert f"interlock clear {run[:4]} {wait['effect']} --happened" in said and f"in doubt: {wait['effect']}" in said
    args = ["clear", run, str(wait["effect"]), "--happened", "--result", '"sent"', "--by", "anna", "--yes", "--json"]
    assert terminal.here(*args).json["ok"] is True
    done = terminal.here("run", terminal.target("doubter"), "--run", run, "--json")
    assert done.code == 0 and done.json["in_doubt"] == []
    (cleared,) = [each for each in terminal.here("log", run, "--json").lines if each["type"] == "doubt_cleared"]
    assert (cleared["by"], cleared["happened"], cleared["value"]) == ("anna", True, "sent")


async def _in_doubt(terminal: Terminal) -> str:
    doubter = runpy.run_path(str(terminal.file))["doubter"]
    async with Client(terminal.store, timing=EAGER) as client:
        run = await client.start(doubter, {"name": "a"})
        async with Worker(client, [doubter], watch=False):
            await run.result(until_waiting=True)
        return run.id


def test_who_answers_retry_is_told_what_is_done_again(terminal: Terminal) -> None:
    """A turn that is taken anew does its finished writes and sends once more; reading again does no harm."""
    run = terminal.played("mender", "web")
    again = 'restart("web") happened in this turn and will be called again, under a new key'
    paged = 'page("web") happened in this turn and will be called again'
    (line,) = [line for line in terminal.here("show", run).out.splitlines() if line.startswith("retry")]
    assert line == f"retry   {again}; {paged}"
    done = terminal.here("resolve", run, "retry")
    done.refused("with `retry`", f"({again}; {paged})")
    terminal.here("resolve", run, "done").refused("--yes")
    assert "happened in this turn" not in terminal.here("resolve", run, "done").err
    keys = {e["value"] for e in _events(terminal, run) if e["type"] == "tool_returned" and e["value"].startswith(run)}
    terminal.here("resolve", run, "retry", "--yes")
    terminal.here("run", terminal.target("mender"), "--run", run)
    later = {e["value"] for e in _events(terminal, run) if e["type"] == "tool_returned" and e["value"].startswith(run)}
    assert len(keys) == 1 and len(later) == 2


def _events(terminal: Terminal, run: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = terminal.here("log", run, "--json").lines
    return [{**event, "value": str(event.get("value", ""))} for event in events]


def test_after_an_answer_the_command_that_has_it_read_is_named(terminal: Terminal) -> None:
    run = terminal.played()
    said = terminal.here("resolve", run, "drop", "--yes").out
    assert f"interlock run TARGET --run {run[:4]} --store {terminal.store}" in said
    assert f"interlock run TARGET --run {run[:4]}" in terminal.here("pause", run, "--yes").out


def test_status_says_how_to_have_runs_taken_that_nobody_takes(terminal: Terminal) -> None:
    terminal.played()
    assert "work TARGET" not in terminal.here().out
    terminal.started()
    assert "next  interlock waiting  | work TARGET" in terminal.here().out


def test_a_log_that_no_terminal_reads_is_whole(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = terminal.played("mender", "a name of some length")
    said = terminal.here("log", run).out
    assert 'restart("a name of some length")' in said and 'page("a name of some length")' in said


def test_check_says_how_to_state_a_price_here_and_in_the_machine(terminal: Terminal) -> None:
    terminal.file.write_text(
        terminal.file.read_text().replace("openai:gpt-5-mini", "openai:mine@http://127.0.0.1:9/v1")
    )
    done = terminal.here("check", terminal.target("thinker"))
    assert done.code == 1 and "Machine(..., prices={'mine':" in done.out and "or here: --price IN,OUT" in done.out


def test_help_says_what_options_mean_together(terminal: Terminal) -> None:
    said = " ".join(terminal.here("runs", "--help").out.split())
    assert "with --waiting, these and those" in said
    assert "Only for its price" in " ".join(terminal.here("start", "--help").out.split())
