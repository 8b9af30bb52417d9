"""Bootstrap: settings become a world. The only module that knows the concrete store, models and committers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from random import Random, SystemRandom
from typing import Any, Protocol

from interlock.agent.model import Models
from interlock.agent.prices import price_of
from interlock.agent.providers import ProviderModels
from interlock.agent.scripted_servers import ScriptedServers
from interlock.clock import Clock, SystemClock
from interlock.engine.breakers import Breakers
from interlock.engine.committer import Committer, InlineCommitter, ThreadCommitter
from interlock.engine.delivery import Notifier
from interlock.engine.inline import at_once as at_once
from interlock.engine.raised import bearable
from interlock.engine.timing import Timing
from interlock.engine.world import World
from interlock.errors import BadInput, StoreError
from interlock.isolation import LOADING, Isolation
from interlock.machine.limits import Price
from interlock.machine.window import WINDOW_BYTES_MAX
from interlock.policy.breaker import Terms
from interlock.store.protocol import Store
from interlock.store.sqlite import open_sqlite

DEFAULT_STORE = "sqlite:///interlock.db"

REQUEST_TOKENS_MAX = WINDOW_BYTES_MAX + 8192
"""No request is billed for more input: the largest window, and room for framing. Price tiers above it don't apply."""


class HasWorld(Protocol):
    """Whatever has a world to work in: a `Client`."""

    @property
    def world(self) -> World: ...


@dataclass(eq=False, slots=True)
class _Job:
    """One call of a plain function, and how it stands."""

    function: Callable[[], Any]
    late: Callable[[Any], None] | None
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    running: bool = False
    given_up: bool = False

    def perform(self) -> None:
        value, error = None, None
        try:
            value = self.function()
        except BaseException as raised:
            error = bearable(raised)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            self.loop.call_soon_threadsafe(self._answer, value, error)

    def _answer(self, value: Any, error: Exception | None) -> None:
        if self.future.cancelled():
            if error is None and self.late is not None:
                self.late(value)
        elif error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class Threads:
    """Runs plain functions in up to `threads_max` threads; the others wait, and one that is given up while it waits
    never begins. A thread whose function is given up while it runs is written off, since it may never return, and
    counts no more. Neither the worker nor, as the threads are daemons (those of `concurrent.futures` aren't), the end
    of the process waits for it."""

    def __init__(self, threads_max: int = 64) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # for the counts, and for how each job stands
        self._free = 0  # threads that wait for a job; below zero: jobs that wait for a thread
        self._threads = 0
        self._threads_max = threads_max
        self._leaked = 0  # written off, and not back yet

    def __call__(self, function: Callable[[], Any], late: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        job = _Job(function, late, loop.create_future(), loop)
        job.future.add_done_callback(lambda future: self._give_up(job) if future.cancelled() else None)
        self._jobs.put(job)
        with self._lock:
            self._free -= 1
            try:
                self._hire()
            except RuntimeError:  # the process has as many threads as it may
                if not self._threads:
                    job.given_up = True
                    raise
        return job.future

    def leaked(self) -> int:
        """Threads that were written off and have not come back."""
        return self._leaked

    def _hire(self) -> None:
        if self._free < 0 and self._threads < self._threads_max:
            threading.Thread(target=self._work, name="interlock-plain", daemon=True).start()
            self._threads += 1
            self._free += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._begins(job):
                job.perform()
            if self._is_written_off(job):
                return
            del job  # keeps nothing alive while it waits

    def _begins(self, job: _Job) -> bool:
        with self._lock:
            job.running = not job.given_up
            return job.running

    def _is_written_off(self, job: _Job) -> bool:
        with self._lock:
            written_off = job.running and job.given_up
            job.running = False
            self._free += not written_off
            self._leaked -= written_off
            return written_off

    def _give_up(self, job: _Job) -> None:
        with self._lock:
            job.given_up = True
            if job.running:
                self._threads -= 1
                self._leaked += 1
                with contextlib.suppress(RuntimeError):  # whoever calls next tries again
                    self._hire()

    def close(self) -> None:
        """What hasn't begun is dropped; nobody waits for what has."""
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in range(self._threads):
            self._jobs.put(None)


@dataclass(frozen=True, slots=True)
class Prices:
    """The user's price table, under the machine's own and over the built-in list."""

    table: Mapping[str, Price]

    def __call__(self, model: str, table: Mapping[str, Price]) -> Price:
        return price_of(model, {**self.table, **table}, tokens_in_max=REQUEST_TOKENS_MAX)


def store_url(url: str | None = None) -> str:
    """The store that was named, else `INTERLOCK_STORE`, else `sqlite:///interlock.db`."""
    return url or os.environ.get("INTERLOCK_STORE") or DEFAULT_STORE


def is_in_memory(url: str) -> bool:
    """A store that lasts as long as the object that opened it: for tests."""
    return url.removeprefix("sqlite:///") == ":memory:"


def open_store(
    url: str | None = None, *, clock: Clock | None = None, create: bool = True, readonly: bool = False
) -> Store:
    """Open a store by URL. Raises `StoreError` (which see) with one clear sentence."""
    named = store_url(url)
    if not named.startswith("sqlite:"):
        raise StoreError(f"{named}: a store is named sqlite:///path/to/file.db")
    return open_sqlite(named, clock=clock or SystemClock(), create=create, readonly=readonly)


def open_world(
    store: Store | str | None = None,
    *,
    models: Models | None = None,
    model: str | None = None,
    prices: Mapping[str, Price] | None = None,
    timing: Timing | None = None,
    breaker: Terms | None = None,
    clock: Clock | None = None,
    notifier: Notifier | None = None,
) -> World:
    """A world for production: system time, a writer thread, real providers unless others are given."""
    if LOADING in os.environ:
        name = os.environ[LOADING]
        raise BadInput(f"loading the module of `{name}` for its process begins work: guard it by `__name__`")
    clock = clock or SystemClock()
    opened = open_store(store, clock=clock) if store is None or isinstance(store, str) else store
    threads = Threads()
    return World(
        clock=clock,
        chance=SystemRandom(),
        store=opened,
        committer=ThreadCommitter(opened),
        models=models or ProviderModels(),
        price_of=Prices(prices or {}),
        offload=threads,
        leaked=threads.leaked,
        timing=timing or Timing(),
        model=model,
        isolate=Isolation(clock),
        breakers=Breakers(breaker),
        notifier=notifier,
    )


def virtual_world(
    store: Store,
    clock: Clock,
    *,
    models: Models,
    seed: int = 0,
    prices: Mapping[str, Price] | None = None,
    timing: Timing | None = None,
) -> World:
    """A world in virtual time: everything on one loop, every choice from a seed."""
    committer: Committer = InlineCommitter(store)
    return World(
        clock=clock,
        chance=Random(seed),
        store=store,
        committer=committer,
        models=models,
        price_of=Prices(prices or {}),
        offload=at_once,
        timing=timing or Timing(),
        servers=ScriptedServers({}),  # real processes don't live in virtual time
    )
