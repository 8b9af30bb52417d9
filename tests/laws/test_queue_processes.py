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
HELD = 8  # runs at once in one process, so that it takes at least three of them
MOST, TIMES, PERIOD_MS = 2, 4, 1000  # as `gate` declares


def most_inside(lines: Sequence[str], killed: int, at: int) -> int:
    """The most calls that were under way at once, by the order in which they say so. What the killed worker had under
    way is gone from line `at` on."""
    now: dict[str, int] = {}
    most = 0
    for number, line in enumerate(lines):
        word, key, _, pid = line.split(" ")
        if number >= at:
            now = {each: holder for each, holder in now.items() if holder != killed}
        if word == "in":
            now[key] = int(pid)
            most = max(most, len(now))
        else:
            now.pop(key, None)
    return most


def test_four_processes_keep_to_a_tools_limits_though_one_is_killed(tmp_path: Path) -> None:
    world = tmp_path / "world.txt"
    scene = SCENES["gate"]

    async def play() -> tuple[int, int, list[e.Event]]:
        async with Client(f"sqlite:///{tmp_path}/s.db", timing=TIMING) as client:
            with ExitStack() as stack:
                made = [process(tmp_path / "s.db", "gate", world, CHILD_CONCURRENCY=str(HELD)) for _ in range(4)]
                workers = [stack.enter_context(each) for each in made]
                for worker in workers:
                    await asyncio.to_thread(worker.says, "ready")
                runs = [await client.start(scene, Case(), by="test") for _ in range(RUNS)]
                async with asyncio.timeout(60):
                    while not world.exists():
                        await asyncio.sleep(0.01)
                    workers[0].kill()
                    at = len(world.read_text().splitlines())
                    for run in runs:
                        assert (await run.result()).status == "completed"
            for run in runs:
                assert client.store.snapshot(client.store.find(run.id).number).calls == ()
            audit(client.store)
            return workers[0].pid, at, [event for run in runs async for _, event in client.events(run.id)]

    killed, at, log = asyncio.run(play())
    lines = world.read_text().splitlines()
    assert most_inside(lines, killed, at) <= MOST
    begun = sorted(event.reserved_at for event in log if isinstance(event, e.ToolCalled))
    assert len(begun) >= RUNS and all(begun)
    assert all(later - first >= PERIOD_MS for first, later in zip(begun, begun[TIMES:], strict=False))
    done = [event for event in log if isinstance(event, e.ToolReturned)]
    assert len(done) == RUNS
    assert len({line.split(" ")[3] for line in lines}) >= 2, "more than one of them took part"
