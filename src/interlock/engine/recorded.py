"""Recorded: a run as its log has it, on which its turns are performed again.

What a turn asks for is answered from the record; what isn't in it is never answered. Nothing goes out and nothing is
written, by construction: this run's world has a log instead of a store, a committer that takes nothing, and models
that answer nobody; its desk stops every attempt before it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as with_changes
from random import Random
from typing import Any, NoReturn, cast

from msgspec import Struct
from msgspec.structs import replace

from interlock.agent.mcp import Connections
from interlock.agent.model import Model, ModelReply, ModelRequest, Models
from interlock.canonical import Json
from interlock.clock import ManualClock
from interlock.engine.attempts import ModelEffect
from interlock.engine.breakers import Breakers
from interlock.engine.committer import Answered, Committer
from interlock.engine.desk import Desk, Diverging
from interlock.engine.divergence import NOTES, Otherwise, alike, described
from interlock.engine.inline import at_once
from interlock.engine.live_run import LiveRun, account_of, cell_of
from interlock.engine.world import PriceOf, World
from interlock.errors import InterlockError, UnknownPrice
from interlock.history.events import (
    Event,
    Transitioned,
    stamped,
    to_json,
)
from interlock.history.fold import fold, walk
from interlock.machine.limits import Price
from interlock.machine.servers import Server
from interlock.machine.table import AnyMachine
from interlock.policy.breaker import Breaker
from interlock.store.protocol import Lease, RunRow, Snapshot, Store, StoredEvent, Write

# -- the world of a replay --------------------------------------------------------------------------------------------


class RecordedClock(ManualClock):
    """Virtual time that can be set to when something was recorded."""

    def set(self, now_ms: int) -> None:
        self._start_ms = now_ms - round(self._elapsed * 1000)


class Log:
    """One run's log, where a live run has the store: it can only be read."""

    def __init__(self, events: Sequence[StoredEvent], payload: Callable[[bytes], bytes]) -> None:
        self._events = events
        self.payload = payload

    def events(self, _: int, first: int = 1, last: int | None = None) -> list[StoredEvent]:
        return list(self._events[first - 1 : last])

    def breakers(self) -> list[Breaker]:
        """None is open: what one did to a turn is in the turn's record."""
        return []


class NoCommitter(Committer):
    """Takes nothing and answers nobody."""

    def tell(self, write: Write, answered: Answered) -> None:
        pass

    def close(self) -> None:
        pass


class NoServers(Connections):
    """Tool servers of which none is started: they answer nobody."""

    async def listed(self, server: Server) -> NoReturn:
        await _for_ever()

    async def call(self, server: Server, call: Any, begin: Callable[[], None], late: Callable[[Json], None]) -> Json:
        await _for_ever()


async def _for_ever() -> NoReturn:
    while True:
        await asyncio.get_running_loop().create_future()


class Unasked(Struct, frozen=True):
    """A model that nobody asks. `found` raises what finding it really would."""

    found: Callable[[], object]

    async def reply(self, request: ModelRequest) -> ModelReply:
        raise AssertionError("a replay asks no model")


class RecordedModels(Models):
    """Every name has a model, whether or not its package and key are here: it will not be asked."""

    def __init__(self, real: Models) -> None:
        self._real = real

    def find(self, name: str) -> Model:
        return Unasked(lambda: self._real.find(name))


class Priceless(Price):
    """What a model costs whose price isn't stated here (any more): it will not be asked."""


def _tolerant(price_of: PriceOf) -> PriceOf:
    def price(model: str, table: Mapping[str, Price]) -> Price:
        try:
            return price_of(model, table)
        except UnknownPrice:
            return Priceless(0, 0)

    return price


class NotOpened:
    """Stands where the dependencies of handlers would be: a replay opens none."""

    def __getattr__(self, name: str) -> NoReturn:
        raise InterlockError(f"turn.deps.{name}: a replay opens no dependencies")


def recorded_world(world: World, clock: RecordedClock, log: Log) -> World:
    """The same world, as far as it can be looked at without touching anything."""
    return with_changes(
        world,
        clock=clock,
        chance=Random(0),
        store=cast(Store, log),
        committer=NoCommitter(),
        models=RecordedModels(world.models),
        price_of=_tolerant(world.price_of),
        offload=at_once,
        servers=NoServers(),
        breakers=Breakers(),
    )


# -- the run ----------------------------------------------------------------------------------------------------------


