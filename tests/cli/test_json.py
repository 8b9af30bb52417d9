"""The `--json` fields that scripts rely on, of every command."""

from __future__ import annotations

import json
from pathlib import Path

from interlock.redteam.provider import LoopbackProvider
from interlock.testing import call, choose
from tests.cli.terminal import Terminal

SHOWN = {"run", "machine", "version", "status", "state", "turns", "record", "cost", "account", "waiting", "store"}


def test_check(terminal: Terminal) -> None:
    done = terminal.here("check", terminal.target("note"), "--json")
    assert done.code == 0 and done.json["ok"] is True and done.json["findings"] == []
    assert {"turns", "calls", "tokens", "usd", "seconds"} <= done.json["worst_case"].keys()
    assert done.json["worst_case"]["turns"] == 10


def test_check_of_an_invalid_machine_names_every_finding(terminal: Terminal) -> None:
    text = terminal.file.read_text().replace('writes=["size", "items"]', 'writes=["sise", "items"]')
    terminal.file.write_text(text.replace('"drop": "lost"', '"dropped": "lost"'))
    done = terminal.here("check", terminal.target("note"), "--json")
    assert done.code == 1 and done.json["ok"] is False and done.json["worst_case"] is None
    (measure, *_) = done.json["findings"]
    assert measure["severity"] == "error" and measure["state"] == "measure" and "`size`" in measure["message"]
    assert {each["state"] for each in done.json["findings"]} >= {"measure", "person"}
    assert all(each["rule"] and each["line"] for each in done.json["findings"])


def test_graph(terminal: Terminal) -> None:
    done = terminal.here("graph", terminal.target("note"), "--format", "mermaid", "--json")
    assert done.json["drawing"].startswith("stateDiagram-v2")
    assert {"from": "measure", "outcome": "large", "to": "person"} in done.json["edges"]


def test_run_and_show(terminal: Terminal) -> None:
    """What the machine's own code prints stays out of the document."""
    done = terminal.here("run", terminal.target("note"), "--input", '{"name": "abc"}', "--json")
    assert done.code == 0 and done.json["status"] == "completed" and "a tool prints" in done.err
    assert done.json.keys() >= SHOWN
    assert done.json["record"] == {"name": "abc", "size": 3, "said": "", "items": ["seen"]}
    assert done.json["cost"].keys() >= {"usd", "tokens_in", "tokens_out"}
    again = terminal.shown("@last")
    assert {name: again[name] for name in SHOWN} == {name: done.json[name] for name in SHOWN}
    assert terminal.shown(done.json["run"][:6])["run"] == done.json["run"]


def test_a_run_that_waits_says_for_what(terminal: Terminal) -> None:
    done = terminal.here("run", terminal.target("note"), "--input", '{"name": "abcdefg"}', "--json")
    assert done.code == 3 and done.json["status"] == "waiting"
    (wait,) = done.json["waiting"]
    assert wait["of"] == "ops" and wait["kind"] == "person" and set(wait["form"]) == {"handled", "drop"}
    (listed,) = terminal.here("waiting", "--json").json["waiting"]
    assert {name: listed[name] for name in wait} == wait


def test_tokens_and_money_are_those_of_the_replies(terminal: Terminal) -> None:
    script = [call("look", name="abcd"), choose("known", size=4)]
    with LoopbackProvider(script) as provider:
        model = f"openai:demo@http://127.0.0.1:{provider.port}/v1"
        args = ["--input", '{"name": "abcd"}', "--model", model, "--price", "1,4", "--json"]
        done = terminal.here("run", terminal.target("thinker"), *args)
    assert done.code == 0 and done.json["record"]["size"] == 4, done
    events = terminal.here("log", "@last", "--json").lines
    replies = [each for each in events if each["type"] == "model_replied"]
    tokens = [sum(reply[name] for reply in replies) for name in ("tokens_in", "tokens_out")]
    cost = done.json["cost"]
    assert [cost["tokens_in"], cost["tokens_out"]] == tokens and all(tokens)
    assert abs(cost["usd"] - (tokens[0] + 4 * tokens[1]) / 1e6) < 1e-7
    assert abs(sum(each["cost"] for each in events) - cost["usd"]) < 1e-9


def test_start_and_runs(terminal: Terminal) -> None:
    run = terminal.started()
    (listed,) = terminal.here("runs", "--json").json["runs"]
    assert listed["run"] == run and listed["status"] == "ready" and listed["machine"] == "note"
    assert terminal.here("runs", "--failed", "--json").json["runs"] == []
    assert len(terminal.here("runs", "--since", "1h", "--json").json["runs"]) == 1


def test_log_is_one_event_per_line(terminal: Terminal) -> None:
    run = terminal.played(name="abc")
    events = terminal.here("log", run, "--json").lines
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert all(each.keys() >= {"run", "seq", "at", "type", "turn", "state", "cost", "hash"} for each in events)
    assert [each["type"] for each in events] == ["run_started", "tool_called", "tool_returned", "transitioned"]
    assert {each["run"] for each in events} == {run} and len({each["hash"] for each in events}) == len(events)


