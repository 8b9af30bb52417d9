"""`interlock work` as a process: how it ends, by signals or because it is worn out."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal, ended, until_it_says

LEAKY = """
import time
from typing import Literal

from pydantic import BaseModel

from interlock import Limits, Machine, Turn, final, state


class Case(BaseModel):
    seconds: float = 3600


@state(within=0.3)
def lost(turn: Turn[Case]) -> Literal["done"]:
    time.sleep(turn.record.seconds)
    return "done"


leaky = Machine("leaky", Case, limits=Limits(turns=3), table={
    "lost": lost.then({"done": "end", "timeout": "late"}), "end": final("completed"), "late": final("failed"),
})
"""


def test_work_replaces_its_process_when_too_many_threads_never_came_back(terminal: Terminal) -> None:
    """The same id, a new process image: the threads are gone, its runs are taken up again, and SIGTERM drains it."""
    terminal.file.write_text(LEAKY)
    for _ in range(3):
        terminal.here("start", terminal.target("leaky"), "--input", "{}")
    process = terminal.begin("work", terminal.target("leaky"), "--leaks", "3", "--json")
    until_it_says(process, "ready")
    threads = _threads(process.pid)
    said = until_it_says(process, '"type": "replaced"')
    assert "draining because" in said and "threads of plain functions never came back (up to 2 are borne)" in said
    assert '"ready"' in until_it_says(process, "ready")
    assert _threads(process.pid) <= threads, "the lost ones have not come along"
    last = terminal.here("start", terminal.target("leaky"), "--input", '{"seconds": 0}', "--json").json["run"]
    until_it_says(process, last)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 0 and "stopped" in done.out
    assert terminal.shown(last)["status"] == "completed"
    assert {row["status"] for row in terminal.here("runs", "--json").json["runs"]} == {"failed", "completed"}
    assert terminal.here("--json").json["workers"] == [] and terminal.here("verify").code == 0


def test_sigterm_lets_a_turn_finish_that_can_within_the_deadline(terminal: Terminal) -> None:
    """The turn that is under way is completed and its end committed; what follows it is left to others."""
    run = terminal.started("sleeper", "1.5")
    process = terminal.begin("work", terminal.target("sleeper"), "--drain", "30")
    _until_held(terminal, run)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 0 and "draining: 1 runs under way" in done.out
    assert time.monotonic() - began < 30, "it ends with its last turn, not with its deadline"
    assert terminal.shown(run)["status"] == "completed"
    assert terminal.here("--json").json["workers"] == [] and terminal.here("verify").code == 0


@pytest.mark.parametrize("signals", [1, 3])
def test_at_the_deadline_runs_are_cut_off_and_released(terminal: Terminal, signals: int) -> None:
    """However often it is told: the deadline counts from the first time, and the runs are free for others at once."""
    runs = [terminal.started("sleeper", "50") for _ in range(2)]
    process = terminal.begin("work", terminal.target("sleeper"), "--drain", "1")
    for run in runs:
        _until_held(terminal, run)
    began = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    done = ended(process)
    assert done.code == 0 and "stopped" in done.out and "Traceback" not in done.err, done
    assert time.monotonic() - began < 20, "far from the ends of their turns"
    for run in runs:
        shown = terminal.shown(run)
        assert shown["status"] == "ready" and shown["stuck"]["stranded"]
    assert terminal.here("--json").json["workers"] == [] and terminal.here("verify").code == 0
    assert not list(terminal.folder.glob("runs.db.w*[0-9]"))


def test_a_second_ctrl_c_cuts_the_drain_short_and_the_runs_are_given_back(terminal: Terminal) -> None:
    run = terminal.started("sleeper", "25")
    process = terminal.begin("work", terminal.target("sleeper"), "--drain", "60")
    _until_held(terminal, run)
    process.send_signal(signal.SIGINT)
    until_it_says(process, "draining")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 130 and "Traceback" not in done.err, done
    assert terminal.shown(run)["status"] == "ready" and terminal.here("--json").json["workers"] == []
    assert terminal.here("verify").code == 0


def _until_held(terminal: Terminal, run: str) -> None:
    give_up = time.monotonic() + 30
    while terminal.shown(run)["status"] != "running" and time.monotonic() < give_up:
        time.sleep(0.05)


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
