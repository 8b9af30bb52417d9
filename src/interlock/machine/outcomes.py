"""The outcomes the engine itself may give a turn. Reserved names: no handler, model or person declares them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class EngineOutcome(StrEnum):
    """How a turn ends when its own code or model doesn't say. Each leads where the row says, else to `otherwise`."""

    TIMEOUT = "timeout"  # the state's `within` passed
    RETRIES_SPENT = "retries_spent"  # every allowed attempt of an effect failed
    UNAVAILABLE = "unavailable"  # nobody took the call: breaker open, key refused, quota used up
    LIMIT_REACHED = "limit_reached"  # turns, visits, calls or active seconds are used up
    BUDGET_SPENT = "budget_spent"  # tokens or money are used up
    DENIED = "denied"  # a person said no to a call, or a server's tool is another than the run knows
    INVALID = "invalid"  # no legal move, too often
    STALLED = "stalled"  # the same turn again and again, nothing new
    OVERFLOW = "overflow"  # what must be sent doesn't fit the context window
    IN_DOUBT = "in_doubt"  # nobody could say whether an effect happened
    ERROR = "error"  # the handler raised


EngineName = Literal[
    "timeout",
    "retries_spent",
    "unavailable",
    "limit_reached",
    "budget_spent",
    "denied",
    "invalid",
    "stalled",
    "overflow",
    "in_doubt",
    "error",
]

RESERVED = frozenset(EngineOutcome) | {"retry", "called"}
"""Names nobody declares: the engine's, a person's `retry`, and `called`, the outcome of a model state's tool loop."""

EXHAUSTED = frozenset({EngineOutcome.LIMIT_REACHED, EngineOutcome.BUDGET_SPENT})
"""After these a run may only end, ask a person, or wrap up within what `Limits.wrap_up` reserves."""
