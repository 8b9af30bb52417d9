"""What lies ready is shared by the workers that look for it: none takes all there is in one claim."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Machine, Turn, Worker, final, state
from interlock.machine.limits import Limits
from interlock.store.protocol import RunFilter
from interlock.testing import ALONE
from interlock.worker import CLAIMED_MAX
from tests.stage import Stage


class Case(BaseModel):
    n: int = 1


@state(within=60)
async def work(turn: Turn[Case]) -> Literal["done"]:
    await asyncio.sleep(10)
    return "done"


def _machine() -> Any:
    return Machine("made", Case, limits=Limits(turns=4), table={"work": work.then({"done": "end"}), "end": final()})


def test_workers_that_come_at_once_share_what_lies_ready(stage: Stage) -> None:
    made, runs = _machine(), 9 * CLAIMED_MAX

    async def scene() -> None:
        client = stage.client(timing=replace(ALONE, poll=0.5))
        for number in range(runs):
            await client.start(made, Case(n=number), by="test")
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(Worker(client, [made]))
            await asyncio.sleep(1)
            held = Counter(row.worker for row in stage.store.runs(RunFilter()))
            assert None not in held and len(held) == 3 and min(held.values()) >= 2 * CLAIMED_MAX, held

    stage.perform(scene)
