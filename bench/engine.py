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
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.null_store import NullStore
from bench.workload import RUNS, TURNS, Case, Reader, machine
from interlock import Client, Worker
from interlock.canonical import decode
from interlock.clock import SystemClock
from interlock.engine.orchestrator import Orchestrator
from interlock.machine.table import AnyMachine
from interlock.reading import verify_run
from interlock.store.protocol import Answer, Claim, Claimed, Commit, Store, Write
from interlock.store.sqlite.store import SqliteStore

LONG = 5000
LEG, LEGS = 10, 20  # turns that one run takes before the other goes on, and how often
SERIES = 3


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


class Relay:
    """Two runs advance in turns: while one takes its leg of some turns, the other waits in a model call. Keeps the
    processor seconds of each leg, which are all its run's, for nothing else goes on."""

    def __init__(self, *runs: str) -> None:
        self.legs: dict[str, list[float]] = {run: [] for run in runs}
        self._may_go = {run: asyncio.Event() for run in runs}
        self._began: float | None = None

    async def wait(self, run: str) -> None:
        """Until it is this run's turn. Its leg begins here."""
        await self._may_go[run].wait()
        self._may_go[run].clear()
        self._began = time.process_time()

    def hand_over(self, run: str, to: str) -> None:
        """A leg of this run has ended, unless none had begun; the other goes on."""
        if self._began is not None:
            self.legs[run].append(time.process_time() - self._began)
        self._may_go[to].set()


def long(folder: Path) -> dict[str, float]:
    """One run of 5,000 turns: processor time early and late, commits and stored bytes a turn.

    Late is its turns 4,800-5,000; early the turns 200-400 of a second run, in a store of its own in the same process.
    Ten turns of the one and ten of the other alternate, so that a slow moment of the machine meets both. All turns
    count: leaving out the dear ones would hide what is done only now and then.
    """
    store, made = Counted(open_file(folder / "long.db")), machine(LONG + 100)
    commits: dict[int, int] = {}
    sizes: dict[int, int] = {}
    relay = Relay("early", "late")

    def late(page: int) -> Awaitable[None] | None:
        if page % 100 == 0:
            commits[page], sizes[page] = store.commits, store._pages()
        if page < LONG - LEG * LEGS or page % LEG:
            return None
        relay.hand_over("late", "early")
        return relay.wait("late")

    def early(page: int) -> Awaitable[None] | None:
        if page < 200 or page % LEG:
            return None
        relay.hand_over("early", "late")
        return relay.wait("early") if page < 200 + LEG * LEGS else None

    async def second_run() -> None:
        await relay.wait("early")  # until the first is at turn 4,800
        other = open_file(folder / "early.db")
        await drive(other, Reader(200 + LEG * LEGS, early), made, 1)
        other.close()

    async def both() -> None:
        await asyncio.gather(drive(store, Reader(LONG, late), made, 1), second_run())

    store._pages = lambda: int(store._reader.pragma("page_count")) * int(store._reader.pragma("page_size"))  # type: ignore[attr-defined]
    _ready(made)
    asyncio.run(both())
    store.close()
    return {
        "early_ms": statistics.mean(relay.legs["early"][1:]) / LEG * 1e3,  # its first leg is the way to turn 200
        "late_ms": statistics.mean(relay.legs["late"]) / LEG * 1e3,
        "commits": (commits[LONG] - commits[200]) / (LONG - 200),
        "stored": (sizes[LONG] - sizes[LONG - 1000]) / 1000,
    }


def resume(folder: Path) -> dict[str, float]:
    """Going on with a run that another process left: from the claim until the next model call is sent. And verify.

    Measured in turns, at 500 turns and at 5,000, and likewise verifying beside reading: a slow moment meets what is
    compared alike. Each figure is the least of three medians (of 15 and of 3), taken seconds apart, as a busy machine
    only ever adds.
    """
    made = machine(2 * LONG)
    resumes: dict[str, Callable[[], float]] = {}
    for turns in (500, LONG):
        path = folder / f"resume{turns}.db"
        asyncio.run(_leave_at(path, made, turns))
        resumes[f"resume_{turns}_ms"] = partial(_resumed, path, made)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(SERIES):
        for name, seconds in {**_in_turns(resumes, 15), **_verified(path)}.items():
            found[name].append(seconds)
    return {name: min(medians) * 1e3 for name, medians in found.items()}


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


def _resumed(path: Path, made: AnyMachine) -> float:
    return asyncio.run(_go_on(path, made))


async def _go_on(path: Path, made: AnyMachine) -> float:
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
    """Processor seconds to fold and verify the whole log, beside reading and decoding the same events."""
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

    compared = {"read_ms": plain, "verify_ms": verified, "json_ms": standard}
    found = _in_turns({name: partial(_cpu_of, one) for name, one in compared.items()}, 3)
    store.close()
    return found


def _cpu_of(work: Callable[[], None]) -> float:
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def _in_turns(measured: Mapping[str, Callable[[], float]], times: int) -> dict[str, float]:
    """The median of each, measured in turns, so that a slow moment meets all."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(times):
        for name, measure in measured.items():
            seconds[name].append(measure())
    return {name: statistics.median(found) for name, found in seconds.items()}


MEASUREMENTS = {measure.__name__: measure for measure in (many, null, small, long, resume)}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](Path(sys.argv[2]))))
