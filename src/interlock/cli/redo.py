"""`interlock redo, drop`: what becomes of a dead call, also of a run that has ended. It lies in the run's inbox until a
host takes the run, and each command says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from interlock.cli.answers import where_it_lies
from interlock.cli.calls import how_it_failed
from interlock.cli.options import acting, actor, agree, changing, named, print_json, reading, shared, short_id, to_go_on
from interlock.cli.story import call_text
from interlock.cli.wording import visible
from interlock.client import Client
from interlock.dead import dead_call
from interlock.store.protocol import Left


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("effect", metavar="EFFECT", type=int)
@acting
@shared
def redo(**given: Any) -> None:
    """Make a dead call again: as an effect of its own, under a new key, with as many attempts as any."""
    _carry_out("redo", "is done again, under a new key", Client.redo, **given)


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("effect", metavar="EFFECT", type=int)
@acting
@shared
def drop(**given: Any) -> None:
    """Take a dead call off the list: it isn't made any more."""
    _carry_out("drop", "isn't made any more", Client.drop, **given)


def _carry_out(
    verb: str,
    past: str,
    send: Callable[..., Awaitable[Left]],
    run: str,
    effect: int,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    with reading(store) as found:
        call = dead_call(found, run, effect)
        title = f"{visible(call.machine)} {short_id(found, call.run)}"
        text = call_text(call.tool, call.args)
        agree(f"{verb} {text}, effect {effect} of {title}, {how_it_failed(call)}, as {actor(by)}", yes)
    with changing(store) as client:
        left = asyncio.run(_sent(send(client, call.run, effect, by=by, reason=reason)))
        if as_json:
            print_json({"ok": True, "run": call.run, "did": verb, "effect": effect, "held": left.held,
                        "store": named(store)})  # fmt: skip
            return
        click.echo(f"{title}  {text} {past}  store {named(store)}")
        click.echo(f"        {where_it_lies(left, to_go_on('TARGET', short_id(client.store, call.run), store))}")


async def _sent(said: Awaitable[Left]) -> Left:
    return await said
