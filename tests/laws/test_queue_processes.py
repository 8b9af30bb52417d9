"""Limits of a tool over four worker processes on one file, one of which is killed while its call is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from interlock import Client
from interlock.history import events as e
from tests.laws.audit import audit
from tests.worker.child import SCENES, TIMING, Case
from tests.worker.processes import process

RUNS = 24
MOST, TIMES, PERIOD_MS = 2, 4, 1000  # as `gate` declares


def most_inside(lines: Sequence[str]) -> int:
    """The most calls that were under way at once, by the order in which they say so. The killed worker's call ends
    nowhere: it keeps its place until it is done again, under the same key."""
    now: set[str] = set()
    most = 0
    for line in lines:
        word, key, *_ = line.split(" ")
        if word == "in":
            now.add(key)
            most = max(most, len(now))
        else:
            now.discard(key)
    return most


def test_four_processes_keep_to_a_tools_limits_though_one_is_killed(tmp_path: Path) -> None:
    world = tmp_path / "world.txt"
    scene = SCENES["gate"]

    async def play() -> list[e.Event]:
        async with Client(f"sqlite:///{tmp_path}/s.db", timing=TIMING) as client:
            with ExitStack() as stack:
                workers = [stack.enter_context(process(tmp_path / "s.db", "gate", world)) for _ in range(4)]
                for worker in workers:
                    await asyncio.to_thread(worker.says, "ready")
                runs = [await client.start(scene, Case(), by="test") for _ in range(RUNS)]
                async with asyncio.timeout(60):
                    while not world.exists():
                        await asyncio.sleep(0.01)
                    workers[0].kill()
                    for run in runs:
                        assert (await run.result()).status == "completed"
            for run in runs:
                assert client.store.snapshot(client.store.find(run.id).number).calls == ()
            audit(client.store)
            return [event for run in runs async for _, event in client.events(run.id)]

    log = asyncio.run(play())
    lines = world.read_text().splitlines()
    assert most_inside(lines) <= MOST
    begun = sorted(event.reserved_at for event in log if isinstance(event, e.ToolCalled))
    assert len(begun) >= RUNS and all(begun)
    assert all(later - first >= PERIOD_MS for first, later in zip(begun, begun[TIMES:], strict=False))
    done = [event for event in log if isinstance(event, e.ToolReturned)]
    assert len(done) == RUNS
    assert len({line.split(" ")[3] for line in lines}) >= 2, "more than one of them took part"
