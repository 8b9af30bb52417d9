"""A worker process whose runs ask one model again and again: `python -m tests.worker.asking STORE MODEL CALLS`.

Works until it is killed; says "ready" when it has joined.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Client, Limits, Machine, Turn, Worker, final, state, wait
from interlock.agent.providers import ProviderModels
from interlock.engine.timing import Timing
from interlock.machine.limits import Price
from interlock.policy.breaker import Terms

TERMS = Terms(failures=5, open_for=1.5)
TIMING = Timing(lease=3, poll=0.1)


class Asked(BaseModel):
    n: int = 0


def asking(model: str, calls: int) -> Any:
    """A machine of runs that have asked when they were answered so often; it comes back when nobody answers."""

    @state(models=[model], writes=["n"], within=60)
    async def ask(turn: Turn[Asked]) -> Literal["again", "done"]:
        await turn.model(model, "go on", within=10, max_tokens=16)
        turn.record.n = turn.record.n + 1
        return "done" if turn.record.n >= calls else "again"

    return Machine(
        "asking",
        Asked,
        limits=Limits(turns=10_000, warn_at=1.0, repeats=None, tokens=10**9, usd=1),
        prices={model: Price(0, 0)},
        table={
            "ask": ask.then({"again": "ask", "done": "end", "unavailable": "later", "retries_spent": "later"}),
            "later": wait(seconds=0.3).then({"elapsed": "ask"}),
            "end": final("completed"),
        },
    )


async def main(store: str, model: str, calls: int) -> None:
    models = ProviderModels()
    models.find(model)
    async with (
        Client(store, models=models, timing=TIMING, breaker=TERMS) as client,
        Worker(client, [asking(model, calls)], concurrency=13),
    ):
        print("ready", flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
