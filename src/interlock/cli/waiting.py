"""`interlock waiting`: what waits for people and systems, oldest first, and how to answer it."""

from __future__ import annotations

import time

import click

from interlock.canonical import Json
from interlock.cli.options import named, print_json, reading, shared, short_id
from interlock.cli.show import choices, next_steps, spent
from interlock.cli.wording import duration, visible
from interlock.handover import hand_over
from interlock.reading import OpenWait, open_wait, read_run, wait_json
from interlock.store.protocol import Store


@click.command()
@shared
def waiting(store: str | None, as_json: bool) -> None:
    """What waits for people and systems, oldest first."""
    with reading(store) as found:
        waits = open_waits(found)
        if as_json:
            print_json({"store": named(store), "waiting": [hand_over(found, wait).as_json() for _, wait in waits]})
            return
        for machine, wait in waits:
            _print(found, machine, wait)
        click.echo(f"{len(waits) or 'nothing'} waiting  store {named(store)}")


def open_waits(store: Store) -> list[tuple[str, OpenWait]]:
    """Each with the name of its machine."""
    return [(row.machine, open_wait(store, row, wait)) for row, wait in store.waits()]


def as_document(machine: str, wait: OpenWait) -> dict[str, Json]:
    return {"machine": machine, **wait_json(wait)}


def headline(store: Store, machine: str, wait: OpenWait) -> str:
    """Which run, for whom, since when and until when."""
    now = time.time()
    since = duration(max(0.0, now - wait.opened_at / 1000))
    due = f" (due in {duration(wait.due / 1000 - now)})" if wait.due else ""
    who = f"`{visible(wait.of, 40)}`" if wait.kind == "person" else f"signal `{visible(wait.signal, 40)}`"
    return f"{visible(machine, 40)} {short_id(store, wait.run)}  {who} since {since}{due}"


def _print(store: Store, machine: str, wait: OpenWait) -> None:
    click.secho(headline(store, machine, wait), bold=True)
    view = read_run(store, wait.run)
    handed = hand_over(store, wait, view)
    click.echo(f"  why   {handed.because}")
    click.echo(f"  cost  {spent(view)}")
    for line in choices(handed):
        click.echo(f"        {line}")
    click.echo(f"  next  {'  | '.join(next_steps(store, view, short_id(store, wait.run)))}")
