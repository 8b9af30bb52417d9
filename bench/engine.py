"""What the engine does, measured: each measurement in a process of its own, `python -m bench.engine NAME FOLDER`.

Prints one JSON object. The engine is driven through its public face: a client, a worker, the real committer and store.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.null_store import NullStore
from bench.workload import Case, Reader, machine
from interlock import Client, Worker
from interlock.canonical import decode
from interlock.clock import SystemClock
from interlock.engine.orchestrator import Orchestrator
from interlock.machine.table import AnyMachine
from interlock.reading import verify_run
from interlock.store.protocol import Answer, Claim, Claimed, Commit, Store, Write
from interlock.store.sqlite.store import SqliteStore

RUNS, TURNS = 200, 20
LONG = 5000


class Counted:
    """A store that counts the commits that pass through it."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.commits = 0

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        self.commits += sum(isinstance(write, Commit) for write in batch)
        return self._store.write(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def open_file(path: Path) -> SqliteStore:
    return SqliteStore(path, clock=SystemClock(), durability="power")


async def drive(store: Store, model: Reader, made: AnyMachine, runs: int, concurrency: int = RUNS) -> None:
    """Start runs and advance them to their end."""
    client = Client(store, models=model)
    ended, left = asyncio.Event(), [runs]

    def one_less() -> None:
        left[0] -= 1
        if left[0] == 0:
            ended.set()

    try:
        await asyncio.gather(*(client.start(made, Case(topic=f"case {i}"), by="bench") for i in range(runs)))
        client.changed.append(one_less)
        async with Worker(client, [made], concurrency=concurrency):
            await ended.wait()
    finally:
        client.world.committer.close()


def written_bytes() -> int:
    """Bytes this process gave to write calls, the log's and the file's alike."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise LookupError("no wchar in /proc/self/io")


def file_bytes(path: Path) -> int:
    """The file's size with its log moved into it."""
    store = open_file(path)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    return path.stat().st_size


def many(folder: Path) -> dict[str, float]:
    """200 runs x 20 turns at once, on a file that survives loss of power."""
    path = folder / "many.db"
    store, model, made = Counted(open_file(path)), Reader(TURNS), machine(TURNS)
    _ready(made)
    wrote, cpu, began = written_bytes(), time.process_time(), time.perf_counter()
    asyncio.run(drive(store, model, made, RUNS))
    wall, cpu, wrote = time.perf_counter() - began, time.process_time() - cpu, written_bytes() - wrote
    store.close()
    turns = RUNS * TURNS
    return {
        "turns_s": turns / wall,
        "cpu_ms": cpu / turns * 1e3,
        "written": wrote / turns,
        "stored": file_bytes(path) / turns,
        "commits": store.commits / turns,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def null(folder: Path) -> dict[str, float]:
    """The same over a store that writes nothing."""
    store, model, made = NullStore(), Reader(TURNS), machine(TURNS)
    _ready(made)
    cpu = time.process_time()
    asyncio.run(drive(store, model, made, RUNS))  # type: ignore[arg-type]
    cpu = time.process_time() - cpu
    return {"cpu_ms": cpu / (RUNS * TURNS) * 1e3, "commits": store.commits / (RUNS * TURNS)}


def _ready(made: AnyMachine) -> None:
    """What a process does once, whatever it runs: schemas, digests, imports."""
    assert made.shape and made.content
    asyncio.run(drive(NullStore(), Reader(1), made, 1))  # type: ignore[arg-type]
    gc.collect()


def small(folder: Path) -> dict[str, float]:
    """Bytes at turn 10: runs of 15 turns beside runs of 5, one after the other."""
    sizes = []
    for turns in (5, 15):
        path = folder / f"small{turns}.db"
        store, made = open_file(path), machine(turns)
        asyncio.run(drive(store, Reader(turns), made, 100, concurrency=1))
        store.close()
        sizes.append(file_bytes(path))
    return {"stored": (sizes[1] - sizes[0]) / (100 * 10)}


def long(folder: Path) -> dict[str, float]:
    """One run of 5,000 turns: processor time early and late, commits and stored bytes a turn."""
    path = folder / "long.db"
    store, made = Counted(open_file(path)), machine(LONG + 100)
    cpu: dict[int, float] = {}
    commits: dict[int, int] = {}
    sizes: dict[int, int] = {}

    def seen(page: int) -> None:
        if page % 100 == 0:
            cpu[page], commits[page], sizes[page] = time.process_time(), store.commits, store._pages()

    store._pages = lambda: int(store._reader.pragma("page_count")) * int(store._reader.pragma("page_size"))  # type: ignore[attr-defined]
    _ready(made)
    asyncio.run(drive(store, Reader(LONG, seen), made, 1))
    store.close()
    early, late = cpu[400] - cpu[200], cpu[LONG] - cpu[LONG - 200]
    return {
        "early_ms": early / 200 * 1e3,
        "late_ms": late / 200 * 1e3,
        "commits": (commits[LONG] - commits[200]) / (LONG - 200),
        "stored": (sizes[LONG] - sizes[LONG - 1000]) / 1000,
    }


def resume(folder: Path) -> dict[str, float]:
    """Going on with a run that another process left: from the claim until the next model call is sent. And verify."""
    result: dict[str, float] = {}
    for turns in (500, LONG):
        path = folder / f"resume{turns}.db"
        made = machine(2 * LONG)
        asyncio.run(_leave_at(path, made, turns))
        times = [asyncio.run(_resumed(path, made)) for _ in range(15)]
        result[f"resume_{turns}_ms"] = statistics.median(times) * 1e3
    return {**result, **_verified(path)}


async def _leave_at(path: Path, made: AnyMachine, turns: int) -> None:
    """Advance one run that far, and let go of it."""
    there = asyncio.Event()
    store = open_file(path)
    client = Client(store, models=Reader(2 * LONG, lambda page: there.set() if page == turns else None))
    await client.start(made, Case(topic="long"), by="bench")
    async with Worker(client, [made]):
        await there.wait()
    client.world.committer.close()
    store.close()


async def _resumed(path: Path, made: AnyMachine) -> float:
    """Seconds from claiming the run to its next model call, in a store just opened. Then one turn, and let go."""
    store = open_file(path)
    sent: list[float] = []
    model = Reader(2 * LONG, lambda page: sent.append(time.perf_counter()))
    client = Client(store, models=model)
    world = client.world
    async with Worker(client, []) as worker:  # gives us a worker's number; it claims nothing itself
        orchestrator = Orchestrator(world, {made.name: made}, {made.name: None})
        orchestrator.draining = True
        claim = Claim(worker._number, ((made.name, made.shape),), 1, world.clock.now_ms())
        began = time.perf_counter()
        claimed = await world.committer.submit(claim)
        assert isinstance(claimed, Claimed)
        await orchestrator.advance(claimed.leases[0])
    world.committer.close()
    store.close()
    return sent[0] - began


def _verified(path: Path) -> dict[str, float]:
    """Fold and verify the whole log, beside reading and decoding the same events."""
    store = open_file(path)
    row = store.find("@last")

    def plain() -> None:
        for stored in store.events(row.number):
            decode(stored.body)

    def verified() -> None:
        found = verify_run(store, row)
        assert found is None, found

    def standard() -> None:
        for stored in store.events(row.number):
            json.loads(stored.body)

    read, checked, parsed = _beside([plain, verified, standard], 9)
    store.close()
    return {"read_ms": read * 1e3, "verify_ms": checked * 1e3, "json_ms": parsed * 1e3}


def _beside(what: list[Callable[[], None]], times: int) -> list[float]:
    """The median processor seconds of each, measured in turns, so that a slow moment meets all."""
    spent: list[list[float]] = [[] for _ in what]
    for _ in range(times):
        for one, kept in zip(what, spent, strict=True):
            gc.collect()
            began = time.process_time()
            one()
            kept.append(time.process_time() - began)
    return [statistics.median(kept) for kept in spent]


MEASUREMENTS = {measure.__name__: measure for measure in (many, null, small, long, resume)}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](Path(sys.argv[2]))))
