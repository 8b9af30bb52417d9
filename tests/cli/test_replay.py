"""`replay`: the verdict, its exit code, and a run as it stood at a moment."""

from __future__ import annotations

from tests.cli.terminal import Terminal


def test_a_replay_is_exact_while_the_code_is_as_it_was(terminal: Terminal) -> None:
    run = terminal.played()
    done = terminal.here("replay", run, terminal.target("note"), "--json")
    assert done.code == 0, done
    assert done.json["ok"] and done.json["run"] == run and done.json["divergence"] is None
    assert done.json["turns"] == 2
    assert terminal.here("replay", run, terminal.target("note")).out.startswith(f"exact   note {run}: 2 turns")


def test_a_divergence_is_named_and_exits_1(terminal: Terminal) -> None:
    run = terminal.played()
    other = terminal.folder / "others.py"
    text = terminal.file.read_text()
    other.write_text(text.replace("name=turn.record.name)\n    turn", "name=turn.record.name + '!')\n    turn"))
    done = terminal.here("replay", run, f"{other}:note", "--json")
    assert done.code == 1, done
    assert not done.json["ok"]
    found = done.json["divergence"]
    assert (found["turn"], found["seq"]) == (1, 2)
    assert found["why"] == "the code now asks for look(name='abcdef!'); recorded is look(name='abcdef')"
    said = terminal.here("replay", run, f"{other}:note")
    assert said.code == 1 and said.out.startswith(
        f"DIVERGES  note {run}: turn 1 in measure, event 2: the code now asks"
    )
    assert "content" in said.out and "Traceback" not in said.err
    assert terminal.here("replay", run, f"{other}:note", "--until", "1").code == 0


def test_until_shows_record_and_conversation_as_they_were(terminal: Terminal) -> None:
    run = terminal.played()
    first = terminal.here("replay", run, "--until", "1", "--json").json
    assert first["ok"] and first["state"] == "measure" and first["record"]["items"] == [] and first["seq"] == 1
    log = [line["type"] for line in terminal.here("log", run, "--json").lines]
    after = terminal.here("replay", run, "--until", str(log.index("transitioned") + 1), "--json").json
    assert after["state"] == "person" and after["record"] == {
        "name": "abcdef",
        "size": 6,
        "said": "",
        "items": ["seen"],
    }
    said = terminal.here("replay", run, "--until", "4").out
    assert "after event 4 of" in said and 'items ["seen"]' in said


def test_what_cannot_be_replayed_says_so_in_a_line(terminal: Terminal) -> None:
    run = terminal.played()
    terminal.here("replay", run).refused("TARGET", "--until")
    terminal.here("replay", run, "--until", "999").refused("events 1 to")
    terminal.here("replay", run, terminal.target("sleeper")).refused("shape")
    terminal.here("replay", "nobody", terminal.target("note")).refused("no run")
