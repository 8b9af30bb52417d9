"""Client: start, await, read, answer: the same verbs as the command line. Never runs a turn; a `Worker` does.

How runs are answered is in `answering`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from msgspec.structs import replace
from pydantic import BaseModel

from interlock import upgrading
from interlock.agent.model import Model, Models
from interlock.agent.scripted import ScriptedModels
from interlock.answering import Answering, login_name
from interlock.bootstrap import Threads, open_world
from interlock.canonical import Json, fingerprint, in_key_order
from interlock.deciding import to_answer
from interlock.engine.delivery import Notifier
from interlock.engine.live_run import account_of, cell_of, row_of
from interlock.engine.record import dump_record, load_record
from interlock.engine.replay import Replayed, replay
from interlock.engine.timing import Timing
from interlock.engine.upgrade import Map
from interlock.engine.world import World
from interlock.errors import BadInput, KeyTaken, ShapeChanged, UnknownRun
from interlock.fitting import (
    check_key,
    check_names,
    check_words,
)
from interlock.forking import digest_of, fork_of
from interlock.handover import HandOver, hand_over
from interlock.history import chain, payloads
from interlock.history.events import Event, RunStarted
from interlock.history.fold import FINAL, RunState
from interlock.machine.definition import Definition
from interlock.machine.limits import Amounts, Price
from interlock.machine.table import AnyMachine, Machine
from interlock.machine.worst_case import ceiling_of
from interlock.policy.breaker import Terms
from interlock.reading import (
    Broken,
    OpenWait,
    RunView,
    open_wait,
    read_events,
    read_run,
    verify_runs,
)
from interlock.store.protocol import (
    RunFilter,
    Start,
    Started,
    Store,
    StoredEvent,
    Taken,
)
from interlock.upgrading import Plan as UpgradePlan
from interlock.upgrading import Upgrade
from interlock.worker import Worker

R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Result(Generic[R]):
    """How a run stands: `status` (completed, failed, cancelled, or waiting, paused), its state and its record."""

    id: str
    status: str
    reason: str
    state: str
    record: R
    spent: Amounts
    waits: tuple[OpenWait, ...]


def _as_models(given: Models | Model | None) -> Models | None:
    """A single model answers for every name."""
    if given is None:
        return None
    return cast(Models, given) if hasattr(given, "find") else ScriptedModels(given)


class Client(Answering):
    """A way to the runs of one store.

    store   URL (`sqlite:///file.db`), default `INTERLOCK_STORE`, else `sqlite:///interlock.db`; or an open store
    models  where models are found, default the real providers; a single model answers for every name
    model   the name of a model that replaces every one that machines name
    prices  what models cost, over the built-in list
    breaker when the breaker of a model or tool opens, and for how long
    notify  who is told when a run waits for a person or ends failed, as `Webhook(url, secret=...)`; for every worker
    An async context manager. Raises `StoreError` when the store can't be opened.
    """

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        models: Models | Model | None = None,
        model: str | None = None,
        prices: Mapping[str, Price] | None = None,
        timing: Timing | None = None,
        breaker: Terms | None = None,
        notify: Notifier | None = None,
        world: World | None = None,
    ) -> None:
        found: Models | None = _as_models(models)
        opened = world or open_world(
            store,
            models=found,
            model=model,
            prices=prices,
            timing=timing,
            breaker=breaker,
            notifier=notify,
        )
        super().__init__(opened)
        self._owns_world = world is None
        self._ceilings: dict[int, tuple[Definition[Any, Any], Amounts]] = {}
        self.changed: list[Callable[[], None]] = []  # told whenever an embedded worker gave a run back, whichever
        self._waiting: dict[str, set[asyncio.Event]] = {}  # those who wait for one run, by its id

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued and close the store."""
        if not self._owns_world:
            return
        self._world.committer.close()
        if isinstance(self._world.offload, Threads):
            self._world.offload.close()
        self._world.store.close()

    # -- starting ---------------------------------------------------------------------------------------------------

    async def start(
        self, machine: Machine[R, Any], record: R | Mapping[str, Any], *, key: str | None = None, by: str | None = None
    ) -> RunHandle[R]:
        """Add a run; a worker will take it. With a `key`, the same key and record answer the run that exists, in
        whatever order the record's objects have their keys.

        Durable when this returns. Raises `BadInput` for a record that doesn't fit, a field that it doesn't have or an
        empty key, `KeyTaken` for the same key with another record, `ShapeChanged` when that run is open on another
        shape, `UnknownPrice`.
        """
        check_key(key)
        check_words(by=by)
        if isinstance(record, Mapping):
            check_names(machine.record, record)
        values = dump_record(machine.record, record)
        answer = await self._begin(self._first_event(machine, values, key, by), fingerprint(in_key_order(values)))
        if not answer.new:
            self.run(answer.id, machine)  # it may have been started on another shape
        return RunHandle(self, answer.id, machine, new=answer.new)

    async def fork(
        self,
        run_id: str,
        *,
        at: int,
        fields: Mapping[str, Json] | None = None,
        machine: Machine[R, Any] | None = None,
        key: str | None = None,
        by: str | None = None,
    ) -> RunHandle[R]:
        """Add a run that goes on live from where turn `at` of another began, ended or not, with other values for some
        `fields` of the record. It has its history, record and conversations; its own account, effects and approvals.

        With its `machine` the record is checked against its class, and the ceiling is the machine's; without, a field
        takes a value of the kind it held, and the ceiling is what that run began with. The same `key` again is the same
        fork. Raises `BadInput` where something was under way or in doubt then, `KeyTaken`, `ShapeChanged`.
        """
        check_key(key)
        check_words(by=by)
        started = fork_of(self.store, run_id, at, fields, machine, lambda known: self.ceiling_of(known).as_dict())
        started = replace(started, at=self._world.clock.now_ms(), key=key, by=by or login_name())
        answer = await self._begin(started, digest_of(started))
        return RunHandle(self, answer.id, machine, new=answer.new)

    async def _begin(self, event: RunStarted, input_digest: str) -> Started:
        answer = await self._submit(self._birth(event, input_digest))
        if isinstance(answer, Taken):
            raise KeyTaken(f"key {event.key!r} belongs to run {answer.id}, which was started with another record")
        assert isinstance(answer, Started)
        self._tell_workers()
        return answer

    def _first_event(self, machine: AnyMachine, values: dict[str, Json], key: str | None, by: str | None) -> RunStarted:
        limits = machine.limits
        return RunStarted(
            at=self._world.clock.now_ms(),
            turn=1,
            machine=machine.name,
            shape=machine.shape,
            content=machine.content,
            state=machine.start,
            record=values,
            ceiling=self.ceiling_of(machine).as_dict(),
            mode=limits.mode,
            warn_at=float(limits.warn_at),
            on_warn=limits.on_warn,
            wrap_up=float(limits.wrap_up),
            key=key,
            by=by or login_name(),
        )

    def _birth(self, event: RunStarted, input_digest: str) -> Start:
        run_id = f"{self._world.chance.getrandbits(64):016x}"
        body, large = payloads.split(event)
        state = RunState()
        state.apply(1, event)
        return Start(
            id=run_id,
            machine=event.machine,
            shape=event.shape,
            tenant=event.tenant,
            key=event.key,
            input_digest=input_digest,
            event=StoredEvent(1, body, chain.link(chain.seed(run_id), body)),
            row=row_of(state),
            cells=tuple(cell_of(name, pointer) for name, pointer in state.moved),
            account=account_of(state),
            payloads=large,
            at=event.at,
        )

    def ceiling_of(self, machine: Definition[Any, Any]) -> Amounts:
        """What a run of this machine may use: its limits, else its worst case."""
        known = self._ceilings.get(id(machine))
        if known is None or known[0] is not machine:
            world = self._world
            amounts = ceiling_of(machine, lambda name: world.price_of(world.model or name, machine.prices))
            known = self._ceilings[id(machine)] = (machine, amounts)
        return known[1]

    # -- reading ----------------------------------------------------------------------------------------------------

    def run(self, run_id: str, machine: Machine[R, Any] | None = None) -> RunHandle[R]:
        """A run that exists, by id, the beginning of one, or `@last`. Raises `UnknownRun`; `ShapeChanged` when it is
        open and was started on another shape of `machine`."""
        row = self.store.find(run_id)
        if (
            machine is not None
            and row.status not in FINAL
            and (row.machine, row.shape) != (machine.name, machine.shape)
        ):
            raise ShapeChanged(
                f"run {row.id} is open on machine {row.machine} of shape {row.shape}; this {machine.name} has shape "
                f"{machine.shape}: finish it with the code it was started with, move it (interlock upgrade TARGET), or "
                "cancel it"
            )
        return RunHandle(self, row.id, machine)

    def show(self, run_id: str) -> RunView:
        """A run as it stands. Raises `UnknownRun`."""
        return read_run(self.store, run_id)

    def runs(self, which: RunFilter = RunFilter()) -> list[RunView]:  # noqa: B008 - frozen, and empty
        """Runs, newest first."""
        return [read_run(self.store, row.id) for row in self.store.runs(which)]

    def waiting(self) -> list[OpenWait]:
        """Everything that waits for a person or a signal, oldest first."""
        return [open_wait(self.store, row, wait) for row, wait in self.store.waits()]

    def hand_over(self, run_id: str, wait: int | None = None) -> HandOver:
        """All that a person needs who answers a run: why, what happened, what it cost, what each answer does.
        Raises `WaitClosed`, `BadInput` when it waits for several people."""
        return hand_over(self.store, to_answer(self.store, run_id, wait))

    def verify(self, run_id: str | None = None) -> list[Broken]:
        """What is wrong with the log of one run, or of all. Empty: nothing."""
        return verify_runs(self.store, run_id).broken

    def replay(self, run_id: str, machine: AnyMachine, *, until: int | None = None) -> Replayed:
        """Perform a run's turns again on what is recorded (up to event `until`), and say where the code as it is now
        first does something else. Calls nothing outside and writes nothing, in virtual time; the plain code of states
        does run. Raises `UnknownRun`, `ShapeChanged`."""
        return replay(self._world, machine, self.store.find(run_id), until=until)

    async def events(self, run_id: str, *, after: int = 0, follow: bool = False) -> AsyncIterator[tuple[int, Event]]:
        """A run's events after number `after`; with `follow`, also those to come, until it ends."""
        row = self.store.find(run_id)
        with self._news_of(row.id) as told:
            while True:
                told.clear()
                ended = self.store.find(row.id).status in FINAL
                for seq, event, _ in read_events(self.store, row.number, after + 1):
                    after = seq
                    yield seq, event
                if not follow or ended:
                    return
                await self._told_or_poll(told)

    @contextlib.contextmanager
    def _news_of(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever an embedded worker gave this run back. Clear it before reading: what happens
        while the reader is busy with what it read is then not missed."""
        told = asyncio.Event()
        self._waiting.setdefault(run_id, set()).add(told)
        try:
            yield told
        finally:
            waiting = self._waiting[run_id]
            waiting.remove(told)
            if not waiting:
                del self._waiting[run_id]

    async def _told_or_poll(self, told: asyncio.Event) -> None:
        """Until told, or the poll time passed: another process may have advanced the run, and tells nobody here."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._world.timing.poll):
                await told.wait()

    def gave_back(self, run_id: str) -> None:
        """An embedded worker gave this run back. Tells those who wait for it, then those who ask about every run."""
        for told in self._waiting.get(run_id, ()):
            told.set()  # and nobody else: a thousand waiters would each read a thousand times
        for changed in self.changed:
            changed()

    # -- another shape ----------------------------------------------------------------------------------------------

    def upgrade_plan(self, machine: AnyMachine, map: Json = None, *, only: Sequence[str] = ()) -> UpgradePlan:
        """Which open runs of older shapes an upgrade would move (all, or `only` these), and what is in its way; see
        `upgrade`. Changes nothing. Raises `BadInput` for a map that this machine has no use for, `UnknownRun`."""
        return upgrading.plan(self._world, machine, Map.of({} if map is None else map, machine), only)

    async def upgrade(
        self,
        machine: AnyMachine,
        map: Json = None,
        *,
        only: Sequence[str] = (),
        by: str | None = None,
        reason: str = "",
    ) -> Upgrade:
        """Move open runs of older shapes to this machine's, by a map of states and fields:
        `{"states": {"old": "new"}, "fields": {"old": "new", "gone": None}, "set": {"new": value}}`. What isn't named
        keeps its name, and new fields their default.

        Every run is looked at first; if one doesn't fit, none is moved. Each is moved in one commit: its turn begins
        anew in the mapped state. Killed, it may be done again. Raises `BadInput` naming every problem, `UnknownRun`.
        """
        check_words(by=by, reason=reason)
        found = Map.of({} if map is None else map, machine)
        planned = upgrading.plan(self._world, machine, found, only)
        if planned.problems:
            raise BadInput("; ".join(f"run {each.run}: {each.what}" for each in planned.problems))
        done = await upgrading.upgrade(self._world, machine, planned, found, by or login_name(), reason)
        self._tell_workers()
        return done


class RunHandle(Generic[R]):
    """One run, by its id."""

    def __init__(self, client: Client, run_id: str, machine: Machine[R, Any] | None, *, new: bool = False) -> None:
        self.client = client
        self.id = run_id
        self.machine = machine
        self.new = new

    def show(self) -> RunView:
        return read_run(self.client.store, self.id)

    async def result(self, *, until_waiting: bool = False) -> Result[R]:
        """Wait until the run has ended (or, with `until_waiting`, until it waits for a person or is paused)."""
        with self.client._news_of(self.id) as told:
            while True:
                told.clear()
                view = self.show()
                halted = view.status == "paused" or any(wait.kind != "time" for wait in view.waits)
                if view.ended or (until_waiting and halted and not view.row.mail and view.status != "running"):
                    return self.result_of(view)
                await self.client._told_or_poll(told)

    def result_of(self, view: RunView) -> Result[R]:
        if self.machine is None:
            raise UnknownRun(f"run {self.id}: pass its machine to client.run() for a typed record")
        record = load_record(self.machine.record, view.record)
        return Result(view.id, view.status, view.row.reason, view.row.state, record, view.spent, view.waits)

    def events(self, *, after: int = 0, follow: bool = False) -> AsyncIterator[tuple[int, Event]]:
        """See `Client.events`."""
        return self.client.events(self.id, after=after, follow=follow)


def run(
    machine: Machine[R, Any],
    record: R | Mapping[str, Any],
    *,
    key: str | None = None,
    store: Store | str | None = None,
    model: str | Model | None = None,
    prices: Mapping[str, Price] | None = None,
    notify: Notifier | None = None,
) -> Result[R]:
    """Run a machine here, to its end or until it waits for a person. For scripts; blocks.

    `model`: a model's name, or a model object, that replaces every one the machine names. `notify`: see `Client`.
    """
    return asyncio.run(_run(machine, record, key, store, model, prices, notify))


async def _run(
    machine: Machine[R, Any],
    record: R | Mapping[str, Any],
    key: str | None,
    store: Store | str | None,
    model: str | Model | None,
    prices: Mapping[str, Price] | None,
    notify: Notifier | None,
) -> Result[R]:
    name, found = (model, None) if isinstance(model, str) else (None, model)
    async with Client(store, models=found, model=name, prices=prices, notify=notify) as client:
        handle = await client.start(machine, record, key=key)
        async with Worker(client, [machine], only=handle.id):
            return await handle.result(until_waiting=True)
