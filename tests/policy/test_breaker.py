"""When a breaker opens, who may be its probe, and what closes it: decided from values alone."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from interlock.errors import BadInput
from interlock.policy import breaker as rules
from interlock.policy.breaker import Breaker, Change, Passage, State, Terms

NAME = "model:openai:gpt-5-mini"
TERMS = Terms(failures=3, rate=0.5, calls=10, window=60, open_for=30)
OPEN_MS = 30_000


def fail(breaker: Breaker, at: int, sent_at: int | None = None, calls: int = 0, terms: Terms = TERMS) -> Breaker:
    return rules.failed(breaker, at, at if sent_at is None else sent_at, calls, "503", terms)[0]


def succeed(breaker: Breaker, at: int, sent_at: int | None = None, calls: int = 1, terms: Terms = TERMS) -> Breaker:
    return rules.succeeded(breaker, at, at if sent_at is None else sent_at, calls, terms)


def opened(at: int = 100) -> Breaker:
    breaker = Breaker(NAME)
    for _ in range(3):
        breaker = fail(breaker, at)
    assert breaker.state == State.OPEN
    return breaker


def half_open(at: int = 100) -> Breaker:
    given = rules.given_probe(opened(at), at + OPEN_MS, at + OPEN_MS + 10_000, "run a")
    assert given is not None
    return given[0]


def test_so_many_failures_in_a_row_open_it_and_say_why() -> None:
    two = fail(fail(Breaker(NAME), 10), 20)
    assert two.state == State.CLOSED and not two.at_rest
    breaker, change = rules.failed(two, 30, 30, 0, "503", TERMS)
    assert (breaker.state, breaker.until, breaker.failures) == (State.OPEN, 30 + OPEN_MS, ())
    assert change == Change("opened", NAME, "open", 30, 30 + OPEN_MS, 0, "3 failures in a row, the last: 503")


def test_a_call_that_was_sent_later_and_answered_forgives_what_failed_before() -> None:
    breaker = succeed(fail(fail(Breaker(NAME), 10), 20), 30)
    assert breaker.at_rest and fail(fail(breaker, 40), 50).state == State.CLOSED


def test_an_answer_to_a_call_that_was_sent_before_a_failure_forgives_nothing() -> None:
    """An outage begins at 100. What was sent before it is still being answered while new calls fail."""
    breaker = Breaker(NAME)
    for n in range(3):
        breaker = succeed(fail(breaker, 110 + n, sent_at=105 + n), 111 + n, sent_at=50 + n)
    assert breaker.state == State.OPEN


def test_failures_count_in_whatever_order_they_are_told() -> None:
    breaker = fail(fail(Breaker(NAME), 10, sent_at=9), 11, sent_at=3)
    assert breaker.failures == (3, 9) and succeed(breaker, 12, sent_at=5).failures == (9,)


def test_many_calls_side_by_side_of_which_a_few_fail_are_no_outage(chance: Random) -> None:
    """10,000 calls, 50 at a time, of which 2 % fail in the same time that others take."""
    terms, breaker, told = Terms(), Breaker(NAME), []
    for n in range(10_000):
        sent = n * 40
        told.append((sent + chance.randint(1500, 2500), sent, chance.random() < 0.02))
    for at, sent, bad in sorted(told):
        breaker = fail(breaker, at, sent, terms=terms) if bad else succeed(breaker, at, sent, terms=terms)
        assert breaker.state == State.CLOSED


def test_a_share_of_failures_in_a_window_opens_it_too() -> None:
    breaker = Breaker(NAME)
    for n in range(4):
        breaker = succeed(fail(breaker, 10 * n), 10 * n + 5)
    breaker = succeed(breaker, 50)
    assert breaker.state == State.CLOSED and (breaker.window_calls, breaker.window_failed) == (9, 4)
    breaker, change = rules.failed(breaker, 60, 60, 0, "503", TERMS)
    assert breaker.state == State.OPEN and change is not None
    assert change.reason == "5 of 10 calls failed within 60 s, the last: 503"


def test_answers_that_were_only_counted_belong_to_the_share() -> None:
    """A worker doesn't tell of each: it says how many there were when it has to say something."""
    breaker = Breaker(NAME)
    for n in range(2):
        breaker = fail(breaker, n, calls=50)
    assert breaker.window_calls == 102 and breaker.state == State.CLOSED


def test_what_happened_in_an_earlier_window_is_forgotten() -> None:
    breaker = fail(succeed(Breaker(NAME), 0, calls=9), 60_000)
    assert (breaker.window_at, breaker.window_calls, breaker.window_failed) == (60_000, 1, 1)


@pytest.mark.parametrize(("at", "may"), [(0, Passage.SHUT), (OPEN_MS - 1, Passage.SHUT), (OPEN_MS, Passage.PROBE)])
def test_open_means_no_call_and_then_one_probe(at: int, may: Passage) -> None:
    assert rules.passage(opened(100), 100 + at) == may
    assert not rules.holds(opened(100), 0)


def test_one_probe_is_given_and_the_next_who_asks_gets_none_while_its_lease_runs() -> None:
    breaker = half_open(100)
    assert (breaker.state, breaker.probe) == (State.HALF_OPEN, 1)
    assert rules.given_probe(breaker, breaker.until or 0, 0, "run b") is not None
    assert rules.given_probe(breaker, (breaker.until or 0) - 1, 0, "run b") is None


