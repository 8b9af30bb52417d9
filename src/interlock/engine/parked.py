"""Parked: how the log and the rows say that a restored store put its open runs down."""

from __future__ import annotations

from interlock.history.fold import RunState

RESTORED = "store restored"
"""How the reason begins when a restored store parked a run."""


def is_parked(run: RunState) -> bool:
    """Whether a restored store has parked a run, and nobody has released it."""
    return run.paused and run.reason.startswith(RESTORED)


def news_of(run: RunState, status: str, reason: str) -> bool:
    """Whether a row of this status and reason says of a park what the log doesn't know yet."""
    return status == "paused" and (not run.paused or (reason.startswith(RESTORED) and not is_parked(run)))
