"""For users' own tests: a machine played in virtual time, with scripted models, on a store in memory.

def test_a_refund_is_paid():
    run = play(support, Case(question="Where?", order_id="A-17"), model=[call("order_lines", order_id="A-17"), ...])
    assert run.status == "completed"
    assert_log(run, "look_up > pay > answer > closed")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from interlock.agent.model import Model, ModelFailed, ModelReply, Models
from interlock.agent.scripted import Choice, Script, ScriptedModel, ScriptedModels, call, choose, say
from interlock.agent.scripted_servers import ScriptedServers
from interlock.agent.servers import ServerFailed
from interlock.bootstrap import virtual_world
from interlock.client import Client, Result, RunHandle
from interlock.clock import ManualClock, VirtualLoop, run_virtually
from interlock.engine.timing import Timing
from interlock.errors import UnknownPrice
from interlock.history.events import Event, Transitioned
from interlock.machine.limits import Price
from interlock.machine.table import Machine
from interlock.reading import read_events, verify_run
from interlock.store.protocol import Store
from interlock.store.sqlite import SqliteStore
from interlock.worker import Worker

__all__ = [
    "Choice",
    "ManualClock",
    "ModelFailed",
    "ModelReply",
    "Played",
    "ScriptedModel",
    "ScriptedModels",
    "ScriptedServers",
    "ServerFailed",
    "VirtualLoop",
    "assert_log",
    "call",
    "choose",
    "memory_store",
    "play",
    "say",
]

R = TypeVar("R", bound=BaseModel)

ALONE = Timing(poll=1e9, lease=1e9)
"""Nobody else is there: no polling and no heartbeats to simulate."""

TEST_PRICE = Price.per_million(1, 4)
"""What a model without a known price costs in a test: 1 and 4 dollars per million tokens."""


@dataclass(frozen=True)
class Played(Generic[R]):
    """A run after it was played: how it stands, its events, and the models' requests by way of the script."""

    result: Result[R]
    events: tuple[Event, ...]
    seconds: float

    @property
    def status(self) -> str:
        return self.result.status

    @property
    def record(self) -> R:
        return self.result.record

    @property
    def path(self) -> str:
        """The states that were visited: "look_up > pay > answer > closed"."""
        return _path(self.events)


def play(
    machine: Machine[R, Any],
    record: R | Mapping[str, Any],
    *,
    model: Model | Models | Script | Mapping[str, Model | Script] = (),
    servers: ScriptedServers | Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    seed: int = 0,
    answers: Sequence[tuple[Any, ...]] = (),
    store: Store | None = None,
    clock: ManualClock | None = None,
    timing: Timing = ALONE,
) -> Played[R]:
    """Play one run in virtual time until it ends or waits for somebody, however long it waits in between.

    model    a scripted model or its script, or one per model name
    servers  what `mcp_server`s answer: {server: {tool: answer}}, an answer being a value or a function
    answers  what people say, in order: (outcome,) or (outcome, {field: value})
    seed     of every random choice
    The store is in memory unless one is given. Raises `Stuck` when the run waits for what nobody will do.
    """
    clock = clock or ManualClock()
    own = store or SqliteStore(":memory:", clock=clock)
    try:
        return run_virtually(_play(machine, record, own, clock, model, servers, seed, answers, timing), clock)
    finally:
        if store is None:
            own.close()


async def _play(
    machine: Machine[R, Any],
    record: R | Mapping[str, Any],
    store: Store,
    clock: ManualClock,
    model: Any,
    servers: Any,
    seed: int,
    answers: Sequence[tuple[Any, ...]],
    timing: Timing,
) -> Played[R]:
    models: Models = model if hasattr(model, "find") else ScriptedModels(model)
    seed += len(store.runs())  # a second run on the same store is another one, with another id
    world = virtual_world(store, clock, models=models, seed=seed, timing=timing)
    scripted = servers if isinstance(servers, ScriptedServers) else ScriptedServers(servers)
    world = replace(world, price_of=_Prices(world.price_of), servers=scripted)
    client = Client(world=world)
    began = clock.monotonic()
    handle = await client.start(machine, record, by="test")
    async with Worker(client, [machine], name="test", watch=False):
        result = await handle.result(until_waiting=True)
        for answer in answers:
            await client.resolve(handle.id, *answer, by="person")
            result = await handle.result(until_waiting=True)
    return Played(result, events_of(store, handle), clock.monotonic() - began)


class _Prices:
    """Models that nobody prices cost `TEST_PRICE`."""

    def __init__(self, known: Callable[[str, Mapping[str, Price]], Price]) -> None:
        self._known = known

    def __call__(self, model: str, table: Mapping[str, Price]) -> Price:
        try:
            return self._known(model, table)
        except UnknownPrice:
            return TEST_PRICE


def events_of(store: Store, handle: RunHandle[Any]) -> tuple[Event, ...]:
    row = store.find(handle.id)
    broken = verify_run(store, row)
    assert broken is None, f"the log doesn't hold: {broken}"
    return tuple(event for _, event, _ in read_events(store, row.number))


def _path(events: Sequence[Event]) -> str:
    names: list[str] = []
    for event in events:
        if isinstance(event, Transitioned):
            names = names or [event.state]
            if event.to != names[-1]:
                names.append(event.to)
    return " > ".join(names)


def assert_log(
    played: Played[Any], path: str | None = None, *, types: Sequence[str] | None = None, **counts: int
) -> None:
    """Assert what happened: the path of states, the exact sequence of event types, or how many of a type there are
    (`assert_log(run, "look_up > closed", model_called=2, overrun=0)`)."""
    said = [event.TYPE for event in played.events]
    if path is not None:
        assert played.path == path, f"went {played.path!r}, not {path!r}"
    if types is not None:
        assert said == list(types), f"log: {said}"
    for kind, count in counts.items():
        assert said.count(kind) == count, f"{said.count(kind)} x {kind}, not {count}; log: {said}"


@contextmanager
def memory_store(clock: ManualClock | None = None) -> Iterator[Store]:
    """A store in memory, for one block."""
    store = SqliteStore(":memory:", clock=clock or ManualClock())
    try:
        yield store
    finally:
        store.close()
