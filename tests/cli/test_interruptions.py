"""Ctrl-C, SIGTERM, a full disk, a reader that goes away, code that never returns: one line, nothing lost."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock.clock import SystemClock
from interlock.store.sqlite import SqliteStore
from tests.cli.terminal import SRC, Done, Terminal, ended, interrupted, until_it_says

LOADS_SLOWLY = """
import sys, time


class Slow:
    def find_spec(self, name, *_):
        if name == "pydantic_ai.direct":
            print("loading the client", flush=True)
            time.sleep(0.5)


sys.meta_path.insert(0, Slow())
"""

BLOCKS = """
@state(within=60)
async def block(turn: Turn[Note]) -> Literal["done"]:
    import time
    print("blocked", flush=True)
    time.sleep(60)
    return "done"


blocker = Machine("blocker", Note, limits=Limits(turns=3), table={
    "block": block.then({"done": "closed"}), "closed": final("completed"),
})
"""


def test_ctrl_c_while_a_run_works_says_at_once_what_it_does_and_then_how_to_go_on(terminal: Terminal) -> None:
    process = terminal.begin("run", terminal.target("sleeper"), "--input", '{"name": "20"}')
    done = interrupted(process, "started")
    assert done.code == 130 and "Traceback" not in done.err, done
    first, last = done.err.splitlines()
    assert first == "interlock: interrupted: finishing the turn, 3 s at most; Ctrl-C again stops at once"
    assert last.startswith("interlock: interrupted; nothing is lost: interlock run ")
    assert terminal.shown(named_in(last))["status"] == "ready" and terminal.here("verify").code == 0


def named_in(line: str) -> str:
    """The run that a line says how to go on with."""
    return line.split("--run ")[1].split()[0]


def test_a_second_ctrl_c_ends_a_run_at_once_and_still_says_how_to_go_on(terminal: Terminal) -> None:
    process = terminal.begin("run", terminal.target("sleeper"), "--input", '{"name": "20"}')
    until_it_says(process, "started")
    press_twice(process)
    pressed = time.monotonic()
    done = ended(process)
    assert time.monotonic() - pressed < 2, "the turn had 3 s to finish in"
    gone_on_with(terminal, done, "sleeper")


def test_a_second_ctrl_c_ends_a_run_whose_code_blocks_its_loop(terminal: Terminal) -> None:
    terminal.file.write_text(terminal.file.read_text() + BLOCKS)
    process = terminal.begin("run", terminal.target("blocker"), "--input", '{"name": "a"}')
    until_it_says(process, "blocked")
    press_twice(process)
    gone_on_with(terminal, ended(process), "blocker")


def press_twice(process: subprocess.Popen[str]) -> None:
    """Each Ctrl-C is heard on its own: two that come before Python looks would be one."""
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)


def gone_on_with(terminal: Terminal, done: Done, machine: str) -> None:
    """It was ended with one line, nothing is lost, and another worker may take the run at once."""
    assert done.code == 130 and "Traceback" not in done.err, done
    (line,) = done.err.splitlines()
    run = named_in(line)
    assert "nothing is lost" in line and terminal.shown(run)["status"] in ("ready", "running")
    assert terminal.here("verify").code == 0
    assert terminal.here("cancel", run, "--yes").code == 0
    assert terminal.here("run", terminal.target(machine), "--run", run, "--json").json["status"] == "cancelled"


def test_ctrl_c_while_a_run_loads_makes_no_run(terminal: Terminal) -> None:
    """Loading the client of a provider takes over a second, in which nothing was begun."""
    terminal.file.write_text(LOADS_SLOWLY + terminal.file.read_text())
    model = ["--model", "openai:m@http://127.0.0.1:9/v1", "--price", "1,1"]
    process = terminal.begin("run", terminal.target("thinker"), "--input", '{"name": "a"}', *model)
    done = interrupted(process, "loading the client")
    assert done.code == 130 and done.err == "interlock: interrupted\n", done
    assert not list(terminal.folder.glob("runs.db*"))


@pytest.mark.parametrize("after", [0.2, 0.45, 0.7, 1.0])
def test_ctrl_c_at_any_moment_leaves_no_run_that_it_does_not_name(terminal: Terminal, after: float) -> None:
    process = terminal.begin("run", terminal.target("sleeper"), "--input", '{"name": "20"}')
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    if done.code == -signal.SIGINT and "interlock/cli" not in done.err:
        pytest.skip("Python itself had not begun with us")
    lines = done.err.splitlines()
    assert done.code == 130 and all(line.startswith("interlock: interrupted") for line in lines), done
    assert len(lines) <= 2, "what it does, and how to go on"
    if (terminal.folder / "runs.db").exists():
        runs = [each["run"] for each in terminal.here("runs", "--json").json["runs"]]
        assert [run[:4] for run in runs] == ([named_in(lines[-1])] if runs else [])
        assert terminal.here("verify").code == 0


def test_a_dead_worker_is_not_said_to_read_an_answer_and_who_takes_over_is_named(terminal: Terminal) -> None:
    process = terminal.begin("run", terminal.target("sleeper"), "--input", '{"name": "0.3"}')
    until_it_says(process, "started")
    run = held(terminal)
    process.kill()
    process.communicate()
    said = terminal.here("extend", run, "--turns", "1", "--yes").out
    assert "will read it now" not in said
    assert f"until a worker takes the run: interlock run TARGET --run {run[:4]} --store {terminal.store}" in said
    assert terminal.here("run", terminal.target("sleeper"), "--run", run, "--json").code == 0
    host = socket.gethostname()[:30]
    assert f"-- {host}:{os.getpid()} took over from {host}:{process.pid} (dead)" in terminal.here("log", run).out


def held(terminal: Terminal) -> str:
    """The newest run, as soon as a worker holds it."""
    give_up = time.monotonic() + 20
    while (shown := terminal.shown("@last"))["status"] != "running" and time.monotonic() < give_up:
        time.sleep(0.02)
    return str(shown["run"])


def test_sigterm_drains_a_worker_and_nothing_is_lost(terminal: Terminal) -> None:
    run = terminal.started(name="abc")
    waiting = terminal.started("sleeper", "30")
    args = ["work", terminal.target("note"), terminal.target("sleeper"), "--drain", "0.2"]
    process = terminal.begin(*args)
    done = interrupted(process, "completed", signal.SIGTERM)
    assert done.code == 0 and "stopped" in done.out and "a tool prints" in done.err, done
    assert terminal.shown(run)["status"] == "completed" and terminal.shown(waiting)["status"] == "ready"
    assert terminal.here("verify").code == 0


def test_ctrl_c_ends_a_worker_in_good_order_too(terminal: Terminal) -> None:
    process = terminal.begin("work", terminal.target("note"), "--json")
    done = interrupted(process, "ready")
    assert done.code == 130 and [line["type"] for line in done.lines] == ["ready", "draining", "stopped"]


def test_ctrl_c_ends_a_log_that_is_followed(terminal: Terminal) -> None:
    run = terminal.played()
    done = interrupted(terminal.begin("log", run, "-f"), "waits")
    assert done.code == 130 and done.err == "interlock: interrupted\n"


def test_a_followed_log_ends_with_its_run(terminal: Terminal) -> None:
    run = terminal.played(name="abc")
    done = terminal.here("log", run, "-f", "--json")
    assert done.code == 0 and done.lines[-1]["type"] == "transitioned"


def test_a_reader_that_goes_away_is_no_error(terminal: Terminal) -> None:
    run = terminal.played("grower")
    process = terminal.begin("log", run, "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) in (0, 141)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_said(terminal: Terminal) -> None:
    terminal.played()
    with open("/dev/full", "w") as full:
        done = terminal.run("runs", stdout=full)
    assert done.code == 1 and "No space left" in done.err and "Traceback" not in done.err


def small_files(size: int) -> object:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_disk_that_takes_no_more_ends_the_run_where_its_last_commit_left_it(terminal: Terminal) -> None:
    done = terminal.run("run", terminal.target("grower"), "--input", '{"name": "a"}', preexec_fn=small_files(500_000))
    assert done.code == 1 and "Traceback" not in done.err, done
    (line,) = done.err.strip().splitlines()
    assert "nothing was written" in line and "what was acknowledged is safe" in line
    assert terminal.here("verify").code == 0
    run = line.split("--run ")[1].split()[0]
    kept = len(terminal.shown(run)["record"]["items"])
    done = terminal.here("run", terminal.target("grower"), "--run", run, "--json")
    assert done.code == 0 and 0 < kept < 30
    assert [item.strip("x") for item in done.json["record"]["items"]] == [str(n) for n in range(30)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_changed(terminal: Terminal, tmp_path: Path) -> None:
    run = terminal.played()
    os.chmod(tmp_path / "runs.db", 0o444)
    os.chmod(tmp_path, 0o555)
    try:
        assert terminal.here("show", run).code == 0
        terminal.here("cancel", run, "--yes").refused("runs.db")
    finally:
        os.chmod(tmp_path, 0o755)


def test_code_that_never_returns_does_not_keep_the_command_from_ending(terminal: Terminal) -> None:
    text = terminal.file.read_text().replace(
        '@state(writes=["size"], within=30)\nasync def slow',
        'import threading\n\n@state(within=0.3)\ndef hang(turn: Turn[Note]) -> Literal["done"]:\n'
        '    threading.Event().wait()\n    return "done"\n\n\n@state(writes=["size"], within=30)\nasync def slow',
    )
    text += '\nhanger = Machine("hanger", Note, limits=Limits(turns=3), otherwise="lost", table={\n'
    text += '    "hang": hang.then({"done": "closed"}), **ends})\n'
    terminal.file.write_text(text)
    done = terminal.run("run", terminal.target("hanger"), "--input", '{"name": "a"}', "--json")
    assert done.code == 1 and done.json["state"] == "lost", done


# -- in a terminal --------------------------------------------------------------------------------------------------


def in_a_terminal(terminal: Terminal, *args: str, after: bytes = b"", type_in: bytes = b"") -> tuple[int, str]:
    """Run a command on a pseudo-terminal; once it says `after`, type."""
    own, its = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(SRC), "INTERLOCK_STORE": terminal.store, "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock", *args], stdin=its, stdout=its, stderr=its, env=env, start_new_session=True
    )
    os.close(its)
    said, give_up = b"", time.monotonic() + 40
    while time.monotonic() < give_up:
        ready, _, _ = select.select([own], [], [], 0.2)
        try:
            more = os.read(own, 65_536) if ready else b""
        except OSError:
            break  # it has ended, and its side is closed
        said += more
        if after and after in said:
            os.write(own, type_in)
            after = b""
    code = process.wait(20)
    os.close(own)
    return code, said.decode()


def test_in_a_terminal_it_says_what_it_will_do_and_asks(terminal: Terminal) -> None:
    run = terminal.played()
    code, said = in_a_terminal(terminal, "cancel", run, after=b"Go on?", type_in=b"n\n")
    assert code == 1 and f"This will cancel note {run[:4]}" in said and "nothing was changed" in said
    code, said = in_a_terminal(terminal, "cancel", run, after=b"Go on?", type_in=b"\n")
    assert code == 1 and not _mail(terminal, run)
    code, said = in_a_terminal(terminal, "cancel", run, after=b"Go on?", type_in=b"y\n")
    assert code == 0 and "lies in the inbox" in said and _mail(terminal, run)


def _mail(terminal: Terminal, run: str) -> bool:
    store = SqliteStore(terminal.folder / "runs.db", clock=SystemClock(), readonly=True)
    try:
        return store.find(run).mail
    finally:
        store.close()


def test_a_live_line_shows_state_turn_and_cost(terminal: Terminal) -> None:
    args = ["run", terminal.target("note"), "--input", '{"name": "abcdefg"}']
    code, said = in_a_terminal(terminal, *args)
    assert code == 3 and "turn 1 of 10" in said and "$0 of $0.50" in said and "interlock resolve" in said
