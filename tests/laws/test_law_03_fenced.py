"""Law 3: only the holder of the current fence appends; a worker that lost its lease changes nothing."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Machine, Turn, final, state, tool
from interlock.engine.live_run import LiveRun
from interlock.errors import StaleLease
from interlock.history.events import TakenOver, ValueNoted
from interlock.store.protocol import Claim, Claimed, Join, Joined, Lease
from interlock.testing import ALONE
from interlock.worker import Worker
from tests.stage import Stage


class Rec(BaseModel):
    number: int = 0


SENT: list[str] = []


@tool(does="write", keyed=True, within=60)
async def slow(call: Call[None]) -> int:
    await asyncio.sleep(30)
    SENT.append(call.key)
    return 1


@state(tools=[slow], writes=["number"], within=300)
async def work(turn: Turn[Rec]) -> Literal["ok"]:
    turn.record.number = await turn.call(slow)
    return "ok"


def working() -> Machine[Rec, None]:
    return Machine("working", Rec, table={"s": work.then({"ok": "end"}), "end": final()})


async def leased(stage: Stage, worker: int, **more: object) -> Lease:
    machine = working()
    claim = Claim(worker, ((machine.name, machine.shape),), 1, stage.clock.now_ms(), **more)  # type: ignore[arg-type]
    (answer,) = stage.store.write([claim])
    assert isinstance(answer, Claimed)
    return answer.leases[0]


async def joined(stage: Stage, name: str) -> int:
    (answer,) = stage.store.write([Join(name, "host", 1, stage.clock.now_ms())])
    assert isinstance(answer, Joined)
    return answer.worker


@pytest.mark.replay_differs("its events are made by hand, not by its handler")
def test_a_worker_that_slept_past_its_lease_changes_nothing(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        handle = await client.start(working(), Rec())
        first, second = await joined(stage, "one"), await joined(stage, "two")
        old = await leased(stage, first)
        beat = next(row.beat for row in stage.store.workers() if row.number == first)
        new = await leased(stage, second, still={first: beat})
        assert new.fence > old.fence

        late = LiveRun(client.world, working(), old)
        late.add(ValueNoted(digest="x", kind="now", value=1))
        before = stage.store.find(handle.id)
        try:
            await late.durable()
            raise AssertionError("a stale worker committed")
        except StaleLease:
            pass
        assert stage.store.find(handle.id) == before

        heir = LiveRun(client.world, working(), new)
        heir.add(ValueNoted(digest="x", kind="now", value=2))
        await heir.durable()
        await heir.release()
        assert stage.store.find(handle.id).seq == before.seq + 1

    stage.perform(scenario)
    assert stage.client().verify() == []


def test_each_claim_raises_the_fence_and_no_run_is_held_twice(stage: Stage) -> None:
    async def scenario() -> None:
        handle = await stage.client().start(working(), Rec())
        first, second = await joined(stage, "one"), await joined(stage, "two")
        await leased(stage, first)
        machine = working()
        (answer,) = stage.store.write([Claim(second, ((machine.name, machine.shape),), 9, stage.clock.now_ms())])
        assert isinstance(answer, Claimed) and answer.leases == ()
        assert stage.store.find(handle.id).fence == 1

    stage.perform(scenario)


def test_two_workers_on_one_store_do_each_run_once(stage: Stage) -> None:
    """Whoever claims first; the other leaves it alone, however often it is nudged."""
    SENT.clear()

    async def scenario() -> None:
        client = stage.client(timing=ALONE)
        async with Worker(client, [working()], name="one"), Worker(client, [working()], name="two"):
            handles = [await client.start(working(), Rec()) for _ in range(8)]
            for handle in handles:
                assert (await handle.result()).record.number == 1

    stage.perform(scenario)
    assert len(SENT) == len(set(SENT)) == 8
    for row in stage.store.runs():
        assert not any(isinstance(event, TakenOver) for event in stage.events(row.id))


def test_a_stopped_worker_gives_its_runs_back(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        handle = await client.start(working(), Rec())
        worker = Worker(client, [working()], name="one", drain=0.1)
        await worker.__aenter__()
        await asyncio.sleep(1)
        await worker.stop()
        assert stage.store.find(handle.id).worker is None
        async with Worker(client, [working()], name="two"):
            assert (await handle.result()).status == "completed"

    stage.perform(scenario)
    assert stage.client().verify() == []
