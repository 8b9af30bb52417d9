"""MCP: real servers of the Model Context Protocol, over standard input and output or streamable HTTP.

One connection per server and worker, opened when it is first needed and owned by one task: the client library's cancel
scopes belong to the task that entered them. A call runs in a task of its own, so that it ends at its own deadline
whoever waits for it. A command that doesn't answer by then is killed with its whole group and started anew for the next
call, so that what was given up doesn't happen afterwards. One that keeps ending is started ever more seldom.

The library (`mcp`) is imported when a server is first needed: it takes a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any

from interlock.agent.mcp_transport import Ended, http_streams, process_streams
from interlock.agent.server_results import masked, text_of, value_of
from interlock.agent.servers import Listed, ServerCall, ServerFailed
from interlock.canonical import Json, encode
from interlock.machine.servers import Server, references, resolved
from interlock.policy.redaction import redacted

log = logging.getLogger("interlock")

KEY_IN_META = "interlock/key"
DROP_SECONDS = 5.0
PAGES_MAX = 50
TOOLS_MAX = 2_000
SAID_CHARS = 400

PATIENCE_SECONDS = 2.0
"""How long a call waits for its server's next start, rather than to fail at once: its intent is committed already."""

RESTART_BASE_SECONDS = 0.5
RESTART_CAP_SECONDS = 60.0
"""After the second failure in a row (the first restart is at once): 0.5 s, then twice as long each time, up to this."""


