"""Orchestrator: advance one leased run until it ends, waits or is lost. It alone knows the table.

    mail > due waits > preempted? > perform the turn > conclude (stalled? escalate? transition) > again
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from interlock.canonical import fingerprint
from interlock.engine import mail, salvage
from interlock.engine.code_turn import code_turn
from interlock.engine.desk import Broken, Desk, Diverging, Parked
from interlock.engine.effects import Effects
from interlock.engine.ending import Ended
from interlock.engine.journal import Journal
from interlock.engine.live_run import Interrupted, LiveRun
from interlock.engine.model_turn import model_turn
from interlock.engine.people import RETRY, answer, ask_turn, escalation, seq_of, wait_turn
from interlock.engine.use_turn import use_turn
from interlock.engine.world import World
from interlock.errors import BadInput, StaleLease
from interlock.history import events as e
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, CodeState, Final, ModelState, UseState, WaitState
from interlock.machine.table import AnyMachine
from interlock.policy.accounts import left, usable
from interlock.store.protocol import Lease

PERFORMERS: Mapping[type, Callable[[Desk, Any], Awaitable[Ended]]] = {
    CodeState: code_turn,
    ModelState: model_turn,
    UseState: use_turn,
    AskState: ask_turn,
    WaitState: wait_turn,
}


class Orchestrator:
    """Takes leases and makes turns of them. One per worker; `deps` by machine name, opened by the host."""

    def __init__(self, world: World, machines: Mapping[str, AnyMachine], deps: Mapping[str, Any]) -> None:
        self.world = world
        self.machines = machines
        self.deps = deps
        self.draining = False  # give every lease back at its next turn boundary

    async def advance(self, lease: Lease) -> None:
        """Go on with a run until it ends, waits, pauses or is lost to another worker; then give the lease back.

        Raises `StoreError` when the store can't be written; the run is then as its last commit left it.
        """
        run = LiveRun(self.world, self.machines[lease.snapshot.row.machine], lease)
        try:
            self._greet(run, lease)
            while await self._step(run) and not self.draining:
                pass
            await run.release()
        except StaleLease:
            return  # another worker has it; nothing of ours was written

    def _greet(self, run: LiveRun, lease: Lease) -> None:
        """Say what is new since the run was last held."""
        row = lease.snapshot.row
        if lease.why:
            run.add(e.TakenOver(worker=str(lease.worker), previous=lease.previous, fence=lease.fence, why=lease.why))
        if row.status == "paused" and not run.state.paused:
            run.add(e.Paused(by="store", reason=row.reason))
        if run.state.content != run.machine.content:
            run.add(e.ContentChanged(content=run.machine.content))

    async def _step(self, run: LiveRun) -> bool:
        """One turn, or as much of it as can be had now. False: there is nothing more to do here."""
        try:
            await mail.read(run)
            self._close_due_waits(run)
            if run.state.status != "ready":
                return run.mail and not run.ended
            ended = await self._take_turn(run)
            if ended is not None:
                self._conclude(run, ended)
            return not run.ended
        except Interrupted as interrupted:
            await salvage.reload(run, str(interrupted))
            return True

    def _close_due_waits(self, run: LiveRun) -> None:
        for number, (_, _, _, due, *_) in list(run.state.waiting.items()):
            if due is not None and due <= run.now:
                run.add(e.WaitEnded(wait=int(number), how="timer"))

    # -- one turn ---------------------------------------------------------------------------------------------------

    async def _take_turn(self, run: LiveRun) -> Ended | None:
        """The turn's end, or None when it is parked."""
        desk = Desk(run, self.world, self.deps.get(run.machine.name))
        ended = self._preempted(run, desk)
        if ended is None and run.state.status != "ready":
            return None
        work = self._perform(desk, ended)
        task = asyncio.create_task(work, name=f"run {run.id} state {run.state.state} turn {run.state.turn}")
        try:
            either: set[asyncio.Future[Any]] = {task, desk.stop}
            await asyncio.wait(either, timeout=self._seconds(run), return_when=asyncio.FIRST_COMPLETED)
            return await self._ending(run, desk, task)
        finally:
            desk.close()
            if not task.done():
                task.cancel()

    async def _perform(self, desk: Desk, ended: Ended | None) -> Ended:
        state = desk.run.machine.row(desk.run.state.state).state
        if ended is None:
            ended = await PERFORMERS[type(state)](desk, state)
            if desk.journal.unasked:
                await desk.diverge("the handler ended without asking for what is recorded")
        if desk.run.state.doubts and self._completes(desk.run, ended):
            # Not `completed` while anything may or may not have happened.
            await Effects(desk, 0).clear_left_behind()
        return ended

    async def _ending(self, run: LiveRun, desk: Desk, task: asyncio.Task[Ended]) -> Ended | None:
        if task.done() and not desk.stop.done():
            return task.result()
        await _cancel(task, self.world.timing.cancel_grace)
        stop = desk.stop.result() if desk.stop.done() else None
        match stop:
            case Parked():
                return None
            case Broken():
                raise stop.error
            case Diverging():
                return Ended(EngineOutcome.ERROR, why=f"divergence: {stop.why}")
            case _:
                return self._timed_out(run)

    def _seconds(self, run: LiveRun) -> float | None:
        """Active seconds that this entry into the turn may take."""
        turn = run.turn_seconds_left()
        return None if turn is None else max(0.0, min(turn, left(run.state, "active_ms") / 1000))

    def _timed_out(self, run: LiveRun) -> Ended:
        if left(run.state, "active_ms") <= run.since_last_event_ms():
            return Ended(EngineOutcome.LIMIT_REACHED, why="the run's active seconds are used up")
        return Ended(EngineOutcome.TIMEOUT, why="the state's `within` passed")

    # -- before a turn ----------------------------------------------------------------------------------------------

    def _preempted(self, run: LiveRun, desk: Desk) -> Ended | None:
        """What ends this turn without performing its state: a person's answer, or a limit."""
        for opened, _, ended in desk.journal.waits.values():
            if opened.why == "budget" and ended is not None and ended.outcome == "end":
                return Ended(EngineOutcome.BUDGET_SPENT, why=f"ended by {ended.by}", by=ended.by)
        escalated = [wait for wait in desk.journal.waits.values() if wait[0].why == "escalated"]
        if escalated and escalated[-1][2] is not None:
            return self._resolved(run, desk, escalated[-1][0], escalated[-1][2])
        if run.state.takeovers >= self.world.timing.takeovers:
            return Ended(EngineOutcome.ERROR, why=f"this turn took down {run.state.takeovers} workers")
        return self._limited(run, desk.journal)

    def _resolved(self, run: LiveRun, desk: Desk, opened: e.WaitOpened, ended: e.WaitEnded) -> Ended | None:
        if ended.outcome == RETRY:
            return Ended(RETRY, why=ended.reason, by=ended.by, origin="person")
        try:
            return answer(desk, ended, seq_of(desk, ended))
        except BadInput as wrong:
            desk.add(e.AnswerDropped(kind="decision", body=dict(ended.fields), why=str(wrong)))
            desk.open_wait(replace(opened, prompt=f"{wrong}. {opened.prompt}"))
            return None

    def _limited(self, run: LiveRun, journal: Journal) -> Ended | None:
        state, name = run.state, run.state.state
        row = run.machine.row(name)
        if isinstance(row.state, AskState):
            return None
        if left(state, "active_ms") <= 0:
            return Ended(EngineOutcome.LIMIT_REACHED, why="the run's active seconds are used up")
        if state.turn_ms >= row.state.within * 1000 and not isinstance(row.state, WaitState):
            return Ended(EngineOutcome.TIMEOUT, why="the state's `within` passed")
        if left(state, "turns") <= 0:
            return Ended(EngineOutcome.LIMIT_REACHED, why=f"{usable(state, 'turns')} turns are used up")
        visits = row.visits if row.visits is not None else run.machine.limits.visits
        if visits is not None and state.visits.get(name, 0) >= visits:
            return Ended(EngineOutcome.LIMIT_REACHED, why=f"{visits} visits to {name} are used up")
        return None

    # -- after a turn -----------------------------------------------------------------------------------------------

    def _completes(self, run: LiveRun, ended: Ended) -> bool:
        to = self._destination(run, ended.outcome)
        row = None if to is None else run.machine.table[to]
        return isinstance(row, Final) and row.status == "completed"

    def _destination(self, run: LiveRun, outcome: str) -> str | None:
        return run.state.state if outcome == RETRY else run.machine.destination(run.state.state, outcome)

    def _conclude(self, run: LiveRun, ended: Ended) -> None:
        """Turn the end of a turn into its transition, or hand it to a person."""
        mail.abandon(run, f"the turn ended `{ended.outcome}`")
        print_ = _print(run, ended)
        ended = self._stalled(run, ended, print_) or ended
        to = self._destination(run, ended.outcome)
        if to is None:
            opened = escalation(run.machine.row(run.state.state), run, ended.outcome, ended.why)
            run.add(replace(opened, wait=run.state.waits + 1))
            return
        row = run.machine.table[to]
        asks = isinstance(run.machine.row(run.state.state).state, AskState)
        run.transition(
            e.Transitioned(
                state=run.state.state,
                outcome=ended.outcome,
                to=to,
                status=row.status if isinstance(row, Final) else None,
                origin=ended.origin,
                why=ended.why,
                print=print_,
                counts=not asks and ended.outcome != EngineOutcome.LIMIT_REACHED,
                by=ended.by,
            ),
            ended.writes,
        )
        run.soon()

    def _stalled(self, run: LiveRun, ended: Ended, print_: str | None) -> Ended | None:
        """No progress: the same turn in the same state, `limits.repeats` times in a row."""
        repeats = run.machine.limits.repeats
        before = run.state.prints.get(run.state.state)
        if repeats is None or print_ is None or before is None or before[0] != print_ or before[1] + 1 < repeats:
            return None
        return Ended(EngineOutcome.STALLED, why=f"{_said(run)} {repeats}x, same result")


