"""A worker put to sleep right before it would send, past its lease: when it wakes it neither sends nor commits."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from interlock import Client
from interlock.history import events as e
from interlock.worker import Worker
from tests.laws.audit import audit
from tests.worker import child
from tests.worker.child import SCENES, TIMING, Case
from tests.worker.processes import Process, process


@pytest.mark.parametrize("where", ["stop-before", "stop-after"])
def test_a_zombie_neither_sends_nor_commits(tmp_path: Path, where: str) -> None:
    """Asleep before its intent is committed, or right after: the run has gone on without it."""
    world = tmp_path / "world.txt"
    with process(tmp_path / "s.db", "send", world, where) as zombie:
        asyncio.run(_scene(tmp_path / "s.db", zombie, world, where))
        assert not [line for line in zombie.complained if "Traceback" in line], zombie.complained
        errors = [line for line in zombie.complained if "ERROR" in line and "has been blocked" not in line]
        assert not errors, "losing a lease is no error; that the loop stood still may be said"


async def _scene(path: Path, zombie: Process, world: Path, where: str) -> None:
    child.WORLD = world
    scene = SCENES["send"]
    async with Client(f"sqlite:///{path}", timing=TIMING) as client:
        await asyncio.to_thread(zombie.says, "ready")
        run = await client.start(scene, Case(), by="test")
        await asyncio.to_thread(zombie.says, "sleeps")
        sends = 0
        async with Worker(client, [scene], watch=False):
            async with asyncio.timeout(20):
                while not run.show().ended:
                    for wait in run.show().waits:
                        if wait.kind == "person":
                            assert where == "stop-after", "what wasn't intended can't be in doubt"
                            assert not world.exists(), "the zombie hasn't sent"
                            await client.clear(run.id, 1, happened=False, by="ann", reason="the outside world says no")
                    await asyncio.sleep(0.05)
            sends = len(world.read_text().splitlines())
            before = client.store.find(run.id).seq
            zombie.signal(signal.SIGCONT)
            await asyncio.sleep(1.5)  # it wakes, looks around, and drops the work
        assert sends == 1 and len(world.read_text().splitlines()) == 1
        assert zombie.alive and client.store.find(run.id).seq == before
        log = [event async for _, event in client.events(run.id)]
        [over] = [event for event in log if isinstance(event, e.TakenOver)]
        assert (over.why, over.fence) == ("still", 2)
        assert [event.effect for event in log if isinstance(event, e.ToolReturned)] == [1]
        audit(client.store)
