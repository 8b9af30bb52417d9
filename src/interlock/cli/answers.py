"""`interlock resolve, extend, clear, signal`: what people and systems tell a run. It lies in the run's inbox until a
host takes the run, and each command says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import click

from interlock.canonical import Json
from interlock.cli.options import (
    Misuse,
    acting,
    actor,
    agree,
    changing,
    fields_of,
    named,
    print_json,
    reading,
    shared,
    short_id,
    to_go_on,
)
from interlock.cli.show import done_again
from interlock.cli.wording import value, visible
from interlock.client import Client
from interlock.dead import who_asks
from interlock.deciding import to_answer
from interlock.errors import WaitClosed
from interlock.fitting import check_answer, extension
from interlock.machine.outcomes import EXHAUSTED
from interlock.reading import RunView, read_run
from interlock.store.protocol import Left, Store

RETRY = "retry"


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("outcome", metavar="OUTCOME")
@click.option("--set", "sets", metavar="FIELD=VALUE", multiple=True, help="A field that the outcome takes.")
@click.option("--wait", type=int, metavar="ID", help="Which wait, when there are several.")
@acting
@shared
def resolve(
    run: str,
    outcome: str,
    sets: tuple[str, ...],
    wait: int | None,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Answer a run that waits for a person: OUTCOME is one of those that `show` names."""
    with reading(store) as found:
        asked = to_answer(found, run, wait)
        if asked.why == "approve":  # a word that is given without the call before one's eyes
            which = f"{short_id(found, asked.run)} --wait {asked.number}"
            raise Misuse(f"{visible(outcome)}: a call waits for a yes or no: interlock approve|deny {which}")
        view = read_run(found, run)
        fields = fields_of(sets, asked.form.get(outcome))
        check_answer(asked, outcome, fields)
        shown = "".join(f", {name} {value(given)}" for name, given in fields.items())
        again = _again(found, view) if outcome == RETRY else ""
        agree(f"answer {title(found, view)} with `{outcome}`{shown} as {actor(by)}{again}", yes)
    with changing(store) as client:
        said = client.resolve(view.id, outcome, fields, wait=asked.number, by=by, reason=reason)
        tell(client, view, said, f"answered `{visible(outcome)}`", as_json, store)


def _again(store: Store, view: RunView) -> str:
    """What somebody must know before a turn is taken anew."""
    done = done_again(store, view)
    return f" ({done})" if done else ""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--usd", type=float, default=0, help="Dollars more.")
@click.option("--tokens", type=int, default=0, help="Tokens more.")
@click.option("--turns", type=int, default=0, help="Turns more.")
@click.option("--calls", type=int, default=0, help="Calls more.")
@click.option("--seconds", type=float, default=0, help="Active seconds more.")
@acting
@shared
def extend(
    run: str,
    usd: float,
    tokens: int,
    turns: int,
    calls: int,
    seconds: float,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Raise a run's ceilings; a run that waits because of them goes on: from exactly there at its warning, with its
    turn taken anew where that had ended."""
    more: dict[str, Any] = {"usd": usd, "tokens": tokens, "turns": turns, "calls": calls, "seconds": seconds}
    extension(**more)
    stated = ", ".join(f"{given:g} {name}" for name, given in more.items() if given)
    with reading(store) as found:
        view = _open(read_run(found, run))
        anew = any(wait.why == "escalated" and wait.outcome in EXHAUSTED for wait in view.waits)
        again = _again(found, view) if anew else ""
        agree(f"extend {title(found, view)} by {stated} as {actor(by)}{again}", yes)
    with changing(store) as client:
        said = client.extend(view.id, **more, by=by, reason=reason)
        tell(client, view, said, f"extended by {stated}", as_json, store)


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("effect", metavar="EFFECT", type=int)
@click.option("--happened/--did-not", "happened", default=None, help="Did it take place?")
@click.option("--result", metavar="JSON", help="What it answered, when it happened.")
@acting
@shared
def clear(
    run: str,
    effect: int,
    happened: bool | None,
    result: str | None,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Say whether an effect in doubt happened."""
    if happened is None:
        raise Misuse("say --happened or --did-not")
    if result is not None and not happened:
        raise Misuse("--result goes with --happened")
    answered = None if result is None else _json(result)
    with reading(store) as found:
        view = read_run(found, run)
        who_asks(view, effect)
        agree(f"say that effect {effect} of {title(found, view)} {_did(happened)}, as {actor(by)}", yes)
    with changing(store) as client:
        said = client.clear(view.id, effect, happened=happened, result=answered, by=by, reason=reason)
        tell(client, view, said, f"effect {effect} {_did(happened)}", as_json, store)


def _did(happened: bool) -> str:
    return "happened" if happened else "did not happen"


def _json(text: str) -> Json:
    try:
        return json.loads(text)
    except RecursionError:
        raise Misuse("--result: is nested too deeply") from None
    except ValueError as wrong:
        raise Misuse(f"--result: is not JSON: {wrong}") from None


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("name", metavar="NAME")
@click.option("--set", "sets", metavar="FIELD=VALUE", multiple=True, help="A field that comes with it.")
@click.option("--id", "signal_id", metavar="ID", help="The same id again counts once.")
@acting
@shared
def signal(
    run: str,
    name: str,
    sets: tuple[str, ...],
    signal_id: str | None,
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Tell a run something from a system. It is kept until a wait for it takes it."""
    fields = fields_of(sets)
    with reading(store) as found:
        view = _open(read_run(found, run))
        agree(f"send the signal `{name}` to {title(found, view)} as {actor(by)}", yes)
    with changing(store) as client:
        said = client.signal(view.id, name, fields, by=by, id=signal_id)
        tell(client, view, said, f"signal `{visible(name)}` left", as_json, store)


def _open(view: RunView) -> RunView:
    if view.ended:
        raise WaitClosed(f"run {view.id} has ended ({view.status})")
    return view


def title(store: Store, view: RunView) -> str:
    """The run, and how it stands now."""
    return f"{view.row.machine} {short_id(store, view.id)} ({view.status} in `{view.row.state}`)"


def tell(
    client: Client, view: RunView, said: Coroutine[Any, Any, Left], what: str, as_json: bool, store: str | None
) -> None:
    left = asyncio.run(_awaited(said))
    if as_json:
        print_json({"ok": True, "run": view.id, "did": what, "held": left.held, "store": named(store)})
        return
    short = short_id(client.store, view.id)
    click.echo(f"{visible(view.row.machine)} {short}  {what}  store {named(store)}")
    click.echo(f"        {where_it_lies(left, to_go_on('TARGET', short, store))}")


async def _awaited(said: Coroutine[Any, Any, Left]) -> Left:
    return await said


def where_it_lies(left: Left, remedy: str) -> str:
    """Who reads it, and when; else what has it read."""
    if left.held:
        return "its worker will read it now"
    return f"it lies in the inbox until a worker takes the run: {remedy}"
