"""A service over HTTP that fails: it hangs, floods, is gone, wants another key, sends elsewhere, or comes back anew.

A small service in a thread of this process, on loopback; what it was sent is kept, so that tests see what really left.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from interlock import Turn, mcp_server, state
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.servers import Server
from tests.agent.served import Case, calling, machine, scene

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Service(ThreadingHTTPServer):
    """Tools `echo` and `put`. `mode` says what becomes of the next calls."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = ""
        self.token = ""
        self.calls: list[dict[str, Any]] = []
        self.session = 0
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/mcp"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.respond(405, b"")

    do_DELETE = do_GET

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        service = self.server
        if service.token and self.headers.get("authorization") != f"Bearer {service.token}":
            return self.respond(401, b"who are you?")
        method, session = message["method"], self.headers.get("mcp-session-id")
        if method == "initialize":
            service.session += 1
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "service", "version": "1"},
            }
            return self.answer(message, result, {"mcp-session-id": str(service.session)})
        if "id" not in message:
            return self.respond(202, b"")
        if method == "server/discover":
            return self.respond(404, b"")
        if session != str(service.session):
            return self.respond(404, b"no such session")
        if method == "tools/list":
            tools = [{"name": name, "description": name, "inputSchema": SCHEMA} for name in ("echo", "put")]
            return self.answer(message, {"tools": tools})
        service.calls.append(message["params"])
        return self.call(message, message["params"]["arguments"]["text"])

    def call(self, message: dict[str, Any], text: str) -> None:
        match self.server.mode:
            case "hang":
                self.server.let_go.wait(60)
            case "huge":
                self.answer(message, {"content": [{"type": "text", "text": "x" * 30_000_000}]})
            case "packed":
                packed = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode())
                self.respond(200, packed, {"content-encoding": "gzip"})
            case "cut":
                self.connection.close()
            case "chatty":
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                noted = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
                line = f"event: message\ndata: {json.dumps(noted)}\n\n".encode()
                with suppress(OSError):  # until nobody listens any more
                    while not self.server.let_go.is_set():
                        self.wfile.write(line * 100)
                self.close_connection = True
            case "half":
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"jsonrpc": "2.0"')
                self.close_connection = True
            case "broken":
                self.respond(500, b"<html>oops</html>", {"content-type": "text/html"})
            case "moved":
                self.respond(307, b"", {"location": "http://localhost:1/elsewhere"})
            case _:
                self.answer(message, {"content": [{"type": "text", "text": text}]})

    def answer(self, message: dict[str, Any], result: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.respond(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode(), headers)

    def respond(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # nobody wanted so much
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.let_go.set()
        service.shutdown()
        service.server_close()
        thread.join()


def at(service: Service, **more: Any) -> Server:
    return mcp_server("service", url=service.url, **more)


def play(folder: Path, made: Any) -> tuple[Any, list[e.Event]]:
    async def main() -> tuple[Any, list[e.Event]]:
        async with scene(folder / "store.db", timing=Timing(grace=0.05, send_window=0.5)) as on:
            return await on.play(made), on.log()

    return asyncio.run(main())


def failures(log: list[e.Event]) -> list[tuple[str, bool]]:
    return [(event.kind, event.doubt) for event in log if isinstance(event, e.AttemptFailed)]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("hang", "timeout"),
        ("cut", "cut"),
        ("half", "cut"),
        ("chatty", "cut or timeout"),
        ("packed", "malformed"),
        ("huge", "oversize"),
        ("broken", "cut"),
        ("moved", "tool_error"),
    ],
)
def test_a_write_that_fails_on_its_way_is_a_doubt_and_not_sent_again(mode: str, kind: str, tmp_path: Path) -> None:
    with serving() as service:
        service.mode = mode
        put = at(service, result_bytes_max=100_000).tool("put", within=3.0)
        result, log = play(tmp_path, calling(put, text="x"))
        assert (result.status, result.waits[0].why) == ("waiting", "doubt")
        (failure,) = failures(log)
        assert failure[0] in kind.split(" or ") and failure[1]
        assert len(service.calls) == 1
        assert (tmp_path / "store.db").stat().st_size < 1_000_000


def test_a_hung_call_takes_no_other_call_of_the_service_down(tmp_path: Path) -> None:
    with serving() as service:
        server = at(service)
        put, echo = server.tool("put", does="read", within=1.0), server.tool("echo", does="read")

        @state(tools=[put, echo], writes=["said"])
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(echo, text="warm")
            service.mode = "hang"
            hung = asyncio.create_task(turn.call(put, text="x"))
            while len(service.calls) < 2 and not hung.done():
                await asyncio.sleep(0.02)
            service.mode = ""
            turn.record.said = await turn.call(echo, text="fine")
            try:
                await hung
            except Exception as failed:
                turn.record.said = [turn.record.said, str(failed), await turn.call(echo, text="anew")]
            return "done"

        result, _ = play(tmp_path, machine(work, attempts=1))
        assert result.record.said == ["fine", "no answer within 1 s", "anew"]
        assert service.session == 2  # the hung one's connection is not kept


def test_a_service_that_has_forgotten_us_is_greeted_anew(tmp_path: Path) -> None:
    with serving() as service:
        echo = at(service).tool("echo", does="read")

        @state(tools=[echo], writes=["more"])
        async def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.more.append(await turn.call(echo, text="one"))
            service.session += 1  # as if it had been restarted
            turn.record.more.append(await turn.call(echo, text="two"))
            return "done"

        result, log = play(tmp_path, machine(work))
        assert (result.status, result.record.more) == ("completed", ["one", "two"])
        assert failures(log) == []


def test_a_service_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with serving() as service:
        gone = at(service)
    result, log = play(tmp_path, calling(gone.tool("echo", does="read"), text="x"))
    assert (result.status, result.reason) == ("waiting", "unavailable")
    (refused,) = [event for event in log if isinstance(event, e.ToolRefused)]
    assert refused.why == "outage" and "can't be had" in refused.message


def test_a_key_that_is_refused_is_no_secret_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "correct-horse-battery")
    with serving() as service:
        service.token = "another"
        echo = at(service, headers={"Authorization": "Bearer {SERVICE_TOKEN}"}).tool("echo", does="read")
        result, _ = play(tmp_path, calling(echo, text="x"))
        assert (result.status, result.reason) == ("waiting", "unavailable")
        service.token = "correct-horse-battery"
        result, _ = play(tmp_path, calling(echo, text="x"))
        assert (result.status, result.record.said) == ("completed", "x")
    assert b"correct-horse" not in b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))
