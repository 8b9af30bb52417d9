"""Measure everything side by side, print one table, write `results.json`. Exits 1 when a bound does not hold.

    python -m bench              all
    python -m bench --no-peers   without LangGraph and DBOS, which need packages of their own

Each measurement runs in a process of its own. Processor time is the least of several runs and rates are medians of
runs made in turns with what they are compared with, because a busy machine only ever adds to both. So our rate is
measured anew beside each peer, on the same runs and turns. A peer that can't be measured leaves all other figures
standing, but its bound doesn't hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, table, write
from bench.fleet import MANY, WRITERS
from bench.floor import rows_of, turns_per_second
from bench.peers import PEERS, NotMeasured, Peer, peers_python

HERE = Path(__file__).parent
ROUNDS = 3


def measure(name: str, folder: Path, module: str = "bench.engine") -> dict[str, float]:
    """One of a module's measurements, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    run = subprocess.run([sys.executable, "-m", module, name, str(folder)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"bench: {name} failed\n{run.stderr[-2000:]}")
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def probe_ms() -> float:
    """How long this machine takes now for a fixed piece of Python: what every processor time is to be read against."""
    began, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return (time.process_time() - began) * 1e3


def at_once(folder: Path) -> Iterator[Figure]:
    """200 runs x 20 turns, in turns with the floor and the store that writes nothing."""
    many, null, floor, probes = [], [], [], []
    for _ in range(ROUNDS):
        probes.append(probe_ms())
        many.append(measure("many", folder))
        rows = rows_of(folder / "many.db")
        floor.append(turns_per_second(rows, folder / "floor.db"))
        null.append(measure("null", folder))
    rate = statistics.median(one["turns_s"] for one in many)
    yield Figure("the machine: a million additions", min(probes), "ms")
    yield Figure("CPU per turn, whole process, 200 runs", min(one["cpu_ms"] for one in many), "ms", "<=", 0.5)
    yield Figure("CPU per turn, nothing stored, 200 runs", min(one["cpu_ms"] for one in null), "ms", "<=", 0.5)
    yield Figure("commits per turn, 200 runs", statistics.median(one["commits"] for one in many), "")
    yield Figure("written per turn, 200 runs", statistics.median(one["written"] for one in many), "B", "<=", 15_000)
    yield Figure("stored per turn, 200 runs", statistics.median(one["stored"] for one in many), "B")
    yield Figure("memory, 200 runs", max(one["rss_mb"] for one in many), "MB")
    yield Figure("turns a second over the bare floor", rate, "/s", ">=", 0.15, statistics.median(floor))
    yield Figure("  better: 0.25 x", rate, "/s", ">=", None, statistics.median(floor))


def one_run(folder: Path) -> Iterator[Figure]:
    """A single long run: what a turn costs early and late, as the median one of five processes has it."""
    runs = [measure("long", folder) for _ in range(5)]
    middle = sorted(runs, key=lambda run: run["late_ms"] / run["early_ms"])[len(runs) // 2]
    small = measure("small", folder)["stored"]
    stored = statistics.median(run["stored"] for run in runs)
    yield Figure("commits per sequential turn", runs[0]["commits"], "", "=", 2.0)
    yield Figure("stored per turn at turn 10", small, "B", "<=", 3500)
    yield Figure("stored per turn at turn 5,000", stored, "B", "<=", 3500)
    yield Figure("stored per turn, 5,000 over 10", stored, "B", "<=", 1.05, small)
    late, early = middle["late_ms"], middle["early_ms"]
    yield Figure("CPU per turn, 4,800-5,000 over 200-400", late, "ms", "<=", 1.1, early)


def going_on(folder: Path) -> Iterator[Figure]:
    """Going on with a run after its worker is gone, and verifying its log."""
    found = measure("resume", folder)
    late, early = found["resume_5000_ms"], found["resume_500_ms"]
    yield Figure("live resume at 5,000 turns", late, "ms", "<=", 10)
    yield Figure("live resume, 5,000 over 500 turns", late, "ms", "<=", 1.2, early)
    yield Figure("fold and verify over read and decode", found["verify_ms"], "ms", "<=", 1.6, found["read_ms"])
    yield Figure("  the same over the standard library's JSON", found["verify_ms"], "ms", "<=", None, found["json_ms"])


def side_by_side(folder: Path) -> Iterator[Figure]:
    """Several worker processes on one file."""
    found = measure("rates", folder / "rates", "bench.fleet")
    yield Figure(f"turns a second, {MANY} processes over 1", found["many"], "/s", ">=", 1.0, found["one"])
    yield Figure("  CPU per turn, the same", found["many_ms"], "ms", "<=", None, found["one_ms"])
    yield Figure("  the largest share of one of them", found["share"], "")
    gap = measure("heartbeat", folder / "heartbeat", "bench.fleet")
    name = f"longest gap between heartbeats beside {WRITERS} writers, over the lease"
    yield Figure(name, gap["longest"], "s", "<=", 0.5, gap["lease"])


def beside_peers(folder: Path) -> Iterator[Figure]:
    """Our turns a second over each peer's. One that can't be measured keeps no other from it."""
    try:
        python = peers_python()
    except NotMeasured as why:
        yield from (_unmeasured(peer, why) for peer in PEERS)
        return
    for peer in PEERS:
        try:
            yield _beside(peer, python, folder)
        except NotMeasured as why:
            yield _unmeasured(peer, why)


def _beside(peer: Peer, python: Path, folder: Path) -> Figure:
    """200 runs x 20 turns, in turns with the same of a peer."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(measure("many", folder / "ours")["turns_s"])
        theirs.append(peer.turns_per_second(python, folder / "theirs"))
    return Figure(_over(peer), statistics.median(ours), "/s", ">=", peer.times, statistics.median(theirs))


def _unmeasured(peer: Peer, why: NotMeasured) -> Figure:
    return Figure(_over(peer), None, "/s", ">=", peer.times, missing=str(why))


def _over(peer: Peer) -> str:
    return f"turns a second over {peer.name}"


def main() -> int:
    options = argparse.ArgumentParser(prog="bench")
    options.add_argument("--no-peers", action="store_true", help="leave LangGraph and DBOS out")
    options.add_argument("--out", type=Path, default=HERE / "results.json")
    chosen = options.parse_args()
    build = HERE.parent / "build"  # on the disk that the project lies on: a temporary folder may be memory
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name:
        folder = Path(name)
        figures = [*at_once(folder / "many"), *one_run(folder / "long"), *going_on(folder / "resume")]
        figures += side_by_side(folder / "fleet")
        if not chosen.no_peers:
            figures += beside_peers(folder / "peers")
    print(table(figures))
    write(figures, chosen.out)
    failing = [figure.name for figure in figures if figure.holds is False]
    print(f"\n{chosen.out}: {len(failing)} of {sum(f.holds is not None for f in figures)} bounds do not hold")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