def test_answers_and_what_they_do(terminal: Terminal) -> None:
    """Resolve, pause, resume, extend: each says that it lies until a host takes the run, and is in the log then."""
    run = terminal.played()
    for args in (["pause", run, "--reason", "lunch"], ["resume", run]):
        done = terminal.here(*args, "--by", "anna", "--yes", "--json")
        assert done.code == 0 and done.json["runs"] == [{"run": run, "ok": True, "held": False}]
    assert terminal.here("extend", run, "--usd", "0.25", "--yes", "--json").json["held"] is False
    args = ["--set", "said=no", "--set", "size=3", "--by", "anna", "--reason", "why not"]
    done = terminal.here("resolve", run, "handled", *args, "--yes", "--json")
    assert done.code == 0 and done.json["ok"] is True and done.json["run"] == run
    done = terminal.here("run", terminal.target("note"), "--run", run, "--json")
    assert done.code == 0 and done.json["record"]["said"] == "no" and done.json["record"]["size"] == 3
    assert done.json["account"]["ceiling"]["nanousd"] == 750_000_000
    events = terminal.here("log", run, "--json").lines
    (paused,) = [each for each in events if each["type"] == "paused"]
    assert (paused["by"], paused["reason"]) == ("anna", "lunch")
    assert {each["by"] for each in events if each["type"] == "wait_ended"} == {"anna"}


def test_signal_and_cancel(terminal: Terminal) -> None:
    called, other = terminal.played("called"), terminal.played("called")
    assert terminal.here("signal", called, "bell", "--set", "said=ding", "--yes", "--json").json["ok"] is True
    assert terminal.here("cancel", other, "--yes", "--json").json["ok"] is True
    assert terminal.here("run", terminal.target("called"), "--run", called, "--json").json["record"]["said"] == "ding"
    done = terminal.here("run", terminal.target("called"), "--run", other, "--json")
    assert done.code == 1 and done.json["status"] == "cancelled"


def test_verify_and_anchor(terminal: Terminal, tmp_path: Path) -> None:
    run = terminal.played()
    done = terminal.here("verify", "--json")
    assert done.code == 0 and done.json["broken"] == []
    assert (done.json["ok"], done.json["runs"]) == (True, 1) and done.json["events"] > 3
    anchor = terminal.here("anchor").json
    assert anchor["store"].keys() == {"id", "epoch"}
    assert anchor["runs"] == [{"run": run, "events": done.json["events"], "head": anchor["runs"][0]["head"]}]
    kept = tmp_path / "anchor.json"
    assert terminal.here("anchor", str(kept), "--json").json["ok"] is True
    assert terminal.here("verify", "--anchor", str(kept), "--json").code == 0


def test_an_anchor_shows_what_a_chain_cannot(terminal: Terminal, tmp_path: Path) -> None:
    """A run that is missing, shorter, or has another past at that point."""
    run = terminal.played()
    anchor = terminal.here("anchor").json
    (head,) = anchor["runs"]
    altered = {
        "missing": {**head, "run": "f" * 16},
        "shorter": {**head, "events": head["events"] + 5},
        "another": {**head, "head": "00" * 32},
    }
    for word, changed in altered.items():
        file = tmp_path / f"{word}.json"
        file.write_text(json.dumps({**anchor, "runs": [changed]}))
        done = terminal.here("verify", "--anchor", str(file), "--json")
        assert done.code == 1 and done.json["ok"] is False, word
        (broken,) = done.json["broken"]
        assert word in broken["why"] and broken.keys() == {"run", "seq", "why"}
        assert broken["run"] == changed["run"]
    assert terminal.here("verify", run).code == 0


def test_status(terminal: Terminal) -> None:
    terminal.played()
    terminal.played(name="abc")
    status = terminal.here("--json").json
    assert status["runs"]["waiting"] == 1 and status["runs"]["completed"] == 1 and status["store"] == terminal.store
    assert len(status["waiting"]) == 1 and status["stuck"] == [] and status["usd_last_hour"] == 0


def test_a_stranded_run_is_told_with_its_remedy_by_status_show_and_doctor(terminal: Terminal) -> None:
    assert terminal.here("start", terminal.target("note"), "--input", '{"name": "abc"}').code == 0
    status = terminal.here("--json").json
    assert status["stuck"] == [] and status["runs"]["ready"] == 1
    (stranded,) = status["stranded"]
    assert stranded["machine"] == "note" and "no living worker" in stranded["why"]
    assert "interlock work TARGET" in stranded["remedy"]
    shown = terminal.here("show", "@last", "--json").json
    assert shown["stuck"] == {"stranded": True, "why": stranded["why"], "remedy": stranded["remedy"]}
    found = [each for each in terminal.here("doctor", "--json").json["findings"] if each["rule"] == "stranded"]
    assert len(found) == 1 and stranded["run"] in found[0]["message"] and stranded["remedy"] in found[0]["message"]
    for said in (terminal.here().out, terminal.here("show", "@last").out):
        assert "stranded" in said and stranded["why"] in said
    assert terminal.here("run", terminal.target("note"), "--run", stranded["run"]).code == 0
    assert terminal.here("--json").json["stranded"] == []


def test_doctor(terminal: Terminal) -> None:
    done = terminal.here("doctor", "--json")
    assert done.code == 0 and done.json["ok"] is True
    assert {"rule", "severity", "message"} <= done.json["findings"][0].keys()
    assert "store" in {each["rule"] for each in done.json["findings"]}
    terminal.played()
    text = terminal.file.read_text()
    terminal.file.with_name("later.py").write_text(text.replace('"drop": "lost"', '"drop": "closed"'))
    done = terminal.here("doctor", f"{terminal.file.with_name('later.py')}:note", "--json")
    assert done.code == 1 and "shape" in {each["rule"] for each in done.json["findings"]}
