"""Queue: the way of an attempt to a place among those of a tool with limits. Knows no turn.

    ask the store > taken: begin within the send window, or ask again        else: wait here, or durably when it's long
All processes share the store's count. Within one, who waits for a place is told when one may be free.
"""

from __future__ import annotations

from contextlib import nullcontext
from math import ceil
from typing import Any

from msgspec import Struct

from interlock.engine.desk import Desk
from interlock.errors import StaleLease
from interlock.machine.tools import Tool
from interlock.store.protocol import Failed, Later, Reserve, Reserved, Stale

PARKED_SECONDS_MAX = 60.0
"""How long a parked run waits at most before it asks again for a place that may be free sooner."""


HERE_SECONDS_MAX = 30.0
"""How long a run waits here at a stretch while those before it get their places at a pace."""


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
        until=run.now + int(timing.send_window * 1000),  # by then the intent says how long, or nothing is ever sent
        at=run.now,
        grace_ms=int(timing.grace * 1000),
        concurrency=tool.concurrency or 0,
        rate=rate,
        per_ms=ceil(seconds * 1000) + 1
        if rate
        else 0,  # two times cut to whole milliseconds may be closer than they say
        patience_ms=int((PARKED_SECONDS_MAX + timing.lease) * 1000),
        deadline_at=run.deadline_after(HERE_SECONDS_MAX),
    )


async def _wait(desk: Desk, tool: str, effect: int, later: Later, since: int) -> None:
    """Here when it is soon, else durably. A rate says when to ask again. A place may be free sooner than it must be:
    one looks again and again, and is told of those that come free in this process."""
    run, timing = desk.run, desk.world.timing
    if not later.full:
        if later.at - run.now > timing.park_after * 1000:
            await desk.until(later.at, "queue", effect)
        else:
            await _wait_here(desk, tool, (later.at - run.now) / 1000)
        return
    here, expected = (run.now - since) / 1000, later.ahead * (later.pace_ms or 0) / 1000
    patience = timing.park_after if later.pace_ms is None else HERE_SECONDS_MAX
    if not desk.draining() and expected <= timing.park_after and here < min(patience, HERE_SECONDS_MAX):
        poll = timing.poll * desk.world.chance.uniform(0.5, 1.0) * (1 + later.ahead / 8)
        await _wait_here(desk, tool, min((later.at - run.now) / 1000, poll))
        return
    surely = (later.at - run.now) / 1000
    seconds = surely if later.pace_ms is None else expected - timing.park_after / 2
    shortest = timing.park_after + 1
    longest = max(PARKED_SECONDS_MAX, shortest)
    await desk.until(run.now + int(min(max(seconds, shortest), longest) * 1000), "queue", effect)


async def _wait_here(desk: Desk, tool: str, seconds: float) -> None:
    """The turn does nothing meanwhile, unless another of its calls is under way: it isn't its active time."""
    with nullcontext() if desk.busy else desk.run.aside():
        await desk.world.lines.wait(tool, max(seconds, 0.001))
