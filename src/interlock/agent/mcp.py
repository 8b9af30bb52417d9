"""MCP: real servers of the Model Context Protocol, over standard input and output or streamable HTTP.

One connection per server and worker, with at most one live session, opened when it is first needed. A call runs in a
task of its own, so that it ends at its own deadline whoever waits for it. A command that doesn't answer by then is
killed with its whole group and started anew for the next call: what is given up must not happen afterwards. Of a
service only the request is given up. Before every call the server is asked what its tools are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any

from interlock.agent.mcp_http import fate_of
from interlock.agent.mcp_session import Restarts, Session, Words
from interlock.agent.server_results import masked, text_of, value_of
from interlock.agent.servers import Listed, ServerCall, ServerFailed
from interlock.canonical import Json, as_stored, encode
from interlock.errors import BadInput
from interlock.machine.servers import Server

KEY_IN_META = "interlock/key"
PAGES_MAX = 50
TOOLS_MAX = 2_000

PATIENCE_SECONDS = 2.0
"""How long a call waits for its server's next start, rather than to fail at once: its intent is committed already."""


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
            connections, self._connections = list(self._connections.values()), {}
            await asyncio.gather(*(connection.close() for connection in connections), return_exceptions=True)

    async def listed(self, server: Server) -> Mapping[str, Listed]:
        return (await self._to(server).listed())[1]

    async def call(
        self, server: Server, call: ServerCall, begin: Callable[[], None], late: Callable[[Json], None]
    ) -> Json:
        return await self._to(server).call(call, begin, late)

    def _to(self, server: Server) -> Connection:
        if server not in self._connections:
            self._connections[server] = Connection(server, self._environment)
        return self._connections[server]


