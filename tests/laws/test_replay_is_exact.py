"""Laws 6 and 7: replay of awkward code is exact, and a turn entered again goes the way that it went.

What people, limits, timeouts, takeovers, parks, doubts and signals do to runs is in the tests of their laws: every run
of theirs is replayed after its test (tests/replaying.py). Here is code that asks side by side, gives up, and catches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest

from interlock import Call, Turn, state, tool
from interlock.engine.replay import replay
from interlock.errors import EffectFailed
from interlock.history import events as e
from interlock.testing import say
from tests.laws.machines import MODEL, Case, machine
from tests.laws.stage import Stage, dies_at, on_stage


@tool(does="read", within=50)
async def slow(call: Call[None], n: int) -> int:
    """Takes n seconds."""
    await asyncio.sleep(n)
    return n


@tool(does="send", within=50)
async def sends(call: Call[None], n: int) -> int:
    """Takes n seconds."""
    await asyncio.sleep(n)
    return n


@tool(does="read", within=50)
async def fails(call: Call[None], n: int) -> int:
    raise RuntimeError("no")


TOOLS = (slow, sends, fails)
Handler = Callable[[Turn[Case]], Any]


async def as_they_come(turn: Turn[Case]) -> Literal["done"]:
    calls = [turn.call(slow, n=5), turn.call(slow, n=1), turn.call(slow, n=3)]
    turn.record.items = [str(await each) for each in asyncio.as_completed(calls)]
    return "done"


async def the_first_of_two(turn: Turn[Case]) -> Literal["done"]:
    first, second = (asyncio.ensure_future(turn.call(slow, n=n)) for n in (1, 5))
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    turn.record.n = len(done)
    await turn.call(slow, n=7 if len(done) == 1 else 8)
    await second
    return "done"


async def not_waited_for_at_first(turn: Turn[Case]) -> Literal["done"]:
    call = asyncio.ensure_future(turn.call(slow, n=5))
    done, _ = await asyncio.wait({call}, timeout=2)
    if not done:
        await turn.call(slow, n=1)
    await call
    return "done"


async def given_up(turn: Turn[Case]) -> Literal["done"]:
    try:
        await asyncio.wait_for(turn.call(slow, n=30), 3)
    except TimeoutError:
        turn.record.text = "late"
    await turn.call(slow, n=2)
    return "done"


async def left_behind(turn: Turn[Case]) -> Literal["done"]:
    task = asyncio.create_task(turn.call(slow, n=30))
    await asyncio.sleep(1)
    assert not task.done()
    return "done"


async def everything_at_once(turn: Turn[Case]) -> Literal["done"]:
    said = await asyncio.gather(
        turn.sleep(5), turn.sleep(5), turn.sleep(100), turn.call(slow, n=3), turn.random(), turn.now()
    )
    turn.record.n = said[3]
    return "done"


async def caught_limits(turn: Turn[Case]) -> Literal["done"]:
    for n in range(4):
        try:
            await turn.call(slow, n=n)
        except EffectFailed as failed:
            turn.record.items.append(failed.outcome)
    await turn.now()
    return "done"


async def too_dear_and_then_cheaper(turn: Turn[Case]) -> Literal["done"]:
    try:
        await turn.model(MODEL, "x" * 4000)
    except EffectFailed as failed:
        turn.record.text = failed.outcome
    await turn.call(slow, n=1)
    await turn.model(MODEL, "y", max_tokens=20)
    return "done"


async def fails_beside_a_call(turn: Turn[Case]) -> Literal["done"]:
    async def bad() -> None:
        await asyncio.sleep(1)
        raise ValueError("bad")

    await asyncio.gather(turn.call(sends, n=5), bad())
    return "done"


async def never_ends(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(slow, n=5)
    while True:
        await asyncio.sleep(0.5)


async def spends_its_attempts(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(fails, n=5)
    return "done"


AWKWARD: list[tuple[Handler, dict[str, Any]]] = [
    (as_they_come, {}),
    (the_first_of_two, {}),
    (not_waited_for_at_first, {}),
    (given_up, {}),
    (left_behind, {}),
    (everything_at_once, {}),
    (caught_limits, {"calls": 2}),
    (too_dear_and_then_cheaper, {"tokens": 3000, "usd": 1}),
    (fails_beside_a_call, {}),
    (never_ends, {}),
    (spends_its_attempts, {"attempts": 3}),
]


def scene_of(handler: Handler, limits: dict[str, Any]) -> Any:
    made = state(
        tools=list(TOOLS), models=[MODEL], calls=9, writes=["n", "text", "items"], max_tokens=2000, within=120
    )(handler)
    return machine(made, **limits)


@pytest.mark.parametrize(("handler", "limits"), AWKWARD, ids=[handler.__name__ for handler, _ in AWKWARD])
def test_awkward_code_replays_exactly(handler: Handler, limits: dict[str, Any]) -> None:
    scene = scene_of(handler, limits)

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await stage.until(lambda: bool(stage.of(e.Transitioned) or [w for w in waits(stage) if w == "escalated"]), 900)
        replayed = replay(stage.client.world, scene, stage.store.find("@last"))
        assert replayed.ok and replayed.turns == 1, replayed.divergence

    on_stage(play, [say("a")] * 5)


def waits(stage: Stage) -> list[str]:
    return [event.why for event in stage.of(e.WaitOpened)]


@pytest.mark.parametrize("number", range(2, 9))
@pytest.mark.parametrize("handler", [as_they_come, the_first_of_two, not_waited_for_at_first, everything_at_once])
def test_a_turn_entered_again_goes_the_way_that_it_went(handler: Handler, number: int) -> None:
    """Killed at any commit: recorded results come in their order, so nothing diverges and nobody is asked."""
    scene = scene_of(handler, {})

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        first = await stage.worker(scene, fail=dies_at(number, "die"))
        cable: Any = first.world.committer
        await stage.until(lambda: cable.cut or stage.status() == "completed", 900)
        await stage.kill(first)
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "completed", 900)
        assert not stage.of(e.Diverged)
        if handler is the_first_of_two:
            assert stage.of(e.Transitioned)[0].changes == (("set", "n", 1),)

    on_stage(play)


@pytest.mark.replay_differs("its code changes in the middle of a turn, which is what the log says")
def test_code_that_no_longer_asks_diverges_all_the_same() -> None:
    """A result that waits for a request which never comes is handed out in the end."""

    async def before(turn: Turn[Case]) -> Literal["done"]:
        await asyncio.gather(turn.call(slow, n=1), turn.call(slow, n=2))
        await turn.sleep(1000)
        return "done"

    async def after(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(slow, n=2)
        await turn.sleep(1000)
        return "done"

    async def play(stage: Stage) -> None:
        await stage.client.start(scene_of(before, {}), Case(), by="test")
        first = await stage.worker(scene_of(before, {}))
        await stage.until(lambda: bool(waits(stage)))
        await stage.kill(first)
        await stage.worker(scene_of(after, {}))
        await stage.until(lambda: bool(stage.of(e.Diverged)), 2000)

    on_stage(play)