def _print(run: LiveRun, ended: Ended) -> str | None:
    """Fingerprint of a turn: its outcome, its tools with arguments and results, its changes. None: it did nothing."""
    calls = [(c.tool, c.args) for _, c in run.journal if isinstance(c, e.ToolCalled) and c.attempt == 1]
    results = [r.value for _, r in run.journal if isinstance(r, e.ToolReturned)]
    if not calls and not any(isinstance(event, e.ModelCalled) for _, event in run.journal):
        return None
    return fingerprint([ended.outcome, calls, results, [[w.how, w.name, w.value] for w in ended.writes]])


def _said(run: LiveRun) -> str:
    """The turn's tool calls, as a person would write them."""
    calls = [
        f"{c.tool}({', '.join(f'{value!r}' for value in c.args.values())})"
        for _, c in run.journal
        if isinstance(c, e.ToolCalled) and c.attempt == 1
    ]
    return ", ".join(calls)[:200] or "the same reply"


async def _cancel(task: asyncio.Task[Any], grace: float) -> None:
    """Cancel, and give it a moment; a handler that won't end is left behind."""
    task.cancel()
    await asyncio.wait({task}, timeout=grace)
    if task.done() and not task.cancelled():
        task.exception()  # looked at, so that asyncio doesn't report it as lost
