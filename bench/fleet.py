"""Worker processes on one file, measured from outside: how many turns a second they make together, and how long the
heartbeat of an idle one stands still while others write as fast as they can.

    python -m bench.fleet rates FOLDER      turns a second of 1 and of 4 processes, in turns
    python -m bench.fleet heartbeat FOLDER  the longest gap between two beats of a worker beside 8 busy ones
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import apsw

from bench.workload import RUNS, TURNS, Case, Reader, machine
from interlock import Client, Worker
from interlock.clock import SystemClock
from interlock.engine.timing import Timing
from interlock.store.sqlite.store import SqliteStore

MANY = 4
WRITERS = 8
ROUNDS = 3
ENDLESS = 5000  # turns that no writer comes to the end of
WATCHED_SECONDS = 20.0
_LOOK_SECONDS = 0.02


def rates(folder: Path) -> dict[str, float]:
    """200 runs x 20 turns by one process and by four, started and waiting before the clock runs. Of rounds in which
    each has its go, the one with the median ratio. With processor time, as on a busy machine four get more of it."""
    rounds = []
    for number in range(ROUNDS):
        one, one_ms, _ = _rate(folder / f"{number}-one", 1)
        many, many_ms, share = _rate(folder / f"{number}-many", MANY)
        rounds.append({"one": one, "one_ms": one_ms, "many": many, "many_ms": many_ms, "share": share})
    return sorted(rounds, key=lambda found: found["many"] / found["one"])[ROUNDS // 2]


def _rate(place: Path, count: int) -> tuple[float, float, float]:
    """Turns a second, processor ms a turn, and the largest part of the turns that one process made."""
    place.mkdir()
    path = place / "runs.db"
    asyncio.run(_start(path, RUNS, TURNS))
    with _processes(path, count, TURNS) as processes:
        began = time.perf_counter()
        _say(processes, "go")
        left = _reading(path, "SELECT count(*) FROM run WHERE status <> 'completed'")
        while next(left):
            time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - began
        _say(processes, "what did you make of it")
        said = [_figures(process.stdout) for process in processes]
    shutil.rmtree(place)
    made, cpu = [turns for turns, _ in said], sum(cpu for _, cpu in said)
    return RUNS * TURNS / seconds, cpu / (RUNS * TURNS) * 1e3, max(made) / sum(made)


def heartbeat(folder: Path) -> dict[str, float]:
    """Seconds between two beats of a worker that only watches, as all others see them: its row in the file."""
    path = folder / "heartbeat.db"
    asyncio.run(_start(path, RUNS, ENDLESS))
    with _processes(path, 1, ENDLESS, "idle"), _processes(path, WRITERS, ENDLESS) as writers:
        turns = _reading(path, "SELECT sum(turn) FROM run")
        beats = _reading(path, "SELECT beat FROM worker WHERE number = 1")
        _say(writers, "go")
        before, began = next(turns), time.perf_counter()
        last, since, longest = next(beats), began, 0.0
        while (now := time.perf_counter()) < began + WATCHED_SECONDS:
            beat = next(beats)
            longest = max(longest, now - since)
            if beat != last:
                last, since = beat, now
            time.sleep(_LOOK_SECONDS)
        rate = (next(turns) - before) / (now - began)
    return {"longest": longest, "lease": Timing().lease, "turns_s": rate}


# -- the processes ----------------------------------------------------------------------------------------------------


async def _start(path: Path, runs: int, turns: int) -> None:
    store, made = SqliteStore(path, clock=SystemClock(), durability="power"), machine(turns)
    client = Client(store, models=Reader(turns))
    await asyncio.gather(*(client.start(made, Case(topic=f"case {i}"), by="bench") for i in range(runs)))
    client.world.committer.close()
    store.close()


@contextmanager
def _processes(path: Path, count: int, turns: int, what: str = "busy") -> Iterator[list[subprocess.Popen[str]]]:
    """Worker processes that are ready to begin."""
    command = [sys.executable, "-m", "bench.fleet", what, str(path), str(turns)]
    made = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for process in made:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "a worker process did not start"
        yield made
    finally:
        for process in made:
            process.kill()
            process.wait()


def _say(processes: list[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()


def _figures(said: IO[str] | None) -> tuple[float, float]:
    assert said is not None
    turns, cpu = said.readline().split()
    return float(turns), float(cpu)


def _reading(path: Path, question: str) -> Iterator[int]:
    """The answer to a question about the file, each time anew."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    while True:
        yield int(db.execute(question).get or 0)


async def _work(path: Path, turns: int, idle: bool) -> None:
    """Join when told to, and work until killed. Says when asked how many turns it made, in how much CPU time."""
    model, made = Counting(turns), machine(turns)
    client = Client(SqliteStore(path, clock=SystemClock(), durability="power"), models=model)
    assert made.shape and made.content
    if idle:
        async with Worker(client, []):
            print("ready", flush=True)
            await asyncio.Event().wait()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    cpu = time.process_time()
    async with Worker(client, [made]):
        await asyncio.to_thread(sys.stdin.readline)
        print(model.asked, time.process_time() - cpu, flush=True)
        await asyncio.Event().wait()


class Counting(Reader):
    """A reader that counts its replies."""

    def __init__(self, pages: int) -> None:
        self.asked = 0
        super().__init__(pages, self._count)

    def _count(self, page: int) -> None:
        self.asked += 1


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what in ("busy", "idle"):
        asyncio.run(_work(where, int(sys.argv[3]), what == "idle"))
    else:
        print(json.dumps({"rates": rates, "heartbeat": heartbeat}[what](where)))
