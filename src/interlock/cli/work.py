"""`interlock work`: a worker, until SIGTERM drains it. Log lines go to stdout, one per run that was given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from interlock.agent.providers import ProviderModels
from interlock.cli import inputs, target
from interlock.cli.notices import webhook
from interlock.cli.options import foreign_output_aside, named, open_lasting, print_json, shared
from interlock.cli.wording import clock, money, visible
from interlock.client import Client
from interlock.store.protocol import RunFilter, RunRow
from interlock.worker import LEAKS_MAX, Worker

LOOK_SECONDS = 0.5
INTERRUPTED = 130
REPLACED = -1  # no exit code: this process is to become a new one


@click.command()
@click.argument("machines", metavar="TARGET...", nargs=-1, required=True)
@click.option("--model", metavar="MODEL", help="Instead of every model that the machines name.")
@click.option("--price", metavar="IN,OUT", help="Dollars per million tokens of models without a known price.")
@click.option("--concurrency", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Runs at once.")
@click.option("--drain", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds to finish turns in.")
@click.option(
    "--leaks",
    type=click.IntRange(1),
    default=LEAKS_MAX,
    show_default=True,
    help="Threads that never came back, at which a new process takes over.",
)
@click.option(
    "--notify",
    metavar="URL",
    envvar="INTERLOCK_NOTIFY",
    help="Who is told, by signed webhook, when a run waits for a person or ends failed. Default: INTERLOCK_NOTIFY.",
)
@click.option("--name", metavar="NAME", help="What the log calls this worker. Default: host:pid.")
@shared
@click.pass_context
def work(
    ctx: click.Context,
    machines: tuple[str, ...],
    model: str | None,
    price: str | None,
    concurrency: int,
    drain: float,
    leaks: int,
    notify: str | None,
    name: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """A worker, until SIGTERM drains it."""
    found = target.load_all(machines)
    prices = inputs.prices(found, model, price)
    models = ProviderModels()
    for machine in found:
        inputs.find_models(machine, models, model)
        inputs.check_prices(machine, prices, model)
    told = webhook(notify)
    client = Client(open_lasting(store), models=models, model=model, prices=prices, notify=told)
    with contextlib.closing(client), foreign_output_aside() as ours:
        reporter = Reporter(client, ours, as_json)

        if told is not None:
            reporter.say("notify", f"notices go to {visible(told.host)}, signed")

        def make(stop: Stop) -> Worker:
            return Worker(
                client,
                found,
                concurrency=concurrency,
                drain=drain,
                name=name,
                leaks_max=leaks,
                on_worn=stop.on_worn,
            )

        code = asyncio.run(_work(make, models, reporter, named(store)))
    if code == REPLACED:
        _replace_process()
    ctx.exit(code)


def _replace_process() -> NoReturn:
    """This process becomes a new one, with the id, the arguments and the surroundings that it has."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Stop:
    """What ends the worker: a signal, which says the exit code, or that the process is worn out. A signal wins, also
    one that comes while a worn-out worker drains. `hurry` is called by what cuts the drain short."""

    def __init__(self) -> None:
        self.code = REPLACED
        self.worn = ""
        self.hurry: Callable[[], None] = lambda: None
        self._told = asyncio.Event()

    def on_signals(self) -> None:
        """The first SIGTERM or Ctrl-C drains; another Ctrl-C cuts its runs off; one more ends it however it stands."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._signalled, 0)
        loop.add_signal_handler(signal.SIGINT, self._signalled, INTERRUPTED)

    def _signalled(self, code: int) -> None:
        if self.code == REPLACED:
            self.code = code
            self._told.set()
        elif code == INTERRUPTED:
            self.code = code
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            self.hurry()

    def on_worn(self, why: str) -> None:
        self.worn = why
        self._told.set()

    async def told(self, look: Callable[[], None]) -> None:
        """Until then; `look` is called now and again."""
        while not self._told.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._told.wait()
            look()


async def _work(make: Callable[[Stop], Worker], models: ProviderModels, reporter: Reporter, store: str) -> int:
    stop = Stop()
    stop.on_signals()
    worker = make(stop)
    stop.hurry = worker.hurry
    with _logged(reporter):
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(models.aclose)
            await stack.enter_async_context(worker)
            names = ", ".join(visible(name, 60) for name in worker.machines)
            reporter.say(
                "ready", f"worker {visible(worker.name)} takes runs of {names}  store {store}", worker=worker.name
            )
            await stop.told(reporter.look)
            because = f" because {stop.worn}" if stop.worn and stop.code == REPLACED else ""
            reporter.say("draining", f"draining{because}: {worker.busy} runs under way")
        reporter.look()
        if stop.code == REPLACED:
            reporter.say("replaced", "stopped; nothing is lost. A new process takes its place")
        else:
            reporter.say("stopped", "stopped; nothing is lost")
    return stop.code


class Reporter:
    """Says which runs were given back since it last looked."""

    def __init__(self, client: Client, out: Any, as_json: bool) -> None:
        self._client = client
        self._out = out
        self._as_json = as_json
        self._since = client.world.clock.now_ms()
        self._said: dict[str, int] = {}

    def look(self) -> None:
        """One line for each run that stands still and has moved since."""
        now = self._client.world.clock.now_ms()
        rows = self._client.store.runs(RunFilter(changed_since=self._since))
        for row in reversed(rows):
            if row.status not in ("running", "ready") and self._said.get(row.id) != row.seq:
                self.tell(row)
        self._said = {row.id: row.seq for row in rows}
        self._since = now - 1000

    def tell(self, row: RunRow) -> None:
        spent = row.account.spent
        reason = f": {visible(row.reason, 120)}" if row.reason else ""
        text = (
            f"{visible(row.machine, 60)} {row.id}  {row.status} in `{visible(row.state, 60)}`{reason}"
            f"  turn {spent.turns}  ${money(spent.nanousd)}"
        )
        self.say("run", text, run=row.id, status=row.status, state=row.state, reason=row.reason)

    def say(self, kind: str, text: str, **fields: Any) -> None:
        now = self._client.world.clock.now_ms()
        with contextlib.redirect_stdout(self._out):
            if self._as_json:
                print_json({"at": now, "type": kind, "text": text, **fields}, line=True)
            else:
                click.echo(f"{clock(now)}  {text}")
            self._out.flush()


class _Lines(logging.Handler):
    """What the worker logs, as lines."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.say("warning", visible(record.getMessage(), 2000))


@contextlib.contextmanager
def _logged(reporter: Reporter) -> Any:
    handler = _Lines(reporter)
    log = logging.getLogger("interlock")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
