"""`interlock work` as a process: how it is replaced when it is worn out."""

from __future__ import annotations

import signal
from pathlib import Path

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


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
