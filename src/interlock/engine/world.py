"""World: everything the engine is given from outside, in one value: time, chance, store, models, threads, notices.

Made by `bootstrap` for production and by `testing` for tests; nothing in the engine reaches past it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from interlock.agent.estimates import Estimates
from interlock.agent.mcp import Connections
from interlock.agent.model import Models
from interlock.agent.servers import Servers
from interlock.canonical import Json
from interlock.clock import Clock
from interlock.engine.breakers import Breakers
from interlock.engine.committer import Committer
from interlock.engine.delivery import Notifier
from interlock.engine.lines import Lines
from interlock.engine.timing import Timing
from interlock.machine.limits import Price
from interlock.machine.tools import Call, Tool
from interlock.store.protocol import Store


class Offload(Protocol):
    """Runs a plain function without blocking the loop. Whoever cancels the future has given up on it: a function that
    hasn't begun never does, and `late` is told what one that has returns after all."""

    def __call__(
        self, function: Callable[[], Any], late: Callable[[Any], None] | None = None
    ) -> asyncio.Future[Any]: ...


class Apart(Protocol):
    """One call of a tool in a process of its own."""

    def result(self, begin: Callable[[], None]) -> Any:
        """What the function returns; blocks. `begin` is asked right before anything is sent to it, and may raise.
        Raises `AttemptError`."""
        ...

    def kill(self) -> None:
        """End the process and all it started, from any thread, at any time."""
        ...


class Isolate(Protocol):
    """How tools with `isolate=True` are called."""

    def __call__(self, tool: Tool[Any, Any, Any], call: Call[Any], args: Mapping[str, Json]) -> Apart: ...


class PriceOf(Protocol):
    """What a model costs; the machine's own table goes first. Raises `UnknownPrice`."""

    def __call__(self, model: str, table: Mapping[str, Price]) -> Price: ...


def _none() -> int:
    return 0


@dataclass(frozen=True)
class World:
    """What the engine may touch. `model` replaces every model a machine names (None: as the machine says). `isolate`
    None: isolated tools are called as all others are, for virtual time, which knows no processes. `leaked` counts the
    threads that plain functions never gave back.
    `notifier` None: nobody is told of what happens, and the outbox stays as it is."""

    clock: Clock
    chance: Random
    store: Store
    committer: Committer
    models: Models
    price_of: PriceOf
    offload: Offload
    timing: Timing = field(default_factory=Timing)
    model: str | None = None
    estimates: Estimates = field(default_factory=Estimates)
    servers: Servers = field(default_factory=Connections)
    breakers: Breakers = field(default_factory=Breakers)
    isolate: Isolate | None = None
    lines: Lines = field(default_factory=Lines)
    leaked: Callable[[], int] = _none
    notifier: Notifier | None = None

    def commit_id(self) -> bytes:
        return self.chance.getrandbits(128).to_bytes(16, "big")
