"""Worker: a host. It claims runs, has the orchestrator advance them, beats while its loop lives, and rescues the runs
of workers that are dead or stand still. Knows nothing of what a turn does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from interlock.bootstrap import HasWorld
from interlock.engine.delivery import Delivery
from interlock.engine.live_run import LiveRun
from interlock.engine.orchestrator import Orchestrator
from interlock.engine.watchdog import BLOCKED_SECONDS, Watchdog
from interlock.errors import BadInput, InterlockError, StaleLease, StoreError
from interlock.history.events import Event, GivenBack, Paused, Resumed
from interlock.machine.table import AnyMachine
from interlock.store.protocol import Beat, Beaten, Claim, Claimed, Failed, Join, Joined, Lease, Part

log = logging.getLogger("interlock")

LEAKS_MAX = 32
"""Threads that never came back, half as many as work at once: with each a connection or a lock may be gone for good."""

CLAIMED_MAX = 20
"""Runs claimed at once. Others get their turn between two claims, so that workers share what lies ready, and nobody
waits long for a transaction that reads so many runs."""

FINISH_SECONDS = 1.0
"""What a worker that stops gives its notices, however long its runs took."""


class Worker:
    """Advances the runs of its machines: `async with Worker(client, [support]): ...`.

    concurrency  runs at once
    only         advance this one run (by id) and no other
    drain        seconds that runs get to reach a turn boundary when the worker stops
    watch        have a thread name the handler that blocks this worker's loop
    leaks_max    threads of plain functions that never came back, at which the worker is worn out. They can't be ended:
                 only a new process is rid of them
    on_worn      told once when it is, with the reason; the worker takes no more runs then and lets go of those it has.
                 Stop it and start another process. Without it, a worn-out worker says so and works on
    """

    def __init__(
        self,
        host: HasWorld,
        machines: Sequence[AnyMachine],
        *,
        concurrency: int = 200,
        only: str | None = None,
        drain: float = 10.0,
        name: str | None = None,
        watch: bool = True,
        leaks_max: int = LEAKS_MAX,
        on_worn: Callable[[str], None] | None = None,
    ) -> None:
        self.world = host.world
        self.machines = {machine.name: machine for machine in machines}
        for machine in machines:
            if self.machines[machine.name] is not machine:
                raise BadInput(f"two machines are named {machine.name!r}; a worker would know only one of them")
        self._takes = tuple((machine.name, machine.shape) for machine in machines)
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._host = host
        self._concurrency = concurrency
        self._only = only
        self._drain = drain
        self._number = 0
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._unanswered = False  # the last claim's answer was lost: we may hold runs we don't know of
        self._wake = asyncio.Event()
        self._stopping = False
        self._seen: dict[int, tuple[int, float]] = {}  # other workers: beat, and since when we see it stand
        self._leaks_max = leaks_max
        self._leaked = 0  # when we looked last
        self._worn = False
        self._on_worn = on_worn
        self._watch = watch
        self._watchdog: Watchdog | None = None
        self._delivery: Delivery | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Worker:
        self._stack = AsyncExitStack()
        try:
            await self._stack.enter_async_context(self.world.servers)
            deps = {name: await self._open_deps(machine) for name, machine in self.machines.items()}
            await self._join()
        except BaseException:  # nobody will leave what was never entered
            await self._stack.aclose()
            raise
        self._orchestrator = Orchestrator(self.world, self.machines, deps)
        self._orchestrator.name = self.name
        if self._watch:
            seconds = min(BLOCKED_SECONDS, self.world.timing.lease / 3)  # named before the lease is lost
            self._watchdog = Watchdog(asyncio.get_running_loop(), seconds=seconds)
        self._loops = [
            asyncio.create_task(self._claims(), name="claims"),
            asyncio.create_task(self._beats(), name="beats"),
        ]
        if self.world.notifier is not None:
            self._delivery = Delivery(self.world, self.world.notifier)
            self._loops.append(asyncio.create_task(self._delivery.run(), name="notices"))
        listeners = getattr(self._host, "listeners", None)
        if listeners is not None:
            listeners.append(self.nudge)
        return self

    async def _open_deps(self, machine: AnyMachine) -> Any:
        return None if machine.deps is None else await self._stack.enter_async_context(machine.deps())

    async def _join(self) -> None:
        joined = await self.world.committer.submit(
            Join(
                name=self.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                at=self.world.clock.now_ms(),
                machines=self._takes if self._only is None else (),
            )
        )
        if isinstance(joined, Failed):
            raise joined.error
        assert isinstance(joined, Joined)
        self._number = joined.worker
        self.world.breakers.look(self.world.store)

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Drain: no new claims; runs stop at their next turn boundary, or are cut off after `drain` seconds."""
        if self._stopping:
            return
        self._stopping = self._orchestrator.draining = True
        self._wake.set()
        until = self.world.clock.monotonic() + self._drain
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain)
        if self._delivery is not None:
            await self._delivery.finish(max(FINISH_SECONDS, until - self.world.clock.monotonic()))
        for task in [*self._tasks, *self._loops]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loops, return_exceptions=True)
        await self.world.committer.submit(Part(worker=self._number, at=self.world.clock.now_ms()))
        if self._watchdog is not None:
            self._watchdog.stop()
        await self._stack.aclose()

    def hurry(self) -> None:
        """Cut short a drain that is under way: runs are cut off now, and given back."""
        for task in self._tasks:
            task.cancel()

    def nudge(self) -> None:
        """Look for work now rather than at the next poll."""
        self._wake.set()
        if self._delivery is not None:
            self._delivery.nudge()

    @property
    def busy(self) -> int:
        """Runs being advanced now."""
        return len(self._tasks)

    # -- claiming ---------------------------------------------------------------------------------------------------

    async def _claims(self) -> None:
        while not self._orchestrator.draining:
            pause = self.world.timing.poll
            room = min(CLAIMED_MAX, self._concurrency - len(self._tasks))
            if room > 0:
                pause = await self._claim(room)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()

    async def _claim(self, room: int) -> float:
        """Claim and begin. Returns how long to wait before looking again."""
        now = self.world.clock.now_ms()
        answer = await self.world.committer.submit(
            Claim(
                worker=self._number,
                machines=self._takes,
                limit=room,
                at=now,
                still=self._standing(),
                run=self._only,
                mine=tuple(self._tasks.values()) if self._unanswered else None,
            )
        )
        self._unanswered = not isinstance(answer, Claimed)
        if not isinstance(answer, Claimed):
            log.warning("claiming failed: %s", answer)
            return self.world.timing.poll
        for lease in answer.leases:
            self._begin(lease)
        if len(answer.leases) == room:
            return 0.0
        due = self.world.timing.poll if answer.next_wake is None else max(0.0, (answer.next_wake - now) / 1000)
        return min(self.world.timing.poll, due)

    def _begin(self, lease: Lease) -> None:
        task = asyncio.create_task(self._advance(lease), name=f"run {lease.snapshot.row.id}")
        self._tasks[task] = lease.snapshot.row.number
        task.add_done_callback(partial(self._ended, lease.snapshot.row.id))

    def _ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._wake.set()
        if self._delivery is not None:
            self._delivery.nudge()
        gave_back = getattr(self._host, "gave_back", None)
        if gave_back is not None:
            gave_back(run_id)

    async def _advance(self, lease: Lease) -> None:
        try:
            await self._orchestrator.advance(lease)
        except StoreError as wrong:
            log.error("run %s: %s", lease.snapshot.row.id, wrong)
            await self._give_back(lease, partial(self._given_back, why=str(wrong)[:300]))
        except Exception as bug:
            log.error("run %s: %s", lease.snapshot.row.id, "".join(traceback.format_exception(bug)))
            why = f"{type(bug).__name__}: {bug}"[:300]
            await self._give_back(lease, lambda run: Paused(by="worker", reason=why))

    def _given_back(self, run: LiveRun, why: str) -> Event:
        """What is said of a run whose commits are refused though giving it back isn't. In its log, so that the workers
        count together: the last of them parks it."""
        turn = [event for _, event in run.journal]
        since = max((at for at, event in enumerate(turn, 1) if isinstance(event, Resumed)), default=0)
        times = 1 + sum(isinstance(event, GivenBack) for event in turn[since:])
        if times < self.world.timing.takeovers:
            return GivenBack(worker=self.name, why=why)
        return Paused(by="worker", reason=f"{times} times: {why}"[:300])

    async def _give_back(self, lease: Lease, said: Callable[[LiveRun], Event]) -> None:
        """Give back a lease that we can't use, as soon as the store takes it, and say why."""
        while not self._stopping:
            try:
                row = lease.snapshot.row
                fresh = Lease(lease.worker, lease.fence, self.world.store.snapshot(row.number))
                run = LiveRun(self.world, self.machines[row.machine], fresh)
                run.add(said(run))
                await run.release()
                return
            except StaleLease:
                return
            except InterlockError:
                await asyncio.sleep(1.0)
            except Exception as unreadable:  # its log says what this interlock doesn't know; it harms no other run
                log.error("run %s stays with this worker: %s", lease.snapshot.row.id, unreadable)
                return

    # -- beating ----------------------------------------------------------------------------------------------------

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self.world.timing.beat)
            answer = await self.world.committer.submit(Beat(worker=self._number, at=self.world.clock.now_ms()))
            if isinstance(answer, Beaten):
                self._look_at(answer)
                self.world.breakers.learn(answer.breakers)
                if not answer.known:
                    await self._join_again()
            self._look_at_threads()

    async def _join_again(self) -> None:
        """Struck off while we live. If it can't be done now, the next heartbeat says so again."""
        try:
            await self._join()
        except StoreError as wrong:
            log.warning("joining again failed: %s", wrong)

    def _look_at_threads(self) -> None:
        """Worn out: too many never came back, at two looks in a row, as one just given up may still be on its way."""
        before, self._leaked = self._leaked, self.world.leaked()
        if self._worn or min(before, self._leaked) < self._leaks_max:
            return
        self._worn = True
        why = f"{self._leaked} threads of plain functions never came back (up to {self._leaks_max - 1} are borne)"
        log.error("%s: this process needs to be replaced", why)
        if self._on_worn is not None:
            self._orchestrator.draining = True
            self._wake.set()
            asyncio.get_running_loop().call_soon(self._on_worn, why)  # what it raises is not the heartbeat's

    def _look_at(self, answer: Beaten) -> None:
        now = self.world.clock.monotonic()
        seen = self._seen
        self._seen = {
            number: seen[number] if number in seen and seen[number][0] == beat else (beat, now)
            for number, beat in answer.beats.items()
        }
        if self._standing():
            self._wake.set()

    def _standing(self) -> dict[int, int]:
        """Workers whose beat we have seen stand still for a whole lease of our own clock."""
        late = self.world.clock.monotonic() - self.world.timing.lease
        return {number: beat for number, (beat, since) in self._seen.items() if since <= late}
