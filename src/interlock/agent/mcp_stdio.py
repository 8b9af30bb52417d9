"""Streams to a process of ours, for `mcp`, with a bound on all that comes in.

What isn't asked for is dropped (noise on standard output, notifications) or refused (requests for samples, roots,
answers: by the library, which offers none), and a server that says too much of it is ended. Imported by sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from typing import Any

from interlock.agent.server_process import LEAVE_SECONDS, ServerProcess, TooLong
from interlock.agent.servers import Ended, ServerFailed, message_bytes_max
from interlock.machine.servers import Server

UNASKED_MAX = 10_000
"""Lines of noise, notifications and requests, without an answer between them, after which a server is ended."""


@contextlib.asynccontextmanager
async def process_streams(server: Server, env: Mapping[str, str], ended: Ended) -> AsyncIterator[tuple[Any, Any]]:
    """The process, started; its streams; and its end, whatever happens."""
    anyio = import_module("anyio")
    try:
        process = await ServerProcess.start(server.command, env, server.folder)
    except OSError as wrong:
        raise ServerFailed("outage", f"`{server.name}` can't be started: {wrong}", True, False) from wrong
    try:
        give, read = anyio.create_memory_object_stream(0)
        write, take = anyio.create_memory_object_stream(0)
        async with give, read, write, take, anyio.create_task_group() as group:
            wire = _Wire(process, message_bytes_max(server), ended)
            group.start_soon(wire.read, give)
            group.start_soon(wire.write, take)
            try:
                yield read, write
            finally:
                group.cancel_scope.cancel()
    finally:
        await process.end(leave=LEAVE_SECONDS if ended.gently else 0.0)


class _Wire:
    """What goes to a process and comes from it. `asked`: the requests that it hasn't answered."""

    def __init__(self, process: ServerProcess, bytes_max: int, ended: Ended) -> None:
        self._process = process
        self._bytes_max = bytes_max
        self._ended = ended
        self._asked: set[Any] = set()
        self._unasked = 0

    async def write(self, take: Any) -> None:
        try:
            async with take:
                async for each in take:
                    message = each.message
                    if hasattr(message, "method") and hasattr(message, "id"):
                        self._asked.add(message.id)
                    await self._process.write(message.model_dump_json(by_alias=True, exclude_unset=True).encode())
        except OSError:
            await asyncio.sleep(0.5)  # its standard output ends as well, which says more
            self._ended.now(self._process.last_words() or "it reads no more")

    async def read(self, give: Any) -> None:
        anyio = import_module("anyio")
        message_of = import_module("mcp.types").jsonrpc_message_adapter.validate_json
        session_message = import_module("mcp.shared.message").SessionMessage
        async with give:
            try:
                async for line in self._process.lines(self._bytes_max):
                    message = _parsed(line, message_of)
                    self._count(message)
                    if self._unasked > UNASKED_MAX:
                        return self._ended.now(f"it said {UNASKED_MAX} things in a row that nobody asked for")
                    if message is not None and hasattr(message, "id"):
                        await give.send(session_message(message))
                await self._process.fallen_silent(0.5)
                self._ended.now(self._process.last_words() or "it closed its standard output")
            except TooLong:
                self._ended.now(f"it sent more than {self._bytes_max} bytes at once", oversize=True)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the session went first

    def _count(self, message: Any) -> None:
        answered = None if message is None or hasattr(message, "method") else message.id
        if answered in self._asked:
            self._asked.discard(answered)
            self._unasked = 0
        else:
            self._unasked += 1


def _parsed(line: bytes, message_of: Any) -> Any:
    """A message of the protocol, or None: noise."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return message_of(line, by_name=False)
    except ValueError:
        return None
