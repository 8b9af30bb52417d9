"""Accounts: pure arithmetic of ceilings, holds and settlements. Knows no store, no clock, no model.

Before an attempt its worst case is held; when it ends the hold goes and what it cost is spent. An attempt starts only
if spent + held + its worst case stays within the ceiling, less what is reserved for wrapping up.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from interlock.history.events import Overrun
from interlock.history.fold import RunState
from interlock.machine.limits import Price

MONEY = ("tokens", "nanousd")

OUTPUT_TOKENS_MIN = 16
"""An answer shorter than this is of no use to anyone; rather than clamp below it, a call is refused."""


class Admission(StrEnum):
    """May an attempt start?"""

    FITS = "fits"
    HELD = "held"  # it would fit once attempts under way have settled: wait
    SPENT = "spent"  # the money or tokens are gone: `budget_spent`
    CALLS = "calls"  # the calls are used up: `limit_reached`


class Hold(Struct, frozen=True, gc=False):
    """What is set aside for one attempt, and the output bound that was paid for."""

    tokens: int
    nanousd: int
    max_tokens: int = 0


def usable(run: RunState, dimension: str) -> int:
    """The part of a ceiling that may be used now: all of it when wrapping up, else less the reserve."""
    ceiling = run.ceiling[dimension]
    return ceiling if run.wrapping or not run.reserve else ceiling - int(ceiling * run.reserve)


def left(run: RunState, dimension: str) -> int:
    return usable(run, dimension) - run.spent[dimension] - run.held[dimension]


def hold_for_model(run: RunState, input_bound: int, max_tokens: int, price: Price) -> Hold | Admission:
    """The hold of one model attempt, its output clamped to what the account affords, or why it may not start.

    Clamping happens only when nothing else is held: what is under way may well settle for less.
    """
    if left(run, "calls") < 1:
        return Admission.CALLS
    if run.overrun:
        return Admission.SPENT
    whole = Hold(input_bound + max_tokens, price.cost_max(input_bound, max_tokens), max_tokens)
    if whole.tokens <= left(run, "tokens") and whole.nanousd <= left(run, "nanousd"):
        return whole
    if any(run.held[dimension] for dimension in MONEY):
        return Admission.HELD
    output = _output_that_fits(run, input_bound, max_tokens, price)
    if output < OUTPUT_TOKENS_MIN:
        return Admission.SPENT
    return Hold(input_bound + output, price.cost_max(input_bound, output), output)


def _output_that_fits(run: RunState, input_bound: int, max_tokens: int, price: Price) -> int:
    by_tokens = left(run, "tokens") - input_bound
    if by_tokens <= 0 or price.cost_max(input_bound, 0) > left(run, "nanousd"):
        return 0
    output = min(by_tokens, max_tokens)
    if price.output and price.cost_max(input_bound, output) > left(run, "nanousd"):
        output = (left(run, "nanousd") * 1_000_000 - input_bound * price.dearest_input) // price.output
    return output


def hold_for_tool(run: RunState, nanousd: int) -> Hold | Admission:
    """The hold of one tool attempt, or why it may not start."""
    if left(run, "calls") < 1:
        return Admission.CALLS
    if run.overrun:
        return Admission.SPENT
    if nanousd == 0 or nanousd <= left(run, "nanousd"):
        return Hold(0, nanousd)
    return Admission.HELD if run.held["nanousd"] else Admission.SPENT


def warnings_due(run: RunState) -> Iterator[tuple[str, int, int]]:
    """(dimension, spent, ceiling) of what crossed the warning share since it was last said. Once per ceiling."""
    for dimension in MONEY:
        ceiling = run.ceiling[dimension]
        if run.warned.get(dimension) != ceiling and ceiling > 0 and run.spent[dimension] >= run.warn_at * ceiling:
            yield dimension, run.spent[dimension], ceiling


def ended_by_warning(run: RunState) -> bool:
    """The warning was said, and ends: until it is extended or wraps up, nothing more starts."""
    if run.on_warn != "end" or run.wrapping:
        return False
    return any(run.warned.get(dimension) == run.ceiling[dimension] for dimension in MONEY)


def warned(run: RunState) -> bool:
    """A warning is due, or it was said and ends: nothing starts before somebody has seen to it."""
    for dimension in MONEY:
        ceiling = run.ceiling[dimension]
        if run.warned.get(dimension) == ceiling:
            if run.on_warn == "end" and not run.wrapping:
                return True
        elif ceiling > 0 and run.spent[dimension] >= run.warn_at * ceiling:
            return True
    return False


def overruns(run: RunState, effect: int) -> Iterator[Overrun]:
    """What has to be said when an effect is settled: by how much it passes a ceiling. Once, until that is extended."""
    if run.overrun:
        return
    for dimension in MONEY:
        over = run.spent[dimension] - run.ceiling[dimension]
        if over > 0:
            yield Overrun(effect=effect, dimension=dimension, excess=over)
