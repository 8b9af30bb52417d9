"""`interlock demo`, for real: its processes, its server, its kill -9; and that it can say no."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.cli.demo import as_document
from interlock.client import Client
from interlock.reading import read_run
from interlock.redteam.drill import Outcome, Part
from interlock.redteam.investigator import investigator
from interlock.redteam.provider import LoopbackProvider
from interlock.redteam.verdicts import Verdict
from interlock.testing import memory_store
from tests.examples.example import EXAMPLES, SHOP_LOG, load

ROOT = EXAMPLES.parent
FAULTS = ["storm", "stuck", "slow", "injection", "budget", "kill"]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "interlock", *args]


def environment(tmp: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp), "NO_COLOR": "1"}


def demo(tmp: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("demo", *args), cwd=tmp, env=environment(tmp), capture_output=True, text=True, timeout=90
    )


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The drill on the shipped log, with the defaults."""
    done = demo(tmp_path_factory.mktemp("shipped"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return {**document, "stderr": done.stderr}


def test_every_fault_is_held(shipped: dict[str, Any]) -> None:
    assert shipped["ok"] is True
    assert [fault["name"] for fault in shipped["faults"]] == FAULTS
    assert all(fault["held"] and fault["why"] for fault in shipped["faults"])
    assert shipped["broken"] == [] and shipped["stderr"] == ""


def test_the_answer_is_the_component_that_fails(shipped: dict[str, Any]) -> None:
    assert "payments" in shipped["answer"] and "no database connection" in shipped["answer"]


def test_the_runs_are_where_they_should_be(shipped: dict[str, Any]) -> None:
    ends = {run["what"]: (run["status"], run["state"]) for run in shipped["runs"]}
    waiting = [what for what, end in ends.items() if end == ("waiting", "person")]
    assert waiting == ["a tool that always says `retry`"]
    assert all(end == ("completed", "closed") for what, end in ends.items() if what not in waiting)
    assert 0 < shipped["cost"]["usd"] < 0.5
    assert shipped["cost"]["tokens_in"] > 0 and shipped["cost"]["tokens_out"] > 0


def test_the_runs_lie_in_a_store_of_their_own(shipped: dict[str, Any]) -> None:
    """Not in the user's, and any command can read them there."""
    folder = Path(shipped["store"].removeprefix("sqlite:///")).parent
    assert folder.name.startswith("interlock-demo-")
    shown = subprocess.run(
        command("show", shipped["runs"][0]["run"], "--json", "--store", shipped["store"]),
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["record"]["component"] == "payments"


def test_a_run_that_the_drill_left_waiting_goes_on(shipped: dict[str, Any], tmp_path: Path) -> None:
    """The commands that the drill prints: a person has it look again, and the desk as it is shipped finishes it."""
    (run,) = (run["run"] for run in shipped["runs"] if run["status"] == "waiting")
    environ = environment(tmp_path) | {"INTERLOCK_STORE": shipped["store"]}
    resolve = command("resolve", run, "look_again", "--yes")
    assert subprocess.run(resolve, env=environ, capture_output=True, timeout=60).returncode == 0
    with LoopbackProvider(investigator) as provider:
        go_on = command("run", f"{EXAMPLES / 'incident.py'}:desk", "--run", run, "--json", "--price", "0.25,2")
        go_on += ["--model", provider.model_name("demo")]
        done = subprocess.run(go_on, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["record"]["component"] == "payments"


def test_a_log_of_ones_own_in_a_store_of_ones_own_in_words(shipped: dict[str, Any], tmp_path: Path) -> None:
    """Another file gives another answer; a log without orders gets one on a copy, and is itself not touched. The store
    has runs of an earlier drill in it."""
    log = tmp_path / "messages"
    line = "Nov 17 01:52:0{} box1 nginx[99]: error: upstream api-{} timed out, retry later\n"
    log.write_text("".join(line.format(n, n) for n in range(8)) + "Nov 17 01:53:00 box1 cron[1]: done\n")
    before = log.read_bytes()
    done = demo(tmp_path, "--log", str(log), "--store", shipped["store"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nheld ") == len(FAULTS) and "nginx fails." in done.stdout
    assert "ok: everything held" in done.stdout and done.stderr == ""
    assert log.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["messages"]


@pytest.mark.parametrize("name", ["none.log", "folder"])
def test_a_log_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    done = demo(tmp_path, "--log", name)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and name in done.stderr


def test_a_store_that_is_none_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are my notes " * 100)
    done = demo(tmp_path, "--json", "--store", f"sqlite:///{tmp_path / 'notes.db'}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (tmp_path / "notes.db").read_text().startswith("these are my notes")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes in Linux' /proc")
@pytest.mark.parametrize(
    ("ending", "said_before"), [(signal.SIGINT, ""), (signal.SIGINT, "503"), (signal.SIGKILL, "503")]
)
def test_it_leaves_no_process_behind(tmp_path: Path, ending: signal.Signals, said_before: str) -> None:
    """Ctrl-C is one line; and even when it is killed itself its worker ends."""
    running = subprocess.Popen(
        command("demo"),
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 40
        while not (workers := children_of(running.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        assert workers and running.stdout is not None
        while said_before and said_before not in running.stdout.readline():
            assert running.poll() is None
        workers = children_of(running.pid)
        running.send_signal(ending)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
        running.wait()
    if ending == signal.SIGINT:
        assert running.returncode == 130
        assert said.count("\n") == 1 and "interrupted" in said
    until = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def test_a_real_provider_does_the_same_work(tmp_path: Path) -> None:
    """`interlock run` with an address in the model's name, as for any server that speaks OpenAI's protocol."""
    with LoopbackProvider(investigator) as provider:
        done = subprocess.run(
            command(
                "run",
                f"{EXAMPLES / 'incident.py'}:desk",
                *("--input", json.dumps({"log_file": str(SHOP_LOG)}), "--model", provider.model_name("demo")),
                *("--price", "0.25,2", "--store", f"sqlite:///{tmp_path / 'run.db'}", "--json"),
            ),
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "completed" and document["record"]["component"] == "payments"


class TestOutcome:
    """`ok` is computed: from the work, the verdicts and the logs."""

    def outcome(self, **record: str) -> Outcome:
        async def started() -> Part:
            with memory_store() as store:
                client = Client(store)
                handle = await client.start(load("incident").desk, {"log_file": "x", **record})
                client.world.committer.close()
                return Part("the work itself", read_run(store, handle.id), ())

        part = asyncio.run(started())
        view = replace(part.view, row=msgspec.structs.replace(part.view.row, status="completed"))
        held = tuple((view.id, Verdict(name, True, "it held")) for name in FAULTS)
        return Outcome((replace(part, view=view),), held, ())

    def test_it_is_ok_when_all_is(self) -> None:
        assert as_document(self.outcome(report="db fails"))["ok"] is True

    def test_no_answer_is_not_ok(self) -> None:
        assert as_document(self.outcome())["ok"] is False

    @pytest.mark.parametrize("place", range(len(FAULTS)))
    def test_a_fault_that_was_not_held_is_not_ok(self, place: int) -> None:
        outcome = self.outcome(report="db fails")
        run, verdict = outcome.verdicts[place]
        changed = [*outcome.verdicts]
        changed[place] = (run, replace(verdict, held=False))
        document = as_document(replace(outcome, verdicts=tuple(changed)))
        assert document["ok"] is False
        assert [fault["held"] for fault in document["faults"]].count(False) == 1

    def test_a_broken_log_is_not_ok(self) -> None:
        outcome = replace(self.outcome(report="db fails"), broken=("run 1 event 2: hash",))
        assert as_document(outcome)["ok"] is False
