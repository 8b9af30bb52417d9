"""A model provider on this machine: a real HTTP server on 127.0.0.1, answered by a script, with faults on plan.

It speaks OpenAI's chat completions and Anthropic's messages, so the real provider clients can be driven offline.

    with LoopbackProvider(brain, faults=[storm(times=3)]) as provider:
        model = ProviderModels().find(provider.model_name("gpt-5-mini"))

Runs in a daemon thread with a loop of its own. Leaving the block ends every delay and closes every connection.
Knows no run and no engine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Self

from interlock.agent.model import FailureKind, Model, ModelFailed, ModelRequest
from interlock.agent.scripted import Script, ScriptedModel
from interlock.canonical import decode, encode
from interlock.redteam.dialects import Body, Dialect, dialect_of
from interlock.redteam.faults import Fault, Plan, auth, cut, hang, malformed, overflow, quota, rate_limited, status

BODY_BYTES_MAX = 32 * 1024 * 1024
RECORDS_MAX = 10_000
HANG_SECONDS_MAX = 600.0  # a server that nobody closes still lets go
STOP_SECONDS_MAX = 5.0

NO_JSON = b'{"id": "1", "choices": [{"mess'

# What a brain raises (`ModelFailed`) becomes what a provider would have sent.
FAULT_OF_KIND: dict[FailureKind, Fault] = {
    "outage": status(503),
    "rate_limited": rate_limited(),
    "timeout": hang(),
    "cut": cut(),
    "quota": quota(),
    "auth": auth(),
    "overflow": overflow(),
    "rejected": status(400),
    "malformed": malformed(),
}


@dataclass(slots=True)
class Received:
    """One request as it came in.

    at          seconds from the server's start
    connection  counts connections, from 1
    ended       how it went; None while it waits
    """

    number: int
    at: float
    connection: int
    path: str
    headers: dict[str, str] = field(repr=False)
    body: Body
    request: ModelRequest
    fault: Fault | None = None
    ended: Literal["answered", "failed", "gone"] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to send. Not `whole`: the connection breaks after them."""

    sent: bytes
    fails: bool = False
    whole: bool = True


