"""Isolated tools in turns: killed at their deadline and on cancel; what is in doubt is cleared by its tool's way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Client, Machine, Turn, Worker, ask, final, state
from interlock.agent.scripted import ScriptedModel
from interlock.client import RunHandle
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.limits import Limits
from tests.isolation import tools
from tests.isolation.test_isolation import gone, soon
from tests.laws.audit import audit
from tests.stage import Stage

TIMING = Timing(send_window=5, grace=0.1, lease=15, poll=0.05)


class Case(BaseModel):
    file: str
    how: str = "hangs"
    said: str = ""


Runs = Mapping[str, RunHandle[Any]]

TOOLS = {made.name: made for made in (tools.reads, tools.keyed, tools.probed, tools.once)}


def machine(name: str, within: float = 30) -> Any:
    called = TOOLS.get(name, tools.lasting)

    @state(tools=[called], writes=["said"], within=within)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.said = await turn.call(called, turn.record.file, turn.record.how)
        return "done"

    asks = ask("what now?", of="ops", writes={"stop": []}, within=3600).then({"stop": "end", "timeout": "end"})
    table: dict[str, Any] = {"work": work.then({"done": "end", "timeout": "person"}), "person": asks}
    return Machine(name, Case, limits=Limits(turns=5, attempts=3), table={**table, "end": final("completed")})


def play(tmp_path: Path, how: str, scene: Callable[[Client, Runs], Awaitable[None]], *machines: Any) -> None:
    """Start a run of each machine and play a scene on them. No process that they had may be left."""
    files = [tmp_path / made.name for made in machines]

    async def main() -> None:
        models = ScriptedModel([])
        async with Client(f"sqlite:///{tmp_path}/s.db", models=models, timing=TIMING) as client:
            runs = {
                made.name: await client.start(made, Case(file=str(file), how=how), by="test")
                for made, file in zip(machines, files, strict=True)
            }
            async with asyncio.timeout(90):
                await scene(client, runs)
            audit(client.store)

    asyncio.run(main())
    assert soon(lambda: all(gone(pid) for file in files for pid in pids_in(file))), "a process was left behind"


def pids_in(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


async def log(run: RunHandle[Any]) -> list[e.Event]:
    return [event async for _, event in run.events()]


@pytest.mark.parametrize(("how", "kind"), [("hangs", "timeout"), ("dies", "crashed")])
def test_a_call_without_an_answer_is_cleared_by_its_tools_way(tmp_path: Path, how: str, kind: str) -> None:
    async def scene(client: Client, runs: Runs) -> None:
        async with Worker(client, machines):
            while not (waits := runs["once"].show().waits):
                await asyncio.sleep(0.05)
            assert waits[0].why == "doubt" and waits[0].effect is not None
            await client.clear(runs["once"].id, waits[0].effect, happened=False, by="test")
            said = {name: (await run.result()).record.said for name, run in runs.items() if name != "once"}
            assert said == {"reads": "done", "keyed": "done 1 2", "probed": "it had happened"}
            while runs["once"].show().waits:
                await asyncio.sleep(0.05)
            assert (await runs["once"].result()).record.said == "done"
        for name, run in runs.items():
            failed = [event for event in await log(run) if isinstance(event, e.AttemptFailed)]
            assert [(event.kind, event.doubt) for event in failed] == [(kind, name != "reads")]

    machines = [machine(name) for name in TOOLS]
    play(tmp_path, how, scene, *machines)
    calls = {name: len(pids_in(tmp_path / name)) // 2 for name in TOOLS}
    assert calls == {"reads": 2, "keyed": 2, "probed": 1, "once": 2}


def test_a_turn_past_its_deadline_takes_the_process_with_it(tmp_path: Path) -> None:
    async def scene(client: Client, runs: Runs) -> None:
        async with Worker(client, [made]):
            while runs["once"].show().row.state != "person" and not runs["once"].show().waits:
                await asyncio.sleep(0.05)
            [pid, _] = pids_in(tmp_path / "once")
            assert await asyncio.to_thread(soon, lambda: gone(pid)), "while its worker goes on"

    made = machine("once", within=4)
    play(tmp_path, "hangs", scene, made)


def test_a_cancelled_run_and_a_stopped_worker_leave_no_process(tmp_path: Path) -> None:
    async def scene(client: Client, runs: Runs) -> None:
        async with Worker(client, machines, drain=0.1):
            while not all((tmp_path / name).exists() for name in runs):
                await asyncio.sleep(0.05)
            await client.cancel(runs["once"].id, by="test", reason="enough")
            assert (await runs["once"].result()).status == "cancelled"
            while len(pids_in(tmp_path / "lasting")) < 2:
                await asyncio.sleep(0.05)
        [pid, _] = pids_in(tmp_path / "lasting")
        assert await asyncio.to_thread(soon, lambda: gone(pid)), "long before its deadline"
        assert client.store.find(runs["lasting"].id).worker is None

    machines = [machine("once"), machine("lasting")]
    play(tmp_path, "hangs", scene, *machines)


def test_in_virtual_time_an_isolated_tool_is_called_like_any_other(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    file.write_text("0 0\n")
    played = stage.play(machine("reads"), Case(file=str(file), how="hangs"))
    assert played.status == "completed" and f"{os.getpid()} " in file.read_text()
