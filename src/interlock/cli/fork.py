"""`interlock fork`: a new run that goes on from where a turn of another began, ended or not. That one isn't touched."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import click

from interlock.canonical import Json
from interlock.cli import inputs, target
from interlock.cli.options import fields_of, named, open_lasting, print_json, reading, shared, short_id
from interlock.cli.show import as_document
from interlock.cli.wording import visible
from interlock.client import Client, RunHandle
from interlock.engine.record import field_schema
from interlock.fitting import check_key
from interlock.machine.table import AnyMachine
from interlock.reading import RunView, read_run


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("machine", metavar="[TARGET]", required=False)
@click.option("--at", type=int, metavar="TURN", required=True, help="Where it branches off: where this turn began.")
@click.option("--set", "sets", metavar="FIELD=VALUE", multiple=True, help="A field of the record that is another.")
@click.option("--key", metavar="KEY", help="The same key and fork again is the same run.")
@click.option("--model", metavar="MODEL", help="With TARGET: only for its price, which the ceiling goes by.")
@click.option("--price", metavar="IN,OUT", help="Dollars per million tokens of models without a known price.")
@click.option("--by", metavar="WHO", help="Who forks it. Default: your login name.")
@click.option("--yes", is_flag=True, hidden=True, help="Nothing is asked: no run is changed.")
@shared
def fork(
    run: str,
    machine: str | None,
    at: int,
    sets: tuple[str, ...],
    key: str | None,
    model: str | None,
    price: str | None,
    by: str | None,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Add a run that goes on live from where turn TURN of RUN began, with its history, record and conversations, and an
    account of its own. With TARGET its record is checked against the machine's class; without, a field takes another
    value of the kind it holds."""
    check_key(key)
    found = target.load(machine) if machine is not None else None
    prices = inputs.prices([found], model, price) if found is not None else {}
    if found is not None:
        inputs.check_prices(found, prices, model)
    with reading(store) as known:
        view = read_run(known, run)
    fields = fields_of(sets, _form(found, view))
    with closing(Client(open_lasting(store, create=False), model=model, prices=prices)) as client:
        handle = asyncio.run(_fork(client, view.id, at, fields, found, key, by))
        if as_json:
            print_json({**as_document(handle.show(), named(store)), "new": handle.new})
        else:
            _print(client, handle, view, at, machine, named(store))


def _form(machine: AnyMachine | None, view: RunView) -> dict[str, Json]:
    """What is text where a value is given as text."""
    if machine is not None:
        record = machine.record
        return {"properties": {name: field_schema(record, name) for name in record.model_fields}}
    return {"properties": {name: {"type": "string"} for name, held in view.record.items() if isinstance(held, str)}}


async def _fork(
    client: Client,
    run: str,
    at: int,
    fields: dict[str, Json],
    machine: AnyMachine | None,
    key: str | None,
    by: str | None,
) -> RunHandle[Any]:
    return await client.fork(run, at=at, fields=fields, machine=machine, key=key, by=by)


def _print(client: Client, handle: RunHandle[Any], view: RunView, at: int, given: str | None, store: str) -> None:
    made, name = handle.show(), visible(view.row.machine)
    if not handle.new:
        click.echo(f"{name} {handle.id}  exists under this key, {made.status}  store {store}")
        return
    where = f"where turn {at} of {short_id(client.store, view.id)} began, in `{visible(made.row.state)}`"
    click.echo(f"{name} {handle.id}  goes on from {where}; lies until a worker takes it  store {store}")
    shown = visible(given) if given is not None else "TARGET"
    click.echo(f"next    interlock work {shown}  | show {short_id(client.store, handle.id)}")
