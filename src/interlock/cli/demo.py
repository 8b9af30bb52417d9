"""`interlock demo`: the 2 a.m. drill, offline: real work on a real log file while faults are injected.

Prints what the drill found; `redteam.drill` runs it. Leaves its runs in a store of their own, to look at.
"""

from __future__ import annotations

import asyncio
import shlex
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from interlock.canonical import Json
from interlock.cli import target
from interlock.cli.log import table
from interlock.cli.options import Misuse, check_lasting, print_json, shared
from interlock.cli.story import tell
from interlock.cli.wording import columns, money, quantity, visible
from interlock.machine.limits import dollars
from interlock.redteam.drill import Outcome, Part, Say, drill

SOURCE_TREE = Path(__file__).resolve().parents[3]
DESK = Path("examples/incident.py")
LOG = Path("examples/data/shop.log")


@click.command()
@click.option("--log", "log_file", metavar="FILE", help="Your own log file, of any kind. It is only read.")
@shared
@click.pass_context
def demo(ctx: click.Context, log_file: str | None, store: str | None, as_json: bool) -> None:
    """The 2 a.m. drill, offline: an incident desk reads a log file while the provider answers 503, a tool says `retry`
    for ever, an answer takes 30 seconds, the log gives orders, the money runs low and the worker is killed.

    Exit 1 when something did not hold. The runs lie in a new store in a temporary folder, or in --store.
    """
    desk_file = _in_the_sources(DESK)
    read = _readable(Path(log_file).expanduser() if log_file else _in_the_sources(LOG))
    desk = target.load(f"{desk_file}:desk")
    if store:
        check_lasting(store)
    url = store or f"sqlite:///{Path(tempfile.mkdtemp(prefix='interlock-demo-')) / 'drill.db'}"
    if not as_json:
        _print_head(read, url)
    outcome = asyncio.run(drill(desk, desk_file, read, url, _silent if as_json else _telling()))
    if as_json:
        print_json({**as_document(outcome), "store": url})
    else:
        _print(outcome, desk_file, url)
    ctx.exit(0 if outcome.ok else 1)


def _in_the_sources(path: Path) -> Path:
    """A file of the examples, from here or from where this package's sources are."""
    for folder in (SOURCE_TREE, Path.cwd()):
        if (folder / path).is_file():
            return folder / path
    raise Misuse(f"the demo needs {path} of interlock's source tree: run it there")


def _readable(path: Path) -> Path:
    """An absolute path of a file that can be read. Raises misuse."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Misuse(f"--log {path}: is not a file")
        with path.open("rb"):
            return Path(_near(path.absolute()))  # as short as it can be: it stands in every call of a tool
    except OSError as wrong:
        raise Misuse(f"--log {path}: {wrong.strerror}") from None


def as_document(outcome: Outcome) -> dict[str, Json]:
    """What `--json` prints, without the store."""
    tokens_in, tokens_out = outcome.tokens
    return {
        "ok": outcome.ok,
        "runs": [
            {"run": part.view.id, "status": part.view.status, "state": part.view.row.state, "what": part.title}
            for part in outcome.parts
        ],
        "faults": [
            {"name": verdict.name, "held": verdict.held, "why": verdict.why, "run": run}
            for run, verdict in outcome.verdicts
        ],
        "cost": {"usd": float(dollars(outcome.nanousd)), "tokens_in": tokens_in, "tokens_out": tokens_out},
        "answer": outcome.answer,
        "broken": list(outcome.broken),
    }


# -- for people ------------------------------------------------------------------------------------------------------


def _silent(_: str) -> None:
    return None


def _telling() -> Say:
    began = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began:5.1f} s  {visible(text)}")

    return say


def _print_head(log_file: Path, url: str) -> None:
    click.secho("The 2 a.m. drill", bold=True)
    click.echo(
        f"An incident desk reads {visible(_near(log_file))} while its surroundings fail. Everything is real but the"
    )
    click.echo("model: a script behind a local HTTP server. Costs are at gpt-5-mini's prices; nobody is billed.")
    click.echo(f"store  {visible(url)}\n")


def _print(outcome: Outcome, desk_file: Path, url: str) -> None:
    for part in outcome.parts:
        _print_part(part)
    click.secho("\nWhat the faults did", bold=True)
    for line, (_, verdict) in zip(_verdict_lines(outcome), outcome.verdicts, strict=True):
        click.secho(line, fg=None if verdict.held else "red")
    for line in outcome.broken:
        click.secho(f"BROKEN  {visible(line)}", fg="red")
    click.secho("\nThe answer", bold=True)
    click.echo(visible(outcome.answer or "none: the work was not done"))
    click.echo(f"\n{_spent(outcome)}")
    click.secho("\nLook closer", bold=True)
    click.echo(f"export INTERLOCK_STORE={shlex.quote(url)}")
    for line in _commands(outcome, desk_file):
        click.echo(f"interlock {line}")
    failed = [verdict.name for _, verdict in outcome.verdicts if not verdict.held]
    said = "ok: everything held" if outcome.ok else f"FAILED: {', '.join(failed) or 'the work itself'}"
    click.secho(f"\n{said}", fg="green" if outcome.ok else "red", bold=True)


def _print_part(part: Part) -> None:
    click.echo()
    click.secho(f"{visible(part.title)}  {part.view.id[:8]}  {part.view.status.upper()}", bold=True)
    for line in table(tell(part.events)):
        click.echo(line)


def _verdict_lines(outcome: Outcome) -> list[str]:
    rows = [
        ("held" if v.held else "BROKE", v.name, visible(v.why, 150), f"run {run[:8]}") for run, v in outcome.verdicts
    ]
    return columns(rows)


def _spent(outcome: Outcome) -> str:
    tokens_in, tokens_out = outcome.tokens
    logs = f"{len(outcome.parts)} logs verified" if not outcome.broken else f"{len(outcome.broken)} logs BROKEN"
    return f"spent ${money(outcome.nanousd)} | {quantity(tokens_in)} tokens in, {quantity(tokens_out)} out | {logs}"


def _commands(outcome: Outcome, desk_file: Path) -> Iterator[str]:
    work = outcome.parts[0].view.id[:8]
    yield f"log {work}"
    yield f"show {work}"
    yield "verify"
    waiting = [part.view for part in outcome.parts if part.view.waits]
    for view in waiting:
        yield f"resolve {view.id[:8]} look_again --yes"
        yield f"run {shlex.quote(_near(desk_file))}:desk --run {view.id[:8]}   # goes on from there; needs a real model"


def _near(path: Path) -> str:
    """A path as one would write it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
