"""Worker: a host. It claims runs, has the orchestrator advance them, beats while its loop lives, and rescues the runs
of workers that are dead or stand still. Knows nothing of what a turn does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from interlock.bootstrap import HasWorld
from interlock.engine.live_run import LiveRun
from interlock.engine.orchestrator import Orchestrator
from interlock.errors import BadInput, InterlockError, StaleLease, StoreError
from interlock.history.events import Paused
from interlock.machine.table import AnyMachine
from interlock.store.protocol import Beat, Beaten, Claim, Claimed, Failed, Join, Joined, Lease, Part

log = logging.getLogger("interlock")

BLOCKED_SECONDS = 5.0
"""A loop that hasn't turned for so long is blocked by some handler; the watchdog names it."""


class Worker:
    """Advances the runs of its machines: `async with Worker(client, [support]): ...`.

    concurrency  runs at once
    only         advance this one run (by id) and no other
    drain        seconds that runs get to reach a turn boundary when the worker stops
    watch        have a thread name the handler that blocks this worker's loop
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
        self._failed: dict[int, int] = {}  # runs whose last commits the store refused, and how many
        self._unanswered = False  # the last claim's answer was lost: we may hold runs we don't know of
        self._wake = asyncio.Event()
        self._stopping = False
        self._seen: dict[int, tuple[int, float]] = {}  # other workers: beat, and since when we see it stand
        self._watch = watch
        self._watchdog: Watchdog | None = None

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
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain)
        for task in [*self._tasks, *self._loops]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loops, return_exceptions=True)
        await self.world.committer.submit(Part(worker=self._number, at=self.world.clock.now_ms()))
        if self._watchdog is not None:
            self._watchdog.stop()
        await self._stack.aclose()

    def nudge(self) -> None:
        """Look for work now rather than at the next poll."""
        self._wake.set()

    @property
    def busy(self) -> int:
        """Runs being advanced now."""
        return len(self._tasks)

    # -- claiming ---------------------------------------------------------------------------------------------------

    async def _claims(self) -> None:
        while not self._stopping:
            pause = self.world.timing.poll
            room = self._concurrency - len(self._tasks)
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
        gave_back = getattr(self._host, "gave_back", None)
        if gave_back is not None:
            gave_back(run_id)

    async def _advance(self, lease: Lease) -> None:
        try:
            await self._orchestrator.advance(lease)
            self._failed.pop(lease.snapshot.row.number, None)
        except StoreError as wrong:
            log.error("run %s: %s", lease.snapshot.row.id, wrong)
            await self._give_back(lease, self._given_up(lease.snapshot.row.number, wrong))
        except Exception as bug:
            log.error("run %s: %s", lease.snapshot.row.id, "".join(traceback.format_exception(bug)))
            await self._give_back(lease, f"{type(bug).__name__}: {bug}"[:300])

    def _given_up(self, number: int, wrong: StoreError) -> str | None:
        """Why a run is parked: again and again what it wants to write is refused, though giving it back is not."""
        self._failed[number] = failed = self._failed.get(number, 0) + 1
        return None if failed < self.world.timing.takeovers else f"{failed} times: {wrong}"[:300]

    async def _give_back(self, lease: Lease, paused: str | None) -> None:
        """Give back a lease that we can't use, as soon as the store takes it; with a reason, the run is parked."""
        while not self._stopping:
            try:
                row = lease.snapshot.row
                fresh = Lease(lease.worker, lease.fence, self.world.store.snapshot(row.number))
                run = LiveRun(self.world, self.machines[row.machine], fresh)
                if paused is not None:
                    run.add(Paused(by="worker", reason=paused))
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

    async def _join_again(self) -> None:
        """Struck off while we live. If it can't be done now, the next heartbeat says so again."""
        try:
            await self._join()
        except StoreError as wrong:
            log.warning("joining again failed: %s", wrong)

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


class Watchdog:
    """A thread that notices when the loop stands still, and says which task it stands in."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        say: Callable[[str], None] | None = None,
        seconds: float = BLOCKED_SECONDS,
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._thread_id = threading.get_ident()
        self._say = say or log.error
        self._turned = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="interlock-watchdog", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds / 5):
            self._turned.clear()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._turned.set)
            if not self._turned.wait(self._seconds) and not self._stopped.is_set():
                self._say(self._blocked_in())
                while not (self._turned.wait(1.0) or self._stopped.is_set()):
                    pass

    def _blocked_in(self) -> str:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread_id)
        where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
        who = task.get_name() if task else "a callback"
        return f"the loop has been blocked for {self._seconds:g} s by {who}\n{where}"

    def stop(self) -> None:
        self._stopped.set()
        self._turned.set()
