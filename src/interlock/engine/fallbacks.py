"""Fallbacks: which of those that can do an effect does its next attempt, and why those before it are passed over. Pure.

In the order in which they were declared. One is passed over when its breaker is open, or when it has said in this
effect that asking again is of no use: its quota is used up, it refuses the key, it asks to be left alone for long, or
all the attempts it gets are spent.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from interlock.canonical import Json
from interlock.engine.attempts import AttemptError, Effect
from interlock.engine.journal import Entry, Tried
from interlock.machine.outcomes import EngineOutcome
from interlock.policy.breaker import Breaker, Passage, State, model_breaker, passage

Passed = tuple[Mapping[str, Json], ...]

REFUSING = frozenset({"quota", "auth"})
"""Failures that no second try mends."""

LIMITED = "rate_limited"
"""It may ask to be left alone for longer than a run waits in place: then the next is asked at once."""


class Chosen(Struct, frozen=True, gc=False):
    """Candidate number `at`. `probes`: only as the probe of its breaker, which has to be asked for."""

    at: int
    passed: Passed
    probes: bool


class Prevented(Struct, frozen=True, gc=False):
    """None of them."""

    outcome: EngineOutcome
    passed: Passed

    @property
    def why(self) -> str:
        return "; ".join(_said(passed) for passed in self.passed)


def choose(effect: Effect, entry: Entry | None, known: Mapping[str, Breaker], now: int) -> Chosen | Prevented:
    """Who does the next attempt. `known`: the breakers that aren't at rest."""
    passed: list[Mapping[str, Json]] = []
    for at, name in enumerate(effect.candidates):
        given_up = _given_up(entry, name)
        if given_up is not None:
            passed.append(_passed(name, _why_given_up(given_up), given_up.message))
            continue
        breaker = known.get(name)
        may = Passage.FREE if _probing(effect, at, breaker) else passage(breaker, now)
        if may != Passage.SHUT or breaker is None:
            return Chosen(at, tuple(passed), may == Passage.PROBE)
        passed.append(_passed(name, "open", breaker.reason, breaker.until))
    spent = all(each["why"] in (EngineOutcome.RETRIES_SPENT, LIMITED) for each in passed)
    return Prevented(EngineOutcome.RETRIES_SPENT if spent else EngineOutcome.UNAVAILABLE, tuple(passed))


def others_left(effect: Effect, entry: Entry, failed: AttemptError) -> bool:
    """Whether another may be asked now that this one isn't any more."""
    if not (failed.retry or failed.kind in REFUSING):
        return False  # what it said would be said by every other
    others = (name for at, name in enumerate(effect.candidates) if at != effect.at)
    return any(_given_up(entry, name) is None for name in others)


def _given_up(entry: Entry | None, name: str) -> Tried | None:
    """The attempt after which it isn't asked again."""
    tried = () if entry is None else entry.tried
    return next((each for each in tried if each.over and name == model_breaker(each.model)), None)


def _why_given_up(tried: Tried) -> str:
    return tried.kind if tried.kind in (*REFUSING, LIMITED) else EngineOutcome.RETRIES_SPENT


def _probing(effect: Effect, at: int, breaker: Breaker | None) -> bool:
    """Whether the effect is the probe of this breaker."""
    if not effect.probing or at != effect.at or breaker is None:
        return False
    return breaker.state == State.HALF_OPEN and breaker.probe == effect.probing


def _passed(name: str, why: str, reason: str, until: int | None = None) -> Mapping[str, Json]:
    said: dict[str, Json] = {"name": name.partition(":")[2], "why": str(why), "reason": reason[:200]}
    return said if until is None else {**said, "until": until}


_WORDS = {
    "open": "its breaker is open",
    "quota": "its quota is used up",
    "auth": "it refuses the key",
    LIMITED: "it takes no more calls for now",
}


def _said(passed: Mapping[str, Json]) -> str:
    words = _WORDS.get(passed["why"], "all its attempts failed")
    return f"{passed['name']}: {words} ({passed['reason']})" if passed["reason"] else f"{passed['name']}: {words}"
