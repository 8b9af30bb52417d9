"""Breakers: when a model or a tool that fails is left alone, and how it is tried again. Pure: knows no store, no clock.

    closed --opened--> open --probed--> half_open --closed--> closed
                        ^--------reopened--------'              a person: tripped > open, reset > closed

Closed, calls pass. Open, none does. Half-open, one call (the probe) passes, under a lease: if its owner is gone, the
next one who asks gets the next probe. The pattern is Michael Nygard's ("Release It!", 2007, "Circuit Breaker").

Two rules open it: failures in a row, for when nothing works; and a share of all calls in a window of time, for when
much doesn't. "In a row" goes by the order of *sending*: a failure counts until a call that was sent after it succeeds.
So answers to calls that were sent before an outage, which go on coming in while new ones fail, don't hide it; and of
many calls side by side a few bad ones don't look like one, as good ones sent later are answered all the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from interlock.errors import BadInput

COUNTED = frozenset({"outage", "timeout", "cut", "malformed", "raised", "crashed"})
"""Kinds of failure that say that the other side doesn't work. A refusal (a limit, a quota, a key, a request that is too
large or wrong, a tool's "not done") is an answer, and what was never sent says nothing."""

UNTOLD = frozenset({"unsent", "cancelled", "lost", "abandoned"})
"""Kinds of failure that say nothing of the other side: it wasn't asked, or nobody waited for what it said."""


_SECONDS_MAX = 1e9  # thirty years: what is longer isn't meant


class State(StrEnum):
    """How a breaker stands."""

    CLOSED = "closed"  # calls pass
    OPEN = "open"  # none does
    HALF_OPEN = "half_open"  # one does: the probe


class Terms(Struct, frozen=True, gc=False):
    """When a breaker opens, and for how long.

    failures  so many in a row open it
    rate      this share of the calls of one window opens it, if there were at least `calls`; above 1: never
    window    seconds of a window
    open_for  seconds until the first probe, and between two of them
    """

    failures: int = 5
    rate: float = 0.5
    calls: int = 20
    window: float = 60.0
    open_for: float = 30.0

    def __post_init__(self) -> None:
        if self.failures < 1 or self.calls < 1:
            raise BadInput(f"a breaker opens after failures=, calls= from 1 up, not {self.failures}, {self.calls}")
        if not (self.rate > 0 and 0 < self.window < _SECONDS_MAX and 0 < self.open_for < _SECONDS_MAX):
            said = f"{self.rate}, {self.window}, {self.open_for}"
            raise BadInput(f"a breaker takes rate=, window= and open_for= above 0, not {said}")


class Breaker(Struct, frozen=True, gc=False):
    """One breaker as it stands. `name`: "model:openai:gpt-5-mini", "tool:refund". Times in ms since 1970.

    failures  when the failures that count were sent
    until     open: no probe before then (None: until a person resets it); half-open: the probe's lease
    probe     the number of the last probe given; `sent`: its intent is committed
    """

    name: str
    state: str = State.CLOSED
    failures: tuple[int, ...] = ()
    window_at: int = 0
    window_calls: int = 0
    window_failed: int = 0
    changed_at: int = 0
    until: int | None = None
    probe: int = 0
    sent: bool = False
    reason: str = ""
    by: str = ""

    @property
    def at_rest(self) -> bool:
        """Nothing need be known of it: calls pass, and none has failed lately."""
        return self.state == State.CLOSED and not self.failures


class Change(Struct, frozen=True, gc=False):
    """One line of a breaker's log: what happened to it and how it stood then. `what`: opened, probed, reopened,
    released (a probe that was never sent), closed, tripped, reset."""

    what: str
    name: str
    state: str
    at: int
    until: int | None = None
    probe: int = 0
    reason: str = ""
    by: str = ""


MOVES: Mapping[str, tuple[frozenset[str], State]] = {
    "opened": (frozenset({State.CLOSED}), State.OPEN),
    "probed": (frozenset({State.OPEN, State.HALF_OPEN}), State.HALF_OPEN),
    "closed": (frozenset({State.HALF_OPEN}), State.CLOSED),
    "reopened": (frozenset({State.HALF_OPEN}), State.OPEN),
    "released": (frozenset({State.HALF_OPEN}), State.OPEN),
    "tripped": (frozenset(State), State.OPEN),
    "reset": (frozenset(State), State.CLOSED),
}
"""What may happen to a breaker: from which states, to which."""


class Passage(StrEnum):
    """What a call that comes to a breaker may do."""

    FREE = "free"
    PROBE = "probe"  # it may ask to be the probe
    SHUT = "shut"


def model_breaker(model: str) -> str:
    """The name of a model's breaker. A server behind an address of its own has one of its own."""
    return f"model:{model}"


def tool_breaker(tool: str) -> str:
    return f"tool:{tool}"


def passage(breaker: Breaker | None, at: int) -> Passage:
    """None: nothing is known against it."""
    if breaker is None or breaker.state == State.CLOSED:
        return Passage.FREE
    return Passage.SHUT if breaker.until is None or at < breaker.until else Passage.PROBE


def holds(breaker: Breaker | None, probe: int) -> bool:
    """Whether the intent of a call may be committed: nothing is against it, or it is the one probe."""
    if breaker is None or breaker.state == State.CLOSED:
        return True
    return breaker.state == State.HALF_OPEN and probe == breaker.probe and not breaker.sent


# -- what calls tell ------------------------------------------------------------------------------------------------


def succeeded(breaker: Breaker, at: int, sent_at: int, calls: int, terms: Terms) -> Breaker:
    """A call that was sent at `sent_at` was answered; `calls` were, since the last time that this was told."""
    if breaker.state != State.CLOSED:
        return breaker  # it was sent before
    counted = _counted(breaker, at, calls, 0, terms)
    return replace(counted, failures=tuple(sent for sent in breaker.failures if sent > sent_at))


