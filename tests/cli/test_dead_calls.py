"""`redo`, `drop`, and where dead calls are shown."""

from __future__ import annotations

import pytest

from tests.cli.terminal import Terminal


@pytest.fixture
def failed(terminal: Terminal) -> str:
    """A run that failed, with its call dead."""
    done = terminal.here("run", terminal.target("payer"), "--input", '{"name": "ann"}', "--json")
    assert done.code == 1 and done.json["status"] == "failed", done
    return str(done.json["run"])


def test_status_and_show_list_a_dead_call_with_what_can_be_done(terminal: Terminal, failed: str) -> None:
    [call] = terminal.here("--json").json["dead_calls"]
    assert (call["run"], call["effect"], call["tool"], call["args"]) == (failed, 1, "pay", {"name": "ann"})
    assert (call["attempts"], call["kind"], call["asked"]) == (1, "not_done", "")
    assert [(each["effect"], each["status"]) for each in terminal.shown(failed)["calls"]] == [(1, "dead")]
    for args in ((), ("show", failed)):
        out = terminal.here(*args).out
        assert 'pay("ann"), failed 1 time: not_done, the shop is' in out
        assert "\x1b" not in out and "redo" in out and "drop" in out


def test_a_dead_call_is_redone_after_the_runs_end(terminal: Terminal, failed: str) -> None:
    terminal.file.with_name("open").touch()
    done = terminal.here("redo", failed, "1", "--yes", "--by", "ann", "--reason", "open again", "--json")
    assert done.code == 0 and done.json["did"] == "redo" and done.json["held"] is False
    [call] = terminal.here("--json").json["dead_calls"]
    assert call["asked"] == "redo by ann"
    assert "redo by ann: not read yet" in terminal.here().out
    done = terminal.here("run", terminal.target("payer"), "--run", failed, "--json")
    assert done.json["status"] == "failed" and done.json["calls"] == []
    assert terminal.here("--json").json["dead_calls"] == []
    events = terminal.here("log", failed, "--json").lines
    [redone] = [each for each in events if each["type"] == "call_redone"]
    assert (redone["effect"], redone["again"], redone["by"], redone["reason"]) == (1, 2, "ann", "open again")
    [result] = [each for each in events if each["type"] == "tool_returned"]
    assert (result["effect"], result["value"]) == (2, "paid ann")
    assert "dead call of effect 1 done again as effect 2 by ann: open again" in terminal.here("log", failed).out
    assert terminal.here("verify", failed, "--json").json["ok"] is True


def test_a_dropped_call_is_listed_no_longer(terminal: Terminal, failed: str) -> None:
    assert "isn't made any more" in terminal.here("drop", failed, "1", "--yes", "--by", "ann").out
    terminal.here("run", terminal.target("payer"), "--run", failed)
    assert terminal.here("--json").json["dead_calls"] == []
    assert "dead call of effect 1 dropped by ann" in terminal.here("log", failed).out


@pytest.mark.parametrize("verb", ["redo", "drop"])
def test_it_says_what_it_will_do_and_asks(terminal: Terminal, failed: str, verb: str) -> None:
    said = terminal.here(verb, failed, "1", "--by", "ann")
    said.refused(verb, 'pay("ann")', "effect 1", "as ann", "--yes")
    assert terminal.here("--json").json["dead_calls"][0]["asked"] == ""


def test_who_comes_second_is_told_who_was_first(terminal: Terminal, failed: str) -> None:
    terminal.here("drop", failed, "1", "--yes", "--by", "ann")
    terminal.here("redo", failed, "1", "--yes", "--by", "bob").refused("effect 1", "drop by ann")
    terminal.here("run", terminal.target("payer"), "--run", failed)
    terminal.here("redo", failed, "1", "--yes", "--by", "bob").refused("effect 1 was dropped by ann")


def test_what_is_no_dead_call_is_refused_in_one_line(terminal: Terminal, failed: str) -> None:
    terminal.here("redo", failed, "7", "--yes").refused("no dead call of effect 7")
    terminal.here("redo", failed, "first", "--yes").refused("'first' is not a valid integer")
    terminal.here("drop", "nobody", "1", "--yes").refused("no run `nobody`")
