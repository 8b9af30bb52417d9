"""`interlock doctor`: what is wrong with this store, this host or set-up, each with its remedy. Changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import apsw
import click

from interlock.agent.providers import ProviderModels
from interlock.bootstrap import store_url
from interlock.canonical import Json
from interlock.cli import inputs, target
from interlock.cli.breakers import open_breakers, standing
from interlock.cli.notices import dead_notices, overdue
from interlock.cli.options import check_lasting, named, open_lasting, print_json, shared
from interlock.cli.wording import visible
from interlock.errors import Finding, InvalidMachine, StoreError, UnknownModel
from interlock.machine.rules.remark import tool_uses
from interlock.machine.servers import ServerTool, references
from interlock.machine.table import AnyMachine
from interlock.store.protocol import RunFilter, Store
from interlock.stuck import stuck_runs

SAFE_SQLITE = (3, 51, 3)
OPEN = ("ready", "running", "waiting", "paused")
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")


@click.command()
@click.argument("machines", metavar="[TARGET]...", nargs=-1)
@shared
@click.pass_context
def doctor(ctx: click.Context, machines: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """What is wrong with this store, host or set-up, and the remedy. Exit 1 when something is an error."""
    check_lasting(store)
    found = [*_surroundings(), *_of_targets(machines, store)]
    ok = all(finding.severity != "error" for finding in found)
    if as_json:
        print_json({"ok": ok, "findings": [as_document(each) for each in found], "store": named(store)})
    else:
        _print(found, named(store))
    ctx.exit(0 if ok else 1)


def as_document(each: Finding) -> dict[str, Json]:
    return {"rule": each.rule, "severity": each.severity, "state": each.state, "message": each.message}


def _print(found: list[Finding], store_name: str) -> None:
    for each in sorted(found, key=lambda one: one.severity):
        colour = "red" if each.severity == "error" else "yellow"
        click.secho(visible(f"{each.severity:7} {each.message}"), fg=colour)
    python = ".".join(str(part) for part in sys.version_info[:3])
    click.echo(f"python {python}, sqlite {apsw.sqlite_lib_version()} (python's own: {sqlite3.sqlite_version})")
    click.echo(f"{'nothing is wrong' if not found else f'{len(found)} findings'}  store {store_name}")


def _hint(rule: str, message: str) -> Finding:
    return Finding(rule, message, severity="warning")


def _surroundings() -> Iterator[Finding]:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < SAFE_SQLITE:
        yield Finding(
            "sqlite",
            f"apsw brings SQLite {apsw.sqlite_lib_version()}, which can lose commits of several processes. "
            'pip install --upgrade "apsw>=3.51.3"',
        )
    if not any(os.environ.get(name) for name in KEYS):
        yield _hint("key", f"no key for models is set. Set {' or '.join(KEYS)}, if your machines ask those providers")
    if sys.stdout.encoding.lower().replace("-", "") != "utf8":
        yield _hint("terminal", f"the output's encoding is {sys.stdout.encoding}. Set PYTHONUTF8=1 to see all letters")


def _of_targets(targets: tuple[str, ...], store: str | None) -> Iterator[Finding]:
    machines = []
    for each in targets:
        try:
            machines.append(target.load(each))
        except InvalidMachine as invalid:
            yield from invalid.findings
        except target.NoTarget as wrong:
            yield Finding("target", f"{wrong.message}. Mend it, or name another TARGET")
    yield from _models(machines)
    yield from _servers(machines)
    yield from _store(store, machines)


def _models(machines: list[AnyMachine]) -> Iterator[Finding]:
    models = ProviderModels()
    for machine in machines:
        for name in inputs.models_of(machine):
            try:
                models.find(name)
            except UnknownModel as unknown:
                yield Finding("model", f"{machine.name}: {unknown}")


def _servers(machines: list[AnyMachine]) -> Iterator[Finding]:
    """What servers need on this host. None is started: `check --connect` does."""
    uses = [tool for machine in machines for tool, _ in tool_uses(machine) if isinstance(tool, ServerTool)]
    if uses and find_spec("mcp") is None:
        yield Finding("server", "the package that speaks to servers is missing. pip install 'interlock[mcp]'")
    for server in dict.fromkeys(tool.server for tool in uses):
        given = [text for _, text in (*server.env, *server.headers)]
        missing = sorted({name for text in given for name in references(text) if name not in os.environ})
        if missing:
            yield Finding("server", f"server `{server.name}` needs {', '.join(missing)} in the worker's environment")
        if server.command and shutil.which(server.command[0]) is None:
            where = f"server `{server.name}`: {server.command[0]} is not there, or is no program"
            yield Finding("server", f"{where}. Install it, or name it with its path")


def _store(url: str | None, machines: list[AnyMachine]) -> Iterator[Finding]:
    path = Path(store_url(url).removeprefix("sqlite:///"))
    if path.parent.is_dir() and not path.exists():
        yield _hint(
            "store", f"{path}: no store is there yet. `interlock run` or `start` makes it; --store names another"
        )
        return
    try:
        store = open_lasting(url, create=False, readonly=True)
    except StoreError as wrong:
        yield Finding("store", str(wrong))
        return
    try:
        yield from store.check()
        yield from _runs(store, machines)
    except StoreError as wrong:
        yield Finding("store", str(wrong))
    finally:
        store.close()


def _runs(store: Store, machines: list[AnyMachine]) -> Iterator[Finding]:
    for stuck in stuck_runs(store, int(time.time() * 1000)):
        rule = "stranded" if stuck.stranded else "stuck"
        yield _hint(rule, f"run {stuck.row.id} of `{stuck.row.machine}`: {stuck.why}. {stuck.remedy}")
    yield from _notices(store)
    for shut in open_breakers(store):
        yield _hint("breaker", f"{shut.name} is {standing(shut)}. When it works again: interlock reset {shut.name}")
    shapes = {machine.name: machine.shape for machine in machines}
    for row in store.runs(RunFilter(statuses=OPEN, limit=2**31)):
        if row.machine in shapes and row.shape != shapes[row.machine]:
            yield Finding(
                "shape",
                f"run {row.id} of `{row.machine}` was started on shape {row.shape[:8]}, the code now has "
                f"{shapes[row.machine][:8]}. Run the code it was started with until it ends, or cancel it",
                row.state,
            )


def _notices(store: Store) -> Iterator[Finding]:
    dead, late = dead_notices(store), overdue(store, int(time.time() * 1000))
    if dead:
        last = dead[-1]
        yield _hint(
            "notices",
            f"{len(dead)} notices couldn't be delivered, the last: {last.message}. Mend the receiver, then "
            f"`interlock notices --again all`; or --drop",
        )
    if late:
        yield _hint("notices", f"notices: {late}")
