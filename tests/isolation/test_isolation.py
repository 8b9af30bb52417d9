"""Isolated calls, each in a real process: what goes in and comes out, how each misbehaviour is told, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from interlock.clock import SystemClock
from interlock.engine.attempts import AttemptError, unsent
from interlock.isolation import Isolation
from interlock.machine.tools import Call, Tool
from tests.isolation import tools, unloadable

ROOT = Path(__file__).parents[2]
CALL: Call[Any] = Call(deps=None, key="run-1", run="run", attempt=2, seconds_left=20)


def isolated(tool: Tool[Any, Any, Any], **args: Any) -> Any:
    return Isolation(SystemClock())(tool, CALL, args)


def result(tool: Tool[Any, Any, Any], begin: Callable[[], None] = lambda: None, **args: Any) -> Any:
    return isolated(tool, **tool.check(args)).result(begin)


def failure(tool: Tool[Any, Any, Any], begin: Callable[[], None] = lambda: None, **args: Any) -> AttemptError:
    with pytest.raises(AttemptError) as raised:
        result(tool, begin, **args)
    return raised.value


def gone(pid: int) -> bool:
    """Whether a process runs no more: a zombie that nobody has asked after counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(holds: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


# -- in and out


def test_arguments_and_result_are_what_the_function_declares() -> None:
    parcel = {"sent": "2026-01-01", "weights": [2, 5]}
    said = result(tools.typed, parcel=parcel, day="2026-01-11")
    assert said == {"heavy": 5, "days": 10, "key": "run-1", "attempt": 2}
    assert result(tools.dated, days=9) == tools.Parcel(sent=date(2026, 1, 9), weights={1, 3})


def test_an_async_function_has_a_loop_of_its_own() -> None:
    assert result(tools.gathered, n=5) == 10


def test_what_a_function_prints_is_no_answer() -> None:
    assert result(tools.noisy, n=3000) == "said"


def test_its_process_is_another_in_a_session_of_its_own() -> None:
    process, session = result(tools.where, n=1)
    assert process != os.getpid() and session not in (process, os.getsid(0))
    assert soon(lambda: gone(process) and gone(session))


# -- failures


@pytest.mark.parametrize(
    ("how", "kind", "retry", "happened", "words"),
    [
        ("raises", "raised", True, None, "ValueError: no such order"),
        ("says no", "not_done", True, False, "closed on Sundays"),
        ("exits", "raised", True, None, "SystemExit: 3"),
        ("exits at once", "crashed", True, None, "exit code 3 without an answer; it said: going down"),
        ("crashes", "crashed", True, None, "ended by SIGSEGV"),
        ("kills its group", "crashed", True, None, "killed"),
        ("garbles", "malformed", True, None, "is no JSON"),
        ("floods", "malformed", False, None, "more than 16 MB"),
        ("lies", "malformed", False, True, "bad returned what it doesn't declare"),
    ],
)
def test_each_misbehaviour_is_one_clear_failure(
    how: str, kind: str, retry: bool, happened: bool | None, words: str
) -> None:
    """`happened` None is a doubt for whatever isn't repeatable; only what is certain is said to be."""
    failed = failure(tools.bad, how=how)
    assert (failed.kind, failed.retry, failed.happened) == (kind, retry, happened)
    assert words in failed.message and "\n" not in failed.message
    assert failed.retry_after == (7.5 if how == "says no" else None)


def test_a_result_that_is_too_large_is_refused_and_a_large_one_is_not() -> None:
    assert len(result(tools.large, megabytes=10)) == 10_000_000
    failed = failure(tools.large, megabytes=17)
    assert (failed.kind, failed.happened, failed.retry) == ("malformed", True, False)
    assert "large returned more than 16 MB" in failed.message


@pytest.mark.parametrize(
    ("tool", "kind", "retry", "words"),
    [
        (
            unloadable.raises,
            "not_done",
            False,
            "can't be loaded in a process of its own: RuntimeError: no database",
        ),
        (unloadable.exits, "not_done", False, "SystemExit: not in here"),
        (unloadable.dies, "unsent", True, "exit code 7 before it was asked"),
        (unloadable.vanishing, "not_done", False, "has no `vanishing`"),
    ],
)
def test_a_function_that_cannot_be_loaded_was_surely_not_called(
    tool: Tool[Any, Any, Any], kind: str, retry: bool, words: str
) -> None:
    asked: list[str] = []
    failed = failure(tool, lambda: asked.append("begun"), n=1)
    assert (failed.kind, failed.retry, failed.happened, failed.billed) == (kind, retry, False, False)
    assert words in failed.message and asked == []


def test_a_function_without_an_address_is_refused_before_any_process_starts() -> None:
    def inner(call: Call[None], n: int) -> int:
        return n

    made: Tool[Any, Any, Any] = Tool(inner, "inner", "send", 5.0, isolate=True)
    failed = failure(made, n=1)
    assert failed.happened is False and "can't be found from outside" in failed.message


def test_what_comes_too_late_to_send_is_not_sent_and_says_what_took_so_long() -> None:
    def late() -> None:
        raise unsent()

    failed = failure(tools.where, late, n=1)
    assert (failed.kind, failed.happened) == ("unsent", False)
    assert "too late to send" in failed.message and "to load tests.isolation.tools" in failed.message


def test_a_script_that_begins_work_when_it_is_loaded_does_not_begin_it_again_in_the_child(tmp_path: Path) -> None:
    """An unguarded script is loaded for its tool: its own `run` is refused in there, and the run says so."""
    script = tmp_path / "script.py"
    script.write_text(
        "from typing import Literal\n"
        "from pydantic import BaseModel\n"
        "from interlock import Call, Machine, Turn, final, run, state, tool\n"
        "class Case(BaseModel):\n    n: int = 1\n"
        "@tool(does='read', within=20, isolate=True)\n"
        "def double(call: Call[None], n: int) -> int:\n    return 2 * n\n"
        "@state(tools=[double], within=30)\n"
        "async def work(turn: Turn[Case]) -> Literal['done']:\n"
        "    await turn.call(double, 1)\n    return 'done'\n"
        "made = Machine('made', Case, table={'work': work.then({'done': 'end'}), 'end': final('completed')},"
        " otherwise='end')\n"
        f"print(run(made, Case(), store='sqlite:///{tmp_path}/s.db').id, flush=True)\n"
        "from interlock.bootstrap import open_store\n"
        "from interlock.reading import read_events\n"
        f"store = open_store('sqlite:///{tmp_path}/s.db', readonly=True)\n"
        "print(len(store.runs()), [e.message for _, e, _ in read_events(store, 1) if e.TYPE == 'attempt_failed'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 [\"double can't be loaded in a process of its own: BadInput" in done.stdout, done.stdout
    assert "begins work: guard it" in done.stdout


# -- killing


def test_a_killed_call_leaves_no_process_behind_not_even_its_grandchildren(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    call = isolated(tools.offspring, file=str(file))
    ended: list[AttemptError] = []

    def have() -> None:
        try:
            call.result(lambda: None)
        except AttemptError as failed:
            ended.append(failed)

    thread = threading.Thread(target=have)
    thread.start()
    assert soon(lambda: file.exists() and len(file.read_text().split()) == 3)
    pids = [int(pid) for pid in file.read_text().split()]
    assert not any(gone(pid) for pid in pids)
    call.kill()
    call.kill()
    thread.join(20)
    assert not thread.is_alive() and ended[0].kind == "crashed"
    assert soon(lambda: all(gone(pid) for pid in pids))


def test_a_call_that_is_killed_before_it_began_never_starts_a_process() -> None:
    call = isolated(tools.where, n=1)
    call.kill()
    with pytest.raises(AttemptError) as raised:
        call.result(lambda: pytest.fail("it was asked"))
    assert (raised.value.kind, raised.value.happened) == ("unsent", False)


def test_no_process_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    """The worker has no chance to clean up; the guard sees its pipe close, and ends the group, lock held or not."""
    file = tmp_path / "pids"
    program = (
        "from tests.isolation.test_isolation import isolated; from tests.isolation import tools\n"
        f"isolated(tools.offspring, file={str(file)!r}).result(lambda: None)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=env)
    try:
        assert soon(lambda: file.exists() and len(file.read_text().split()) == 3)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    pids = [int(pid) for pid in file.read_text().split()]
    assert soon(lambda: all(gone(pid) for pid in pids))
