"""Law 10 across real processes: four workers on one file, a real HTTP server that fails for a while, and SIGKILL."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from interlock import Client
from interlock.agent.model import ModelFailed, ModelReply, ModelRequest
from interlock.redteam.provider import LoopbackProvider
from tests.laws.audit import audit
from tests.worker.asking import TERMS, TIMING, Asked, asking
from tests.worker.processes import Process

RUNS, CALLS = 50, 12
OK = ModelReply(text="ok", tokens_in=10, tokens_out=2)


class Failing:
    """The server's brain: it answers after a while, or refuses while it is down. Notes what arrives while it is."""

    def __init__(self) -> None:
        self.down = False
        self.answered = 0
        self.while_down: list[float] = []

    async def __call__(self, request: ModelRequest) -> Any:
        refuses = self.down
        if refuses:
            self.while_down.append(time.time() * 1000)
        await asyncio.sleep(0.3)
        if refuses:
            return ModelFailed("outage", "down", billed=False)
        self.answered += 1
        return OK


def workers(count: int, store: str, model: str, stack: ExitStack) -> list[Process]:
    made = [Process(store, model, str(CALLS), module="tests.worker.asking") for _ in range(count)]
    for process in made:
        stack.callback(process.kill)
    for process in made:
        process.says("ready", 60)
    return made


async def until(true: Any, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


def test_four_processes_share_a_breaker_also_through_the_death_of_all_of_them(tmp_path: Path) -> None:
    """The provider goes down under 50 runs. What it is sent from then on: what was on its way, what opens the breaker,
    and one call for each probe that was given, no two of them closer than the breaker's time. All four processes are
    killed while it is open; others know it."""
    brain, store = Failing(), f"sqlite:///{tmp_path}/s.db"

    async def scene() -> None:
        with LoopbackProvider(brain) as provider, ExitStack() as stack:
            model = provider.model_name()
            async with Client(store, timing=TIMING) as client:
                scene = asking(model, CALLS)
                runs = [await client.start(scene, Asked(), by="test") for _ in range(RUNS)]
                first = await asyncio.to_thread(workers, 4, store, model, stack)
                await until(lambda: brain.answered > 2 * RUNS)
                brain.down = True
                await until(lambda: [row.state for row in client.breakers()] == ["open"])
                for process in first:
                    process.kill()
                assert [row.state for row in client.breakers()] == ["open"]
                await asyncio.to_thread(workers, 2, store, model, stack)
                await until(lambda: sum(line.what == "reopened" for line in client.store.breaker_log()) >= 2)
                brain.down = False
                await until(lambda: all(client.show(run.id).status == "completed" for run in runs), 120)
                log = client.store.breaker_log()
                probes = [line.at for line in log if line.what == "probed"]
                opened = next(line.at for line in log if line.what == "opened")
                assert log[-1].what == "closed" and len(probes) >= 3
                assert all(later - earlier >= TERMS.open_for * 1000 for earlier, later in pairwise([opened, *probes]))
                later = [at for at in brain.while_down if at > opened + 1000 * TERMS.open_for]
                assert len(later) <= len(probes)
                assert len(brain.while_down) <= RUNS + TERMS.failures + len(probes)  # each run has one on its way
                audit(client.store)

    asyncio.run(scene())
