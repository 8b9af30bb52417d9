"""Law 13: every run ends or waits, in time; a turn past its deadline moves on even if its code never returns."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Literal

import pytest

from interlock import Turn, state
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.limits import Amounts
from tests.laws.machines import MODEL, Case, Tools, machine
from tests.laws.stage import Stage, on_stage


def moved(stage: Stage) -> list[tuple[str, str]]:
    return [(event.state, event.outcome) for event in stage.of(e.Transitioned)]


async def until_parked(stage: Stage, scene: Any, seconds: float = 100) -> None:
    await stage.client.start(scene, Case(), by="test")
    await stage.worker(scene)
    await stage.until(lambda: stage.status() in ("waiting", "completed", "failed"), seconds)


@pytest.mark.parametrize("stubborn", [False, True], ids=["sleeps", "swallows being cancelled"])
def test_an_async_handler_that_never_returns_is_left_behind(stubborn: bool) -> None:
    """Even one that swallows its cancellation: the turn ends, and what it does later changes nothing."""
    tools, later = Tools(), list[str]()

    @state(tools=tools.all, writes=["text"], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        if not stubborn:
            await asyncio.sleep(1e5)
        for _ in range(5):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
                later.append("still here")
                turn.record.text = "too late"
                await turn.call(tools.once, 1)
        return "done"

    scene = machine(work, {"timeout": "person"})

    async def act(stage: Stage) -> None:
        await until_parked(stage, scene)
        assert 20 <= stage.clock.monotonic() < 22 and moved(stage) == [("work", "timeout")]
        await asyncio.sleep(200)
        assert bool(later) == stubborn and stage.client.show("@last").record["text"] == ""

    on_stage(act)
    assert not tools.outside.lines


@pytest.mark.parametrize("name", ["read", "keyed", "once"])
def test_a_turn_past_its_deadline_leaves_nothing_held(name: str) -> None:
    """The attempt under way is settled at its worst case, and is a doubt unless it is repeatable."""
    tools = Tools(after=1e5, within=1e6)

    @state(tools=tools.all, models=[MODEL], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(getattr(tools, name), 1)
        return "done"

    scene = machine(work, {"timeout": "person"})

    async def act(stage: Stage) -> None:
        await until_parked(stage, scene)
        row = stage.store.find("@last")
        assert row.account.held == Amounts() and moved(stage) == [("work", "timeout")]
        [lost] = stage.of(e.AttemptFailed)
        assert lost.doubt == (name != "read")

    on_stage(act)


def test_the_runs_active_seconds_bound_every_turn() -> None:
    tools = Tools(after=7, within=10)

    @state(tools=tools.all, within=600)
    async def work(turn: Turn[Case]) -> Literal["done", "again"]:
        await turn.call(tools.read, turn.number)
        return "again" if turn.number < 99 else "done"

    scene = machine(work, {"again": "work", "limit_reached": "person"}, seconds=30, repeats=None)

    async def act(stage: Stage) -> None:
        await until_parked(stage, scene)
        assert stage.clock.monotonic() < 33
        assert moved(stage)[-1] == ("work", "limit_reached")

    on_stage(act)


def test_parked_time_is_not_active_time() -> None:
    @state(within=50)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        for _ in range(5):
            await turn.sleep(3600)
        return "done"

    scene = machine(work, {"timeout": "person"}, seconds=50)

    async def act(stage: Stage) -> None:
        await until_parked(stage, scene, 5)
        await stage.until(lambda: stage.status() == "completed", 6 * 3600, step=60)
        assert stage.clock.monotonic() > 5 * 3600

    on_stage(act, timing=Timing(poll=60, lease=600))


def test_active_time_survives_a_takeover() -> None:
    """A turn that was active for 15 of its 20 seconds isn't given 20 anew by the next worker."""
    tools = Tools(after=1e5, within=1e6)

    @state(tools=tools.all, within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        for n in range(15):
            await turn.sleep(1)
            await turn.call(tools.keyed, 0) if n == 14 else None
        return "done"

    scene = machine(work, {"timeout": "person"})

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        first = await stage.worker(scene)
        await stage.until(lambda: bool(tools.outside.calls), 30)
        await stage.kill(first)
        began = stage.clock.monotonic()
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "waiting", 5)
        active = stage.store.find("@last").account.spent.active_ms
        assert active <= 21_000, active
        assert stage.clock.monotonic() - began < 6

    on_stage(act, timing=Timing(lease=1.0))


def test_others_may_take_a_turn_that_its_own_worker_does_not_end() -> None:
    """The worker's heart beats on, its loop turns, but the turn's deadline has passed: any worker may claim."""
    tools = Tools(after=1e5, within=1e6)

    @state(tools=tools.all, within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(tools.read, 1)
        return "done"

    scene = machine(work, {"timeout": "person"})

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        stuck = await stage.worker(scene)
        await stage.until(lambda: bool(tools.outside.calls), 30)
        for task in stuck._tasks:  # it forgets the run, and beats on
            task.cancel()
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "waiting", 60)
        [over] = stage.of(e.TakenOver)
        assert over.why == "deadline" and moved(stage) == [("work", "timeout")]

    on_stage(act)


def test_a_turn_that_takes_down_worker_after_worker_is_given_up() -> None:
    """Poison: after the third takeover within one turn a person is asked, with the reason."""
    tools = Tools(after=1e5, within=1e6)

    @state(tools=tools.all, within=3600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(tools.read, 1)
        return "done"

    scene = machine(work, attempts=50)

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        for life in range(3):
            worker = await stage.worker(scene)
            await stage.until(lambda life=life: tools.outside.calls["read"] == life + 1, 60)  # type: ignore[misc]
            await stage.kill(worker)
        await stage.worker(scene)
        await stage.until(lambda: bool(stage.client.waiting()), 60)
        [asked] = stage.client.waiting()
        assert asked.outcome == "error" and "took down 3 workers" in asked.prompt
        assert tools.outside.calls["read"] == 3

    on_stage(act)


def test_a_death_before_the_first_commit_counts_as_a_takeover() -> None:
    """A handler that kills its worker before it commits anything would else be handed on for ever."""
    entered = []

    @state(within=3600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        entered.append(turn.number)
        await asyncio.sleep(1e5)
        return "done"

    scene = machine(work)

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        for life in range(3):
            worker = await stage.worker(scene)
            await stage.until(lambda life=life: len(entered) == life + 1, 60)  # type: ignore[misc]
            await stage.kill(worker)
        await stage.worker(scene)
        await stage.until(lambda: bool(stage.client.waiting()), 60)
        assert len(entered) == 3 and len(stage.of(e.TakenOver)) == 3

    on_stage(act)
