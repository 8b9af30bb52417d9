"""Abandoning: close every effect under way, because its turn is over, by an outcome, a cancel or a rollback."""

from __future__ import annotations

from interlock.engine.live_run import LiveRun
from interlock.history.events import AttemptFailed


def abandon(run: LiveRun, why: str) -> None:
    """Close every effect under way: its hold is settled at its worst case; what may have happened is a doubt."""
    for number, (attempt, _, way, tokens, nanousd, _) in list(run.state.open.items()):
        run.add(
            AttemptFailed(
                effect=int(number),
                attempt=attempt,
                kind="abandoned",
                message=why,
                doubt=way != "repeat",
                tokens=tokens,
                nanousd=nanousd,
                final=True,
            )
        )
