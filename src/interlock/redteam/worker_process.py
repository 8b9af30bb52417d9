"""A worker in a process of its own that advances one run, so that the drill has something to kill.

    python -m interlock.redteam.worker_process '{"store": "...", "file": "...", "machine": "...", "run": "...", ...}'

Loads everything, then waits for a line on its stdin before it touches the store. Ends when the run has ended or waits
for a person, and when whoever started it is gone (its stdin closes).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from interlock.agent.providers import ProviderModels
from interlock.client import Client
from interlock.engine.timing import Timing
from interlock.machine.limits import Price
from interlock.machine.table import AnyMachine
from interlock.worker import Worker

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Order:
    """What to work on: a run in a store, its machine by file and name, the model that plays every other, its price."""

    store: str
    file: str
    machine: str
    run: str
    model: str
    price: tuple[int, int, int]

    def written(self) -> str:
        return json.dumps(asdict(self))


def machine_in(file: str, name: str) -> AnyMachine:
    """The machine called `name` in a Python file."""
    module_name = Path(file).stem
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None  # a file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    machine: AnyMachine = getattr(module, name)
    return machine


async def work(order: Order) -> None:
    """Load, which takes a while; wait for the word; work."""
    machine, models = machine_in(order.file, order.machine), ProviderModels()
    models.find(order.model)
    if not sys.stdin.buffer.readline():
        return  # nobody is there any more
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prices, timing = {order.model: Price(*order.price)}, Timing(poll=POLL_SECONDS)
    async with (
        Client(order.store, models=models, model=order.model, prices=prices, timing=timing) as client,
        Worker(client, [machine], only=order.run),
    ):
        await client.run(order.run, machine).result(until_waiting=True)
    await models.aclose()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(3)


def main() -> None:
    given = json.loads(sys.argv[1])
    asyncio.run(work(Order(**{**given, "price": tuple(given["price"])})))
    os._exit(0)  # the thread above still reads


if __name__ == "__main__":
    main()