def failed(
    breaker: Breaker, at: int, sent_at: int, calls: int, why: str, terms: Terms
) -> tuple[Breaker, Change | None]:
    """A call that was sent at `sent_at` failed, after `calls` others were answered."""
    if breaker.state != State.CLOSED or sent_at < breaker.changed_at:
        return breaker, None  # it was sent before this breaker opened or closed, and says nothing of now
    counted = _counted(breaker, at, calls, 1, terms)
    failures = tuple(sorted([*breaker.failures, sent_at]))[-terms.failures :]
    counted = replace(counted, failures=failures)
    reason = _too_many(counted, terms)
    if reason is None:
        return counted, None
    return _opened(counted, "opened", at, at + _ms(terms.open_for), f"{reason}, the last: {why}")


def _counted(breaker: Breaker, at: int, calls: int, failures: int, terms: Terms) -> Breaker:
    if at - breaker.window_at >= _ms(terms.window):
        return replace(breaker, window_at=at, window_calls=calls + failures, window_failed=failures)
    return replace(
        breaker,
        window_calls=breaker.window_calls + calls + failures,
        window_failed=breaker.window_failed + failures,
    )


def _too_many(breaker: Breaker, terms: Terms) -> str | None:
    if len(breaker.failures) >= terms.failures:
        return f"{terms.failures} failures in a row" if terms.failures > 1 else "a failure"
    calls, bad = breaker.window_calls, breaker.window_failed
    if calls >= terms.calls and bad >= terms.rate * calls:
        return f"{bad} of {calls} calls failed within {terms.window:g} s"
    return None


# -- the probe ------------------------------------------------------------------------------------------------------


def given_probe(breaker: Breaker, at: int, until: int, by: str) -> tuple[Breaker, Change] | None:
    """The next probe, leased until `until`; None when it isn't time, or somebody else's lease runs."""
    if passage(breaker, at) != Passage.PROBE:
        return None
    lost = breaker.state == State.HALF_OPEN
    given = replace(breaker, state=State.HALF_OPEN, until=until, probe=breaker.probe + 1, sent=False)
    return given, _change("probed", given, at, "nobody said what became of the one before" if lost else "", by)


def used_probe(breaker: Breaker, until: int) -> Breaker:
    """The probe's intent is committed: no other call passes under it. `until`: it has ended by then, or is lost."""
    return replace(breaker, sent=True, until=until)


def probe_answered(breaker: Breaker, at: int, probe: int) -> tuple[Breaker, Change | None]:
    """The other side works: it has answered, be it with a refusal."""
    if not _is_current(breaker, probe):
        return breaker, None
    closed = _rested(breaker, at)
    return closed, _change("closed", closed, at, f"probe {probe} was answered")


def probe_failed(breaker: Breaker, at: int, probe: int, why: str, terms: Terms) -> tuple[Breaker, Change | None]:
    if not _is_current(breaker, probe):
        return breaker, None
    return _opened(breaker, "reopened", at, at + _ms(terms.open_for), f"probe {probe} failed: {why}")


def probe_released(breaker: Breaker, at: int, probe: int) -> tuple[Breaker, Change | None]:
    """It was surely not sent: the next who asks may be the probe at once."""
    if not _is_current(breaker, probe):
        return breaker, None
    opened, change = _opened(breaker, "released", at, at, f"probe {probe} was not sent")
    return replace(opened, reason=breaker.reason), change


def _is_current(breaker: Breaker, probe: int) -> bool:
    return breaker.state == State.HALF_OPEN and breaker.probe == probe


# -- the log --------------------------------------------------------------------------------------------------------


def contradiction(breaker: Breaker, log: Iterable[Change]) -> str | None:
    """What the row of a breaker and its log, or two lines of it, say against each other. None: nothing."""
    last = Change("", breaker.name, State.CLOSED, 0)
    for change in log:
        sources, to = MOVES.get(change.what, (frozenset(), None))
        if last.state not in sources or change.state != to or change.probe - last.probe != (change.what == "probed"):
            return f"breaker {breaker.name}: its log has no move `{change.what}` from {last.state} to {change.state}"
        last = change
    if (breaker.state, breaker.probe) != (last.state, last.probe) or not (breaker.sent or breaker.until == last.until):
        return f"breaker {breaker.name}: is {breaker.state}, its log says {last.state}"
    return None


# -- people ---------------------------------------------------------------------------------------------------------


def tripped(breaker: Breaker, at: int, until: int | None, by: str, reason: str) -> tuple[Breaker, Change]:
    """Opened by a person, until they reset it or until then."""
    return _opened(breaker, "tripped", at, until, reason, by)


def reset(breaker: Breaker, at: int, by: str, reason: str) -> tuple[Breaker, Change]:
    """Closed by a person, everything forgotten."""
    closed = replace(_rested(breaker, at), by=by)
    return closed, _change("reset", closed, at, reason, by)


def _rested(breaker: Breaker, at: int) -> Breaker:
    return Breaker(breaker.name, changed_at=at, probe=breaker.probe)


def _opened(
    breaker: Breaker, what: str, at: int, until: int | None, reason: str, by: str = ""
) -> tuple[Breaker, Change]:
    opened = replace(
        breaker, state=State.OPEN, failures=(), changed_at=at, until=until, sent=False, reason=reason, by=by
    )
    return opened, _change(what, opened, at, reason, by)


def _change(what: str, breaker: Breaker, at: int, reason: str, by: str = "") -> Change:
    return Change(what, breaker.name, breaker.state, at, breaker.until, breaker.probe, reason, by)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
