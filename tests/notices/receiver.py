"""Whoever is told: a real HTTP server on this machine that keeps what it gets, and one without a network for virtual
time. Both answer as they are told to.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from interlock.canonical import decode

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
OTHER_SECRET = "whsec_b3RoZXItc2VjcmV0LW90aGVyLXNlY3JldC1vdGhlcg=="


@dataclass(frozen=True)
class Heard:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        return dict(decode(self.body)["data"])


class Receiver:
    """A server on 127.0.0.1. `answers` are the next statuses (then 204); `None` among them: never answer. `headers` go
    with each answer."""

    def __init__(self, port: int = 0) -> None:
        self.heard: list[Heard] = []
        self.answers: list[int | None] = []
        self.headers: dict[str, str] = {}
        self.body = b""
        self._come = threading.Condition()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?team=desk"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def hear(self, heard: Heard) -> int | None:
        with self._come:
            self.heard.append(heard)
            self._come.notify_all()
            return self.answers.pop(0) if self.answers else 204

    def hang(self) -> None:
        self._closing.wait(60)

    def until(self, count: int, seconds: float = 30) -> list[Heard]:
        """The requests, once there are so many."""
        with self._come:
            assert self._come.wait_for(lambda: len(self.heard) >= count, seconds), (
                f"{len(self.heard)} came, not {count}"
            )
            return list(self.heard)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.hear(Heard(self.path, headers, body))
            if status is None:
                receiver.hang()
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@dataclass
class Pager:
    """A notifier without a network. `answer(id, attempt)` gives how many seconds one takes, or what it raises."""

    answer: Callable[[str, int], float | Exception] = lambda id, attempt: 0.0
    timeout: float = 15.0
    sent: list[tuple[float, str, bytes]] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    closed: int = 0

    async def send(self, id: str, body: bytes, at: int) -> None:
        assert id not in self.under_way, f"{id} is sent twice at once"
        self.sent.append((asyncio.get_running_loop().time(), id, body))
        said = self.answer(id, sum(one == id for _, one, _ in self.sent))
        if isinstance(said, Exception):
            raise said
        self.under_way.add(id)
        try:
            await asyncio.sleep(said)
        finally:
            self.under_way.discard(id)
        self.delivered.append(id)

    async def aclose(self) -> None:
        self.closed += 1

    @property
    def ids(self) -> list[str]:
        return [id for _, id, _ in self.sent]
