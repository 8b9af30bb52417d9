"""`interlock rollback`: return a run to where an earlier turn began. Says first what that undoes, and what it can't."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import click

from interlock.canonical import Json
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
from interlock.cli.story import call_text
from interlock.cli.wording import columns, visible
from interlock.errors import BadInput
from interlock.history.deeds import Deed, Plan
from interlock.reading import read_run, rollback_plan


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", type=int, metavar="TURN", required=True, help="Back to where it began; `log` numbers turns.")
@click.option("--accept", type=int, metavar="EFFECT", multiple=True, help="It can't be undone, and stays.")
@acting
@shared
def rollback(
    run: str,
    to: int,
    accept: tuple[int, ...],
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Return a run to where turn TURN began. What its turns did since is undone, newest first; what has no undo must be
    accepted, effect by effect. Record and conversation are then what they were; numbers and spending go on."""
    with reading(store) as found:
        view = read_run(found, run)
        plan = rollback_plan(found, view.id, to)
        short = short_id(found, view.id)
        title = f"{visible(view.row.machine)} {short}"
        if not as_json:
            for line in _lines(plan, accept):
                click.echo(line)
        try:
            plan.check_accepted(accept)
        except BadInput as missing:
            raise Misuse(str(missing)) from None
        agree(f"return {title} ({view.status} in `{view.row.state}`) to turn {to} as {actor(by)}{_in_short(plan)}", yes)
    with changing(store) as client:
        left = asyncio.run(client.rollback(view.id, to=to, accept=accept, by=by, reason=reason))
        if as_json:
            done = {"held": left.held, "store": named(store)}
            print_json({"ok": True, "run": view.id, **_document(plan, accept), **done})
            return
        where = f"where turn {to} began, in `{visible(plan.then.state)}`"
        click.echo(f"{title}  goes back to {where}  store {named(store)}")
        click.echo(f"        {where_it_lies(left, to_go_on('TARGET', short, store))}")


def _lines(plan: Plan, accept: tuple[int, ...]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        *(("undone", *_cells(deed), "") for deed in plan.undo),
        *(("stays", *_cells(deed), _accepted(deed, accept)) for deed in plan.stays),
        *(("in doubt", *_cells(deed), _of_doubt(deed, accept)) for deed in plan.doubts),
    ]
    yield from columns(rows) if rows else ["nothing was done outside since then"]


def _cells(deed: Deed) -> tuple[str, ...]:
    return f"effect {deed.effect}", call_text(deed.tool, deed.args), f"turn {deed.turn}"


def _accepted(deed: Deed, accept: tuple[int, ...]) -> str:
    return "accepted" if deed.effect in accept else f"has no undo: needs --accept {deed.effect}"


def _of_doubt(deed: Deed, accept: tuple[int, ...]) -> str:
    if deed.undo:
        return "is cleared first, and undone if it happened"
    stays = "accepted" if deed.effect in accept else "has no undo: a person is asked if it happened"
    return f"is cleared first; {stays}"


def _in_short(plan: Plan) -> str:
    counts = (("undoing", plan.undo), ("leaving as it is", plan.stays), ("first clearing", plan.doubts))
    said = [f"{what} {', '.join(str(deed.effect) for deed in deeds)}" for what, deeds in counts if deeds]
    return f", {', '.join(said)}" if said else ""


def _document(plan: Plan, accept: tuple[int, ...]) -> dict[str, Json]:
    return {
        "to": plan.to,
        "state": plan.then.state,
        "undo": [_json(deed) for deed in plan.undo],
        "accepted": [_json(deed) for deed in (*plan.stays, *plan.doubts) if deed.effect in accept],
        "in_doubt": [_json(deed) for deed in plan.doubts],
    }


def _json(deed: Deed) -> dict[str, Any]:
    return {"effect": deed.effect, "tool": deed.tool, "args": dict(deed.args), "turn": deed.turn}
