"""What a provider's error means for us: its kind, whether it was billed, how long to wait. Pure; sends nothing.

Rests on the error classes of pydantic-ai, which has read the status, code and message of each provider already.
"Billed" errs to yes: only a refusal, an error that providers document as free, or a request that never left is no.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from interlock.agent.model import FailureKind, ModelFailed

if TYPE_CHECKING:
    from pydantic_ai.exceptions import ModelHTTPError

MESSAGE_CHARS_MAX = 400  # an error page of a gateway may be long, and every failure is kept in the log

# Names in pydantic_ai.exceptions, most telling first; the first class that the error is an instance of decides.
KIND_BY_ERROR: tuple[tuple[str, FailureKind], ...] = (
    ("ModelQuotaExceededError", "quota"),
    ("ModelContextWindowExceededError", "overflow"),
    ("ModelAuthenticationError", "auth"),
    ("ModelRateLimitError", "rate_limited"),
    ("ModelUnavailableError", "outage"),
    ("ModelServerError", "outage"),
    ("ModelRequestTimeout", "timeout"),
    ("ModelTimeoutError", "timeout"),
    ("ModelConnectionError", "cut"),
    ("ModelHTTPError", "rejected"),
    ("ModelRequestRejectedError", "rejected"),
    ("UserError", "rejected"),  # the client refused to send it
)

KIND_BY_STATUS: Mapping[int, FailureKind] = {
    408: "outage",  # the server gave up waiting
    409: "outage",  # a lock at the provider: its own clients try again
    413: "overflow",
    425: "outage",
}

# A gateway in front of the model answered: what stands behind it may have finished, and billed.
MAYBE_BILLED_STATUSES = frozenset({408, 502, 504, *range(520, 528)})

# Overflows that arrive as an ordinary 400, told only by their words (Anthropic, llama.cpp, others).
OVERFLOW_WORDS = re.compile(
    r"prompt is too long|exceeds? (the )?(available |model's )?context|maximum context|context[ _]length|context limit",
    re.IGNORECASE,
)


def failure_of(error: Exception, secrets: tuple[str, ...] = ()) -> ModelFailed:
    """The `ModelFailed` for whatever the provider client raised. No text in `secrets` appears in it."""
    from pydantic_ai import exceptions  # already loaded by whoever sent the request

    if isinstance(error, ModelFailed):  # our own word on a stream
        return error
    if isinstance(error, TimeoutError):
        return ModelFailed("timeout", "the answer began, and then nothing more of it came")
    if isinstance(error, UnicodeEncodeError):  # half a surrogate pair: it can't even be written down to be sent
        return ModelFailed("rejected", _told(error, secrets), billed=False)
    kind = _kind(error)
    if isinstance(error, exceptions.ModelHTTPError):
        billed = error.status_code in MAYBE_BILLED_STATUSES
        return ModelFailed(kind, _told(error, secrets), retry_after=retry_after(error), billed=billed)
    if isinstance(error, exceptions.ModelConnectionError) and error.phase in ("pool", "connect"):
        return ModelFailed("outage", _told(error, secrets), billed=False)  # nothing was sent
    billed = not isinstance(error, exceptions.UserError)
    return ModelFailed(kind, _told(error, secrets), billed=billed)


def retry_after(error: ModelHTTPError) -> float | None:
    """Seconds the provider asks to wait: `Retry-After` (seconds or a date), `retry-after-ms`, or the rate limits'
    own reset times, of those that are used up."""
    if error.retry_after is not None:
        return error.retry_after
    headers = error.headers or {}
    return _seconds(headers.get("retry-after", "")) or _reset(headers)


def _kind(error: Exception) -> FailureKind:
    from pydantic_ai import exceptions

    for name, kind in KIND_BY_ERROR:
        if isinstance(error, getattr(exceptions, name)):
            return _narrowed(error, kind) if kind == "rejected" else kind
    return "malformed"  # it answered, and nobody could read the answer


def _narrowed(error: Exception, kind: FailureKind) -> FailureKind:
    if OVERFLOW_WORDS.search(_provider_words(error)):
        return "overflow"
    return KIND_BY_STATUS.get(getattr(error, "status_code", 0), kind)


def _told(error: Exception, secrets: tuple[str, ...]) -> str:
    status = getattr(error, "status_code", None)
    words = _provider_words(error) or _innermost(error)
    told = " ".join(f"{status or ''} {words}".split())
    for secret in secrets:
        told = told.replace(secret, "[key]")
    return told if len(told) <= MESSAGE_CHARS_MAX else told[: MESSAGE_CHARS_MAX - 1] + "…"


def _provider_words(error: Exception) -> str:
    """The message inside an error body: {"message"}, {"error": {"message"}}, {"error": "..."}, or its text."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    words = inner.get("message", inner) if isinstance(inner, Mapping) else inner
    return "" if words is None else str(words)


def _innermost(error: BaseException) -> str:
    """A client wraps what happened in "Connection error."; the reason lies below."""
    said = [str(one) or type(one).__name__ for one in _causes(error)]
    return said[0] if len(said) == 1 or said[-1] in said[0] else f"{said[0]} ({said[-1]})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__


def _reset(headers: Mapping[str, str]) -> float | None:
    waits = [
        _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s?)?(?:(\d+(?:\.\d+)?)ms)?$")


def _seconds(text: str) -> float | None:
    """ "1.5", "6m0s", "1h2m", "20ms" -> seconds."""
    found = _DURATION.match(text.strip())
    if not text.strip() or not found:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
