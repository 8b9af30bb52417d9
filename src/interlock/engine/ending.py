"""Ended: what a performed turn came to, before it is committed. Performers return it and never commit."""

from __future__ import annotations

from msgspec import Struct

from interlock.engine.live_run import Write

WITHIN_PASSED = "the state's `within` passed"
SECONDS_SPENT = "the run's active seconds are used up"
"""Why time ends a turn; a replay knows by these words that no code did."""


class Ended(Struct, frozen=True):
    """The outcome of a turn and what it writes. `why` in a few words when the engine chose the outcome."""

    outcome: str
    writes: tuple[Write, ...] = ()
    why: str = ""
    origin: str = ""
    by: str = ""
