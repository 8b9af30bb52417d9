"""`interlock verify` and `anchor`: is every log whole, do the rows say what it says, and is it the one we once saw?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click

from interlock.canonical import Json
from interlock.cli.options import Misuse, named, print_json, reading, shared
from interlock.cli.wording import visible
from interlock.errors import DamagedStore, UnknownRun
from interlock.reading import Broken, Verified, verify_runs
from interlock.store.protocol import RunFilter, RunRow, Store

EVERY_RUN = RunFilter(limit=2**31)


@click.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--anchor", "anchored", metavar="FILE", help="Compare with what `interlock anchor` wrote.")
@shared
@click.pass_context
def verify(ctx: click.Context, run: str | None, anchored: str | None, store: str | None, as_json: bool) -> None:
    """Is the log whole, and do the rows say what it says? Exit 1 when not."""
    heads = None if anchored is None else _read_anchor(anchored)
    verified, broken = Verified(0, 0, []), []
    try:
        with reading(store) as found:
            verified = verify_runs(found, run)
            broken += verified.broken
            if heads is not None:
                broken += _against(found, heads, None if run is None else found.find(run).id)
    except DamagedStore as damage:
        broken.append(Broken("", 0, str(damage)))
    if as_json:
        said_broken = [each.as_json() for each in broken]
        print_json(
            {
                "ok": not broken,
                "runs": verified.runs,
                "events": verified.events,
                "broken": said_broken,
                "store": named(store),
            }
        )
    else:
        for each in broken:
            where = visible(each.run) + (f" event {each.seq}" if each.seq else "")
            click.secho(f"BROKEN  {where or 'the store'}: {visible(each.why)}", fg="red")
        verdict = f"FAILED, {len(broken)} broken" if broken else "ok"
        runs = "1 run" if verified.runs == 1 else f"{verified.runs} runs"
        click.echo(f"{verdict}: {runs}, {verified.events} events  store {named(store)}")
    ctx.exit(1 if broken else 0)


@click.command()
@click.argument("file", metavar="[FILE]", required=False)
@shared
def anchor(file: str | None, store: str | None, as_json: bool) -> None:
    """Write down how far each log has come (JSON, to stdout or FILE), to keep where this store's owner can't write."""
    with reading(store) as found:
        document = _anchor(found)
    if file is None or file == "-":
        print_json(document)
        return
    _write(Path(file), document)
    if as_json:
        print_json({"ok": True, "file": file, "runs": len(document["runs"]), "store": named(store)})
    else:
        click.echo(f"{len(document['runs'])} heads written to {visible(file)}  store {named(store)}")


def _anchor(store: Store) -> dict[str, Json]:
    store_id, epoch, _ = store.identity()
    heads = [{"run": row.id, "events": row.seq, "head": row.head.hex()} for row in store.runs(EVERY_RUN)]
    return {
        "interlock": "anchor",
        "store": {"id": store_id, "epoch": epoch},
        "at": int(time.time() * 1000),
        "runs": heads,
    }


def _write(path: Path, document: dict[str, Json]) -> None:
    """Whole or not at all: an older anchor isn't lost to a full disk."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fresh.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(fresh, path)
    except OSError as wrong:
        fresh.unlink(missing_ok=True)
        raise Misuse(f"{path}: {wrong.strerror}") from None


def _read_anchor(name: str) -> dict[str, Json]:
    try:
        document = json.loads(Path(name).read_text("utf-8"))
        assert document["interlock"] == "anchor"
        document["store"]["id"]
        for each in document["runs"]:
            assert isinstance(each["run"], str) and isinstance(each["events"], int)
            bytes.fromhex(each["head"])
    except OSError as wrong:
        raise Misuse(f"--anchor {name}: {wrong.strerror}") from None
    except (ValueError, KeyError, TypeError, AssertionError):
        raise Misuse(f"--anchor {name}: is no anchor; `interlock anchor FILE` writes one") from None
    found: dict[str, Json] = document
    return found


def _against(store: Store, document: dict[str, Json], only: str | None) -> Iterator[Broken]:
    if store.identity()[0] != document["store"]["id"]:
        yield Broken("", 0, f"the anchor is of another store ({document['store']['id']})")
    for each in document["runs"]:
        if only in (None, each["run"]):
            why = _difference(store, each)
            if why is not None:
                yield Broken(each["run"], each["events"], why)


def _difference(store: Store, anchored: dict[str, Json]) -> str | None:
    """How a run is not the one that was anchored, or None."""
    try:
        row: RunRow = store.find(anchored["run"])
    except UnknownRun:
        return f"the run is missing; the anchor has {anchored['events']} events of it"
    if row.seq < anchored["events"]:
        return f"the log is shorter ({row.seq} events) than the anchor says"
    at = store.events(row.number, anchored["events"], anchored["events"])
    if not at or at[0].hash.hex() != anchored["head"]:
        return "the log is another one than was anchored up to here"
    return None
