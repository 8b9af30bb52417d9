"""Estimates: a model's own calls tell how many bytes its tokens hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlock.agent.estimates import CALLS_MIN, CAUTION, Estimates
from interlock.agent.prices import Bulk

M = "acme:small"


def taught(bytes_per_token: float, calls: int = CALLS_MIN, size: int = 4_000) -> Estimates:
    estimates = Estimates()
    for _ in range(calls):
        estimates.settle(M, Bulk(size, 100), round(size / bytes_per_token))
    return estimates


def test_nothing_is_learned_from_a_call_or_two() -> None:
    bulk = Bulk(10_000, 90)
    assert taught(4.0, calls=CALLS_MIN - 1).tokens(M, bulk) == bulk.tokens_likely()


def test_what_was_billed_tells_what_will_be_with_some_caution() -> None:
    found = taught(4.0).tokens(M, Bulk(10_000, 90))
    assert abs(found - 10_000 / 4.0 / CAUTION) <= 1


def test_each_model_is_learned_by_itself() -> None:
    bulk = Bulk(10_000, 90)
    assert taught(4.0).tokens("acme:large", bulk) == bulk.tokens_likely()


def test_texts_that_change_are_learned_anew() -> None:
    estimates = taught(4.0, calls=500)
    for _ in range(700):
        estimates.settle(M, Bulk(4_000, 100), 2_000)
    found = estimates.tokens(M, Bulk(10_000, 90))
    assert found > 10_000 / 2.2 / CAUTION


@given(st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)), max_size=20), st.integers(0, 10**6))
def test_an_estimate_never_exceeds_the_hard_bound(calls: list[tuple[int, int]], size: int) -> None:
    """Whatever a provider bills, nothing or the impossible."""
    estimates = Estimates()
    for seen, tokens in calls:
        estimates.settle(M, Bulk(seen, 10), tokens)
    assert 0 <= estimates.tokens(M, Bulk(size, 64)) <= size + 64
