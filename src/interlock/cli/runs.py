"""`interlock runs`: what is there, newest first."""

from __future__ import annotations

import re
import time

import click

from interlock.canonical import Json
from interlock.cli.options import Misuse, named, print_json, reading, shared, short_id
from interlock.cli.wording import columns, duration, money, visible
from interlock.machine.limits import dollars
from interlock.store.protocol import RunFilter, RunRow, Store

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.option("--failed", is_flag=True, help="Those that failed; with --waiting, these and those.")
@click.option("--waiting", is_flag=True, help="Those that wait, or are paused; with --failed, these and those.")
@click.option("--since", metavar="1h", help="Those that changed within: 30s, 15m, 1h, 2d.")
@click.option("--machine", metavar="NAME", help="Those of one machine.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@shared
def runs(
    failed: bool, waiting: bool, since: str | None, machine: str | None, limit: int, store: str | None, as_json: bool
) -> None:
    """List runs, newest first."""
    statuses = (("failed",) if failed else ()) + (("waiting", "paused") if waiting else ())
    changed = None if since is None else int((time.time() - _seconds(since)) * 1000)
    with reading(store) as found:
        rows = found.runs(RunFilter(machine, statuses, changed, limit))
        if as_json:
            print_json({"store": named(store), "runs": [as_document(row) for row in rows]})
        else:
            _print(found, rows, named(store), limit)


def _seconds(text: str) -> float:
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if parts is None:
        raise Misuse(f"--since {text}: write a number and s, m, h or d, e.g. 90m")
    return float(parts[1]) * _UNITS[parts[2]]


def as_document(row: RunRow) -> dict[str, Json]:
    """A run in a list: what its row alone says."""
    spent = row.account.spent
    return {
        "run": row.id,
        "machine": row.machine,
        "key": row.key,
        "status": row.status,
        "reason": row.reason,
        "state": row.state,
        "turns": spent.turns,
        "events": row.seq,
        "cost": {"usd": float(dollars(spent.nanousd)), "nanousd": spent.nanousd, "tokens": spent.tokens},
        "created_at": row.created_at,
        "changed_at": row.changed_at,
    }


def _print(store: Store, rows: list[RunRow], store_name: str, limit: int) -> None:
    if not rows:
        click.echo(f"no such runs  store {store_name}")
        return
    head = ("run", "machine", "status", "in", "turns", "cost", "changed", "why")
    for line in columns([head, *(_cells(store, row) for row in rows)]):
        click.echo(line)
    more = f"the newest {limit}; --limit shows more  " if len(rows) == limit else ""
    click.echo(f"{more}store {store_name}")


def _cells(store: Store, row: RunRow) -> tuple[str, ...]:
    spent = row.account.spent
    ago = duration(max(0.0, time.time() - row.changed_at / 1000)) + " ago"
    name = visible(row.machine, 30)
    state, why = visible(row.state, 30), visible(row.reason, 60)
    return short_id(store, row.id), name, row.status, state, str(spent.turns), f"${money(spent.nanousd)}", ago, why
