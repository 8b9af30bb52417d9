"""Worker processes on one file, real ones: they share the work, lose none of it when they die, and leave nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from interlock import Client
from interlock.client import RunHandle
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.store.protocol import RunFilter
from interlock.worker import Worker
from tests.laws.audit import audit
from tests.worker.child import SCENES, TIMING, Case
from tests.worker.processes import Process, process


class Fleet:
    """Processes on one store, for one scene."""

    def __init__(self, folder: Path, scene: str, stack: ExitStack, client: Client) -> None:
        self.folder = folder
        self.scene = scene
        self.client = client
        self._stack = stack

    def launch(self, count: int, **settings: str) -> list[Process]:
        """So many more, started together; back when all are ready."""
        made = [
            self._stack.enter_context(process(self.folder / "s.db", self.scene, self.folder / "world", **settings))
            for _ in range(count)
        ]
        for each in made:
            each.says("ready")
        return made

    async def start(self, count: int) -> list[RunHandle[Any]]:
        runs = [self.client.start(SCENES[self.scene], Case(n=number), by="test") for number in range(count)]
        return list(await asyncio.gather(*runs))

    @property
    def said(self) -> list[list[str]]:
        """What the processes wrote down, word by word, in order."""
        world = self.folder / "world"
        return [line.split() for line in world.read_text().splitlines()] if world.exists() else []

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await asyncio.sleep(0.02)

    def statuses(self) -> Counter[str]:
        return Counter(row.status for row in self.client.store.runs(RunFilter()))

    def lock_files(self) -> list[Path]:
        return sorted(self.folder.glob("s.db.w*[0-9]"))


def play(folder: Path, scene: str, story: Callable[[Fleet], Awaitable[None]], timing: Timing = TIMING) -> None:
    async def main() -> None:
        async with Client(f"sqlite:///{folder}/s.db", timing=timing) as client:
            with ExitStack() as stack:
                async with asyncio.timeout(100):
                    await story(Fleet(folder, scene, stack, client))
            audit(client.store)

    asyncio.run(main())


async def log(run: RunHandle[Any]) -> list[e.Event]:
    return [event async for _, event in run.events()]


# -- sharing


def test_processes_share_the_work_each_run_once_each_worker_one_row(tmp_path: Path) -> None:
    async def story(fleet: Fleet) -> None:
        processes = await asyncio.to_thread(fleet.launch, 4, CHILD_CONCURRENCY="5")
        rows = fleet.client.store.workers()
        assert sorted(row.pid for row in rows) == sorted(each.pid for each in processes)
        await fleet.start(150)
        await fleet.until(lambda: fleet.statuses() == {"completed": 150})
        ran = [run for what, _, run in fleet.said if what == "end"]
        assert len(ran) == len(set(ran)) == 150
        shares = Counter(pid for what, pid, _ in fleet.said if what == "end")
        assert len(shares) == 4, shares
        later = fleet.client.store.workers()
        assert [row.number for row in later] == [row.number for row in rows], "one row each, the same"
        assert all(row.alive and row.beat > before.beat for row, before in zip(later, rows, strict=True))
        assert len(fleet.lock_files()) == 4

    play(tmp_path, "shares", story)


def test_no_process_ever_advances_more_runs_than_its_concurrency(tmp_path: Path) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.start(60)
        await asyncio.to_thread(fleet.launch, 2, CHILD_CONCURRENCY="3")
        await fleet.until(lambda: fleet.statuses() == {"completed": 60})
        under_way: Counter[str] = Counter()
        most: Counter[str] = Counter()
        for what, pid, _ in fleet.said:
            under_way[pid] += 1 if what == "begin" else -1
            most[pid] = max(most[pid], under_way[pid])
        assert set(most.values()) == {3}, most

    play(tmp_path, "shares", story)


def test_each_parked_run_is_woken_once_and_never_before_its_time(tmp_path: Path) -> None:
    async def story(fleet: Fleet) -> None:
        parks = json.dumps({"park_after": 0.05})
        runs = await fleet.start(42)
        await asyncio.to_thread(fleet.launch, 3, CHILD_TIMING=parks)
        await fleet.until(lambda: fleet.statuses() == {"completed": 42})
        woken = [run for _, run in fleet.said]
        assert len(woken) == len(set(woken)) == 42
        for run in runs:
            events = await log(run)
            [opened] = [event for event in events if isinstance(event, e.WaitOpened)]
            [ended] = [event for event in events if isinstance(event, e.WaitEnded)]
            assert opened.due is not None and ended.at >= opened.due and ended.how == "timer"

    play(tmp_path, "naps", story)


# -- dying


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_workers_runs_are_all_rescued_by_the_others(tmp_path: Path, how: signal.Signals) -> None:
    """A killed one is seen at the next poll, here long before its lease of a minute; one that stands still, when its
    heartbeat has stood for a lease."""
    lease = {"lease": 60.0 if how == signal.SIGKILL else 1.5}

    async def story(fleet: Fleet) -> None:
        [victim] = await asyncio.to_thread(fleet.launch, 1, CHILD_TIMING=json.dumps(lease))
        runs = await fleet.start(12)  # the first is done at once
        await fleet.until(lambda: len(fleet.said) == 12)
        await asyncio.to_thread(fleet.launch, 2, CHILD_TIMING=json.dumps(lease))
        await asyncio.sleep(0.3)
        lost_at = time.time()
        victim.signal(how)
        await fleet.until(lambda: len(fleet.said) == 23)
        assert {pid for _, pid in fleet.said[12:]}.isdisjoint({str(victim.pid)})
        taken = [event for run in runs for event in await log(run) if isinstance(event, e.TakenOver)]
        assert len(taken) == 11
        assert {event.why for event in taken} == {"dead" if how == signal.SIGKILL else "still"}
        took = max(event.at for event in taken) / 1000 - lost_at
        print(f"11 runs rescued {took:.2f} s after {how.name}; lease {lease['lease']:g} s, poll {TIMING.poll:g} s")
        assert took < 30, "of a lease of a minute, when killed"

    play(tmp_path, "holds", story)


def test_a_turn_that_kills_its_workers_is_given_to_a_person_after_the_third(tmp_path: Path) -> None:
    async def story(fleet: Fleet) -> None:
        [run] = await fleet.start(1)
        workers = await asyncio.to_thread(_started, fleet, 4)
        await fleet.until(lambda: run.show().waits)
        assert len({pid for _, pid in fleet.said}) == len(fleet.said) == 3, "three were taken down, not the fourth"
        assert sum(each.alive for each in workers) == 1
        events = await log(run)
        assert [event.why for event in events if isinstance(event, e.TakenOver)] == ["dead"] * 3
        [moved] = [event for event in events if isinstance(event, e.Transitioned)]
        assert moved.outcome == "error" and moved.why == "this turn took down 3 workers"

    play(tmp_path, "dies", story, Timing(lease=60, poll=0.05))


def _started(fleet: Fleet, count: int) -> list[Process]:
    """Without a wait until they are ready: some die before they could say so."""
    stack = fleet._stack
    return [
        stack.enter_context(process(fleet.folder / "s.db", fleet.scene, fleet.folder / "world")) for _ in range(count)
    ]


def test_a_run_whose_commit_is_refused_is_parked_by_the_third_worker_whichever_it_is(tmp_path: Path) -> None:
    """The database refuses what the run writes, whoever writes it; four processes count to three together."""

    async def story(fleet: Fleet) -> None:
        _refuse(tmp_path / "s.db", "poison")
        [run] = await fleet.start(1)
        quick = json.dumps({"resubmit": 0.01})
        await asyncio.to_thread(fleet.launch, 4, CHILD_TIMING=quick, CHILD_CONCURRENCY="1")
        await fleet.until(lambda: run.show().status == "paused")
        assert len(fleet.said) == 3
        events = await log(run)
        given = [event for event in events if isinstance(event, e.GivenBack)]
        assert len(given) == 2 and all("no poison here" in event.why for event in given)
        reason = fleet.client.store.find(run.id).reason
        assert reason.startswith("3 times: ") and "no poison here" in reason
        [paused] = [event for event in events if isinstance(event, e.Paused)]
        assert paused.by == "worker"
        await fleet.client.resume(run.id, by="test")
        await fleet.until(lambda: len(fleet.said) == 6 and run.show().status == "paused")

    play(tmp_path, "poisons", story)


def _refuse(store: Path, word: str) -> None:
    """As a full disk, a limit or a damaged page would, for one kind of event."""
    import apsw

    db = apsw.Connection(str(store))
    db.execute(
        f"CREATE TRIGGER refusing BEFORE INSERT ON event WHEN NEW.body LIKE '%\"{word}\"%' "
        f"BEGIN SELECT RAISE(ABORT, 'no {word} here'); END"
    )
    db.close()


# -- coming and going


def test_many_workers_that_come_and_go_leave_no_row_and_no_lock_file(tmp_path: Path, chance: Random) -> None:
    """Some part in good order, some are killed; the next to join clears up after them."""

    async def story(fleet: Fleet) -> None:
        for _ in range(4):
            for worker in await asyncio.to_thread(fleet.launch, 3):
                worker.signal(chance.choice([signal.SIGTERM, signal.SIGKILL]))
                await asyncio.to_thread(worker.ended)
        for _ in range(25):
            async with Worker(fleet.client, [SCENES["shares"]], watch=False):
                assert len(fleet.client.store.workers()) == len(fleet.lock_files()) == 1
        assert fleet.client.store.workers() == [] and fleet.lock_files() == []
        assert {path.name for path in tmp_path.iterdir()} <= {"s.db", "s.db-wal", "s.db-shm", "s.db.lock", "s.db.epoch"}

    play(tmp_path, "shares", story)


def test_a_process_that_ends_in_good_order_lets_go_of_what_it_holds_at_once(tmp_path: Path) -> None:
    async def story(fleet: Fleet) -> None:
        [worker] = await asyncio.to_thread(fleet.launch, 1, CHILD_DRAIN="0.2")
        runs = await fleet.start(3)
        await fleet.until(lambda: len(fleet.said) == 3)
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.ended) == 0
        rows = [fleet.client.store.find(run.id) for run in runs]
        assert sorted(row.status for row in rows) == ["completed", "ready", "ready"]
        assert all(row.worker is None for row in rows) and fleet.client.store.workers() == []
        for run in runs:
            assert not any(isinstance(event, e.TakenOver) for event in await log(run))

    play(tmp_path, "holds", story)


def test_this_process_is_not_among_the_workers(tmp_path: Path) -> None:
    """A client alone claims nothing, and has no row."""

    async def story(fleet: Fleet) -> None:
        await fleet.start(1)
        assert fleet.client.store.workers() == [] and fleet.statuses() == {"ready": 1}
        assert os.getpid() not in {row.pid for row in fleet.client.store.workers()}

    play(tmp_path, "shares", story)