class LoopbackProvider:
    """See the head of this file. `port` is known once it has started.

    brain    a `Model`, or a script for `ScriptedModel`; it sees each request as a `ModelRequest`
    faults   the plan; `inject` adds to it while the server runs

    `requests` holds what came in, oldest first, at most 10,000.
    """

    def __init__(self, brain: Model | Script, *, faults: Sequence[Fault] = ()) -> None:
        self._brain: Model = ScriptedModel(brain) if callable(brain) or isinstance(brain, Sequence) else brain
        self._plan = Plan(faults)
        self.requests: list[Received] = []
        self._count = self._connections = 0
        self.port = 0
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="loopback-provider", daemon=True)

    # -- for its user, any thread --

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Listening when it returns."""
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Ends delays and connections, frees the port. May be repeated."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # its loop may have closed by itself meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_SECONDS_MAX)

    def inject(self, *faults: Fault) -> None:
        """Add to the plan. In force when it returns."""
        done = threading.Event()

        def add() -> None:
            for fault in faults:
                self._plan.add(fault)
            done.set()

        self._loop.call_soon_threadsafe(add)
        done.wait(STOP_SECONDS_MAX)

    @property
    def base_url(self) -> str:
        """For both dialects, e.g. `ProviderModels({"openai": provider.base_url})`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def model_name(self, model: str = "gpt-5-mini", provider: str = "openai") -> str:
        """A name under which `ProviderModels` finds this server without a key."""
        return f"{provider}:{model}@{self.base_url}"

    @property
    def count(self) -> int:
        """Requests so far, also those no longer kept in `requests`."""
        return self._count

    # -- in its thread --

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())  # which cancels, in the end, what is still open
        except BaseException as error:
            self._failed = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started_at = self._loop.time()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**16)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection = self._connections
        try:
            while await self._exchange(connection, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client left
        except asyncio.CancelledError:
            pass  # the server stops; a cancelled task here would be reported as an error by Python 3.11's streams
        finally:
            writer.close()

    async def _exchange(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Whether the connection stays open."""
        path, headers, body = await _read_request(reader)
        dialect = dialect_of(path)
        if dialect is None:
            writer.write(_response(404, {"error": {"message": f"nothing is served at {path}"}}))
            return True
        try:
            received = self._receive(connection, path, headers, decode(body), dialect)
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            writer.write(_response(400, dialect.error(400, "", f"not a request that this server reads: {wrong!r}")))
            return True
        return await self._answer(received, dialect, reader, writer)

    def _receive(self, connection: int, path: str, headers: dict[str, str], body: Body, dialect: Dialect) -> Received:
        request = dialect.read(body)
        self._count += 1
        at = self._loop.time() - self._started_at
        received = Received(self._count, at, connection, path, headers, body, request)
        received.fault = self._plan.strike(received.number, request)
        self.requests.append(received)
        del self.requests[:-RECORDS_MAX]
        return received

    async def _answer(
        self, received: Received, dialect: Dialect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """The answer, or nothing if the client leaves first: what it waits for is then cancelled."""
        deciding = asyncio.ensure_future(self._decide(received, dialect))
        leaving = asyncio.ensure_future(reader.read(1))  # clients don't pipeline, so any end of it is a departure
        try:
            await asyncio.wait((deciding, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything is sent: what is read after that belongs to the next request.
            await _cancelled(deciding, leaving)
        if deciding.cancelled():
            received.ended = "gone"
            return False
        received.ended = "failed" if deciding.result().fails else "answered"
        writer.write(deciding.result().sent)
        await writer.drain()
        return deciding.result().whole

    async def _decide(self, received: Received, dialect: Dialect) -> Answer:
        fault = received.fault
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
            fault = None
        if fault is None:
            try:
                reply = await self._brain.reply(received.request)
                return Answer(_response(200, dialect.reply(received.request, reply, received.number)))
            except ModelFailed as failed:
                fault = _fault_of(failed)
            except Exception as bug:  # of the script: it must not look like a provider that hangs
                fault = status(500, message=f"the script failed: {bug!r}")
        if fault.kind == "hang":
            await asyncio.sleep(HANG_SECONDS_MAX)
        return _failure(fault, dialect)


def _failure(fault: Fault, dialect: Dialect) -> Answer:
    if fault.kind == "status":
        body = dialect.error(fault.status, fault.code, fault.message or _phrase(fault.status))
        return Answer(_response(fault.status, body, fault.wire_headers()), fails=True)
    if fault.kind == "malformed":
        return Answer(_head(200, len(NO_JSON), {}) + NO_JSON, fails=True)
    begun = _head(200, len(NO_JSON) * 2, {}) + NO_JSON if fault.kind == "cut" else b""
    return Answer(begun, fails=True, whole=False)


def _fault_of(failed: ModelFailed) -> Fault:
    fault = FAULT_OF_KIND[failed.kind]
    if fault.kind != "status":
        return fault
    again = fault.retry_after if failed.retry_after is None else failed.retry_after
    return status(fault.status, retry_after=again, code=fault.code, message=fault.message or failed.message)


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    size = int(headers.get("content-length") or 0)
    if size > BODY_BYTES_MAX:
        raise ConnectionError(f"a body of {size} bytes is more than this server reads")
    return first.split()[1], headers, await reader.readexactly(size)


def _response(status: int, body: Body, headers: dict[str, str] | None = None) -> bytes:
    written = encode(body)
    return _head(status, len(written), headers or {}) + written


def _head(status: int, size: int, headers: dict[str, str]) -> bytes:
    fields = {"Content-Type": "application/json", "Content-Length": str(size), **headers}
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
