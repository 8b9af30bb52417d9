"""`interlock run`: run a machine here until it ends or waits for somebody. It is the worker of this one run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from interlock.agent.providers import ProviderModels
from interlock.canonical import Json
from interlock.cli import inputs, target
from interlock.cli.interruptions import Interruptions
from interlock.cli.log import plain
from interlock.cli.options import (
    Misuse,
    foreign_output_aside,
    named,
    open_lasting,
    print_json,
    shared,
    short_id,
    to_go_on,
)
from interlock.cli.show import as_document, print_view
from interlock.cli.story import Story
from interlock.cli.wording import duration, money, visible
from interlock.client import Client, RunHandle
from interlock.engine.record import dump_record
from interlock.errors import StoreError
from interlock.fitting import check_key
from interlock.history.calls import pending
from interlock.history.events import Event
from interlock.machine.limits import Price
from interlock.machine.table import AnyMachine
from interlock.reading import RunView, read_events
from interlock.store.protocol import Failed
from interlock.worker import Worker

WAITING = 3
DRAIN_SECONDS = 3.0


class BrokenOff(click.ClickException):
    """The run couldn't be written any further. It lies as its last commit left it."""

    exit_code = 1


LOOK_SECONDS = 0.05
"""How often one looks whether an ended run has seen to what was said of it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What shall be run, checked as far as it can be before a store is opened."""

    target: str
    machine: AnyMachine
    record: dict[str, Json] | None
    run: str | None
    key: str | None
    by: str | None
    model: str | None
    prices: Mapping[str, Price]
    store: str | None
    as_json: bool


