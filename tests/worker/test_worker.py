"""The worker as a host: dead workers are replaced, blocked ones named, and nothing that never returns holds a run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from random import Random

import pytest

from interlock import Client
from interlock.engine.timing import Timing
from interlock.engine.watchdog import Watchdog
from interlock.history import events as e
from interlock.worker import Worker
from tests.laws.audit import audit
from tests.worker import child
from tests.worker.child import SCENES, TIMING, Case
from tests.worker.processes import ROOT, process


def test_a_dead_workers_runs_are_taken_over_at_once(tmp_path: Path) -> None:
    """The system shows its death by the lock it dropped: nobody waits for a lease, here of a minute."""
    world = tmp_path / "world.txt"

    async def scene() -> None:
        timing = Timing(lease=60, poll=0.05, send_window=0.3, grace=0.1)
        async with Client(f"sqlite:///{tmp_path}/s.db", timing=timing) as client:
            with process(tmp_path / "s.db", "slow", world) as dying:
                await asyncio.to_thread(dying.says, "ready")
                run = await client.start(SCENES["slow"], Case(), by="test")
                async with asyncio.timeout(20):
                    while not world.exists():
                        await asyncio.sleep(0.02)
                dying.kill()
            child.WORLD = world
            began = time.monotonic()
            async with Worker(client, [SCENES["slow"]], watch=False):
                async with asyncio.timeout(20):
                    assert (await run.result()).status == "completed"
            assert time.monotonic() - began < 10
            [over] = [event async for _, event in client.events(run.id) if isinstance(event, e.TakenOver)]
            assert over.why == "dead"
            audit(client.store)

    asyncio.run(scene())
    assert world.read_text().splitlines() == ["slow 1", "slow 2"]


def test_a_handler_that_blocks_its_loop_is_named_and_after_the_third_takeover_parked(tmp_path: Path) -> None:
    """Four workers: three are blocked one after the other, each taken over by the next; the fourth asks a person."""
    world = tmp_path / "world.txt"

    async def scene() -> None:
        async with Client(f"sqlite:///{tmp_path}/s.db", timing=TIMING) as client:
            run = await client.start(SCENES["spin"], Case(), by="test")
            with ExitStack() as stack:
                workers = [stack.enter_context(process(tmp_path / "s.db", "spin", world)) for _ in range(4)]
                async with asyncio.timeout(60):
                    while not run.show().waits:
                        await asyncio.sleep(0.1)
                spun = {int(line.split()[1]) for line in world.read_text().splitlines()}
                assert len(spun) == 3, "three workers were taken down, not the fourth"
                named = [worker for worker in workers if any("has been blocked" in line for line in worker.complained)]
                assert len(named) == 3
                assert any(f"run {run.id} state work turn 1" in line for line in named[0].complained)
                assert any("spin" in line for line in named[0].complained), "with the place where it stands"
            log = [event async for _, event in client.events(run.id)]
            assert [event.why for event in log if isinstance(event, e.TakenOver)] == ["still"] * 3
            moved = [event for event in log if isinstance(event, e.Transitioned)]
            assert moved[0].outcome == "error" and "took down 3 workers" in moved[0].why
            audit(client.store)

    asyncio.run(scene())


@pytest.mark.parametrize("scene", ["plain", "endless"])
def test_a_plain_function_that_never_returns_does_not_hold_its_run_nor_the_process(tmp_path: Path, scene: str) -> None:
    """The run moves on in time; and a process with such a thread can still end."""
    program = (
        "import sys; from pathlib import Path; from tests.worker import child; from interlock import run\n"
        f"child.WORLD = Path({str(tmp_path / 'world.txt')!r})\n"
        f"result = run(child.SCENES[{scene!r}], child.Case(), store='sqlite:///{tmp_path}/s.db')\n"
        "print(result.status, result.state, flush=True)\n"
    )
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=40, check=False
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"the process never ended; it said {hung.stdout!r}")
    assert (done.returncode, done.stdout.strip()) == (0, "waiting person"), done.stderr
    assert time.monotonic() - began < 30


def test_the_watchdog_names_the_task_that_blocks() -> None:
    said: list[str] = []

    async def blocks() -> None:
        time.sleep(0.6)

    async def scene() -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), said.append, seconds=0.1)
        await asyncio.sleep(0.3)
        assert said == []
        await asyncio.create_task(blocks(), name="run 7f3a state spin turn 2")
        await asyncio.sleep(0.05)
        watchdog.stop()

    asyncio.run(scene())
    assert len(said) == 1 and "run 7f3a state spin turn 2" in said[0] and "time.sleep(0.6)" in said[0]


def test_many_workers_on_one_store_each_take_a_run_once(tmp_path: Path, chance: Random) -> None:
    """Two workers in this process and 40 runs: each run is advanced once, none is left."""
    child.WORLD = tmp_path / "world.txt"

    async def scene() -> None:
        async with Client(f"sqlite:///{tmp_path}/s.db", timing=Timing(poll=0.02)) as client:
            runs = [await client.start(SCENES["send"], Case(), by="test") for _ in range(40)]
            async with AsyncExitStack() as stack:
                for size in (1, 7):
                    await stack.enter_async_context(
                        Worker(client, [SCENES["send"]], concurrency=size, watch=False, name=f"w{size}")
                    )
                async with asyncio.timeout(30):
                    assert {(await run.result()).status for run in runs} == {"completed"}
            audit(client.store)

    asyncio.run(scene())
    lines = child.world()
    assert len(lines) == len(set(lines)) == 40


def test_a_worker_that_stops_gives_its_runs_back(tmp_path: Path) -> None:
    """Drained in the middle of a long call: the run is ready for the next worker at once, and nothing is repeated."""
    child.WORLD = tmp_path / "world.txt"

    async def scene() -> None:
        async with Client(f"sqlite:///{tmp_path}/s.db", timing=TIMING) as client:
            run = await client.start(SCENES["slow"], Case(), by="test")
            async with Worker(client, [SCENES["slow"]], drain=0.1, watch=False):
                async with asyncio.timeout(10):
                    while not child.world():
                        await asyncio.sleep(0.02)
            assert client.store.find(run.id).worker is None and client.store.workers() == []
            async with Worker(client, [SCENES["slow"]], watch=False):
                async with asyncio.timeout(10):
                    assert (await run.result()).status == "completed"
            audit(client.store)

    asyncio.run(scene())
    assert child.world() == ["slow 1", "slow 2"]
