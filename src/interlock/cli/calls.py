"""Calls: a dead call as a tired person reads it. Prints nothing."""

from __future__ import annotations

from interlock.cli.story import call_text
from interlock.cli.wording import duration, visible
from interlock.dead import DeadCall


def how_it_failed(call: DeadCall) -> str:
    times = f"{call.attempts} time{'' if call.attempts == 1 else 's'}"
    return f"which failed {times}" if call.attempts else "which could not be made"


def headline(call: DeadCall, now: float) -> str:
    """A dead call as a tired person reads it."""
    since = duration(max(0.0, now - call.since / 1000))
    why = f": {visible(call.kind, 30)}" + (f", {visible(call.message, 80)}" if call.message else "")
    asked = f" ({visible(call.asked, 60)}: not read yet)" if call.asked else ""
    text = call_text(call.tool, call.args)
    return f"effect {call.effect}  {text}, {how_it_failed(call)[6:]}{why}, {since} ago{asked}"
