"""Queue: the way of an attempt to a place among those of a tool with limits. Knows no turn.

    ask the store > taken: begin within the send window, or ask again        else: wait here, or durably when it's long
All processes share the store's count. Within one, who waits for a place is told when one may be free.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from msgspec import Struct

from interlock.engine.desk import Desk
from interlock.errors import StaleLease
from interlock.machine.tools import Tool
from interlock.store.protocol import Failed, Later, Reserve, Reserved, Stale

PARKED_SECONDS_MAX = 60.0
"""How long a parked run waits at most before it asks again for a place that may be free sooner."""


class Place(Struct, frozen=True):
    """A place among a tool's calls. Sent before `send_before` (on the clock that counts suspend), or the place isn't
    ours any more. `at`: since when, in the store's time."""

    at: int
    send_before: float


async def take_place(desk: Desk, tool: Tool[Any, Any, Any], effect: int, attempt: int) -> Place:
    """A place for an attempt that is about to begin; waits for it as long as it takes. Raises `StaleLease`, and
    whatever the store raises."""
    run, world = desk.run, desk.world
    window = world.timing.send_window
    since = run.now
    while True:
        began = world.clock.boottime()
        answer = await world.committer.submit(_asked(desk, tool, effect, attempt))
        match answer:
            case Reserved():
                return Place(answer.at, began + window)
            case Later():
                await _wait(desk, tool.name, effect, answer, since)
            case Failed():
                raise answer.error
            case Stale():
                raise StaleLease(f"run {run.id} is held by another worker")
            case _:
                raise AssertionError(f"a reservation was answered {type(answer).__name__}")


def _asked(desk: Desk, tool: Tool[Any, Any, Any], effect: int, attempt: int) -> Reserve:
    run, timing = desk.run, desk.world.timing
    rate, seconds = tool.rate or (0, 0.0)
    return Reserve(
        run=run.number,
        worker=run.worker,
        fence=run.fence,
        effect=effect,
        attempt=attempt,
        tool=tool.name,
        way=tool.way,
        until=run.now + int((timing.send_window + tool.within) * 1000),
        at=run.now,
        grace_ms=int(timing.grace * 1000),
        concurrency=tool.concurrency or 0,
        rate=rate,
        per_ms=ceil(seconds * 1000) + 1
        if rate
        else 0,  # two times cut to whole milliseconds may be closer than they say
    )


async def _wait(desk: Desk, tool: str, effect: int, later: Later, since: int) -> None:
    """A rate says when to ask again. A place may be free sooner than it must be: one looks again and again, for a while
    here, then now and then from a parked run."""
    run, timing = desk.run, desk.world.timing
    if not later.full:
        await desk.until(later.at, "queue", effect)
        return
    if run.now - since < timing.park_after * 1000:
        seconds = min((later.at - run.now) / 1000, timing.poll * desk.world.chance.uniform(0.5, 1.0))
        await desk.world.lines.wait(tool, max(seconds, 0.001))
        return
    longest = run.now + int(max(PARKED_SECONDS_MAX, timing.park_after + 1) * 1000)
    shortest = run.now + int((timing.park_after + 1) * 1000)
    await desk.until(min(max(later.at, shortest), longest), "queue", effect)
