"""`interlock` alone: what needs a person, what is stuck, what is nearly used up, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from interlock.canonical import Json
from interlock.cli.breakers import as_document as breaker_document
from interlock.cli.breakers import open_breakers, standing
from interlock.cli.calls import headline as dead_headline
from interlock.cli.notices import as_document as notice_document
from interlock.cli.notices import dead_notices, overdue
from interlock.cli.notices import headline as notice_headline
from interlock.cli.options import named, print_json, reading, short_id
from interlock.cli.show import ceiling_share
from interlock.cli.waiting import as_document as wait_document
from interlock.cli.waiting import headline, open_waits
from interlock.cli.wording import duration, money, visible
from interlock.dead import dead_calls
from interlock.handover import because
from interlock.machine.limits import dollars
from interlock.reading import read_run
from interlock.store.protocol import RunFilter, RunRow, Store, WorkerRow
from interlock.stuck import Stuck, stuck_runs

HOUR_MS = 3_600_000
STATUSES = ("ready", "running", "waiting", "paused", "completed", "failed", "cancelled")
OPEN = STATUSES[:4]
SHOWN_MAX = 20


def show_status(store: str | None, as_json: bool) -> None:
    """What a person who was just woken needs first."""
    with reading(store) as found:
        if as_json:
            print_json(_document(found, named(store)))
        else:
            _print(found, named(store))


def _document(store: Store, store_name: str) -> dict[str, Json]:
    rows = store.runs(RunFilter(limit=2**31))
    now = int(time.time() * 1000)
    stuck = stuck_runs(store, now)
    return {
        "store": store_name,
        "runs": _counts(rows),
        "waiting": [wait_document(machine, wait) for machine, wait in open_waits(store)],
        "stuck": [stuck_document(each) for each in stuck if not each.stranded],
        "stranded": [stuck_document(each) for each in stuck if each.stranded],
        "dead_calls": [call.as_json() for call in dead_calls(store)],
        "nearly_spent": [{"run": row.id, "used": used, "what": what} for row, used, what in _nearly_spent(store, rows)],
        "notices": {
            "dead": [notice_document(each) for each in dead_notices(store)],
            "undelivered": len(store.notices()),
            "overdue": overdue(store, now),
        },
        "breakers": [breaker_document(each) for each in open_breakers(store)],
        "workers": [_worker(worker) for worker in store.workers()],
        "usd_last_hour": float(dollars(store.spent_since(now - HOUR_MS))),
    }


def stuck_document(each: Stuck) -> dict[str, Json]:
    row = each.row
    return {"run": row.id, "machine": row.machine, "shape": row.shape, "why": each.why, "remedy": each.remedy}


def _worker(worker: WorkerRow) -> dict[str, Json]:
    machines: list[Json] = [{"machine": machine, "shape": shape} for machine, shape in worker.machines]
    return {"name": worker.name, "alive": worker.alive, "machines": machines}


def _counts(rows: list[RunRow]) -> dict[str, int]:
    return {status: sum(row.status == status for row in rows) for status in STATUSES}


def _nearly_spent(store: Store, rows: list[RunRow]) -> list[tuple[RunRow, float, str]]:
    """Open runs that have used most of some ceiling."""
    found = []
    for row in rows:
        if row.status in OPEN:
            view = read_run(store, row.id)
            used, what = ceiling_share(view)
            if used >= view.state.warn_at:
                found.append((row, used, what))
    return found


def _print(store: Store, store_name: str) -> None:
    rows = store.runs(RunFilter(limit=2**31))
    now = int(time.time() * 1000)
    waits, stuck, nearly = open_waits(store), stuck_runs(store, now), _nearly_spent(store, rows)
    counts = ", ".join(f"{count} {status}" for status, count in _counts(rows).items() if count) or "no runs yet"
    hour = money(store.spent_since(now - HOUR_MS))
    click.secho(f"{counts} | ${hour} in the last hour | {_workers(store)}  store {store_name}", bold=True)
    _section(
        "needs somebody", [f"{headline(store, name, wait)}: {visible(because(wait), 160)}" for name, wait in waits]
    )
    _section("stuck", [_stuck(store, each) for each in stuck if not each.stranded])
    _section("stranded", [_stuck(store, each) for each in stuck if each.stranded])
    _section("open breakers", [f"{visible(each.name, 60)}  {standing(each)}" for each in open_breakers(store)])
    dead = dead_calls(store)
    _section(
        "dead calls", [f"{_named(store, call.machine, call.run)}  {dead_headline(call, now / 1000)}" for call in dead]
    )
    late = overdue(store, now)
    _section(
        "notices",
        [*(f"{each.id}  {notice_headline(each)}" for each in dead_notices(store)), *([late] if late else [])],
    )
    _section("nearly spent", [f"{_run(store, row)}  {what} ({used:.0%})" for row, used, what in nearly])
    failed = [row for row in rows if row.status == "failed" and row.changed_at > now - HOUR_MS]
    _section("failed in the last hour", [f"{_run(store, row)}  {visible(row.reason, 80)}" for row in failed])
    click.echo(f"next  interlock {'  | '.join(_next_steps(store, rows, bool(waits), bool(dead)))}")


def _next_steps(store: Store, rows: list[RunRow], waits: bool, dead: bool) -> Iterator[str]:
    """Commands that make sense now, the most urgent first."""
    if waits:
        yield "waiting"
    if dead:
        yield from ("redo RUN EFFECT", "drop RUN EFFECT")
    if any(row.status == "ready" for row in rows) and not _living(store):
        yield "work TARGET"
    if not waits:
        yield "runs"
    yield from ("show RUN", "log RUN", "doctor")


def _living(store: Store) -> int:
    return sum(worker.alive is not False for worker in store.workers())


def _workers(store: Store) -> str:
    workers = store.workers()
    living = _living(store)
    dead = len(workers) - living
    said = f"{living} worker{'' if living == 1 else 's'}"
    return said + (f", {dead} DEAD" if dead else "")


def _stuck(store: Store, each: Stuck) -> str:
    since = duration(max(0.0, time.time() - each.row.changed_at / 1000))
    return f"{_run(store, each.row)}  {visible(each.why)}, {since}. {visible(each.remedy)}"


def _run(store: Store, row: RunRow) -> str:
    return _named(store, row.machine, row.id)


def _named(store: Store, machine: str, run: str) -> str:
    return f"{visible(machine, 40)} {short_id(store, run)}"


def _section(title: str, lines: list[str]) -> None:
    if not lines:
        return
    click.secho(title, fg="yellow")
    for line in lines[:SHOWN_MAX]:
        click.echo(f"  {line}")
    if len(lines) > SHOWN_MAX:
        click.echo(f"  and {len(lines) - SHOWN_MAX} more")
