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
"""Lines of noise, notifications and requests after which a server is ended."""


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
            group.start_soon(_read, server, process, give, ended)
            group.start_soon(_write, process, take, ended)
            try:
                yield read, write
            finally:
                group.cancel_scope.cancel()
    finally:
        await process.end(leave=LEAVE_SECONDS if ended.gently else 0.0)


async def _read(server: Server, process: ServerProcess, give: Any, ended: Ended) -> None:
    anyio = import_module("anyio")
    message_of = import_module("mcp.types").jsonrpc_message_adapter.validate_json
    session_message = import_module("mcp.shared.message").SessionMessage
    unasked = 0
    async with give:
        try:
            async for line in process.lines(message_bytes_max(server)):
                message = _parsed(line, message_of)
                if message is None or hasattr(message, "method"):
                    unasked += 1
                    if unasked > UNASKED_MAX:
                        ended.now(f"it said {UNASKED_MAX} things that nobody asked for")
                        return
                if message is not None and hasattr(message, "id"):
                    await give.send(session_message(message))
            await process.gone(0.5)
            ended.now(process.last_words() or "it closed its standard output")
        except TooLong:
            ended.now(f"it sent more than {message_bytes_max(server)} bytes at once", oversize=True)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the session went first


def _parsed(line: bytes, message_of: Any) -> Any:
    """A message of the protocol, or None: noise."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        return message_of(line, by_name=False)
    except ValueError:
        return None


async def _write(process: ServerProcess, take: Any, ended: Ended) -> None:
    try:
        async with take:
            async for message in take:
                await process.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode())
    except OSError:
        await asyncio.sleep(0.5)  # its standard output ends as well, which says more
        ended.now(process.last_words() or "it reads no more")
