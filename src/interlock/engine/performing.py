"""Performing: what the code of a state makes of its turn, answered from the turn's journal as far as that goes.

The one way into a state's code: a live turn takes it, one entered again after a crash, and a replay. Commits nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from interlock.engine.code_turn import code_turn
from interlock.engine.conclusion import completes
from interlock.engine.desk import Desk
from interlock.engine.effects import Effects
from interlock.engine.ending import Ended
from interlock.engine.escapes import bar_exits
from interlock.engine.live_run import Interrupted
from interlock.engine.model_turn import model_turn
from interlock.engine.people import ask_turn, wait_turn
from interlock.engine.raised import RAISED, told
from interlock.engine.rollback import roll_back
from interlock.engine.use_turn import use_turn
from interlock.errors import StaleLease, StoreError
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, CodeState, ModelState, UseState, WaitState

PERFORMERS: Mapping[type, Callable[[Desk, Any], Awaitable[Ended]]] = {
    CodeState: code_turn,
    ModelState: model_turn,
    UseState: use_turn,
    AskState: ask_turn,
    WaitState: wait_turn,
}


async def perform(desk: Desk, ended: Ended | None) -> Ended | None:
    """The turn's end. `ended`: what has ended it before its state is performed. None: it was rolled back."""
    bar_exits()
    try:
        if desk.run.state.rollback:
            await roll_back(desk)
            return None
        if ended is None:
            ended = await _performed(desk, desk.run.machine.row(desk.run.state.state).state)
            if desk.journal.unasked:
                await desk.diverge("the handler ended without asking for what is recorded")
        if (desk.run.state.doubts or desk.run.state.open) and completes(desk.run, ended):
            # Not `completed` while anything may or may not have happened.
            await Effects(desk, 0).leave_nothing_in_doubt()
        desk.leaving = True  # what a handler's task still asks for now comes too late
        return ended
    finally:
        desk.wind_up()


async def _performed(desk: Desk, state: Any) -> Ended:
    try:
        return await PERFORMERS[type(state)](desk, state)
    except (StaleLease, Interrupted, StoreError):
        raise
    except RAISED as raised:  # a prompt's function, or a model, with a bug: it has a destination too
        return Ended(EngineOutcome.ERROR, why=told(raised))


def escaped() -> Ended:
    """The end of a turn whose handler was cancelled by nobody but itself."""
    return Ended(EngineOutcome.ERROR, why="CancelledError: the handler let a cancellation of its own out")
