"""Prices and bounds: what a model costs, and how many tokens a request can be billed for at most.

Prices come from the user's own table, else from the snapshot that ships with genai-prices; nothing is downloaded.
Knows no account and no engine: it answers with integers, others hold and settle them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache
from math import ceil
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from interlock.agent.model import Message, ModelRequest, Offer, utf8_bytes
from interlock.errors import UnknownPrice
from interlock.machine.limits import Price, nanousd

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

# Hard mode: tokenizers work on bytes, so text of n UTF-8 bytes is at most n tokens. Providers wrap it in framing of
# their own, which they bill too. What they document, and what we take (about three times as much):
REQUEST_TOKENS = 64  # begin, end and the opening of the answer: 3 at OpenAI
OFFERS_TOKENS = 1024  # once, when anything is offered: Anthropic's tool prompt, 261 to 530 by model
OFFER_TOKENS = 64  # per tool: 7 to 12 of signature; and keywords that a client adds to its schema
MESSAGE_TOKENS = 32  # per message: 3 or 4 for its role
CALL_TOKENS = 64  # per call in a message, and per answer to one: its braces and its id, up to ID_BYTES
ID_BYTES = 40  # ids are the provider's to choose; what goes beyond is counted as text

ESTIMATED_BYTES_PER_TOKEN = 2.5  # below English prose (about 4) and JSON (about 3), so that it rarely undershoots


def price_of(
    model: str, table: Mapping[str, Price], *, today: date | None = None, tokens_in_max: int | None = None
) -> Price:
    """What `model` ("openai:gpt-5-mini", also with "@http://...") costs.

    The user's `table` goes before: by the full name, the name without address, then without provider. Otherwise
    the snapshot's list price for on-demand text, of which the dearest that may apply is taken: of prices that vary
    over the day, and of tiers by size (only those that start below `tokens_in_max`, when given). Where a provider
    bills writing to its cache on its own accord, that price is taken for input.

    `today` chooses among dated prices; without it, the last announced one counts. A server behind an address is
    taken to charge what the named provider does: state its price in `table` if it doesn't.
    Raises `UnknownPrice`.
    """
    for name in _names(model):
        if name in table:
            return table[name]
    listed = _listed_price(model.split("@http", 1)[0], today, tokens_in_max)
    if listed is None:
        raise UnknownPrice(
            f"nobody states what {model!r} costs, so its worst case can't be held. State it: Machine(..., "
            f"prices={{{_names(model)[-1]!r}: Price.per_million(input=..., output=...)}}) (0 for a model of your own)"
        )
    return listed


class Bulk(Struct, frozen=True, gc=False):
    """What a request, or a part of one, weighs: UTF-8 `bytes`, and the tokens of `framing` that a provider may bill
    for wrapping them."""

    bytes: int = 0
    framing: int = 0

    def __add__(self, other: Bulk) -> Bulk:
        return Bulk(self.bytes + other.bytes, self.framing + other.framing)

    def __sub__(self, other: Bulk) -> Bulk:
        return Bulk(self.bytes - other.bytes, self.framing - other.framing)

    @property
    def tokens_max(self) -> int:
        """Tokens that it may be billed for at most, as long as a token is at least a byte and framing stays within
        the figures above."""
        return self.bytes + self.framing

    def tokens_likely(self) -> int:
        """Tokens that it will hardly exceed, for a model that nothing is known of (see `agent.estimates`)."""
        # Framing follows the number of parts and not their size; the documented figures are a third of the hard ones.
        return ceil(self.bytes / ESTIMATED_BYTES_PER_TOKEN) + self.framing // 3


def bulk_of(request: ModelRequest) -> Bulk:
    """The whole of a request."""
    bulk = bulk_of_frame(request.instructions, request.offers)
    return sum([bulk_of_message(message) for message in request.messages], bulk)


def bulk_of_frame(instructions: str, offers: Sequence[Offer]) -> Bulk:
    """A request without its messages."""
    framing = REQUEST_TOKENS + (MESSAGE_TOKENS if instructions else 0)
    framing += OFFERS_TOKENS + OFFER_TOKENS * len(offers) if offers else 0
    return Bulk(utf8_bytes(instructions) + sum(offer.size_bytes() for offer in offers), framing)


def bulk_of_message(message: Message) -> Bulk:
    ids = [call.id for call in message.calls] if message.calls else [message.call_id] if message.call_id else []
    beyond = sum([utf8_bytes(id_) for id_ in ids]) - ID_BYTES * len(ids)
    return Bulk(message.size_bytes() + max(0, beyond), MESSAGE_TOKENS + CALL_TOKENS * len(ids))


def input_bound(request: ModelRequest, mode: Literal["hard", "estimate"] = "hard") -> int:
    """Tokens that `request` may be billed for as input: never more ("hard"), or hardly ("estimate")."""
    bulk = bulk_of(request)
    return bulk.tokens_max if mode == "hard" else bulk.tokens_likely()


@lru_cache(maxsize=512)
def _names(model: str) -> list[str]:
    """Most exact first: "openai:m@http://h", "openai:m", "m"."""
    name = model.split("@http", 1)[0]
    return list(dict.fromkeys((model, name, name.split(":", 1)[-1])))


@cache
def _snapshot() -> DataSnapshot:
    # Deferred: 0.4 s of import, needed only by machines with models. Built here, so that a process which updates
    # genai-prices' shared snapshot in the background doesn't change prices under a run.
    from genai_prices.data import providers
    from genai_prices.data_snapshot import DataSnapshot

    return DataSnapshot(providers=providers, from_auto_update=False)


@lru_cache(maxsize=512)
def _listed_price(name: str, today: date | None, tokens_in_max: int | None) -> Price | None:
    provider, _, model = name.rpartition(":")
    try:
        _, info = _snapshot().find_provider_model(model, None, provider or None, None)
    except LookupError:
        return None
    applicable = [_price(prices, provider, tokens_in_max) for prices in _prices_in_force(info, today)]
    known = [price for price in applicable if price is not None]
    return _dearest(known) if known else None


def _prices_in_force(info: ModelInfo, today: date | None) -> list[ModelPrice]:
    """The last dated list that has begun, and every list that holds for a part of the day."""
    from genai_prices.types import ModelPrice, TimeOfDateConstraint

    if isinstance(info.prices, ModelPrice):
        return [info.prices]
    daily = [one.prices for one in info.prices if isinstance(one.constraint, TimeOfDateConstraint)]
    dated = [one for one in info.prices if not isinstance(one.constraint, TimeOfDateConstraint)]
    begun = [one for one in dated if _has_begun(one.constraint, today)] or dated[:1]
    return [one.prices for one in begun[-1:]] + daily


def _has_begun(constraint: object, today: date | None) -> bool:
    start = getattr(constraint, "start_date", None)
    return start is None or today is None or start <= today


def _price(listed: ModelPrice, provider: str, tokens_in_max: int | None) -> Price | None:
    rates = {
        unit: _highest(getattr(listed, f"{unit}_mtok", None), tokens_in_max)
        for unit in ("input", "output", "cache_read", "cache_write")
    }
    if rates["input"] is None or rates["output"] is None:
        return None  # priced by something else than text in and out
    # Anthropic writes to its cache only when asked to, and we don't ask; others do it by themselves.
    written = rates["cache_write"] if provider != "anthropic" else None
    return Price(max(rates["input"], written or 0), rates["output"], rates["cache_read"])


def _highest(rate: object, tokens_in_max: int | None) -> int | None:
    """A rate, or the highest of a tiered one, in nano-dollars per million tokens."""
    from genai_prices.types import TieredPrices

    if isinstance(rate, TieredPrices):
        tiers = [tier.price for tier in rate.tiers if tokens_in_max is None or tier.start < tokens_in_max]
        return nanousd(max([rate.base, *tiers]))
    return nanousd(rate) if isinstance(rate, Decimal | int | float) else None


def _dearest(prices: list[Price]) -> Price:
    cached = [price.input if price.cached_input is None else price.cached_input for price in prices]
    return Price(max(price.input for price in prices), max(price.output for price in prices), max(cached))
