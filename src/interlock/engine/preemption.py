"""Preemption: what ends a turn without performing its state: a person's answer, or a limit that is reached.

Adds at most what an unusable answer makes necessary; commits nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from interlock.engine.desk import Desk
from interlock.engine.ending import SECONDS_SPENT, WITHIN_PASSED, Ended
from interlock.engine.live_run import LiveRun
from interlock.engine.people import RETRY, answer, seq_of
from interlock.errors import BadInput
from interlock.history import events as e
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, WaitState
from interlock.policy.accounts import left, usable


def preempted(run: LiveRun, desk: Desk) -> Ended | None:
    """The turn's end before it has begun. None: perform the state (or wait: see the run's status)."""
    end = _told_to_end(desk)
    if end is not None:
        return Ended(EngineOutcome.BUDGET_SPENT, why=f"ended by {end.by}", by=end.by)
    escalated = [wait for wait in desk.journal.waits.values() if wait[0].why == "escalated"]
    if escalated and escalated[-1][2] is not None:
        return _resolved(desk, escalated[-1][0], escalated[-1][2])
    if run.state.takeovers >= run.world.timing.takeovers:
        return Ended(EngineOutcome.ERROR, why=f"this turn took down {run.state.takeovers} workers")
    return _limited(run)


def _told_to_end(desk: Desk) -> e.WaitEnded | None:
    """A person's `end` to the question at the warning, unless the turn it ended was handed to a person since."""
    told: e.WaitEnded | None = None
    for _, event in desk.run.journal:
        if isinstance(event, e.WaitEnded) and event.outcome == "end":
            asked = desk.journal.waits.get(event.wait)
            # No other wait outlives its turn, so one that this turn didn't open is the warning's.
            told = event if asked is None or asked[0].why == "budget" else told
        elif isinstance(event, e.WaitOpened) and event.why == "escalated":
            told = None
    return told


def _resolved(desk: Desk, opened: e.WaitOpened, ended: e.WaitEnded) -> Ended | None:
    if ended.outcome == RETRY:
        return Ended(RETRY, why=ended.reason, by=ended.by, origin="person")
    try:
        return answer(desk, ended, seq_of(desk, ended))
    except BadInput as wrong:
        desk.add(e.AnswerDropped(kind="decision", body=dict(ended.fields), why=str(wrong)))
        desk.open_wait(replace(opened, prompt=f"{wrong}. {opened.prompt}"))
        return None


def _limited(run: LiveRun) -> Ended | None:
    state, name = run.state, run.state.state
    row = run.machine.row(name)
    visits = row.visits if row.visits is not None else run.machine.limits.visits
    if visits is not None and state.visits.get(name, 0) >= visits:
        return Ended(EngineOutcome.LIMIT_REACHED, why=f"{visits} visits to {name} are used up")
    if isinstance(row.state, AskState):
        return None  # people are bounded by their own due times, not by the run's turns and seconds
    if left(state, "active_ms") <= 0:
        return Ended(EngineOutcome.LIMIT_REACHED, why=SECONDS_SPENT)
    if state.turn_ms >= row.state.active * 1000 and not isinstance(row.state, WaitState):
        return Ended(EngineOutcome.TIMEOUT, why=WITHIN_PASSED)
    if left(state, "turns") <= 0:
        return Ended(EngineOutcome.LIMIT_REACHED, why=f"{usable(state, 'turns')} turns are used up")
    return None
