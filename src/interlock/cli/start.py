"""`interlock start`: add a run and nothing else. A worker takes it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import click

from interlock.canonical import Json
from interlock.cli import inputs, target
from interlock.cli.options import named, open_lasting, print_json, shared, short_id
from interlock.cli.show import as_document
from interlock.cli.wording import visible
from interlock.client import Client, RunHandle
from interlock.engine.record import dump_record
from interlock.fitting import check_key
from interlock.machine.table import AnyMachine


@click.command()
@click.argument("machine", metavar="TARGET")
@click.option("--input", "given", metavar="JSON|@FILE", required=True, help="The record; @- reads stdin.")
@click.option(
    "--model",
    metavar="MODEL",
    help="Only for its price, which the ceiling goes by. Which model is asked, the worker's own --model says.",
)
@click.option("--price", metavar="IN,OUT", help="Dollars per million tokens of models without a known price.")
@click.option("--key", metavar="KEY", help="The same key and input again is the same run.")
@click.option("--by", metavar="WHO", help="Who starts it. Default: your login name.")
@shared
def start(
    machine: str,
    given: str,
    model: str | None,
    price: str | None,
    key: str | None,
    by: str | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Add a run; it lies until a worker takes it."""
    check_key(key)
    found = target.load(machine)
    record = dump_record(found.record, inputs.record_of(found, given))
    prices = inputs.prices([found], model, price)
    inputs.check_prices(found, prices, model)
    with closing(Client(open_lasting(store), model=model, prices=prices)) as client:
        handle = asyncio.run(_start(client, found, record, key, by))
        if as_json:
            print_json({**as_document(handle.show(), named(store)), "new": handle.new})
        else:
            _print(client, handle, found, machine, named(store))


async def _start(
    client: Client, machine: AnyMachine, record: dict[str, Json], key: str | None, by: str | None
) -> RunHandle[Any]:
    return await client.start(machine, record, key=key, by=by)


def _print(client: Client, handle: RunHandle[Any], machine: AnyMachine, given: str, store: str) -> None:
    if not handle.new:
        click.echo(f"{visible(machine.name)} {handle.id}  exists under this key, {handle.show().status}  store {store}")
        return
    click.echo(f"{visible(machine.name)} {handle.id}  lies until a worker takes it  store {store}")
    click.echo(f"next    interlock work {visible(given)}  | show {short_id(client.store, handle.id)}")
