"""Estimates: how many tokens a request will be billed for, learned for each model from what its calls were billed.

For `Limits(mode="estimate")` only: in hard mode nothing is learned, since nothing is left to luck. Lives as long as its
worker; what was held on an estimate stands in the log. Knows no account.
"""

from __future__ import annotations

from math import ceil

from interlock.agent.prices import Bulk

CALLS_MIN = 3
"""So many settled calls tell more than the figure that holds for every model."""

CAUTION = 0.9
"""A request may hold denser text than those before it."""

REMEMBERED_BYTES = 1_000_000
"""Beyond this the past counts half: texts change."""


class Estimates:
    """What each model's calls were billed, in bytes and tokens."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, int]] = {}  # model -> calls, bytes, tokens

    def tokens(self, model: str, bulk: Bulk) -> int:
        """Tokens that a request of this bulk will hardly exceed."""
        calls, bytes_, tokens = self._seen.get(model, (0, 0, 0))
        if calls < CALLS_MIN or not tokens:
            return bulk.tokens_likely()
        # Framing is billed too, so it is in the ratio already. A token is a byte at least.
        return min(bulk.tokens_max, ceil(bulk.bytes * tokens / (bytes_ * CAUTION)))

    def settle(self, model: str, bulk: Bulk, tokens_in: int) -> None:
        """A call of this bulk was billed so many tokens of input."""
        calls, bytes_, tokens = self._seen.get(model, (0, 0, 0))
        if bytes_ > REMEMBERED_BYTES:
            bytes_, tokens = bytes_ // 2, tokens // 2
        self._seen[model] = (calls + 1, bytes_ + max(bulk.bytes, 1), tokens + tokens_in)
