"""Retries: how long to wait before the next attempt, and whether there is one. Knows no clock.

Full jitter (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): a delay drawn evenly from
0 to min(cap, base * 2^n). A provider's `Retry-After` is a lower bound, never undercut.
"""

from __future__ import annotations

from random import Random

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0

RETRY_AFTER_MAX = 30 * 86_400.0
"""Who asks for more than a month (or for what is no number) isn't asked again."""


def delay_seconds(attempt: int, chance: Random, retry_after: float | None = None) -> float:
    """Seconds before attempt `attempt` + 1."""
    jitter = chance.uniform(0.0, min(CAP_SECONDS, BASE_SECONDS * 2 ** (attempt - 1)))
    return jitter if retry_after is None else max(retry_after, 0.0) + jitter
