"""Window: how much of its conversation a model state sends, and what becomes of the rest, as its author states it.

The record isn't part of it: what a run knows stays, whatever a model no longer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WINDOW_BYTES = 96_000
"""The most one model call sends where nothing else is stated, in UTF-8 bytes of everything (a provider's framing, as
bounded, included). So a call's input, and its cost, are bounded however long the run: in hard mode one byte counts as
one token."""

WINDOW_BYTES_MIN = 4_000
"""Below this hardly more than a prompt and its offers fits."""

WINDOW_BYTES_MAX = 190_000
"""With room for framing this stays below 200,000 tokens, where long-context prices of the listed models begin: no call
may cost more per token than was held for it."""

Over = Literal["drop", "summarise", "overflow"]


@dataclass(frozen=True, slots=True)
class Window:
    """What one call of a model state may send, and what happens when its conversation is longer.

    bytes           UTF-8 bytes of everything sent; a token is at least a byte, so it never holds more tokens than that
    over            "drop": the oldest messages are left out, down to half the window; "summarise": a call of the same
                    model sums them up first (the oldest are dropped if that fails); "overflow": the turn ends so
    pin             record fields that are told again, as they are then, wherever something was left out
    summary_tokens  the most a summary may be

    Instructions and the first prompt are never left out. What was left out is named in the log by an event.
    """

    bytes: int = WINDOW_BYTES
    over: Over = "drop"
    pin: Sequence[str] = ()
    summary_tokens: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "pin", tuple(self.pin))

    def problems(self) -> list[str]:
        """What is wrong with it, each a sentence that says what to write instead."""
        found = []
        if not _whole(self.bytes) or not WINDOW_BYTES_MIN <= self.bytes <= WINDOW_BYTES_MAX:
            found.append(
                f"window: `bytes` must be a whole number from {WINDOW_BYTES_MIN} to {WINDOW_BYTES_MAX}, "
                f"not {self.bytes!r}"
            )
        if self.over not in ("drop", "summarise", "overflow"):
            found.append(f'window: `over` must be "drop", "summarise" or "overflow", not {self.over!r}')
        if not _whole(self.summary_tokens) or not 16 <= self.summary_tokens <= 8_192:
            found.append(
                f"window: `summary_tokens` must be a whole number from 16 to 8192, not {self.summary_tokens!r}"
            )
        return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
