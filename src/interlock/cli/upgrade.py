"""`interlock upgrade`: move open runs of an older shape to a machine's present one; each is looked at before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from interlock.canonical import Json
from interlock.cli import target
from interlock.cli.options import Misuse, acting, actor, agree, changing, named, print_json, shared
from interlock.cli.wording import columns, visible
from interlock.engine.upgrade import Problem
from interlock.upgrading import Plan


@click.command()
@click.argument("machine", metavar="TARGET")
@click.option("--map", "mapping", metavar="FILE|JSON", help='{"states": {"old": "new"}, "fields": {}, "set": {}}')
@click.option("--only", metavar="RUN", multiple=True, help="Only this run; may be given several times.")
@acting
@shared
@click.pass_context
def upgrade(
    ctx: click.Context,
    machine: str,
    mapping: str | None,
    only: tuple[str, ...],
    by: str | None,
    reason: str,
    yes: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Move open runs of an older shape to the machine's present one. States and fields keep their names unless --map
    says otherwise; new fields get their default, or what the map sets. Every run is looked at first: if one doesn't
    fit, none moves, and exit is 1. The turn that is under way begins anew."""
    found, given = target.load(machine), _read(mapping)
    with changing(store) as client:
        plan = client.upgrade_plan(found, given, only=only)
        if plan.problems:
            _refuse(plan, store, as_json)
            ctx.exit(1)
        if plan.runs:
            agree(f"move {_counted(plan)} to shape {found.shape[:4]} of {found.name} as {actor(by)}", yes)
        done = asyncio.run(client.upgrade(found, given, only=[row.id for row in plan.runs], by=by, reason=reason))
    ok = not done.problems
    if as_json:
        problems = [problem.as_json() for problem in done.problems]
        print_json({"ok": ok, **plan.as_json(), "moved": done.moved, "problems": problems, "store": named(store)})
    else:
        for line in _lines(done.problems):
            click.secho(line, fg="red")
        where = f"shape {found.shape[:4]}  store {named(store)}"
        click.echo(f"{len(done.moved)} runs of {visible(found.name)} moved to {where}")
    ctx.exit(0 if ok else 1)


def _counted(plan: Plan) -> str:
    return "1 run" if len(plan.runs) == 1 else f"{len(plan.runs)} runs"


def _refuse(plan: Plan, store: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"ok": False, **plan.as_json(), "moved": [], "store": named(store)})
        return
    for line in _lines(plan.problems):
        click.secho(line, fg="red")
    runs = len({problem.run for problem in plan.problems})
    said = f"{runs} of {len(plan.runs)} runs don't fit (--map says what they are now, --only moves some)"
    click.echo(f"nothing was moved: {said}  store {named(store)}")


def _lines(problems: tuple[Problem, ...] | list[Problem]) -> list[str]:
    return columns((visible(each.run), visible(f"{each.what}: {each.remedy}")) for each in problems) if problems else []


def _read(mapping: str | None) -> Json:
    """A map from the command line, or from the file that is named."""
    if mapping is None:
        return None
    text = mapping
    if not mapping.lstrip().startswith("{"):
        try:
            text = Path(mapping.removeprefix("@")).read_text("utf-8")
        except (OSError, ValueError) as wrong:
            raise Misuse(f"--map {mapping}: {getattr(wrong, 'strerror', None) or wrong}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise Misuse(f"--map: is no JSON: {wrong}") from None
