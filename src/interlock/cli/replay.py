"""`interlock replay`: a run's turns performed again on its record; without a TARGET, a run as it stood at a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from interlock.agent.model import Message
from interlock.canonical import Json
from interlock.cli import target
from interlock.cli.options import Misuse, foreign_output_aside, named, open_lasting, print_json, reading, shared
from interlock.cli.wording import clock, value, visible
from interlock.client import Client
from interlock.engine.moment import Moment, moment
from interlock.engine.replay import Replayed
from interlock.store.protocol import RunRow


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("machine", metavar="[TARGET]", required=False)
@click.option("--until", type=click.IntRange(min=1), metavar="SEQ", help="Up to this event of its log.")
@shared
@click.pass_context
def replay(
    ctx: click.Context, run: str, machine: str | None, until: int | None, store: str | None, as_json: bool
) -> None:
    """Perform a run's turns again on what is recorded: no outside call, nothing is written. Exit 1 where the code now
    does something else. With --until and no TARGET: record and conversation as they were after that event."""
    if machine is not None:
        ctx.exit(_by_code(run, machine, until, store, as_json))
    elif until is None:
        raise Misuse("name the code to replay with (TARGET), or the moment to look at (--until SEQ)")
    else:
        _at_a_moment(run, until, store, as_json)


@contextmanager
def _looking(url: str | None) -> Iterator[Client]:
    """A client of a store that it can't write."""
    with closing(Client(open_lasting(url, create=False, readonly=True))) as client:
        yield client


def _by_code(run: str, machine: str, until: int | None, store: str | None, as_json: bool) -> int:
    found = target.load(machine)
    with _looking(store) as client:
        row = client.store.find(run)
        with foreign_output_aside():  # what the code of its states prints
            replayed = client.replay(row.id, found, until=until)
    if as_json:
        print_json({**replayed.as_json(), "store": named(store)})
    else:
        _print_verdict(replayed, row, machine, found.content == row.content)
        click.echo(f"        store {named(store)}")
    return 0 if replayed.ok else 1


def _print_verdict(replayed: Replayed, row: RunRow, machine: str, same: bool) -> None:
    name = f"{visible(row.machine)} {row.id}"
    if replayed.divergence is None:
        click.echo(
            f"exact   {name}: {replayed.turns} turns, {replayed.events} events, by the code of {visible(machine)}"
        )
        return
    click.secho(f"DIVERGES  {name}: {visible(str(replayed.divergence), 600)}", fg="red")
    if not same:
        click.echo("        the machine's content (prompt, code, model, price) isn't what the run last ran on")
    click.echo(f"        log: interlock log {row.id}")


def _at_a_moment(run: str, seq: int, store: str | None, as_json: bool) -> None:
    with reading(store) as found:
        row = found.find(run)
        seen = moment(found, row, seq)
    if as_json:
        print_json({"ok": True, **seen.as_json(), "store": named(store)})
        return
    for line in _lines(row, seen):
        click.echo(line)
    click.echo(f"store   {named(store)}")


def _lines(row: RunRow, seen: Moment) -> Iterator[str]:
    state = seen.state
    yield f"{visible(row.machine)} {row.id} after event {seen.seq} of {row.seq}, at {clock(seen.at)}"
    yield f"stood   {state.status.upper()} in `{visible(state.state, 60)}`, turn {state.turn}"
    for at, (name, held) in enumerate(seen.record.items()):
        yield f"{'' if at else 'record':7} {visible(name, 60)} {value(held)}"
    for name, messages in seen.conversations.items():
        yield f"thread  {visible(name, 60)}"
        yield from (f"{'':7} {message.role:9} {_said(message)}" for message in messages)


def _said(message: Message) -> str:
    calls = [f"{call.name}({_arguments(call.args)})" for call in message.calls]
    return visible("; ".join([*filter(None, [message.text]), *calls]), 600)


def _arguments(args: Json) -> str:
    return ", ".join(f"{name}={each!r}" for name, each in args.items()) if isinstance(args, dict) else repr(args)
