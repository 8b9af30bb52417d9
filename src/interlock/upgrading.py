"""Upgrading: every open run of an older shape is looked at, then moved one by one, each in one commit.

Done by a worker of its own that holds one run at a time, so that nobody else moves it meanwhile. Killed at any moment,
some runs have been moved and the others haven't; done again, it goes on with those.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from interlock.canonical import Json
from interlock.engine.live_run import Interrupted, LiveRun
from interlock.engine.parked import news_of
from interlock.engine.upgrade import Fit, Map, Problem, fit, move
from interlock.engine.world import World
from interlock.errors import StaleLease
from interlock.history import events as e
from interlock.history.fold import FINAL
from interlock.machine.table import AnyMachine
from interlock.store.protocol import Claim, Claimed, Failed, Join, Joined, Lease, Part, RunFilter, RunRow, Store

OPEN = ("ready", "running", "waiting", "paused")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which runs an upgrade would move, and what is in its way."""

    machine: str
    shape: str
    runs: tuple[RunRow, ...]
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Json]:
        return {
            "machine": self.machine,
            "shape": self.shape,
            "runs": [row.id for row in self.runs],
            "problems": [problem.as_json() for problem in self.problems],
        }


@dataclass(slots=True)
class Upgrade:
    """What an upgrade has done: the runs that it moved, and those that meanwhile didn't fit any more."""

    moved: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan(world: World, machine: AnyMachine, by: Map, only: Sequence[str] = ()) -> Plan:
    """Look at every open run of an older shape (or at those of these ids). Changes nothing. Raises `UnknownRun`."""
    store = world.store
    named = [store.find(run) for run in only]
    rows = named or store.runs(RunFilter(machine=machine.name, statuses=OPEN, limit=2**31))
    older = tuple(row for row in reversed(rows) if row.status not in FINAL and row.shape != machine.shape)
    problems = [problem for row in older for problem in _problems(world, machine, by, row)]
    return Plan(machine.name, machine.shape, older, tuple(problems))


def _problems(world: World, machine: AnyMachine, by: Map, row: RunRow) -> list[Problem]:
    if row.machine != machine.name:
        return [Problem(row.id, f"it is a run of `{row.machine}`", f"name the machine `{row.machine}`")]
    holder = _holder(world.store, row)
    if holder:
        return [Problem(row.id, f"worker {holder} holds it", f"drain that worker, or: interlock pause {row.id}")]
    found = fit(_looked_at(world, machine, row), machine, by)
    return [] if isinstance(found, Fit) else found


def _holder(store: Store, row: RunRow) -> str:
    """The living worker that holds a run."""
    for worker in store.workers():
        if worker.number == row.worker and worker.alive is not False:
            return worker.name
    return ""


def _looked_at(world: World, machine: AnyMachine, row: RunRow) -> LiveRun:
    return LiveRun(world, machine, Lease(0, row.fence, world.store.snapshot(row.number)))


async def upgrade(world: World, machine: AnyMachine, planned: Plan, by: Map, who: str, reason: str) -> Upgrade:
    """Move the planned runs one by one. Raises `StoreError`."""
    done = Upgrade()
    worker = await _join(world)
    try:
        for row in planned.runs:
            problems = await _one(world, machine, by, row, worker, who, reason)
            done.problems.extend(problems)
            if not problems:
                done.moved.append(row.id)
    finally:
        await world.committer.submit(Part(worker=worker, at=world.clock.now_ms()))
    return done


async def _join(world: World) -> int:
    name, now = f"upgrade {socket.gethostname()}:{os.getpid()}", world.clock.now_ms()
    joined = await world.committer.submit(Join(name=name, host=socket.gethostname(), pid=os.getpid(), at=now))
    if isinstance(joined, Failed):
        raise joined.error
    assert isinstance(joined, Joined)
    return joined.worker


async def _one(
    world: World, machine: AnyMachine, by: Map, row: RunRow, worker: int, who: str, reason: str
) -> list[Problem]:
    """Move one run, unless it has changed so that it doesn't fit any more; then why."""
    lease = await _claim(world, row, worker)
    if lease is None:
        return [Problem(row.id, "somebody else has taken or ended it meanwhile", "do the upgrade again")]
    run = LiveRun(world, machine, lease)
    try:
        if lease.why:
            previous, fence = lease.previous, lease.fence
            run.add(e.TakenOver(worker="upgrade", previous=previous, fence=fence, why=lease.why))
        if news_of(run.state, lease.snapshot.row.status, lease.snapshot.row.reason):
            run.add(e.Paused(by="store", reason=lease.snapshot.row.reason))
        fitting = fit(run, machine, by)
        if isinstance(fitting, Fit):
            move(run, machine, fitting, by, who, reason)
        await run.release()
        return [] if isinstance(fitting, Fit) else fitting
    except (StaleLease, Interrupted):
        return [Problem(row.id, "somebody answered it meanwhile", "do the upgrade again")]


async def _claim(world: World, row: RunRow, worker: int) -> Lease | None:
    machines = ((row.machine, row.shape),)
    claim = Claim(worker, machines, 1, world.clock.now_ms(), run=row.id, at_rest=True)
    answer = await world.committer.submit(claim)
    if isinstance(answer, Failed):
        raise answer.error
    assert isinstance(answer, Claimed)
    return answer.leases[0] if answer.leases else None