class Connections:
    """The servers of one worker. Several workers of one process may share it: the last to leave ends all."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._connections: dict[Server, Connection] = {}
        self._users = 0

    async def __aenter__(self) -> Connections:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0:
            await self.close()

    async def close(self) -> None:
        """End every server, with what it has under way."""
        connections, self._connections = list(self._connections.values()), {}
        await asyncio.gather(*(connection.close() for connection in connections), return_exceptions=True)

    async def listed(self, server: Server) -> Mapping[str, Listed]:
        return await self._to(server).listed()

    async def call(
        self, server: Server, call: ServerCall, begin: Callable[[], None], late: Callable[[Json], None]
    ) -> Json:
        return await self._to(server).call(call, begin, late)

    def _to(self, server: Server) -> Connection:
        if server not in self._connections:
            self._connections[server] = Connection(server, self._environment)
        return self._connections[server]


class Connection:
    """The way to one server: at most one live session, opened anew when it has ended."""

    def __init__(self, server: Server, environment: Mapping[str, str]) -> None:
        self.server = server
        self._environment = environment
        self._secrets: list[tuple[str, str]] = []
        self._session: asyncio.Future[Any] | None = None  # of the owner that lives
        self._owner: asyncio.Task[None] | None = None
        self._ended = Ended()
        self._calls: set[asyncio.Task[Json]] = set()
        self._failures = 0  # in a row, without an answer between them
        self._not_before = 0.0

    async def close(self) -> None:
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._drop("the worker stops")

    # -- what is asked of it ------------------------------------------------------------------------------------------

    async def listed(self, patience: float = 0.0) -> dict[str, Listed]:
        """The tools it has now. A session that doesn't say so is dropped; one that had died is opened anew, once.
        `patience`: how long a pause between two starts may be waited for."""
        for fresh in (self._session is None, True):
            session = await self._open(patience)
            try:
                async with asyncio.timeout(self.server.start_within):
                    return await _list(session)
            except TimeoutError:
                await self._drop(f"didn't list its tools within {self.server.start_within:g} s", failed=True)
                raise self._outage() from None
            except asyncio.CancelledError:
                raise
            except Exception as wrong:
                await self._drop(self._told(wrong), failed=True)
                if fresh:
                    raise self._outage() from wrong
        raise AssertionError("unreachable: the second time is fresh")

    async def call(self, call: ServerCall, begin: Callable[[], None], late: Callable[[Json], None]) -> Json:
        task = asyncio.create_task(self._call(call, begin), name=f"{self.server.name}.{call.tool}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: _tell_late(done, late))
            raise

    async def _call(self, call: ServerCall, begin: Callable[[], None]) -> Json:
        deadline = asyncio.get_running_loop().time() + call.seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._unchanged(call)
        except TimeoutError:
            raise ServerFailed("outage", f"`{self.server.name}` wasn't ready in time", True, False) from None
        session, ended = self._session, self._ended
        if session is None or not session.done():
            raise self._outage()
        begin()
        try:
            async with asyncio.timeout_at(deadline):
                result = await _call_tool(session.result(), call)
        except TimeoutError:
            await self._hangs(ended, call)
            raise ServerFailed("timeout", f"no answer within {call.seconds:g} s", True) from None
        except asyncio.CancelledError:
            raise
        except Exception as wrong:
            raise await self._failed(wrong, ended) from wrong
        self._failures = 0
        return self._value(result)

    async def _unchanged(self, call: ServerCall) -> None:
        tool = (await self.listed(PATIENCE_SECONDS)).get(call.tool)
        if tool is None:
            raise ServerFailed("vanished", f"`{self.server.name}` has no `{call.tool}` any more", False, False)
        if tool.digest != call.digest:
            said = f"`{self.server.name}` describes `{call.tool}` in another way than when this run first used it"
            raise ServerFailed("changed", said, False, False)

    async def _hangs(self, ended: Ended, call: ServerCall) -> None:
        """A command that doesn't answer is killed: what is given up must not happen afterwards. Of a service only the
        request is given up; others may be using it."""
        if self.server.command and not ended.why:
            await self._drop(f"`{call.tool}` took longer than {call.seconds:g} s", failed=True)

    async def _failed(self, wrong: Exception, ended: Ended) -> ServerFailed:
        """What an exception of a call under way means."""
        for _ in range(10):  # the end is seen a moment after what it breaks off
            if ended.why or not _is_closed(wrong):
                break
            await asyncio.sleep(0.01)
        if ended.oversize:
            return ServerFailed("oversize", self._said(ended.why))
        if ended.why or _is_closed(wrong):
            return ServerFailed(
                "cut", self._said(f"`{self.server.name}` went away in the call: {ended.why or wrong}"), True
            )
        if _is_answer(wrong):
            self._failures = 0
            return ServerFailed("tool_error", self._said(str(wrong)))
        return ServerFailed("malformed", self._said(f"{type(wrong).__name__}: {wrong}"), False, True)

    def _value(self, result: Any) -> Json:
        answer: dict[str, Any] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        blocks = answer.get("content", [])
        if "content" not in answer:
            raise ServerFailed("tool_error", "it asks for input, which nobody gives it")
        if answer.get("isError"):
            raise ServerFailed("tool_error", self._said(text_of(blocks) or "it answered that it failed"))
        value = value_of(blocks, answer.get("structuredContent"), self.server.binary_bytes_max)
        if (size := len(encode(value))) > self.server.result_bytes_max:
            bound = self.server.result_bytes_max
            raise ServerFailed("oversize", f"the result has {size} bytes, and {bound} are allowed", False, True)
        return masked(value, self._secrets)

    # -- the session --------------------------------------------------------------------------------------------------

    async def _open(self, patience: float) -> Any:
        """The live session, opened now if there is none."""
        wait = self._not_before - asyncio.get_running_loop().time()
        if self._session is None and 0 < wait <= patience:
            await asyncio.sleep(wait)
            wait = 0.0
        if self._session is None:
            if wait > 0:
                raise ServerFailed(
                    "outage", self._said(f"`{self.server.name}` keeps ending: {self._ended.why}"), True, False, wait
                )
            self._session = asyncio.get_running_loop().create_future()
            self._session.add_done_callback(lambda future: future.cancelled() or future.exception())  # looked at
            self._ended = Ended()
            self._owner = asyncio.create_task(self._own(self._session, self._ended), name=f"server {self.server.name}")
        return await asyncio.shield(self._session)

    async def _own(self, session: asyncio.Future[Any], ended: Ended) -> None:
        """Open a session and keep it until it ends or is dropped."""
        try:
            env, headers = self._looked_up()
            mcp = await asyncio.to_thread(_library)
            streams = (
                process_streams(self.server, env, ended)
                if self.server.command
                else http_streams(self.server, headers, ended)
            )
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self.server.start_within):
                    client = await stack.enter_async_context(
                        mcp.Client(streams, cache=None, client_info=_ourselves(mcp))
                    )
                if not session.done():
                    session.set_result(client.session)
                await ended.seen.wait()
        except ServerFailed as failed:
            ended.now(failed.message)
            if not session.done():
                session.set_exception(failed)
        except asyncio.CancelledError:
            ended.now("it was dropped")
            raise
        except TimeoutError:
            ended.now(f"it didn't start within {self.server.start_within:g} s")
        except BaseException as wrong:
            ended.now(self._told(wrong))
        finally:
            self._over(session, ended)

    def _over(self, session: asyncio.Future[Any], ended: Ended) -> None:
        if self._session is session:
            self._session = None
            self._fails()
        if not session.done():
            session.set_exception(self._outage(ended))

    async def _drop(self, why: str, *, failed: bool = False) -> None:
        """End the session and its server, if there is one."""
        owner, session = self._owner, self._session
        self._owner = self._session = None
        if session is not None and failed:
            self._fails()
        self._ended.now(why, gently=not failed)
        if owner is None:
            return
        if session is not None and not session.done():  # it is being opened
            owner.cancel()
        await asyncio.wait({owner}, timeout=DROP_SECONDS)
        owner.cancel()

    def _fails(self) -> None:
        self._failures += 1
        if self._failures > 1:
            seconds = min(RESTART_CAP_SECONDS, RESTART_BASE_SECONDS * 2 ** (self._failures - 2))
            self._not_before = asyncio.get_running_loop().time() + seconds

    # -- words and secrets --------------------------------------------------------------------------------------------

    def _looked_up(self) -> tuple[dict[str, str], dict[str, str]]:
        """What the server is given, by the environment of now. Raises `ServerFailed` for what isn't set."""
        declared = [*self.server.env, *self.server.headers]
        names = {name for _, text in declared for name in references(text)}
        missing = sorted(name for name in names if name not in self._environment)
        if missing:
            raise ServerFailed(
                "unset", f"`{self.server.name}` needs {', '.join(missing)} in the environment", False, False
            )
        self._secrets = [(self._environment[name], name) for name in names]
        env = {name: resolved(text, self._environment) for name, text in self.server.env}
        headers = {name: resolved(text, self._environment) for name, text in self.server.headers}
        return env, headers

    def _outage(self, ended: Ended | None = None) -> ServerFailed:
        why = (ended or self._ended).why
        return ServerFailed(
            "outage", self._said(f"`{self.server.name}` can't be had: {why or 'it ended'}"), True, False
        )

    def _said(self, text: str) -> str:
        """A server's words as the log may keep them."""
        return redacted(str(masked(text, self._secrets)))[:SAID_CHARS]

    def _told(self, wrong: BaseException) -> str:
        inner = wrong
        while isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        return self._said(f"{type(inner).__name__}: {inner}")


