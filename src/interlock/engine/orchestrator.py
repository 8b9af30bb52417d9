"""Orchestrator: advance one leased run until it ends, waits or is lost.

mail > due waits > preempted? > perform the turn > conclude (stalled? escalate? transition) > again
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from math import inf
from typing import Any

from interlock.engine import mail, redo, salvage
from interlock.engine.conclusion import conclude
from interlock.engine.desk import Broken, Desk, Diverging, Parked
from interlock.engine.ending import SECONDS_SPENT, WITHIN_PASSED, Ended
from interlock.engine.live_run import Interrupted, LiveRun
from interlock.engine.parked import news_of
from interlock.engine.performing import escaped, perform
from interlock.engine.preemption import preempted
from interlock.engine.rounds import Rounds
from interlock.engine.world import World
from interlock.errors import StaleLease
from interlock.history import events as e
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.table import AnyMachine
from interlock.policy.accounts import left
from interlock.store.protocol import Lease

_LOOK_SECONDS = 0.1
"""How often it is looked at most whether a turn's time is up that isn't counted just now."""


class Orchestrator:
    """Takes leases and makes turns of them. One per worker; `deps` by machine name, opened by the host."""

    def __init__(self, world: World, machines: Mapping[str, AnyMachine], deps: Mapping[str, Any]) -> None:
        self.world = world
        self.machines = machines
        self.deps = deps
        self.name = ""  # what the log calls the worker that takes a run over
        self._rounds = Rounds()
        self.draining = False  # give every lease back at its next turn boundary

    async def advance(self, lease: Lease) -> None:
        """Go on with a run until it ends, waits, pauses or is lost to another worker; then give the lease back.

        Raises `StoreError` when the store can't be written; the run is then as its last commit left it.
        """
        run = LiveRun(self.world, self.machines[lease.snapshot.row.machine], lease, self._rounds)
        try:
            self._greet(run, lease)
            if lease.why:  # durable before its code runs again: it may take this worker down too, and must be counted
                await run.durable()
            while not await self._released(run):
                pass
        except StaleLease:
            return  # another worker has it; nothing of ours was written
        finally:
            run.alarms.close()

    async def _released(self, run: LiveRun) -> bool:
        """Turn after turn, then give the lease back. False: a commit was refused, and what it said was saved."""
        try:
            while await self._step(run) and not self.draining:
                pass
            await run.release()
            return True
        except Interrupted as interrupted:
            await self._save(run, interrupted)
            return False

    async def _save(self, run: LiveRun, interrupted: Interrupted) -> None:
        """Save what is true of a refused draft. That may be refused too, when a second answer came in between."""
        refusal: Interrupted | None = interrupted
        while refusal is not None:
            try:
                await salvage.reload(run, str(refusal))
                refusal = None
            except Interrupted as again:
                refusal = again

    def _greet(self, run: LiveRun, lease: Lease) -> None:
        """Say what is new since the run was last held."""
        row = lease.snapshot.row
        if lease.why:
            taker = self.name or str(lease.worker)
            run.add(e.TakenOver(worker=taker, previous=lease.previous, fence=lease.fence, why=lease.why))
        if news_of(run.state, row.status, row.reason):
            run.add(e.Paused(by="store", reason=row.reason))
        if run.state.content != run.machine.content and not run.ended:
            run.add(e.ContentChanged(content=run.machine.content))

    async def _step(self, run: LiveRun) -> bool:
        """One turn, or as much of it as can be had now. False: there is nothing more to do here."""
        if run.mail or run.inbox:
            await mail.read(run)
        self._close_due_waits(run)
        if redo.waits_to_be_done(run):
            await redo.carry_out(run, self.world, self.deps.get(run.machine.name))
        if run.state.status != "ready":
            return run.mail and not run.ended
        ended = await self._take_turn(run)
        if run.mail:  # a cancel that was accepted while the turn's last effect was under way comes before its end
            await mail.read(run)
        if ended is not None and not run.ended and not run.state.paused and not run.state.rollback:
            conclude(run, ended)
        return not run.ended

    def _close_due_waits(self, run: LiveRun) -> None:
        for number, (_, _, _, due, *_) in list(run.state.waiting.items()):
            if due is not None and due <= run.now:
                run.add(e.WaitEnded(wait=int(number), how="timer"))

    # -- one turn ---------------------------------------------------------------------------------------------------

    async def _take_turn(self, run: LiveRun) -> Ended | None:
        """The turn's end, or None when it is parked."""
        desk = Desk(run, self.world, self.deps.get(run.machine.name))
        desk.draining = lambda: self.draining
        ended = None if run.state.rollback else preempted(run, desk)
        if ended is None and run.state.status != "ready":
            return None
        work = perform(desk, ended)
        task = asyncio.create_task(work, name=f"run {run.id} state {run.state.state} turn {run.state.turn}")
        seconds = self._seconds(run)
        alarm = run.alarms.set(inf if seconds is None else seconds, partial(self._time_is_up, run, desk))
        try:
            await desk.over
            return await self._ending(run, desk, task)
        finally:
            run.alarms.clear(alarm)
            run.alarms.clear(desk.alarm)
            desk.close()
            if not task.done() and not (task.cancelling() and desk.busy):  # an attempt may end what it can't break off
                task.cancel()

    async def _ending(self, run: LiveRun, desk: Desk, task: asyncio.Task[Ended | None]) -> Ended | None:
        stop = desk.stopped  # as it is before the cancelling, which ends attempts
        if task.cancelled() and stop is None:  # nobody here did it: the handler awaited what it had cancelled
            return escaped()
        if task.done() and stop is None:
            return task.result()
        desk.leaving = True
        await _cancel(task, self.world.timing.cancel_grace)
        match stop:
            case Parked():
                return None
            case Broken():
                raise stop.error
            case Diverging():
                return Ended(EngineOutcome.ERROR, why=f"divergence: {stop.why}")
            case _ if run.broken is not None:
                raise run.broken
            case _:
                return self._timed_out(run)

    def _seconds(self, run: LiveRun) -> float | None:
        """Active seconds that this entry into the turn may take."""
        turn = run.turn_seconds_left()
        return None if turn is None else max(0.0, min(turn, left(run.state, "active_ms") / 1000))

    def _time_is_up(self, run: LiveRun, desk: Desk) -> None:
        """Unless the turn stood aside for a while: then what is left of it begins to count again."""
        seconds = self._seconds(run)
        left_over = 0.0 if seconds is None else seconds - run.since_last_event_ms() / 1000
        if left_over <= 0 or not run.stood_aside:
            desk.wind_up()
        else:  # it may stand aside now: then as much will be left
            desk.alarm = run.alarms.set(max(left_over, _LOOK_SECONDS), partial(self._time_is_up, run, desk))

    def _timed_out(self, run: LiveRun) -> Ended:
        if left(run.state, "active_ms") <= run.since_last_event_ms():
            return Ended(EngineOutcome.LIMIT_REACHED, why=SECONDS_SPENT)
        return Ended(EngineOutcome.TIMEOUT, why=WITHIN_PASSED)


async def _cancel(task: asyncio.Task[Any], grace: float) -> None:
    """Cancel, and give it a moment; a handler that won't end is left behind."""
    task.cancel()
    await asyncio.wait({task}, timeout=grace)
    if task.done() and not task.cancelled():
        task.exception()  # looked at, so that asyncio doesn't report it as lost
