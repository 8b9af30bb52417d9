"""`interlock log`: what one run did, turn by turn; with `-f`, as it happens."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

from interlock.canonical import Json
from interlock.cli.options import named, print_json, reading, shared
from interlock.cli.story import Line, Note, Story, Told, tell
from interlock.cli.wording import clock, columns, money, visible
from interlock.history.events import Event, to_json
from interlock.history.fold import FINAL, RunState
from interlock.machine.limits import dollars
from interlock.reading import read_events
from interlock.store.protocol import RunRow, Store

FOLLOW_SECONDS = 0.3
HEAD = ("turn", "time", "state", "did", "cost", "total", "then")


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until the run ends.")
@shared
def log(run: str, follow: bool, store: str | None, as_json: bool) -> None:
    """What one run did, turn by turn. With --json, one event per line."""
    with reading(store) as found:
        row = found.find(run)
        if as_json:
            _stream(found, row, follow)
        elif follow:
            click.echo(f"{visible(row.machine)} {row.id}  store {named(store)}")
            _follow(found, row)
        else:
            click.echo(f"{visible(row.machine)} {row.id}  store {named(store)}")
            for line in table(tell((seq, event) for seq, event, _ in read_events(found, row.number))):
                click.echo(line)


def _stream(store: Store, row: RunRow, follow: bool) -> None:
    state = RunState()
    for seq, event, digest in arriving(store, row, follow):
        before = state.state
        state.apply(seq, event)
        print_json(as_document(row.id, seq, event, digest, before or state.state), line=True)


def as_document(run: str, seq: int, event: Event, digest: bytes, state: str) -> dict[str, Json]:
    """One event as a program reads it: what is the same for all, then what only its type has."""
    own = to_json(event)
    head = {"run": run, "seq": seq, "at": event.at, "type": event.TYPE, "turn": event.turn, "state": state}
    cost = float(dollars(getattr(event, "nanousd", 0)))
    return {**head, "cost": cost, "hash": digest.hex(), **{k: v for k, v in own.items() if k not in head}}


def arriving(store: Store, row: RunRow, follow: bool) -> Iterator[tuple[int, Event, bytes]]:
    """A run's events; with `follow`, also those to come, until it ends."""
    after = 0
    while True:
        ended = store.find(row.id).status in FINAL
        for seq, event, digest in read_events(store, row.number, after + 1):
            after = seq
            yield seq, event, digest
        if ended or not follow:
            return
        time.sleep(FOLLOW_SECONDS)


def _follow(store: Store, row: RunRow) -> None:
    story = Story()
    for seq, event, _ in arriving(store, row, True):
        for line in story.take(seq, event):
            click.echo(plain(line))


def plain(line: Line) -> str:
    """One line of a story as it is told while it happens."""
    if isinstance(line, Note):
        return f"      {clock(line.at)}  -- {line.text}"
    cost = f"${money(line.cost)}, ${money(line.total)} in all"
    return f"{line.numbers:<5} {clock(line.at)}  {_state(line)}  {line.did or '-'}  {cost}  {line.then}{_why(line)}"


def table(lines: Iterable[Line]) -> list[str]:
    """Turns in columns, what happened from outside between them."""
    told = list(lines)
    rows = [HEAD, *(_cells(line) for line in told if isinstance(line, Told))]
    room = _room(rows)
    aligned = iter(columns((*row[:3], visible(row[3], room), *row[4:]) for row in rows))
    found = [next(aligned)]
    indent = max(len(row[0]) for row in rows) + 2
    for line in told:
        found.append(f"{' ' * indent}{clock(line.at)}  -- {line.text}" if isinstance(line, Note) else next(aligned))
    return found


def _room(rows: list[Any]) -> int | None:
    """How wide `did` may be for a row to fit the terminal. None: whoever reads it is none, and wants all."""
    if not sys.stdout.isatty():
        return None
    return max(24, shutil.get_terminal_size((120, 24)).columns - _width(rows) + max(len(row[3]) for row in rows))


def _width(rows: list[Any]) -> int:
    return sum(max(len(row[column]) for row in rows) + 2 for column in range(len(HEAD)))


def _cells(line: Told) -> tuple[str, ...]:
    money_of = (f"${money(line.cost)}", f"${money(line.total)}")
    return (line.numbers, clock(line.at), _state(line), line.did or "-", *money_of, line.then + _why(line))


def _state(line: Told) -> str:
    return visible(line.state, 40)


def _why(line: Told) -> str:
    return f"  {visible(line.why, 80)}" if line.why else ""
