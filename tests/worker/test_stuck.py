"""Which runs nobody advances though somebody could: stranded without a worker of their shape, or held by the gone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from interlock import Machine, Turn, ask, final, state
from interlock.engine.timing import Timing
from interlock.machine.limits import Limits
from interlock.store.protocol import Join, Joined
from interlock.stuck import UNCLAIMED_MS, Stuck, stuck_run, stuck_runs
from interlock.worker import Worker
from tests.stage import Stage

TIMING = Timing(lease=15, poll=0.5)


class Case(BaseModel):
    n: int = 1


@state(within=30)
async def work(turn: Turn[Case]) -> Literal["done"]:
    return "done"


def _machine(name: str = "made", *, after: str = "end") -> Any:
    asks = ask("and now?", of="ops", writes={"go": []}, within=3600).then({"go": "end", "timeout": "end"})
    table: dict[str, Any] = {"work": work.then({"done": after}), "person": asks, "end": final("completed")}
    if after == "end":
        del table["person"]
    return Machine(name, Case, limits=Limits(turns=4), table=table)


def _stuck(stage: Stage) -> list[Stuck]:
    return stuck_runs(stage.store, stage.clock.now_ms())


def test_a_ready_run_is_stranded_until_a_worker_of_its_shape_lives(stage: Stage) -> None:
    made, other = _machine(), _machine("other")

    async def scene() -> None:
        client = stage.client(timing=TIMING)
        run = await client.start(made, Case(), by="test")
        [lonely] = _stuck(stage)
        assert lonely.stranded and "no living worker has its machine `made`" in lonely.why
        assert "interlock work TARGET" in lonely.remedy
        async with Worker(client, [other]):
            [still] = _stuck(stage)
            assert still.stranded and still.row.id == run.id
            async with Worker(client, [made]):
                assert _stuck(stage) == [], "before it is even claimed"
                assert (await run.result()).status == "completed"

    stage.perform(scene)


def test_a_parked_run_whose_machine_has_another_shape_now_is_stranded_before_anybody_answers(stage: Stage) -> None:
    """A deploy changed the table under it: a person should know before they answer, not after."""
    old, new = _machine(after="person"), _machine()

    async def scene() -> None:
        client = stage.client(timing=TIMING)
        async with Worker(client, [old]):
            run = await client.start(old, Case(), by="test")
            async for _, event in run.events(follow=True):
                if event.TYPE == "wait_opened":
                    break
        assert _stuck(stage) == [], "it waits for a person, and nobody says that its machine is gone"
        async with Worker(client, [new]):
            [found] = _stuck(stage)
            assert found.stranded and old.shape[:8] in found.why and new.shape[:8] in found.why
            assert "interlock upgrade" in found.remedy
            async with Worker(client, [old]):
                assert _stuck(stage) == []

    stage.perform(scene)


def test_a_worker_for_one_run_only_is_no_help_to_others(stage: Stage) -> None:
    made = _machine(after="person")

    async def scene() -> None:
        client = stage.client(timing=TIMING)
        mine = await client.start(made, Case(), by="test")
        other = await client.start(made, Case(), by="test")
        async with Worker(client, [made], only=mine.id):
            async for _, event in mine.events(follow=True):
                if event.TYPE == "wait_opened":
                    break
            assert [found.row.id for found in _stuck(stage) if found.stranded] == [other.id]

    stage.perform(scene)


def test_a_worker_whose_beat_stands_still_helps_nobody(stage: Stage) -> None:
    made = _machine()

    async def scene() -> None:
        client = stage.client(timing=TIMING)
        run = await client.start(made, Case(), by="test")
        joined = await client.world.committer.submit(
            Join("asleep", "host", 1, stage.clock.now_ms(), ((made.name, made.shape),))
        )
        assert isinstance(joined, Joined)
        assert _stuck(stage) == []
        stage.clock.advance(UNCLAIMED_MS / 1000 + 1)
        found = stuck_run(stage.store, stage.store.find(run.id), stage.clock.now_ms())
        assert found is not None and found.stranded

    stage.perform(scene)


def test_a_run_that_workers_could_take_and_dont_is_stuck_and_not_stranded(stage: Stage) -> None:
    made = _machine()

    async def scene() -> None:
        client = stage.client(timing=TIMING)
        run = await client.start(made, Case(), by="test")
        stage.clock.advance(UNCLAIMED_MS / 1000 + 1)
        await client.world.committer.submit(Join("w", "host", 1, stage.clock.now_ms(), ((made.name, made.shape),)))
        [found] = _stuck(stage)
        assert (found.row.id, found.stranded) == (run.id, False) and "lies until a worker takes it" in found.why

    stage.perform(scene)


def test_what_a_worker_can_take_is_kept_as_it_joined(stage: Stage) -> None:
    made, odd = _machine(), _machine("odd", after="person")

    async def scene() -> None:
        client = stage.client(timing=TIMING)
        async with Worker(client, [made, odd]):
            [row] = stage.store.workers()
            assert row.machines == (("made", made.shape), ("odd", odd.shape))
        assert stage.store.workers() == []

    stage.perform(scene)
