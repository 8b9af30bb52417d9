"""Stage: several workers, clients and a store in one process and virtual time, and ways to make them fail.

A worker "dies" by having its road to the store cut and its tasks cancelled: what it did outside stays done, what it
hadn't committed is gone. Everything is real but time and the models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from interlock.agent.scripted import ScriptedModels
from interlock.bootstrap import at_once
from interlock.client import Client
from interlock.clock import ManualClock, run_virtually
from interlock.engine.committer import InlineCommitter
from interlock.engine.timing import Timing
from interlock.engine.world import World
from interlock.history import events as e
from interlock.machine.limits import Price
from interlock.reading import read_events
from interlock.store.protocol import Answer, Commit, Store, Write
from interlock.store.sqlite import SqliteStore
from interlock.worker import Worker
from tests.laws.audit import audit
from tests.replaying import REPLAYS

T = TypeVar("T")

PRICE = Price.per_million(1, 4)


class Cable(InlineCommitter):
    """A committer that can be cut, or told to fail at a commit. A write that was cut is never answered.

    `fail` is asked before each write that goes out, and may answer "lose" (cut before it is written), "die" (written,
    then cut: the acknowledgement is lost with the worker), or "" to let it pass.
    """

    def __init__(self, store: Store, fail: Callable[[Write], str] = lambda write: "") -> None:
        super().__init__(store)
        self._to = store
        self._fail = fail
        self.cut = False
        self.died = asyncio.Event()

    def tell(self, write: Write, answered: Callable[[Answer], None]) -> None:
        if self.cut:
            return
        fate = self._fail(write)
        if fate:
            if fate == "die":
                self._write()  # what waits in this tick goes before it
                self._to.write([write])
            self.cut = True
            self._waiting.clear()
            self.died.set()
            return
        super().tell(write, answered)

    def _write(self) -> None:
        if not self.cut:
            super()._write()


class Stage:
    """One scene: a store, a clock, and whoever works on them."""

    def __init__(
        self, clock: ManualClock, store: Store, model: Any, seed: int, timing: Timing, notifier: Any = None
    ) -> None:
        self.notifier = notifier
        self.clock = clock
        self.store = store
        self.timing = timing
        self.models = model if hasattr(model, "find") else ScriptedModels(model)
        self._chance = Random(seed)
        self.client = Client(world=self.world())
        self._workers: list[Worker] = []
        self.machines: list[Any] = []  # whatever was worked here: the latest of a shape is replayed

    def world(self, fail: Callable[[Write], str] = lambda write: "", store: Store | None = None) -> World:
        return World(
            clock=self.clock,
            chance=Random(self._chance.getrandbits(64)),
            store=store or self.store,
            committer=Cable(store or self.store, fail),
            models=self.models,
            price_of=lambda model, table: table.get(model, PRICE),
            offload=at_once,
            timing=self.timing,
            notifier=self.notifier,
        )

    async def worker(
        self,
        *machines: Any,
        fail: Callable[[Write], str] = lambda write: "",
        store: Store | None = None,
        name: str = "",
        **more: Any,
    ) -> Worker:
        """A worker that works until `stop` or `kill`."""
        host = Client(world=self.world(fail, store))
        self.machines.extend(machines)
        worker = Worker(host, machines, watch=False, name=name or f"w{len(self._workers) + 1}", **more)
        self._workers.append(worker)
        return await worker.__aenter__()

    async def kill(self, worker: Worker) -> None:
        """As SIGKILL would: from now on it does nothing, and nobody is told."""
        cable = worker.world.committer
        assert isinstance(cable, Cable)
        cable.cut = True
        self._workers.remove(worker)
        tasks = [*worker._tasks, *worker._loops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, true: Callable[[], bool], seconds: float = 2000, step: float = 0.25) -> None:
        """Look every so often until something is true."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    await asyncio.sleep(step)
        except TimeoutError:
            log = "\n".join(map(str, self.log()))
            raise AssertionError(f"not within {seconds:g} s; {self.status()}:\n{log}") from None

    def log(self, run_id: str = "@last") -> list[e.Event]:
        return [event for _, event, _ in read_events(self.store, self.store.find(run_id).number)]

    def of(self, kind: type[T], run_id: str = "@last") -> list[T]:
        """The events of one kind."""
        return [event for event in self.log(run_id) if isinstance(event, kind)]

    def status(self, run_id: str = "@last") -> str:
        return self.store.find(run_id).status

    async def end(self) -> None:
        for worker in self._workers:
            await worker.stop()


def on_stage(
    scene: Callable[[Stage], Awaitable[T]],
    model: Any = (),
    *,
    seed: int = 0,
    timing: Timing = Timing(),  # noqa: B008 - frozen
    path: Path | None = None,
    notifier: Any = None,
) -> T:
    """Play a scene, then audit every run of its store; after the test each is replayed."""
    clock = ManualClock()
    store = SqliteStore(path or ":memory:", clock=clock)

    stages: list[Stage] = []

    async def play() -> T:
        stage = Stage(clock, store, model, seed, timing, notifier)
        stages.append(stage)
        try:
            return await scene(stage)
        finally:
            await stage.end()

    try:
        made = run_virtually(play(), clock)
        audit(store)
        REPLAYS.add(store, stages[0].client.world, stages[0].machines, store.close)
        return made
    except BaseException:
        store.close()
        raise


def dies_at(number: int, how: str, kinds: Sequence[type[Write]] = (Commit,)) -> Callable[[Write], str]:
    """The `number`-th write of these kinds (from 1) is where the worker dies."""
    seen = 0

    def fail(write: Write) -> str:
        nonlocal seen
        if isinstance(write, tuple(kinds)):
            seen += 1
        return how if isinstance(write, tuple(kinds)) and seen == number else ""

    return fail
