"""`interlock pause, resume, cancel`: stop runs, let them go on, end them; one, all of a machine, or all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import click

from interlock.cli.answers import where_it_lies
from interlock.cli.options import (
    Misuse,
    acting,
    actor,
    agree,
    changing,
    named,
    print_json,
    reading,
    shared,
    short_id,
    to_go_on,
)
from interlock.cli.wording import visible
from interlock.client import Client
from interlock.errors import WaitClosed
from interlock.history.fold import FINAL
from interlock.store.protocol import Left, RunFilter, RunRow, Store

OPEN = ("ready", "running", "waiting")


@dataclass(frozen=True, slots=True)
class Verb:
    """What is done, to which runs, and how it is said afterwards."""

    name: str
    past: str
    statuses: tuple[str, ...]
    send: Callable[..., Awaitable[Left]]


VERBS = {
    "pause": Verb("pause", "will pause before its next effect", OPEN, Client.pause),
    "resume": Verb("resume", "will go on", ("paused",), Client.resume),
    "cancel": Verb("cancel", "will end as cancelled", (*OPEN, "paused"), Client.cancel),
}


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    one = click.argument("run", metavar="[RUN]", required=False)
    every = click.option("--all", "every", is_flag=True, help="Every run that it fits.")
    machine = click.option("--machine", metavar="NAME", help="Every run of one machine.")
    return one(every(machine(acting(shared(command)))))


@click.command()
@_which
def pause(**given: Any) -> None:
    """Start no further effect; what is under way ends and is recorded."""
    _carry_out(VERBS["pause"], **given)


@click.command()
@_which
def resume(**given: Any) -> None:
    """Let paused runs go on; also releases those that a restored store parked."""
    _carry_out(VERBS["resume"], **given)


@click.command()
@_which
def cancel(**given: Any) -> None:
    """End runs as cancelled. What is under way is settled; what is in doubt stays recorded as such."""
    _carry_out(VERBS["cancel"], **given)


def _carry_out(
    verb: Verb,
    run: str | None,
    every: bool,
    machine: str | None,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    if sum((run is not None, every, machine is not None)) != 1:
        raise Misuse(f"say which: {verb.name} RUN, --machine NAME or --all")
    with reading(store) as found:
        rows = [_open(found.find(run))] if run is not None else _rows(found, verb, machine)
        if not rows:
            raise Misuse(f"there is no run to {verb.name}{f' of `{machine}`' if machine else ''} in {named(store)}")
        agree(f"{verb.name} {_meant(found, rows)} as {actor(by)}", yes)
    with changing(store) as client:
        told = asyncio.run(_send(client, verb, rows, by, reason))
        if run is not None and isinstance(told[0], WaitClosed):
            raise told[0]
        if as_json:
            ok = not any(isinstance(each, WaitClosed) for each in told)
            done = [_document(row, each) for row, each in zip(rows, told, strict=True)]
            print_json({"ok": ok, "runs": done, "store": named(store)})
        else:
            _print(client, verb, rows, told, store)


def _open(row: RunRow) -> RunRow:
    if row.status in FINAL:
        raise WaitClosed(f"run {row.id} has ended ({row.status})")
    return row


def _rows(store: Store, verb: Verb, machine: str | None) -> list[RunRow]:
    return store.runs(RunFilter(machine=machine, statuses=verb.statuses, limit=2**31))


def _meant(store: Store, rows: list[RunRow]) -> str:
    if len(rows) > 1:
        return f"{len(rows)} runs ({', '.join(sorted({row.machine for row in rows}))})"
    return f"{rows[0].machine} {short_id(store, rows[0].id)} ({rows[0].status} in `{rows[0].state}`)"


async def _send(client: Client, verb: Verb, rows: list[RunRow], by: str | None, reason: str) -> list[Left | WaitClosed]:
    async def one(row: RunRow) -> Left | WaitClosed:
        try:
            return await verb.send(client, row.id, by=by, reason=reason)
        except WaitClosed as closed:  # it ended meanwhile
            return closed

    return await asyncio.gather(*(one(row) for row in rows))


def _document(row: RunRow, told: Left | WaitClosed) -> dict[str, Any]:
    if isinstance(told, WaitClosed):
        return {"run": row.id, "ok": False, "why": str(told)}
    return {"run": row.id, "ok": True, "held": told.held}


def _print(client: Client, verb: Verb, rows: list[RunRow], told: list[Left | WaitClosed], store: str | None) -> None:
    for row, each in zip(rows, told, strict=True):
        short = short_id(client.store, row.id)
        remedy = to_go_on("TARGET", short, store)
        said = str(each) if isinstance(each, WaitClosed) else f"{verb.past}: {where_it_lies(each, remedy)}"
        click.echo(f"{visible(row.machine)} {short}  {visible(said)}")
    click.echo(f"store {named(store)}")
