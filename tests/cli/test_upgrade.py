"""`upgrade`: what it says, what it asks, and that kill -9 leaves every run in one shape or the other."""

from __future__ import annotations

import json
import signal
import time

from tests.cli.terminal import Terminal, ended

MAP = {"states": {"person": "asked"}, "fields": {"said": "reply"}, "set": {"rank": 2}}


def newer(terminal: Terminal) -> str:
    """The same machine in another shape: its state `person` is called `asked`, its field `said` is `reply`."""
    file = terminal.folder / "newer.py"
    text = terminal.file.read_text().partition("sleeper = ")[0]  # up to that machine
    note = (
        text.replace('"said"', '"reply"')
        .replace("said: str", "reply: str")
        .replace("items: list", "rank: int\n    items: list")
    )
    file.write_text(
        note.replace('"person": person', '"asked": person').replace('"large": "person"', '"large": "asked"')
    )
    return f"{file}:note"


def test_a_plan_that_does_not_fit_names_every_problem_and_moves_nothing(terminal: Terminal) -> None:
    run = terminal.played()
    done = terminal.here("upgrade", newer(terminal), "--yes")
    assert done.code == 1, done
    assert run in done.out and "its state `person` is none of note as it is now" in done.out
    assert '{"states": {"person": "..."}}' in done.out and "nothing was moved: 1 of 1 runs don't fit (--map" in done.out
    shown = terminal.here("upgrade", newer(terminal), "--yes", "--json").json
    assert not shown["ok"] and shown["moved"] == [] and len(shown["problems"]) == 2
    assert set(shown["problems"][0]) == {"run", "what", "remedy"}
    assert terminal.shown(run)["state"] == "person"


def test_an_upgrade_moves_runs_which_then_go_on(terminal: Terminal) -> None:
    run, target = terminal.played(), newer(terminal)
    file = terminal.folder / "map.json"
    file.write_text(json.dumps(MAP))
    terminal.here("upgrade", target, "--map", str(file)).refused("move 1 run to shape", "--yes")
    done = terminal.here("upgrade", target, "--map", str(file), "--yes", "--by", "ann", "--reason", "v2", "--json")
    assert done.code == 0 and done.json["moved"] == [run], done
    shown = terminal.shown(run)
    assert (shown["state"], shown["status"]) == ("asked", "ready")
    assert shown["record"] == {"name": "abcdef", "size": 6, "rank": 2, "items": ["seen"], "reply": ""}
    assert "UPGRADED to shape" in terminal.here("log", run).out
    assert terminal.here("verify").code == 0
    assert terminal.here("run", target, "--run", run, "--json").code == 3
    assert terminal.here("replay", run, target, "--json").json["ok"]
    again = terminal.here("upgrade", target, "--map", json.dumps(MAP), "--yes")
    assert again.code == 0 and again.out.startswith("0 runs of note moved")


def test_a_map_that_cannot_be_read_is_misuse(terminal: Terminal) -> None:
    terminal.played()
    target = newer(terminal)
    terminal.here("upgrade", target, "--map", "nowhere.json", "--yes").refused("nowhere.json")
    terminal.here("upgrade", target, "--map", "{", "--yes").refused("no JSON")
    terminal.here("upgrade", target, "--map", '{"state": {}}', "--yes").refused("states, fields, set", "`state`")
    terminal.here("upgrade", target, "--only", "nobody", "--yes").refused("no run `nobody`")


def test_a_run_of_another_shape_is_told_how_it_can_be_moved(terminal: Terminal) -> None:
    run = terminal.played()
    terminal.here("run", newer(terminal), "--run", run).refused("interlock upgrade")


def test_kill_9_in_the_middle_leaves_each_run_whole_and_the_next_upgrade_goes_on(terminal: Terminal) -> None:
    runs = sorted(terminal.played() for _ in range(12))
    target = newer(terminal)
    moved: list[str] = []
    for _ in range(3):
        process = terminal.begin("upgrade", target, "--map", json.dumps(MAP), "--yes")
        give_up = time.monotonic() + 20
        before = len(moved)
        while time.monotonic() < give_up and process.poll() is None:
            moved = [run for run in runs if terminal.shown(run)["state"] == "asked"]
            if len(moved) > before:
                break
        process.send_signal(signal.SIGKILL)
        ended(process)
        assert terminal.here("verify").code == 0
    done = terminal.here("upgrade", target, "--map", json.dumps(MAP), "--yes", "--json")
    assert done.code == 0 and done.json["ok"], done
    assert sorted(run for run in runs if terminal.shown(run)["state"] == "asked") == runs
    upgrades = [[line["type"] for line in terminal.here("log", run, "--json").lines].count("upgraded") for run in runs]
    assert upgrades == [1] * len(runs)
    assert terminal.here("verify").code == 0
