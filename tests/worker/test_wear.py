"""Threads that never come back wear a worker out: it drains, and tells its host that its process must be replaced."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Client, Machine, Turn, Worker, final, state
from interlock.machine.limits import Limits
from interlock.testing import ALONE
from tests.stage import Stage


class Case(BaseModel):
    n: int = 1


@state(within=30)
async def work(turn: Turn[Case]) -> Literal["done"]:
    return "done"


def _machine() -> Any:
    return Machine("made", Case, limits=Limits(turns=4), table={"work": work.then({"done": "end"}), "end": final()})


@pytest.mark.parametrize("told", [True, False])
def test_a_worn_out_worker_tells_its_host_once_and_takes_no_more_runs(stage: Stage, told: bool) -> None:
    """Without a host to tell, it works on: a service that stops by itself, in silence, would be worse."""
    leaked, said = [0], list[str]()
    timing = replace(ALONE, lease=15.0, poll=0.5)

    async def scene() -> None:
        client = Client(world=replace(stage.client(timing=timing).world, leaked=lambda: leaked[0]))
        made = _machine()
        stage.machines.append(made)
        async with Worker(client, [made], leaks_max=3, on_worn=said.append if told else None):
            leaked[0] = 2
            await asyncio.sleep(60)
            assert (await (await client.start(made, Case(), by="test")).result()).status == "completed"
            leaked[0] = 3
            await asyncio.sleep(timing.beat)
            assert said == [], "one that was just given up may still come back"
            await asyncio.sleep(60)
            assert len(said) == told
            run = await client.start(made, Case(), by="test")
            await asyncio.sleep(60)
            assert run.show().status == ("ready" if told else "completed")
        assert stage.store.workers() == []
        assert all("3 threads of plain functions never came back" in why for why in said)

    stage.perform(scene)
