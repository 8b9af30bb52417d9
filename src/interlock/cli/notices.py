"""`interlock notices`: what is still to be said to whoever is notified, what can't be, and a person's say about it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import click

from interlock.canonical import Json, decode
from interlock.cli.options import Misuse, acting, actor, agree, changing, named, print_json, reading, shared
from interlock.cli.wording import clock, duration, visible
from interlock.errors import BadInput
from interlock.store.protocol import NoticeRow, Store
from interlock.webhook import Webhook

SECRET = "INTERLOCK_WEBHOOK_SECRET"
OVERDUE_SECONDS = 60.0
"""A notice that was due so long ago is one that no worker delivers."""

EVERY = "all"
COLOURS = {"dead": "red", "due": "yellow"}


@click.command()
@click.option("--all", "every", is_flag=True, help="Also those that were delivered or dropped.")
@click.option("--again", metavar="ID", help=f"Send a dead one again; `{EVERY}`: every dead one.")
@click.option("--drop", metavar="ID", help=f"Send one that isn't delivered no more; `{EVERY}`: every dead one.")
@acting
@shared
def notices(
    every: bool,
    again: str | None,
    drop: str | None,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """What is still to be said to whoever is notified, and what can't be. Ids may be shortened."""
    if again is not None and drop is not None:
        raise Misuse("--again and --drop: one of them")
    meant, what = (again, "again") if again is not None else (drop, "drop")
    if meant is None:
        with reading(store) as found:
            _show(found.notices(all=every), named(store), as_json)
        return
    with reading(store) as found:
        rows = _meant(found.notices(), meant)
    doing = "send {} again" if what == "again" else "drop {}"
    agree(f"{doing.format(_said(rows))} as {actor(by)}", yes)
    with changing(store) as client:
        for row in rows:
            asyncio.run(client.decide_notice(row.id, again=what == "again", by=by, reason=reason))
        shown = [row for row in client.store.notices(all=True) if row.id in {each.id for each in rows}]
        _show(shown, named(store), as_json)


def _meant(rows: list[NoticeRow], given: str) -> list[NoticeRow]:
    if given == EVERY:
        found = [row for row in rows if row.status == "dead"]
        if not found:
            raise Misuse("no notice is dead")
        return found
    found = [row for row in rows if row.id.startswith(given)]
    if len(found) != 1:
        raise Misuse(f"{given}: {'no notice that is open' if not found else 'more than one notice'} begins so")
    return found


def _said(rows: Sequence[NoticeRow]) -> str:
    return f"notice {rows[0].id} ({headline(rows[0])})" if len(rows) == 1 else f"{len(rows)} notices"


def _show(rows: Sequence[NoticeRow], store_name: str, as_json: bool) -> None:
    if as_json:
        print_json({"store": store_name, "notices": [as_document(row) for row in rows]})
        return
    for row in rows:
        click.secho(f"{row.id}  {headline(row)}", fg=COLOURS.get(row.status))
    click.echo(f"{len(rows) or 'no'} notice{'' if len(rows) == 1 else 's'}  store {store_name}")


# -- how they stand, for other verbs too ------------------------------------------------------------------------------


def headline(row: NoticeRow) -> str:
    """ "run.waiting of desk: dead after 8 attempts: pager.example answered 503"."""
    what = f"{visible(decode(row.body)['type'])} of {visible(row.machine, 40)}"
    tries = f"{row.attempts} attempt{'' if row.attempts == 1 else 's'}"
    why = f": {visible(row.message, 120)}" if row.message else ""
    by = f" by {visible(row.by, 40)}" if row.by else ""
    match row.status:
        case "dead":
            return f"{what}: dead after {tries}{why}"
        case "due" | "sending":
            return f"{what}: {row.status}, {tries}, next {clock(row.due)}{why}"
        case _:
            return f"{what}: {row.status}{by}"


def as_document(row: NoticeRow) -> dict[str, Json]:
    document: dict[str, Json] = {name: getattr(row, name) for name in row.__struct_fields__ if name != "body"}
    return {**document, "body": decode(row.body)}


def dead_notices(store: Store) -> list[NoticeRow]:
    return [row for row in store.notices() if row.status == "dead"]


def overdue(store: Store, now_ms: int) -> str:
    """That nobody delivers, if so; with the remedy."""
    late = [row for row in store.notices() if row.status != "dead" and row.due < now_ms - OVERDUE_SECONDS * 1000]
    if not late:
        return ""
    since = duration(now_ms / 1000 - min(row.due for row in late) / 1000)
    return f"{len(late)} overdue, since {since}. No worker delivers: start one with --notify URL, or drop them"


# -- the receiver that a worker is given ------------------------------------------------------------------------------


def webhook(url: str | None) -> Webhook | None:
    """The receiver that `--notify` names. Raises misuse."""
    if url is None:
        return None
    try:
        return Webhook(url, secret=os.environ.get(SECRET, "").strip())
    except BadInput as wrong:
        raise Misuse(
            f"--notify: {wrong}" + (f" (it is read from {SECRET})" if "secret" in str(wrong) else "")
        ) from None
