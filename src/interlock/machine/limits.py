"""Limits: what one run may use, as its author states it. Knows no account and no spending."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeGuard

from msgspec import Struct
from msgspec.structs import asdict

from interlock.errors import BadInput

NANO = 1_000_000_000


class Amounts(Struct, frozen=True, gc=False):
    """A quantity in each dimension that is counted. Integers: nano-dollars and milliseconds, never floats."""

    turns: int = 0
    calls: int = 0
    tokens: int = 0
    nanousd: int = 0
    active_ms: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.turns + other.turns,
            self.calls + other.calls,
            self.tokens + other.tokens,
            self.nanousd + other.nanousd,
            self.active_ms + other.active_ms,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.turns - other.turns,
            self.calls - other.calls,
            self.tokens - other.tokens,
            self.nanousd - other.nanousd,
            self.active_ms - other.active_ms,
        )

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


DIMENSIONS = Amounts.__struct_fields__


def nanousd(usd: float | Decimal | int) -> int:
    """Dollars to integer nano-dollars (1e-9 USD), exact for what was written down."""
    return int((Decimal(str(usd)) * NANO).to_integral_value())


def dollars(nano: int) -> Decimal:
    return Decimal(nano) / NANO


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `None` means: the worst case of the machine, computed and printed by `interlock check`.

    turns     visits to states, waits for people not counted
    visits    turns in any one state (a row's own `visits=` goes before)
    calls     attempts at model and tool calls
    tokens    in and out, summed over model calls
    usd       money, dollars; stored as integer nano-dollars
    seconds   active time: while a worker holds the run, back-off included, parked time not
    warn_at   the share of tokens or usd at which the run is handed over (`on_warn="person"`) or ended ("end")
    mode      "hard": worst cases are held before a call, so the ceiling isn't passed as long as the provider keeps
              its output cap; "estimate": likely costs are held, and a call may overshoot
    illegal_moves  replies of a model that name no legal move, after the first, before the turn ends `invalid`
    repeats   equal turns in one state (same calls, same results, same changes) that end `stalled`; None: never
    attempts  tries of one effect, the first included
    wrap_up   the share of every ceiling kept back for states reached by `limit_reached` or `budget_spent`
    """

    turns: int = 50
    visits: int | None = None
    calls: int | None = None
    tokens: int | None = None
    usd: float | Decimal | None = None
    seconds: float = 3600.0
    warn_at: float = 0.8
    on_warn: Literal["person", "end"] = "person"
    mode: Literal["hard", "estimate"] = "hard"
    illegal_moves: int = 2
    repeats: int | None = 3
    attempts: int = 4
    wrap_up: float = 0.0

    def problems(self) -> list[str]:
        """What is wrong with these numbers, each a sentence that says what to write instead."""
        found = []
        for name in ("turns", "attempts"):  # without a turn, or a try of it, nothing can happen
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                found.append(f"limits: `{name}` must be a whole number from 1 up, not {getattr(self, name)!r}")
        if self.visits is not None and (not _whole(self.visits) or self.visits < 1):
            found.append(f"limits: `visits` must be a whole number from 1 up, or None, not {self.visits!r}")
        for name in ("calls", "tokens", "illegal_moves"):
            value = getattr(self, name)
            unset = value is None and name != "illegal_moves"
            if not unset and (not _whole(value) or value < 0):
                found.append(f"limits: `{name}` must be a whole number from 0 up, not {value!r}")
        if self.repeats is not None and (not _whole(self.repeats) or self.repeats < 2):
            found.append(f"limits: `repeats` must be a whole number from 2 up, or None, not {self.repeats!r}")
        if self.usd is not None and not _number(self.usd):
            found.append(f"limits: `usd` must be dollars from 0 up, not {self.usd!r}")
        if not _number(self.seconds) or self.seconds <= 0:
            found.append(f"limits: `seconds` must be above 0, not {self.seconds!r}")
        if not _number(self.warn_at) or not 0 < self.warn_at <= 1:
            found.append(f"limits: `warn_at` must be a share above 0 and up to 1, not {self.warn_at!r}")
        if not _number(self.wrap_up) or not 0 <= self.wrap_up < 1:
            found.append(f"limits: `wrap_up` must be a share from 0 and below 1, not {self.wrap_up!r}")
        if self.mode not in ("hard", "estimate"):
            found.append(f'limits: `mode` must be "hard" or "estimate", not {self.mode!r}')
        if self.on_warn not in ("person", "end"):
            found.append(f'limits: `on_warn` must be "person" or "end", not {self.on_warn!r}')
        return found


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return False
    return value == value and 0 <= value < float("inf")


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in nano-dollars per million tokens (0.25 USD per million = 250_000_000)."""

    input: int
    output: int
    cached_input: int | None = None  # None: as `input`

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input"):
            rate = getattr(self, name)
            if rate is not None and not (_number(rate) and rate == int(rate)):
                raise BadInput(f"a price is nano-dollars per million tokens, whole and from 0 up, not {name}={rate!r}")
            object.__setattr__(self, name, None if rate is None else int(rate))  # 0.25e9 is a float

    @classmethod
    def per_million(
        cls, input: float | Decimal, output: float | Decimal, cached_input: float | Decimal | None = None
    ) -> Price:
        """From dollars per million tokens, as providers print them."""
        return cls(nanousd(input), nanousd(output), None if cached_input is None else nanousd(cached_input))

    def cost(self, tokens_in: int, tokens_out: int, cached_in: int = 0) -> int:
        """Nano-dollars of one call, rounded up. `cached_in` is the part of `tokens_in` served from a cache."""
        cached = self.input if self.cached_input is None else self.cached_input
        total = (tokens_in - cached_in) * self.input + cached_in * cached + tokens_out * self.output
        return -(-total // 1_000_000)

    def cost_max(self, tokens_in: int, tokens_out: int) -> int:
        """Nano-dollars that one call may cost: none of its input from a cache, or all of it, whichever is dearer."""
        return -(-(tokens_in * self.dearest_input + tokens_out * self.output) // 1_000_000)

    @property
    def dearest_input(self) -> int:
        return self.input if self.cached_input is None else max(self.input, self.cached_input)
