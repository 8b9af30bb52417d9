"""Prices: the user's table goes first, the dearest that may apply counts, and bounds are never below the bytes."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.agent.model import Message, ModelCall, ModelRequest, Offer
from interlock.agent.prices import input_bound, price_of
from interlock.errors import UnknownPrice
from interlock.machine.limits import Price, nanousd

OWN = Price.per_million(1, 2)


@pytest.mark.parametrize("stated", ["openai:m@http://127.0.0.1:1/v1", "openai:m", "m"])
def test_the_users_table_answers_by_full_name_without_address_and_without_provider(stated: str) -> None:
    assert price_of("openai:m@http://127.0.0.1:1/v1", {stated: OWN}) == OWN


def test_the_more_exact_name_goes_first() -> None:
    table = {"m": Price(1, 1), "openai:m": OWN}
    assert price_of("openai:m", table) == OWN
    assert price_of("local:m", table) == Price(1, 1)


def test_the_table_goes_before_the_snapshot() -> None:
    assert price_of("openai:gpt-5-mini", {"gpt-5-mini": OWN}) == OWN


def test_the_snapshot_knows_list_prices_in_nano_dollars() -> None:
    assert price_of("openai:gpt-5-mini", {}) == Price(nanousd(0.25), nanousd(2), nanousd(0.025))
    assert price_of("anthropic:claude-haiku-4-5", {}) == Price(nanousd(1), nanousd(5), nanousd(0.1))


def test_an_address_is_taken_to_charge_what_its_provider_does() -> None:
    assert price_of("openai:gpt-5-mini@http://127.0.0.1:1/v1", {}) == price_of("openai:gpt-5-mini", {})


@pytest.mark.parametrize("name", ["local:llama", "openai:no-such-model", "no-such-model", "", "openai:"])
def test_a_price_that_nobody_states_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(UnknownPrice, match=r"State it: Machine\(\.\.\., prices="):
        price_of(name, {})


def test_of_tiers_the_highest_that_the_request_can_reach_counts() -> None:
    whole = price_of("anthropic:claude-sonnet-4-5", {})
    small = price_of("anthropic:claude-sonnet-4-5", {}, tokens_in_max=100_000)
    assert whole == Price(nanousd(6), nanousd(22.5), nanousd(0.6))
    assert small == Price(nanousd(3), nanousd(15), nanousd(0.3))


def test_of_prices_that_vary_over_the_day_the_dearest_counts() -> None:
    assert price_of("deepseek:deepseek-chat", {}).output == nanousd(1.1)


def test_of_dated_prices_the_one_in_force_counts() -> None:
    assert price_of("openai:o3", {}, today=date(2025, 6, 9)).output == nanousd(40)
    assert price_of("openai:o3", {}, today=date(2025, 6, 10)).output == nanousd(8)
    assert price_of("openai:o3", {}).output == nanousd(8)


def test_writing_to_a_cache_counts_where_the_provider_does_it_by_itself() -> None:
    """gpt-5.6 bills cache writes at 1.25 of input, unasked."""
    assert price_of("openai:gpt-5.6", {}, tokens_in_max=1).input == nanousd(5)


texts = st.text(max_size=200)
requests = st.builds(
    ModelRequest,
    model=st.just("m"),
    messages=st.lists(
        st.one_of(
            st.builds(Message, st.just("user"), texts),
            st.builds(
                Message, st.just("assistant"), texts, st.tuples(st.builds(ModelCall, texts, texts, st.just({"a": "ü"})))
            ),
            st.builds(Message, st.just("tool"), texts, call_id=texts, name=texts),
        ),
        max_size=5,
    ).map(tuple),
    instructions=texts,
    offers=st.lists(st.builds(Offer, texts, texts, st.just({"type": "object"})), max_size=3).map(tuple),
)


@given(requests)
def test_the_hard_bound_is_never_below_the_bytes_and_never_below_the_estimate(request: ModelRequest) -> None:
    assert input_bound(request) > request.size_bytes()
    assert 0 < input_bound(request, "estimate") <= input_bound(request)


@pytest.mark.parametrize(
    "message",
    [
        Message("tool", name="\N{GRINNING FACE}" * 500),
        Message("assistant", calls=(ModelCall("c", "\N{GRINNING FACE}" * 500, {}),)),
        Message("assistant", calls=(ModelCall("\N{GRINNING FACE}" * 500, "look", {}),)),
        Message("tool", call_id="\N{GRINNING FACE}" * 500),
    ],
    ids=["an answer's name", "a call's name", "a call's id", "an answer's id"],
)
def test_names_and_ids_count_by_their_bytes_in_whatever_script(message: Message) -> None:
    """They are the model's and the provider's to choose, and are sent back with every further request."""
    assert input_bound(ModelRequest("m", (message,))) > 2000


@given(requests, texts)
def test_a_longer_request_has_no_lower_bound(request: ModelRequest, more: str) -> None:
    longer = ModelRequest("m", (*request.messages, Message("user", more)), request.instructions, request.offers)
    for mode in ("hard", "estimate"):
        assert input_bound(longer, mode) > input_bound(request, mode)


def test_the_worst_cost_is_all_input_at_its_dearest_and_all_output_allowed() -> None:
    assert Price.per_million(1, 10, cached_input=0.1).cost_max(1000, 500) == 1000 * 1000 + 500 * 10_000
    assert Price.per_million(1, 10, cached_input=2).cost_max(1000, 500) == 1000 * 2000 + 500 * 10_000
    assert Price.per_million(1, 10).cost_max(1000, 500) == Price.per_million(1, 10).cost(1000, 500)
