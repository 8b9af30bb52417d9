"""Faults of a model provider, as data: what goes wrong, which requests it strikes, how often. Sends nothing.

    [storm(times=3, retry_after=1), delay(30, at=5), quota(when=lambda request: "refund" in request.instructions)]

A plan is read from the left: a request is struck by the first fault that still has strikes and that it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from interlock.agent.model import ModelRequest

FaultKind: TypeAlias = Literal[
    "status",  # an HTTP error, as `status`, `code` and `message` say
    "delay",  # the right answer, `seconds` late
    "hang",  # no answer at all
    "cut",  # the connection breaks in the middle of the answer
    "drop",  # the connection breaks before the answer
    "malformed",  # status 200, and a body that is no JSON
]

ALWAYS = 1_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    at           strikes from this request on (the first is 1)
    times        how many requests it strikes
    when         strikes only requests for which this holds
    retry_after  seconds, or the text of the Retry-After header (a date)
    seconds      of a delay
    code         the provider's own name for the error
    headers      further response headers
    """

    kind: FaultKind
    at: int = 1
    times: int = 1
    when: Callable[[ModelRequest], bool] | None = None
    retry_after: float | str | None = None
    seconds: float = 0.0
    status: int = 500
    code: str = ""
    message: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def fits(self, number: int, request: ModelRequest) -> bool:
        return number >= self.at and (self.when is None or self.when(request))

    @property
    def name(self) -> str:
        return f"{self.kind} {self.status}" if self.kind == "status" else self.kind

    def wire_headers(self) -> dict[str, str]:
        """Whole seconds go as Retry-After, fractions as retry-after-ms, which only some clients read."""
        headers = dict(self.headers)
        if isinstance(self.retry_after, str):
            headers["Retry-After"] = self.retry_after
        elif self.retry_after is not None and self.retry_after == int(self.retry_after):
            headers["Retry-After"] = str(int(self.retry_after))
        elif self.retry_after is not None:
            headers["retry-after-ms"] = str(round(self.retry_after * 1000))
        return headers


When: TypeAlias = Callable[[ModelRequest], bool] | None


def status(
    status: int,
    *,
    at: int = 1,
    times: int = 1,
    when: When = None,
    retry_after: float | str | None = None,
    code: str = "",
    message: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Fault:
    """Any HTTP error."""
    return Fault(
        "status",
        at=at,
        times=times,
        when=when,
        retry_after=retry_after,
        status=status,
        code=code,
        message=message,
        headers=headers,
    )


def storm(times: int = 3, *, at: int = 1, when: When = None, retry_after: float | str | None = 1) -> Fault:
    """503, several times in a row."""
    return status(503, at=at, times=times, when=when, retry_after=retry_after, message="The server is not available")


def overloaded(times: int = 1, *, at: int = 1, when: When = None) -> Fault:
    """529, Anthropic's own."""
    return status(529, at=at, times=times, when=when, code="overloaded_error", message="Overloaded")


def rate_limited(times: int = 1, *, at: int = 1, when: When = None, retry_after: float | str | None = 1) -> Fault:
    message = "Rate limit reached for requests"
    return status(
        429, at=at, times=times, when=when, retry_after=retry_after, code="rate_limit_exceeded", message=message
    )


def quota(*, at: int = 1, times: int = ALWAYS, when: When = None) -> Fault:
    """The account's money is used up: a 429 that no waiting cures."""
    message = "You exceeded your current quota, please check your plan and billing details"
    return status(429, at=at, times=times, when=when, code="insufficient_quota", message=message)


def auth(*, at: int = 1, times: int = ALWAYS, when: When = None) -> Fault:
    return status(401, at=at, times=times, when=when, code="invalid_api_key", message="Incorrect API key provided")


def overflow(*, at: int = 1, times: int = 1, when: When = None) -> Fault:
    """The request is larger than the model's window, in the words of either provider."""
    return status(400, at=at, times=times, when=when, code="context_length_exceeded", message="prompt is too long")


def delay(seconds: float, *, at: int = 1, times: int = 1, when: When = None) -> Fault:
    return Fault("delay", at=at, times=times, when=when, seconds=seconds)


def hang(*, at: int = 1, times: int = 1, when: When = None) -> Fault:
    return Fault("hang", at=at, times=times, when=when)


def cut(*, at: int = 1, times: int = 1, when: When = None) -> Fault:
    return Fault("cut", at=at, times=times, when=when)


def drop(*, at: int = 1, times: int = 1, when: When = None) -> Fault:
    return Fault("drop", at=at, times=times, when=when)


def malformed(*, at: int = 1, times: int = 1, when: When = None) -> Fault:
    return Fault("malformed", at=at, times=times, when=when)


class Plan:
    """Faults, and how often each has struck. Not shared between threads."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._faults = list(faults)
        self._struck = [0] * len(self._faults)

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)
        self._struck.append(0)

    def strike(self, number: int, request: ModelRequest) -> Fault | None:
        """The fault for this request, one strike of it used."""
        for place, fault in enumerate(self._faults):
            if self._struck[place] < fault.times and fault.fits(number, request):
                self._struck[place] += 1
                return fault
        return None
