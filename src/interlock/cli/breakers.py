"""`interlock breakers, trip, reset`: which models and tools are left alone, since when and why; and a person's say."""

from __future__ import annotations

import asyncio
import difflib
import math
import time
from collections.abc import Iterable

import click

from interlock.canonical import Json
from interlock.cli.options import Misuse, acting, actor, agree, changing, named, print_json, reading, shared
from interlock.cli.wording import by_when, columns, duration, moment, visible
from interlock.history.events import CallPrevented, Event, ModelCalled, ToolCalled
from interlock.policy.breaker import Breaker, Change, State, model_breaker, tool_breaker
from interlock.store.protocol import Store

COLOURS = {State.OPEN: "red", State.HALF_OPEN: "yellow"}


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@shared
def breakers(name: str | None, store: str | None, as_json: bool) -> None:
    """Which models and tools are left alone, until when and why. With a NAME, what happened to that one's breaker."""
    with reading(store) as found:
        rows = found.breakers(all=True) if name is None else [_breaker(found, _meant(found, name))]
        log = [] if name is None else found.breaker_log(rows[0].name)
        if as_json:
            shown: dict[str, Json] = {"store": named(store), "breakers": [as_document(row) for row in rows]}
            print_json(shown if name is None else {**shown, "log": [_change_document(change) for change in log]})
            return
        for row in rows:
            click.secho(f"{visible(row.name)}  {standing(row)}", fg=COLOURS.get(State(row.state)))
        if log:
            click.echo("\n".join(columns(_line(change) for change in log)))
        if not rows:
            click.echo("no call has failed yet")
        click.echo(f"store {named(store)}")


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--for", "seconds", type=float, metavar="SECONDS", help="Default: until somebody resets it.")
@acting
@shared
def trip(
    name: str, seconds: float | None, by: str | None, reason: str, yes: bool, store: str | None, as_json: bool
) -> None:
    """Open a breaker: no call of that model or tool begins any more. NAME is model:PROVIDER:NAME or tool:NAME."""
    if seconds is not None and not (0 < seconds < math.inf):
        raise Misuse(f"--for {seconds}: give it seconds above 0")
    with reading(store) as found:
        which = _meant(found, name)
        remark = _remark(found, which)
    until = f"for {duration(seconds)}" if seconds is not None else "until somebody resets it"
    plan = f"open the breaker of {which} {until}, as {actor(by)}: calls of it go to a fallback, or don't begin"
    agree(f"{plan}{remark}", yes)
    with changing(store) as client:
        _tell(asyncio.run(client.trip(which, seconds=seconds, by=by, reason=reason)), store, as_json, remark)


@click.command()
@click.argument("name", metavar="NAME")
@acting
@shared
def reset(name: str, by: str | None, reason: str, yes: bool, store: str | None, as_json: bool) -> None:
    """Close a breaker: calls of that model or tool begin again, and what failed before is forgotten."""
    with reading(store) as found:
        which = _meant(found, name)
        remark = _remark(found, which)
        agree(f"close the breaker of {which} ({standing(_breaker(found, which))}) as {actor(by)}{remark}", yes)
    with changing(store) as client:
        _tell(asyncio.run(client.reset(which, by=by, reason=reason)), store, as_json, remark)


def _tell(breaker: Breaker, store: str | None, as_json: bool, remark: str) -> None:
    if as_json:
        print_json({"ok": True, "breaker": as_document(breaker), "store": named(store)})
    else:
        click.echo(f"{visible(breaker.name)}  {standing(breaker)}\nstore {named(store)}")
    if remark:
        click.echo(f"note{visible(remark)}", err=True)


def _meant(store: Store, given: str) -> str:
    """A breaker by its whole name, or by that of its model or tool where it is known."""
    kind, _, name = given.partition(":")
    if kind in ("model", "tool") and name:
        return given
    known = [row.name for row in store.breakers(all=True) if row.name.partition(":")[2] == given]
    if len(known) == 1:
        return known[0]
    raise Misuse(f"{given}: no call of it has failed yet, so say what it is: model:PROVIDER:NAME or tool:NAME")


def _remark(store: Store, name: str) -> str:
    """A name is taken as it is given. One with a slip in it would stop, or let go, nothing: say where to look."""
    known = [row.name for row in store.breakers(all=True)]
    if name in known:
        return ""
    longer = [each for each in known if each.startswith(f"{name}@")]  # its address was left out
    like = longer or difflib.get_close_matches(name, known, 1, cutoff=0.8)
    other = f"; there is {like[0]}" if like else ""
    address = ", with its address" if name.startswith("model:") else ""
    return f": no call of {name} has failed yet, so mind that the machine writes it like that{address}{other}"


def _breaker(store: Store, name: str) -> Breaker:
    return next((row for row in store.breakers(all=True) if row.name == name), Breaker(name))


# -- how one stands, for other verbs too ------------------------------------------------------------------------------


def open_breakers(store: Store) -> list[Breaker]:
    """Those that calls don't pass."""
    return [row for row in store.breakers() if row.state != State.CLOSED]


def used_by(breakers: Iterable[Breaker], history: Iterable[tuple[int, Event]]) -> list[Breaker]:
    """Those of what a run has called, or would have."""
    used: set[str] = set()
    for _, event in history:
        match event:
            case ModelCalled():
                used.add(model_breaker(event.model))
                used.update(model_breaker(str(passed.get("name"))) for passed in event.passed)
            case ToolCalled():
                used.add(tool_breaker(event.tool))
            case CallPrevented():
                used.update(f"{kind}:{passed.get('name')}" for passed in event.passed for kind in ("model", "tool"))
            case _:
                pass
    return [breaker for breaker in breakers if breaker.name in used]


def short_name(breaker: Breaker) -> str:
    """Without what kind it is of."""
    return visible(breaker.name.partition(":")[2], 60)


def standing(breaker: Breaker) -> str:
    """ "OPEN until 02:07:11: 5 failures in a row, the last: 503"."""
    because = f": {visible(breaker.reason, 160)}" if breaker.reason else ""
    by = f" by {visible(breaker.by, 40)}" if breaker.by else ""
    match breaker.state:
        case State.OPEN:
            return f"OPEN{by}{_until(breaker.until)}{because}"
        case State.HALF_OPEN:
            return f"HALF-OPEN, probe {breaker.probe} is under way{because}"
        case _:
            failures = len(breaker.failures)
            lately = f", {failures} failure{'' if failures == 1 else 's'} in a row" if failures else ""
            return f"closed{by}{lately}"


def _until(at: int | None) -> str:
    if at is None:
        return " until somebody resets it"
    now = int(time.time() * 1000)
    return f" until {by_when(at, now)}" if at > now else ", the next call is its probe"


def as_document(breaker: Breaker) -> dict[str, Json]:
    return {
        "name": breaker.name,
        "state": breaker.state,
        "until": breaker.until,
        "reason": breaker.reason,
        "by": breaker.by,
        "changed_at": breaker.changed_at,
        "failures": len(breaker.failures),
        "probe": breaker.probe,
    }


def _change_document(change: Change) -> dict[str, Json]:
    return {name: getattr(change, name) for name in change.__struct_fields__}


def _line(change: Change) -> tuple[str, ...]:
    until = "" if change.until is None else f"until {by_when(change.until, change.at)}"
    by = f"by {visible(change.by, 40)}" if change.by else ""
    return (f"  {moment(change.at)}", change.what, until, by, visible(change.reason, 120))