class RecordedRun(LiveRun):
    """A run that is led along its log. `expected`: the events that must come next, and are then taken from the log;
    `extra`: what was added that the log doesn't have."""

    def __init__(
        self, world: World, machine: AnyMachine, row: RunRow, stored: Sequence[StoredEvent], log: Sequence[Event]
    ) -> None:
        self._row, self._all, self.log = row, stored, log
        self.expected: list[tuple[int, Event]] = []
        self.extra: list[Event] = []
        super().__init__(world, machine, Lease(0, row.fence, self._snapshot(1)))

    def _snapshot(self, upto: int) -> Snapshot:
        """The run as it stood after event `upto`."""
        state = fold(list(self.log[:upto]))
        cells = [(name, pointer) for name, pointers in state.cells.items() for pointer in pointers]
        row = replace(
            self._row,
            seq=upto,
            turn_seq=state.turn_seq,
            live=state.live(),
            account=account_of(state),
            mail=False,
        )
        return Snapshot(
            row=row,
            cells=tuple([cell_of(name, pointer) for name, pointer in cells]),
            values={pointer.seq: self._all[pointer.seq - 1].body for _, pointer in cells},
            journal=tuple(self._all[state.turn_seq : upto]),
            waits=(),
            inbox=(),
        )

    def go_to(self, seq: int) -> None:
        """Stand as after event `seq`, whatever happened here since."""
        self.expected, self.extra = [], []
        self._load(self._snapshot(seq))

    def take(self, seq: int, event: Event) -> None:
        """Take in the next event of the log."""
        turn = self.state.turn
        self.state.apply(seq, event)
        self.journal.append((seq, event))
        self._effects = self.state.effects
        if isinstance(event, Transitioned):
            self._end_turn(seq, event)
        elif self.state.turn != turn:  # a control move: the turn, and maybe the record, are others
            self._load(self._snapshot(seq))
        for name, pointer in self.state.moved:
            value = walk(to_json(self.log[pointer.seq - 1]), pointer.path)
            self.values[name] = value if pointer.item < 0 else [*self.values.get(name, []), value]
        self.state.moved = []

    def add(self, event: Event) -> tuple[int, Event]:
        if self.expected:
            seq, recorded = self.expected.pop(0)
            if not alike(event, recorded):
                raise Otherwise(event, seq, recorded)
            self.take(seq, recorded)
            return seq, recorded
        event = stamped(event, self.now, 0, self.state.turn)
        seq = self.state.seq + 1
        self.extra.append(event)
        self.state.apply(seq, event)
        self.journal.append((seq, event))
        return seq, event

    def soon(self) -> None:
        pass

    async def durable(self) -> None:
        pass


# -- the desk ---------------------------------------------------------------------------------------------------------


class RecordedDesk(Desk):
    """One entry into a recorded turn. `asked`: what its code asked for that isn't in the record. `awaited`: what
    it waited for that may be missing there: sleeps, which are recorded when they are over, and further attempts."""

    live = False

    def __init__(self, run: RecordedRun) -> None:
        super().__init__(run, run.world, None if run.machine.deps is None else NotOpened())
        self.asked: list[str] = []
        self.awaited: list[str] = []

    async def unrecorded(self, asked: Any, number: int) -> NoReturn:
        if number in self.journal.entries:  # a further attempt, which the handler mayn't have waited for
            self.awaited.append(f"a further attempt of {described(asked)}")
            await self.never()
        if isinstance(asked, ModelEffect):
            self._as_if_it_wereasked_of(asked)
        self.asked.append(described(asked))
        await self.never()

    def _as_if_it_wereasked_of(self, effect: ModelEffect) -> None:
        """What a live turn would raise before it asks a model that can't be had here."""
        if isinstance(effect.price, Priceless):
            raise UnknownPrice(f"nobody states what {effect.name} costs")
        if isinstance(effect.model, Unasked):
            effect.model.found()

    async def diverge(self, why: str) -> NoReturn:
        self._end(Diverging(why))
        await self.never()

    async def replayed(self) -> None:
        self._refuse_if_leaving()

    async def note(self, kind: str, digest: str, value: Any) -> Any:
        recorded = self.journal.note(digest)
        if recorded is None:
            self._refuse_if_leaving()
            self.asked.append(NOTES.get(kind, kind))
            await self.never()
        await self.in_order(recorded[0])
        return recorded[1].value

    def _order_ends(self) -> None:
        return None

    async def _sleep_anew(self, seconds: float, digest: str) -> None:
        self.awaited.append(f"a sleep of {seconds:g} s")
        await self.never()