class Connection:
    """The way to one server."""

    def __init__(self, server: Server, environment: Mapping[str, str]) -> None:
        self.server = server
        self._environment = environment
        self._words = Words()
        self._restarts = Restarts()
        self._session: Session | None = None
        self._retired: set[asyncio.Task[None]] = set()  # sessions that end
        self._calls: set[asyncio.Task[Json]] = set()

    async def close(self) -> None:
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._session is not None:
            await self._session.end("the worker stops", gently=True)
        await asyncio.gather(*self._retired, return_exceptions=True)

    # -- what tools there are -----------------------------------------------------------------------------------------

    async def listed(self, patience: float = 0.0) -> tuple[Session, dict[str, Listed]]:
        """The tools it has now, and the session that says so. One that doesn't say is left; when it was not opened for
        this, another is. `patience`: how long a pause between two starts may be waited for."""
        while True:
            session, fresh = await self._current(patience)
            inside = await session.opened()
            try:
                async with asyncio.timeout(self.server.start_within):
                    return session, await self._list(inside)
            except TimeoutError:
                self._leave(session, f"it didn't list its tools within {self.server.start_within:g} s")
                raise session.outage() from None
            except asyncio.CancelledError:
                raise
            except Exception as wrong:
                self._leave(session, self._words.of_error(wrong))
                if fresh:
                    raise session.outage() from wrong

    async def _current(self, patience: float) -> tuple[Session, bool]:
        """The live session, and whether it had to be opened."""
        while self._session is None or self._session.ended.why:
            wait, before = self._restarts.wait(), self._session
            if wait > patience:
                ended = self._session.ended.why if self._session is not None else "it was left"
                said = self._words.of(f"`{self.server.name}` keeps ending: {ended}")
                raise ServerFailed("outage", said, True, False, wait)
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            if before is self._session:
                self._session = Session(self.server, self._environment, self._words, self._restarts)
                return self._session, True
        return self._session, not self._session.is_open

    async def _list(self, inside: Any) -> dict[str, Listed]:
        params = import_module("mcp.types").PaginatedRequestParams
        found: dict[str, Listed] = {}
        cursor = None
        for _ in range(PAGES_MAX):
            page = await inside.list_tools(params=params(cursor=cursor))
            for tool in page.tools:
                found.setdefault(tool.name, self._described(tool))
            cursor = page.next_cursor
            if cursor is None:
                return found
            if len(found) > TOOLS_MAX:
                break
        raise ValueError(f"it lists more than {TOOLS_MAX} tools, or in more than {PAGES_MAX} pages")

    def _described(self, tool: Any) -> Listed:
        hints = {} if tool.annotations is None else tool.annotations.model_dump(**_AS_JSON)
        said = [tool.input_schema, tool.description or "", tool.output_schema, hints]
        return Listed(tool.name, *masked(said, self._words.secrets))

    def _leave(self, session: Session, why: str) -> None:
        """Use a session no more. A process is ended now; of a service what is under way may come to its end."""
        if self.server.command:
            session.ended.now(why)
        if self._session is session:
            self._session = None
        task = asyncio.create_task(self._end(session, why), name=f"end {self.server.name}")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _end(self, session: Session, why: str) -> None:
        while session.calls > 0 and not session.ended.why:
            await asyncio.sleep(0.05)
        await session.end(why, gently=not self.server.command)

    # -- one call -----------------------------------------------------------------------------------------------------

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
        session = await self._unchanged(call, deadline)
        begin()
        session.calls += 1
        try:
            async with asyncio.timeout_at(deadline):
                result = await (await session.opened()).call_tool(
                    call.tool, dict(call.arguments), meta={KEY_IN_META: call.key}, allow_input_required=True
                )
        except TimeoutError:
            self._leave(session, f"`{call.tool}` took longer than {call.seconds:g} s")
            raise ServerFailed("timeout", f"no answer within {call.seconds:g} s", True) from None
        except asyncio.CancelledError:
            raise
        except Exception as wrong:
            raise await self._failed(wrong, session) from wrong
        finally:
            session.calls -= 1
        self._restarts.answered()
        return self._value(result)

    async def _unchanged(self, call: ServerCall, deadline: float) -> Session:
        """A live session in which the tool is still what was pinned. Nothing has been sent when this fails."""
        before = self._session
        try:
            async with asyncio.timeout_at(deadline):
                session, tools = await self.listed(PATIENCE_SECONDS)
        except TimeoutError:
            if before is not None and before.is_open:  # it was there, and says no more even what its tools are
                self._leave(before, f"it didn't list its tools within {call.seconds:g} s")
            raise ServerFailed("outage", f"`{self.server.name}` wasn't ready in time", True, False) from None
        tool = tools.get(call.tool)
        if tool is None:
            raise ServerFailed("vanished", f"`{self.server.name}` has no `{call.tool}` any more", False, False)
        if tool.digest != call.digest:
            said = f"`{self.server.name}` describes `{call.tool}` in another way than when this run first used it"
            raise ServerFailed("changed", said, False, False)
        return session

    async def _failed(self, wrong: Exception, session: Session) -> ServerFailed:
        """What an exception of a call under way means."""
        ended = session.ended
        for _ in range(10):  # the end is seen a moment after what it breaks off
            if ended.why or not _is_closed(wrong):
                break
            await asyncio.sleep(0.01)
        if ended.oversize:
            return ServerFailed("oversize", self._words.of(ended.why))
        if ended.why or _is_closed(wrong):
            said = f"`{self.server.name}` went away in the call: {ended.why or wrong}"
            return ServerFailed("cut", self._words.of(said), True)
        if not _is_answer(wrong):
            return ServerFailed("malformed", self._words.of_error(wrong))
        if (fate := fate_of(wrong)) is not None:
            return ServerFailed(fate.kind, self._words.of(fate.message), fate.retry, fate.happened, fate.retry_after)
        self._restarts.answered()
        return ServerFailed("tool_error", self._words.of(str(wrong)))

    def _value(self, result: Any) -> Json:
        answer: dict[str, Any] = result.model_dump(**_AS_JSON)
        if "content" not in answer:
            raise ServerFailed("tool_error", "it asks for input, which nobody gives it")
        blocks = answer["content"]
        if answer.get("isError"):
            raise ServerFailed("tool_error", self._words.of(text_of(blocks) or "it answered that it failed"))
        value = value_of(blocks, answer.get("structuredContent"), self.server.binary_bytes_max)
        try:
            size = len(encode(as_stored(value)))
        except BadInput as wrong:
            raise ServerFailed("malformed", f"the result {wrong}", False, True) from None
        if size > self.server.result_bytes_max:
            bound = self.server.result_bytes_max
            raise ServerFailed("oversize", f"the result has {size} bytes, and {bound} are allowed", False, True)
        return masked(value, self._words.secrets)


_AS_JSON: Mapping[str, Any] = {"by_alias": True, "mode": "json", "exclude_none": True}


def _tell_late(done: asyncio.Task[Json], late: Callable[[Json], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        late(done.result())


def _is_answer(wrong: Exception) -> bool:
    """Whether the server answered with an error of the protocol."""
    error: type[Exception] = import_module("mcp").MCPError
    return isinstance(wrong, error)


def _is_closed(wrong: Exception) -> bool:
    return bool(getattr(wrong, "code", None) == import_module("mcp.types").CONNECTION_CLOSED)
