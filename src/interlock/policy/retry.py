"""Retries: how long to wait before the next attempt, and whether there is one. Knows no clock.

Exponential back-off with jitter (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): drawn
evenly from the upper 40 % of min(cap, base * 2^n), so that many who failed together don't come back together, and
each wait is longer than the one before. From 0 (his "full jitter") one of few attempts could be spent at once. A
provider's `Retry-After` is a lower bound, never undercut; those told the same moment spread from there.
"""

from __future__ import annotations

from random import Random

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0

LEAST = 0.6
"""The least share of a back-off that is waited. Above one half, where the next one begins: so they grow."""

RETRY_AFTER_MAX = 30 * 86_400.0
"""Who asks for more than a month (or for what is no number) isn't asked again."""


def delay_seconds(attempt: int, chance: Random, retry_after: float | None = None) -> float:
    """Seconds before attempt `attempt` + 1."""
    most = min(CAP_SECONDS, BASE_SECONDS * 2 ** (attempt - 1))
    if retry_after is None:
        return chance.uniform(LEAST * most, most)
    return max(retry_after, 0.0) + chance.uniform(0.0, most)
