"""A worker process for tests: `python -m tests.worker.child STORE SCENE WORLD [stop-before|stop-after]`.

Works on the runs of one scene until it is killed; says "claimed" when it holds one. With `stop-...` it sends itself
SIGSTOP right before or after the commit that carries the intent of a `mail`, as if the machine had gone to sleep there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Call, Client, Machine, Turn, Worker, ask, final, state, tool
from interlock.agent.scripted import ScriptedModel
from interlock.bootstrap import open_store
from interlock.engine.timing import Timing
from interlock.machine.limits import Limits
from interlock.store.protocol import Answer, Claimed, Commit, Store, Write

WORLD = Path(os.environ.get("TEST_WORLD", "world.txt"))
WITHIN = 0.4
DURATIONS = {"linger": 0.001, "send_window": 0.3, "grace": 0.1, "lease": 0.9, "poll": 0.05}
TIMING = Timing(**DURATIONS)  # type: ignore[arg-type] # none is the number of take-overs


class Case(BaseModel):
    n: int = 1
    said: str = ""


@tool(does="send", within=WITHIN)
async def mail(call: Call[None], n: int) -> str:
    note(f"mail {call.key}")
    return "sent"


@tool(does="read", within=30)
async def slow(call: Call[None], n: int) -> str:
    note(f"slow {call.attempt}")
    if call.attempt == 1:
        await asyncio.sleep(30)
    return "slow"


@tool(does="read", within=0.3)
def endless(call: Call[None], n: int) -> str:
    note("endless")
    time.sleep(3600)
    return "never"


@tool(does="write", keyed=True, within=2, concurrency=2, rate=(4, 1))
async def gate(call: Call[None], n: int) -> str:
    note(f"in {call.key} {call.attempt} {os.getpid()}")
    await asyncio.sleep(0.05)
    note(f"out {call.key} {call.attempt} {os.getpid()}")
    return "passed"


def note(line: str) -> None:
    with WORLD.open("a") as file:
        file.write(line + "\n")


def world() -> list[str]:
    return WORLD.read_text().splitlines() if WORLD.exists() else []


@state(tools=[mail])
async def send(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(mail, 1)
    return "done"


@state(tools=[slow])
async def wait_long(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(slow, 1)
    return "done"


@state(tools=[gate], within=120)
async def pass_gate(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(gate, 1)
    return "done"


@state(within=60)
async def spin(turn: Turn[Case]) -> Literal["done"]:
    note(f"spins {os.getpid()}")
    while True:
        time.sleep(0.05)  # an async handler that never gives the loop back


@state(within=0.3)
def plain(turn: Turn[Case]) -> Literal["done"]:
    note("plain")
    time.sleep(3600)
    return "done"


@state(tools=[endless], within=20)
async def calls_endless(turn: Turn[Case]) -> Literal["done"]:
    await turn.call(endless, 1)
    return "done"


@state(within=60)
async def dies(turn: Turn[Case]) -> Literal["done"]:
    note(f"dies {os.getpid()}")
    os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@state(writes=["said"], within=60)
async def poisons(turn: Turn[Case]) -> Literal["done"]:
    note(f"poisons {os.getpid()}")
    turn.record.said = "poison"
    return "done"


@state(within=60)
async def shares(turn: Turn[Case]) -> Literal["done"]:
    note(f"begin {os.getpid()} {turn.run}")
    await asyncio.sleep(0.02)
    note(f"end {os.getpid()} {turn.run}")
    return "done"


@state(within=60)
async def naps(turn: Turn[Case]) -> Literal["done"]:
    await turn.sleep(0.2 + turn.record.n % 7 * 0.1)
    note(f"woke {turn.run}")
    return "done"


@state(within=60)
async def holds(turn: Turn[Case]) -> Literal["done"]:
    note(f"holds {os.getpid()}")
    await asyncio.sleep(20 if turn.record.n else 0)
    return "done"


def _scene(name: str, handler: Any, moves: dict[str, str] | None = None) -> Any:
    table = {
        "work": handler.then({"done": "end", **(moves or {})}),
        "person": ask("what now?", of="support", writes={"stop": []}).then({"stop": "end", "timeout": "end"}),
        "end": final("completed"),
    }
    if not moves:
        del table["person"]
    return Machine(name, Case, limits=Limits(turns=9, attempts=2), table=table)


SCENES = {
    "send": _scene("send", send),
    "slow": _scene("slow", wait_long),
    "spin": _scene("spin", spin, {"error": "person"}),
    "plain": _scene("plain", plain, {"timeout": "person"}),
    "dies": _scene("dies", dies, {"error": "person"}),
    "poisons": _scene("poisons", poisons),
    "shares": _scene("shares", shares),
    "gate": _scene("gate", pass_gate),
    "naps": _scene("naps", naps),
    "holds": _scene("holds", holds),
    "endless": _scene("endless", calls_endless, {"retries_spent": "person"}),
}


class Sleepy:
    """A store at whose write the process falls asleep, once."""

    def __init__(self, store: Store, where: str) -> None:
        self._store = store
        self._where = where

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        begins = any(isinstance(write, Commit) and write.begins for write in batch)
        if begins and self._where == "stop-before":
            self._sleep()
        answers = self._store.write(batch)
        if any(isinstance(answer, Claimed) and answer.leases for answer in answers):
            print("claimed", flush=True)
        if begins and self._where == "stop-after":
            self._sleep()
        return answers

    def _sleep(self) -> None:
        self._where = ""
        print("sleeps", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.1)  # the stop reaches each thread a moment later; none may be inside a transaction by then


async def main(store: str, scene: str, where: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    opened: Any = Sleepy(open_store(store), where)
    timing = Timing(**{**DURATIONS, **json.loads(os.environ.get("CHILD_TIMING", "{}"))})
    concurrency = int(os.environ.get("CHILD_CONCURRENCY", "200"))
    drain = float(os.environ.get("CHILD_DRAIN", "10"))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Client(opened, models=ScriptedModel([]), timing=timing) as client:
        async with Worker(client, [SCENES[scene]], concurrency=concurrency, drain=drain):
            print("ready", flush=True)
            await ended.wait()
        print("stopped", flush=True)


if __name__ == "__main__":
    WORLD = Path(sys.argv[3])
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[4] if len(sys.argv) > 4 else ""))
