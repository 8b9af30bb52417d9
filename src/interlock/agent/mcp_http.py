"""Streams to a service over HTTP, for `mcp`, with a bound on all that comes in; and what a failed request means.

The library tells its caller little of how a request failed, and one that breaks takes the session and all other calls
with it. So a failure is answered here, before the library sees it, by an error of the protocol that says what it means:
marked, so that no service can claim the same. Imported by sessions.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from typing import Any

from msgspec import Struct

from interlock.agent.servers import Ended, message_bytes_max
from interlock.machine.servers import Server

_OURS = os.urandom(16).hex()
_CODE = -32_099
_LATER = frozenset({429, 503})
_BESIDES = 4  # an answer as a stream of events may be so many times as long: progress comes along with it


class Fate(Struct, frozen=True):
    """What became of a request that failed on its way, in the terms of `ServerFailed`."""

    kind: str
    message: str
    retry: bool = True
    happened: bool | None = None
    retry_after: float | None = None


def fate_of(wrong: Exception) -> Fate | None:
    """What we said ourselves of a failed request; None for what the service said."""
    data = getattr(wrong, "data", None)
    told = data.get(_OURS) if isinstance(data, dict) else None
    return None if told is None else Fate(**told)


@contextlib.asynccontextmanager
async def http_streams(server: Server, headers: Mapping[str, str], ended: Ended) -> AsyncIterator[tuple[Any, Any]]:
    """Streams to a service. What it answers is bounded; it is asked to send it as it is."""
    httpx2 = import_module("httpx2")
    streamable = import_module("mcp.client.streamable_http")
    most = message_bytes_max(server)
    timeout = httpx2.Timeout(server.start_within, read=None)
    sent = {"accept-encoding": "identity", **headers}
    async with (
        httpx2.AsyncClient(headers=sent, timeout=timeout, transport=_transport(httpx2, most)) as client,
        streamable.streamable_http_client(server.url, http_client=client, max_sse_event_size=most) as streams,
    ):
        yield streams


def _transport(httpx2: Any, most: int) -> Any:
    class Events(httpx2.AsyncByteStream):  # type: ignore[misc] # the package is there only with the extra
        """The events of one answer. What comes besides it is bounded as well."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __aiter__(self) -> AsyncIterator[bytes]:
            seen = 0
            async for part in self._inner:
                seen += len(part)
                if seen > _BESIDES * most:
                    raise httpx2.StreamError(f"the answer has more than {_BESIDES * most} bytes")
                yield part

        async def aclose(self) -> None:
            await self._inner.aclose()

    class Transport(httpx2.AsyncHTTPTransport):  # type: ignore[misc] # the package is there only with the extra
        async def handle_async_request(self, request: Any) -> Any:
            if request.method == "GET" and "last-event-id" not in request.headers:
                return httpx2.Response(405)  # a way to say what nobody asked for; to go on with an answer is another
            try:
                response = await super().handle_async_request(request)
                if _is_stream(response) and _of_answer(response) is None:
                    response.stream = Events(response.stream)
                    return response
                answer = await _answer(response, most)
            except httpx2.TransportError as wrong:
                if request.method != "POST":
                    raise
                answer = _of_error(httpx2, wrong)
            if isinstance(answer, Fate):
                return httpx2.Response(502, headers=_JSON, content=_told(answer))
            return httpx2.Response(response.status_code, headers=_kept(response), content=answer)

    return Transport()


def _is_stream(response: Any) -> bool:
    return bool(response.headers.get("content-type", "").startswith("text/event-stream"))


async def _answer(response: Any, most: int) -> bytes | Fate:
    """The body of an answer, or what it means instead."""
    fate, body = _of_answer(response), bytearray()
    try:
        if fate is not None:
            return fate
        async for part in response.stream:
            body += part
            if len(body) > most:
                return Fate("oversize", f"the answer has more than {most} bytes", retry=False)
    finally:
        await response.aclose()
    return bytes(body)


def _kept(response: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_BODY]


_OF_THE_BODY = ("content-length", "transfer-encoding", "content-encoding")
_JSON = {"content-type": "application/json"}


def _told(fate: Fate) -> bytes:
    said = {"kind": fate.kind, "message": fate.message, "retry": fate.retry, "happened": fate.happened}
    error = {"code": _CODE, "message": fate.message, "data": {_OURS: {**said, "retry_after": fate.retry_after}}}
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()


def _of_error(httpx2: Any, wrong: Exception) -> Fate:
    said = f"{type(wrong).__name__}: {wrong}"
    if isinstance(wrong, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return Fate("outage", said, happened=False)
    return Fate("cut", said)


def _of_answer(response: Any) -> Fate | None:
    """What an answer means that is none of the protocol."""
    code = response.status_code
    if response.headers.get("content-encoding", "identity") != "identity":
        return Fate("malformed", "the answer is compressed, which wasn't asked for", retry=False)
    if response.headers.get("content-type", "").startswith("application/json") and 400 <= code < 500:
        return None  # it may say why
    if code in (401, 403):
        return Fate("auth", f"it answered {code}: the key is refused", retry=False, happened=False)
    if code == 429:
        return Fate("rate", "it answered 429", happened=False, retry_after=_seconds(response))
    if code >= 500:
        return Fate("cut", f"it answered {code}", retry_after=_seconds(response) if code in _LATER else None)
    return None


def _seconds(response: Any) -> float | None:
    """Its `Retry-After` in seconds, where it says a number."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