@click.command()
@click.argument("machine", metavar="TARGET")
@click.option("--input", "given", metavar="JSON|@FILE", help="The record; @- reads stdin.")
@click.option("--run", "run_id", metavar="RUN", help="Go on with a run that exists.")
@click.option("--model", metavar="MODEL", help="Instead of every model that the machine names.")
@click.option("--price", metavar="IN,OUT", help="Dollars per million tokens of models without a known price.")
@click.option("--key", metavar="KEY", help="The same key and input again is the same run.")
@click.option("--by", metavar="WHO", help="Who starts it. Default: your login name.")
@shared
@click.pass_context
def run(
    ctx: click.Context,
    machine: str,
    given: str | None,
    run_id: str | None,
    model: str | None,
    price: str | None,
    key: str | None,
    by: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Run a machine here until it ends (exit 0, or 1 when it failed) or waits for somebody (exit 3)."""
    if (given is None) == (run_id is None):
        raise Misuse("say either --input, for a new run, or --run, to go on with one")
    if run_id is not None and key is not None:
        raise Misuse("--key goes with --input: a run that exists has its key")
    check_key(key)
    found = target.load(machine)
    record = None if given is None else dump_record(found.record, inputs.record_of(found, given))
    prices = inputs.prices([found], model, price)
    order = Order(machine, found, record, run_id, key, by, model, prices, store, as_json)
    ctx.exit(carry_out(order))


def carry_out(order: Order) -> int:
    """Run it, show how it ended. Returns the exit code."""
    # What takes long to load is loaded before there is a loop: here Ctrl-C still ends the command where it stands, and
    # there is no run yet.
    models = ProviderModels()
    inputs.find_models(order.machine, models, order.model)
    inputs.check_prices(order.machine, order.prices, order.model)
    store = open_lasting(order.store, create=order.run is None)
    with contextlib.closing(Client(store, models=models, model=order.model, prices=order.prices)) as client:
        with foreign_output_aside(order.as_json), Interruptions(DRAIN_SECONDS) as interruptions:
            view = asyncio.run(_in_a_loop(client, order, models, interruptions))
        if order.as_json:
            print_json(as_document(view, named(order.store)))
        else:
            print_view(client.store, view, named(order.store))
        return exit_code(view)


async def _in_a_loop(client: Client, order: Order, models: ProviderModels, interruptions: Interruptions) -> RunView:
    try:
        return await _host(client, order, interruptions)
    finally:
        await models.aclose()


async def _host(client: Client, order: Order, interruptions: Interruptions) -> RunView:
    stop = interruptions.heard()
    if stop.is_set():
        raise click.Abort
    handle = await _handle(client, order)
    go_on = _go_on(client, handle, order)
    interruptions.remedy = f"nothing is lost: {go_on}"
    teller = Teller(client, handle, order)
    try:
        async with Worker(client, [order.machine], only=handle.id, drain=DRAIN_SECONDS), teller:
            await _settled(handle, teller, stop)
    except StoreError as wrong:
        raise BrokenOff(f"{wrong}; what was acknowledged is safe: {go_on}") from None
    view = handle.show()
    if stop.is_set() and not view.ended:
        raise click.Abort(f"interrupted; {interruptions.remedy}")
    return view


def _go_on(client: Client, handle: RunHandle[Any], order: Order) -> str:
    return to_go_on(shlex.quote(order.target), short_id(client.store, handle.id), order.store)


async def _settled(handle: RunHandle[Any], teller: Teller, stop: asyncio.Event) -> None:
    """Until the run has ended, waits for somebody, or shall stop. Raises the `StoreError` that keeps its worker from
    writing."""
    result = asyncio.create_task(_result(handle), name="result")
    stopped = asyncio.create_task(stop.wait(), name="interrupted")
    try:
        any_of: set[asyncio.Future[Any]] = {result, stopped, teller.broken}
        await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
        for ended in (teller.broken, result):
            if ended.done():
                await ended
                return
    finally:
        result.cancel()
        stopped.cancel()


async def _result(handle: RunHandle[Any]) -> None:
    """Until the run has ended or waits for somebody, and what was said of its calls after its end is seen to."""
    await handle.result(until_waiting=True)
    while (view := handle.show()).ended and (view.row.mail or pending(view.state)):
        await asyncio.sleep(LOOK_SECONDS)


async def _handle(client: Client, order: Order) -> RunHandle[Any]:
    if order.run is None:
        assert order.record is not None  # one of the two was given
        return await client.start(order.machine, order.record, key=order.key, by=order.by)
    return client.run(order.run, order.machine)


def exit_code(view: RunView) -> int:
    if view.status == "completed":
        return 0
    return 1 if view.ended else WAITING


# -- telling ----------------------------------------------------------------------------------------------------------


class Teller:
    """Says what happens while it happens: a line per turn, and in a terminal a live line below. Quiet for programs."""

    def __init__(self, client: Client, handle: RunHandle[Any], order: Order) -> None:
        self._client = client
        self._handle = handle
        self._quiet = order.as_json
        self._story = Story()
        self._after = 0
        self._live: Any = None
        self._began = time.monotonic()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Teller:
        self._old = self._client.store.find(self._handle.id).seq if not self._handle.new else 0
        if not self._quiet and sys.stdout.isatty():
            # Deferred: only a terminal needs rich, and it takes a while to load.
            from rich.console import Console

            self._live = Console(highlight=False).status(_Now(self._status), spinner="dots")
            self._live.start()
        self._log = _LogLines(self)
        logging.getLogger("interlock").addHandler(self._log)
        self._task = asyncio.create_task(self._follow(), name="telling")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        logging.getLogger("interlock").removeHandler(self._log)
        row = self._client.store.find(self._handle.id)
        for seq, event, _ in read_events(self._client.store, row.number, self._after + 1):
            self._take(seq, event)
        if self._live is not None:
            self._live.stop()

    async def _follow(self) -> None:
        async for seq, event in self._handle.events(follow=True):
            self._take(seq, event)

    def _take(self, seq: int, event: Event) -> None:
        self._after = seq
        for line in self._story.take(seq, event):
            if not self._quiet and seq > self._old:
                self._say(plain(line))

    def _say(self, line: str) -> None:
        if self._live is None:
            click.echo(line)
        else:
            self._live.console.print(line, markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Something a worker says."""
        if self._live is not None:
            self._live.console.print(line, markup=False, soft_wrap=True)
        else:
            click.echo(line, err=True)

    def _status(self) -> Any:
        from rich.text import Text  # see above

        state = self._story.state
        spent, ceiling = state.spent, state.ceiling
        under_way = ", ".join(visible(entry[1], 40) for entry in state.open.values())
        parts = [
            visible(state.state, 40),
            f"turn {state.turn} of {ceiling['turns']}",
            f"${money(spent['nanousd'])} of ${money(ceiling['nanousd'])}",
            duration(time.monotonic() - self._began),
            under_way,
        ]
        return Text("  ".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class _Now:
    """Text that is made anew whenever the terminal is drawn."""

    text: Callable[[], Any]

    def __rich__(self) -> Any:
        return self.text()


class _LogLines(logging.Handler):
    """What the worker logs, as lines between the others."""

    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.WARNING)
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        wrong = next((each for each in map(_store_error, record.args or ()) if each is not None), None)
        if wrong is None:
            self._teller.warn(visible(record.getMessage(), 600))
        elif not self._teller.broken.done():
            self._teller.broken.set_exception(wrong)


def _store_error(given: object) -> StoreError | None:
    """What a worker logs when the store can't be written: the error, or an answer that carries it."""
    found = given.error if isinstance(given, Failed) else given
    return found if isinstance(found, StoreError) else None