async def _list(session: Any) -> dict[str, Listed]:
    types = import_module("mcp.types")
    found: dict[str, Listed] = {}
    cursor = None
    for _ in range(PAGES_MAX):
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        for tool in page.tools:
            hints = (
                tool.annotations.model_dump(by_alias=True, mode="json", exclude_none=True) if tool.annotations else {}
            )
            found.setdefault(
                tool.name, Listed(tool.name, tool.input_schema, tool.description or "", tool.output_schema, hints)
            )
        cursor = page.next_cursor
        if cursor is None:
            return found
        if len(found) > TOOLS_MAX:
            break
    raise ValueError(f"it lists more than {TOOLS_MAX} tools, or in more than {PAGES_MAX} pages")


async def _call_tool(session: Any, call: ServerCall) -> Any:
    return await session.call_tool(
        call.tool, dict(call.arguments), meta={KEY_IN_META: call.key}, allow_input_required=True
    )


def _tell_late(done: asyncio.Task[Json], late: Callable[[Json], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        late(done.result())


def _library() -> Any:
    try:
        return import_module("mcp")
    except ImportError:
        raise ServerFailed("unset", "servers need the package `mcp`: install interlock[mcp]", False, False) from None


def _ourselves(mcp: Any) -> Any:
    return mcp.Implementation(name="interlock", version="0.1.0")


def _is_answer(wrong: Exception) -> bool:
    """Whether the server answered with an error of the protocol."""
    error: type[Exception] = import_module("mcp").MCPError
    return isinstance(wrong, error)


def _is_closed(wrong: Exception) -> bool:
    return bool(getattr(wrong, "code", None) == import_module("mcp.types").CONNECTION_CLOSED)
