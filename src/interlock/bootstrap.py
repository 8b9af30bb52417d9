"""Bootstrap: settings become a world. The only module that knows the concrete store, models and committers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any, Protocol

from interlock.agent.model import Models
from interlock.agent.prices import price_of
from interlock.agent.providers import ProviderModels
from interlock.clock import Clock, SystemClock
from interlock.engine.committer import Committer, InlineCommitter, ThreadCommitter
from interlock.engine.timing import Timing
from interlock.engine.world import World
from interlock.errors import StoreError
from interlock.machine.limits import WINDOW_BYTES, Price
from interlock.store.protocol import Store
from interlock.store.sqlite import open_sqlite

DEFAULT_STORE = "sqlite:///interlock.db"

REQUEST_TOKENS_MAX = WINDOW_BYTES + 8192
"""No request is billed for more input: the window, and room for framing. Price tiers above it don't apply."""


class HasWorld(Protocol):
    """Whatever has a world to work in: a `Client`."""

    @property
    def world(self) -> World: ...


class Threads:
    """Runs plain functions in threads. One that never returns costs a thread, not the worker."""

    def __init__(self, threads_max: int = 64) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="interlock-plain")

    def __call__(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def at_once(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """Runs a plain function right here: for virtual time, which knows no threads."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(function())
    except Exception as raised:
        future.set_exception(raised)
    return future


@dataclass(frozen=True, slots=True)
class Prices:
    """The user's price table, under the machine's own and over the built-in list."""

    table: Mapping[str, Price]

    def __call__(self, model: str, table: Mapping[str, Price]) -> Price:
        return price_of(model, {**self.table, **table}, tokens_in_max=REQUEST_TOKENS_MAX)


def store_url(url: str | None = None) -> str:
    """The store that was named, else `INTERLOCK_STORE`, else `sqlite:///interlock.db`."""
    return url or os.environ.get("INTERLOCK_STORE") or DEFAULT_STORE


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
    clock: Clock | None = None,
) -> World:
    """A world for production: system time, a writer thread, real providers unless others are given."""
    clock = clock or SystemClock()
    opened = open_store(store, clock=clock) if store is None or isinstance(store, str) else store
    return World(
        clock=clock,
        chance=SystemRandom(),
        store=opened,
        committer=ThreadCommitter(opened),
        models=models or ProviderModels(),
        price_of=Prices(prices or {}),
        offload=Threads(),
        timing=timing or Timing(),
        model=model,
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
    )
