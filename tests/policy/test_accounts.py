"""Accounts, retries and origins by themselves: whatever was spent and held, an admission keeps within the ceiling."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import NotGranted
from interlock.history.fold import RunState
from interlock.machine.limits import DIMENSIONS, Price
from interlock.policy.accounts import (
    OUTPUT_TOKENS_MIN,
    Admission,
    Hold,
    hold_for_model,
    hold_for_tool,
    usable,
    warnings_due,
)
from interlock.policy.grants import Grant, union
from interlock.policy.retry import BASE_SECONDS, CAP_SECONDS, delay_seconds

AMOUNT = st.integers(0, 10**12)


@st.composite
def states(draw: st.DrawFn) -> RunState:
    state = RunState()
    state.ceiling = {name: draw(AMOUNT) for name in DIMENSIONS}
    state.spent = {name: draw(AMOUNT) for name in DIMENSIONS}
    state.held = {name: draw(st.just(0) | AMOUNT) for name in DIMENSIONS}
    state.reserve = draw(st.sampled_from([0.0, 0.1, 0.5]))
    state.wrapping = draw(st.booleans())
    state.overrun = draw(st.booleans())
    return state


@given(states(), st.integers(0, 10**6), st.integers(1, 10**5), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_model_s_hold_always_fits_and_is_never_more_than_asked(
    run: RunState, bound: int, max_tokens: int, price_in: int, price_out: int
) -> None:
    hold = hold_for_model(run, bound, max_tokens, Price(price_in, price_out))
    if not isinstance(hold, Hold):
        return
    assert not run.overrun
    assert min(OUTPUT_TOKENS_MIN, max_tokens) <= hold.max_tokens <= max_tokens
    assert hold.tokens == bound + hold.max_tokens
    assert hold.nanousd == Price(price_in, price_out).cost(bound, hold.max_tokens)
    assert run.spent["tokens"] + run.held["tokens"] + hold.tokens <= usable(run, "tokens")
    assert run.spent["nanousd"] + run.held["nanousd"] + hold.nanousd <= usable(run, "nanousd")
    assert run.spent["calls"] + run.held["calls"] < usable(run, "calls")


@given(states(), st.integers(0, 10**12))
def test_a_tool_s_hold_always_fits(run: RunState, nanousd: int) -> None:
    hold = hold_for_tool(run, nanousd)
    if isinstance(hold, Hold) and nanousd:
        assert run.spent["nanousd"] + run.held["nanousd"] + nanousd <= usable(run, "nanousd")
    if run.overrun:
        assert hold in (Admission.SPENT, Admission.CALLS)


@given(states())
def test_what_is_reserved_is_usable_only_when_wrapping_up(run: RunState) -> None:
    for name in DIMENSIONS:
        assert usable(run, name) <= run.ceiling[name]
        assert (usable(run, name) == run.ceiling[name]) or not run.wrapping


def test_the_warning_is_due_at_the_share_and_once_per_ceiling() -> None:
    run = RunState()
    run.ceiling["tokens"], run.warn_at = 1_000, 0.8
    run.spent["tokens"] = 799
    assert list(warnings_due(run)) == []
    run.spent["tokens"] = 800
    assert list(warnings_due(run)) == [("tokens", 800, 1_000)]
    run.warned["tokens"] = 1_000
    assert list(warnings_due(run)) == []
    run.ceiling["tokens"] = 900
    assert [name for name, _, _ in warnings_due(run)] == ["tokens"]


@given(st.integers(1, 60), st.integers())
def test_backoff_is_full_jitter_within_its_cap(attempt: int, seed: int) -> None:
    delay = delay_seconds(attempt, Random(seed))
    assert 0 <= delay <= min(CAP_SECONDS, BASE_SECONDS * 2 ** (attempt - 1))


@given(st.integers(1, 9), st.integers(), st.floats(0, 3600))
def test_retry_after_is_never_undercut(attempt: int, seed: int, retry_after: float) -> None:
    assert delay_seconds(attempt, Random(seed), retry_after) >= retry_after


def test_grants_read_what_they_write_and_nothing_else() -> None:
    grant = Grant("s", frozenset({"a"}), frozenset({"b"}))
    grant.may_read("a")
    grant.may_read("b")
    grant.may_write("b")
    for refused in (lambda: grant.may_read("c"), lambda: grant.may_write("a")):
        with pytest.raises(NotGranted, match="`s`"):
            refused()


@given(st.lists(st.sampled_from(["user", "tool", "tool:x", "", "user,tool"])))
def test_origins_are_a_union(origins: list[str]) -> None:
    found = union(origins)
    assert set(filter(None, found.split(","))) == {part for o in origins for part in o.split(",") if part}
    assert union([found, found]) == found
