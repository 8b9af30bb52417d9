"""`interlock approve, deny`: a person's word about one call, which is made as she saw it or not at all."""

from __future__ import annotations

import click

from interlock.canonical import Json
from interlock.cli.answers import tell, title
from interlock.cli.options import Misuse, acting, actor, agree, changing, fields_of, reading, shared
from interlock.deciding import to_answer
from interlock.fitting import check_answer, wait_for_approval
from interlock.handover import call_in_full
from interlock.reading import OpenWait, read_run


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--wait", type=int, metavar="ID", help="Which call, when several wait.")
@click.option("--set", "sets", metavar="ARG=VALUE", multiple=True, help="Approve it with this argument changed.")
@acting
@shared
def approve(
    run: str,
    wait: int | None,
    sets: tuple[str, ...],
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Say yes to a call that waits for it: it is made once, with exactly these arguments."""
    with reading(store) as found:
        asked = to_answer(found, run, wait, wait_for_approval)
        view = read_run(found, asked.run)
        changed = fields_of(sets, asked.form["edit"])
        _check(asked, changed)
        shown = _call(asked, changed)
        agree(f"approve {shown} for {title(found, view)} as {actor(by)}", yes)
    with changing(store) as client:
        said = client.approve(asked.run, wait=asked.number, args=changed, by=by, reason=reason)
        tell(client, view, said, f"approved {shown}", as_json, store)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--wait", type=int, metavar="ID", help="Which call, when several wait.")
@acting
@shared
def deny(run: str, wait: int | None, by: str | None, reason: str, yes: bool, store: str | None, as_json: bool) -> None:
    """Say no to a call that waits for a yes: it isn't made, and the turn ends `denied`."""
    with reading(store) as found:
        asked = to_answer(found, run, wait, wait_for_approval)
        view = read_run(found, asked.run)
        shown = _call(asked)
        agree(f"deny {shown} for {title(found, view)} as {actor(by)}", yes)
    with changing(store) as client:
        said = client.deny(asked.run, wait=asked.number, by=by, reason=reason)
        tell(client, view, said, f"denied {shown}", as_json, store)


def _check(asked: OpenWait, changed: dict[str, Json]) -> None:
    known = asked.form["edit"].get("properties", {})
    for name in changed:
        if name not in known:
            raise Misuse(f"--set {name}: {asked.call['tool']} takes {', '.join(known) or 'no arguments'}")
    check_answer(asked, "edit", changed)


def _call(asked: OpenWait, changed: dict[str, Json] | None = None) -> str:
    return call_in_full(asked.call["tool"], {**asked.call["args"], **(changed or {})})
