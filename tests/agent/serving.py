"""A worker process for tests: `python -m tests.agent.serving FOLDER` takes one run into a call that never answers."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from interlock import Client, Turn, Worker, state
from interlock.engine.timing import Timing
from tests.agent.served import Case, hostile, machine

TIMING = Timing(lease=1.0, poll=0.05, grace=0.05, send_window=0.5)


def made(folder: Path) -> Any:
    """A machine that has its server start a child, and then sends what is never answered."""
    server = hostile(folder, "deaf")
    spawn, put = server.tool("spawn", does="read"), server.tool("put_and_hang", within=3.0)

    @state(tools=[spawn, put], within=600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(spawn, text="")
        await turn.call(put, n=1)
        return "done"

    return machine(work)


async def main(folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    mine = made(folder)
    async with (
        Client(f"sqlite:///{folder / 'store.db'}", timing=TIMING) as client,
        Worker(client, [mine], name="first", drain=0.2),
    ):
        await client.start(mine, Case())
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
