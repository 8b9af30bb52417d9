"""Prospects: what becomes of each answer to a wait, as far as the table says: where it leads and what it may cost.

Written into the wait when it is opened, so that whoever is asked sees it without the machine's code. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from interlock.canonical import Json
from interlock.engine.live_run import LiveRun
from interlock.errors import InterlockError
from interlock.machine.states import Final
from interlock.machine.worst_case import worst_turn
from interlock.policy.accounts import left

Lead = Mapping[str, Json]


def lead(run: LiveRun, to: str | None, nanousd_max: int = 0) -> Lead:
    """One answer's: `to` "" goes on here, None a person; `ends` how, when it ends the run."""
    row = None if not to else run.machine.table[to]
    found: dict[str, Json] = {"to": to}
    if isinstance(row, Final):
        found["ends"] = row.status
    if nanousd_max:
        found["nanousd_max"] = nanousd_max
    return found


def leads(run: LiveRun, outcomes: Mapping[str, str]) -> dict[str, Lead]:
    """Each answer with the outcome that it gives the turn: where that leads, and what the turn there costs at most."""
    found = {}
    for answer, outcome in outcomes.items():
        to = run.machine.destination(run.state.state, outcome)
        found[answer] = lead(run, to, 0 if to is None else next_turn_nanousd(run, to))
    return found


def next_turn_nanousd(run: LiveRun, to: str) -> int:
    """The most that one turn in a state costs, and no more than the account has left."""

    def price(name: str) -> object:
        return run.world.price_of(run.world.model or name, run.machine.prices)

    try:
        most = worst_turn(run.machine, to, price).nanousd  # type: ignore[arg-type]
    except InterlockError:  # nobody says what a model costs: it won't be called either
        return 0
    return max(0, min(most, left(run.state, "nanousd")))
