"""A stage for runs: a store, a clock in virtual time, and ways to play a run or a whole scenario on it.

`STORES` lists the stores that whatever goes through the engine and the client is tested on: another is one more
line. Knows no law.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

from interlock import testing
from interlock.agent.model import Models
from interlock.agent.scripted import ScriptedModels
from interlock.bootstrap import virtual_world
from interlock.client import Client, RunHandle
from interlock.clock import ManualClock, run_virtually
from interlock.engine.timing import Timing
from interlock.engine.world import World
from interlock.history.events import Event
from interlock.history.fold import RunState
from interlock.machine.limits import Price
from interlock.machine.table import Machine
from interlock.reading import read_events
from interlock.store.protocol import Store
from interlock.store.sqlite import SqliteStore
from interlock.testing import ALONE, Played
from interlock.worker import Worker
from tests.replaying import REPLAYS

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)

PRICE = Price.per_million(1, 4)

STORES: Mapping[str, Callable[[Path, ManualClock], Store]] = {
    "memory": lambda folder, clock: SqliteStore(":memory:", clock=clock),
    "file": lambda folder, clock: SqliteStore(folder / "store.db", clock=clock, durability="crash"),
}


def play(machine: Machine[R, Any], record: R | Mapping[str, Any], **how: Any) -> Played[R]:
    """Play one run as `interlock.testing.play` does, on a store of its own; after the test it is replayed."""
    clock = ManualClock()
    store = SqliteStore(":memory:", clock=clock)
    try:
        return testing.play(machine, record, store=store, clock=clock, **how)
    finally:
        world = virtual_world(store, clock, models=ScriptedModels(()), timing=how.get("timing", ALONE))
        REPLAYS.add(store, replace(world, price_of=lambda name, table: table.get(name, PRICE)), [machine], store.close)


class StageClient(Client):
    """Tells the stage which machines are started by it."""

    def __init__(self, machines: list[Any], world: World) -> None:
        super().__init__(world=world)
        self._machines = machines

    async def start(
        self, machine: Machine[R, Any], record: R | Mapping[str, Any], *, key: str | None = None, by: str | None = None
    ) -> RunHandle[R]:
        self._machines.append(machine)
        return await super().start(machine, record, key=key, by=by)


class Stage:
    """One store under one clock. `play` for a run alone, `perform` for a scenario with a client of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.clock = ManualClock()
        self.store = STORES[kind](folder, self.clock)
        self.machines: list[Any] = []  # whatever was started or worked here: the latest of a shape is replayed

    @property
    def path(self) -> Path:
        """The file of a store that has one."""
        return self.folder / "store.db"

    def play(self, machine: Any, record: Any, **how: Any) -> Played[Any]:
        """Play a run on this store; its log is verified at the end."""
        self.machines.append(machine)
        return testing.play(machine, record, store=self.store, clock=self.clock, **how)

    def close(self) -> None:
        """Once its runs have been replayed."""
        REPLAYS.add(self.store, self.client().world, self.machines, self.store.close)

    def client(self, model: Any = (), *, timing: Timing = ALONE, seed: int = 0, store: Store | None = None) -> Client:
        """A client in virtual time; every model costs `PRICE` unless its machine says otherwise."""
        models: Models = model if hasattr(model, "find") else ScriptedModels(model)
        world = virtual_world(store or self.store, self.clock, models=models, seed=seed, timing=timing)
        return StageClient(self.machines, replace(world, price_of=lambda name, table: table.get(name, PRICE)))

    @asynccontextmanager
    async def working(
        self, *machines: Any, model: Any = (), timing: Timing = ALONE, seed: int = 0
    ) -> AsyncIterator[Client]:
        """A client with a worker for these machines."""
        client = self.client(model, timing=timing, seed=seed)
        self.machines.extend(machines)
        async with Worker(client, machines, name="stage"):
            yield client

    def perform(self, scenario: Callable[[], Awaitable[T]]) -> T:
        """Carry out a scenario in virtual time."""

        async def main() -> T:
            return await scenario()

        return run_virtually(main(), self.clock)

    def events(self, run: str = "@last") -> list[Event]:
        return [event for _, event, _ in read_events(self.store, self.store.find(run).number)]

    def said(self, run: str = "@last") -> list[str]:
        """The types of a run's events."""
        return [event.TYPE for event in self.events(run)]

    def raw(self) -> bytes:
        """Every byte that the store keeps on disk."""
        return b"".join(file.read_bytes() for file in sorted(self.folder.glob("store.db*")))

    def edit(self, *statements: str) -> None:
        """What somebody with an editor does to the file: no guard is in the way."""
        self.store.close()
        with sqlite3.connect(self.path) as db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                db.execute(statement)
        db.close()
        self.store = STORES[self.kind](self.folder, self.clock)


@pytest.fixture(params=STORES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage on each store."""
    made = Stage(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def file_stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage on a file, for tests that look into it."""
    made = Stage("file", tmp_path)
    yield made
    made.close()


def folds(events: Sequence[Event]) -> Iterator[tuple[Event, RunState]]:
    """Each event with the state that it led to."""
    state = RunState()
    for seq, event in enumerate(events, start=1):
        state.apply(seq, event)
        yield event, state


def assert_within_ceiling(events: Sequence[Event], dimensions: Sequence[str] = ("calls", "tokens", "nanousd")) -> None:
    """After every event: what is spent and held is within the ceiling, and nothing is negative."""
    for event, state in folds(events):
        for dimension in dimensions:
            used = state.spent[dimension] + state.held[dimension]
            assert used <= state.ceiling[dimension], f"{dimension}: {used} of {state.ceiling[dimension]} after {event}"
            assert state.held[dimension] >= 0 and state.spent[dimension] >= 0, f"{dimension} is negative after {event}"