def test_only_the_probe_passes_and_only_once() -> None:
    breaker = half_open()
    assert [rules.holds(breaker, probe) for probe in (0, 1, 2)] == [False, True, False]
    assert not rules.holds(rules.used_probe(breaker, 99_999), 1)


def test_a_probe_whose_owner_is_gone_is_given_to_another_and_its_late_result_says_nothing() -> None:
    first = half_open()
    given = rules.given_probe(first, first.until or 0, 10**6, "run b")
    assert given is not None
    second, change = given
    assert second.probe == 2 and "nobody said" in change.reason and change.by == "run b"
    assert rules.probe_answered(second, 10**6, 1) == (second, None)
    assert rules.probe_failed(second, 10**6, 1, "503", TERMS) == (second, None)


def test_a_probe_that_is_answered_closes_it_and_one_that_fails_opens_it_anew() -> None:
    closed, change = rules.probe_answered(half_open(), 50_000, 1)
    assert closed.at_rest and (closed.changed_at, closed.probe) == (50_000, 1)
    assert change is not None and change.what == "closed"
    again, change = rules.probe_failed(half_open(), 50_000, 1, "still 503", TERMS)
    assert (again.state, again.until) == (State.OPEN, 50_000 + OPEN_MS)
    assert change is not None and (change.what, change.reason) == ("reopened", "probe 1 failed: still 503")


def test_a_probe_that_was_not_sent_is_free_at_once_and_the_reason_stays() -> None:
    breaker, change = rules.probe_released(half_open(), 40_000, 1)
    assert rules.passage(breaker, 40_000) == Passage.PROBE and change is not None
    assert breaker.reason == "3 failures in a row, the last: 503"


def test_failures_of_calls_that_were_sent_before_it_closed_do_not_open_it_again() -> None:
    closed, _ = rules.probe_answered(half_open(), 50_000, 1)
    for _ in range(5):
        closed = fail(closed, 60_000, sent_at=100)
    assert closed.at_rest


def test_what_a_person_opened_has_no_probe_until_its_time() -> None:
    breaker, change = rules.tripped(Breaker(NAME), 5, None, "ann", "dear")
    assert rules.passage(breaker, 10**15) == Passage.SHUT and (change.by, change.reason) == ("ann", "dear")
    timed, _ = rules.tripped(Breaker(NAME), 5, 1_000, "ann", "")
    assert rules.passage(timed, 1_000) == Passage.PROBE


def test_a_reset_forgets_everything_and_keeps_the_numbers_of_probes() -> None:
    breaker, change = rules.reset(half_open(), 70_000, "ann", "mended")
    assert breaker.at_rest and breaker.probe == 1 and change.what == "reset"
    assert rules.probe_failed(breaker, 80_000, 1, "late", TERMS) == (breaker, None)


@pytest.mark.parametrize(
    "terms", [{"failures": 0}, {"calls": 0}, {"rate": 0}, {"window": 0}, {"open_for": float("nan")}, {"open_for": 0}]
)
def test_terms_that_cannot_be_kept_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Terms(**terms)


def test_whatever_is_told_a_breaker_goes_only_where_it_is_drawn(chance: Random) -> None:
    """Random reports, probes and people: every change is one of the table, probes count up, row and log agree."""
    breaker, at, log = Breaker(NAME), 0, list[Change]()
    for _ in range(5_000):
        at += chance.choice([0, 1, 1_000, 31_000])
        sent, probe = at - chance.randint(0, 2_000), breaker.probe - chance.choice([0, 0, 1])
        before = breaker
        change: Change | None = None
        match chance.randrange(8):
            case 0 | 1 | 2:
                breaker, change = rules.failed(breaker, at, sent, 0, "x", TERMS)
            case 3:
                breaker = succeed(breaker, at, sent)
            case 4:
                given = rules.given_probe(breaker, at, at + 10_000, "run")
                breaker, change = given or (breaker, None)
            case 5:
                breaker, change = rules.probe_answered(breaker, at, probe)
            case 6:
                breaker, change = rules.probe_failed(breaker, at, probe, "x", TERMS)
            case _:
                pick = chance.randrange(30)
                if pick == 0:
                    breaker, change = rules.tripped(breaker, at, at + 5, "ann", "")
                elif pick == 1:
                    breaker, change = rules.reset(breaker, at, "ann", "")
                elif pick < 6:
                    breaker, change = rules.probe_released(breaker, at, probe)
        if change is None:
            assert breaker.state == before.state
        else:
            sources, to = rules.MOVES[change.what]
            log.append(change)
            assert before.state in sources and (breaker.state, change.state) == (to, to)
            assert (change.until, change.probe) == (breaker.until, breaker.probe)
        assert breaker.probe - before.probe in (0, 1) and len(breaker.failures) < TERMS.failures
    assert {change.what for change in log} == set(rules.MOVES) and rules.contradiction(breaker, log) is None


def test_a_row_and_a_log_that_say_different_things_are_told_apart() -> None:
    breaker, change = rules.tripped(Breaker(NAME), 5, None, "ann", "")
    closed, _ = rules.reset(breaker, 6, "bob", "")
    assert rules.contradiction(breaker, [change]) is None
    assert rules.contradiction(breaker, []) and rules.contradiction(closed, [change])
    assert rules.contradiction(breaker, [change, Change("closed", NAME, "closed", 7), change])
