"""One session with a server, from its opening to its end, owned by one task; and how often one may be opened.

The client library's cancel scopes belong to the task that entered them, so the same task opens and ends it. The library
(`mcp`) is imported here, in a thread, when a server is first needed: it takes a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from interlock.agent.mcp_http import http_streams
from interlock.agent.mcp_stdio import process_streams
from interlock.agent.server_results import masked
from interlock.agent.servers import Ended, ServerFailed
from interlock.machine.servers import Server, references, resolved
from interlock.policy.redaction import redacted

END_SECONDS = 10.0
SAID_CHARS = 400

RESTART_BASE_SECONDS = 0.5
RESTART_CAP_SECONDS = 60.0


class Restarts:
    """When a server may be started again. After a first failure at once; after the second in a row, without an answer
    between them, 0.5 s later, then twice as long each time, up to a minute."""

    def __init__(self) -> None:
        self._failures = 0
        self._not_before = 0.0

    def wait(self) -> float:
        """Seconds until the next start."""
        return max(0.0, self._not_before - asyncio.get_running_loop().time())

    def failed(self) -> None:
        self._failures += 1
        if self._failures > 1:
            seconds = min(RESTART_CAP_SECONDS, RESTART_BASE_SECONDS * 2 ** (self._failures - 2))
            self._not_before = asyncio.get_running_loop().time() + seconds

    def answered(self) -> None:
        self._failures = 0


class Words:
    """What a server says, as the log may keep it. `secrets`: what it was given, and under which name."""

    def __init__(self) -> None:
        self.secrets: list[tuple[str, str]] = []

    def of(self, text: str) -> str:
        return redacted(str(masked(text, self.secrets)))[:SAID_CHARS]

    def of_error(self, wrong: BaseException) -> str:
        while isinstance(wrong, BaseExceptionGroup):
            wrong = wrong.exceptions[0]
        return self.of(f"{type(wrong).__name__}: {wrong}")


class Session:
    """One session. `calls`: how many it has under way; `ended`: whether it is over, and why."""

    def __init__(self, server: Server, environment: Mapping[str, str], words: Words, restarts: Restarts) -> None:
        self.server = server
        self.calls = 0
        self.ended = Ended()
        self._environment = environment
        self._words = words
        self._restarts = restarts
        self._opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._opened.add_done_callback(lambda future: future.cancelled() or future.exception())  # looked at
        self._owner = asyncio.create_task(self._own(), name=f"server {server.name}")

    @property
    def is_open(self) -> bool:
        return self._opened.done() and self._opened.exception() is None and not self.ended.why

    async def opened(self) -> Any:
        """The library's session, once it is there. Raises `ServerFailed`. Whoever stops waiting doesn't end it."""
        return await asyncio.shield(self._opened)

    async def end(self, why: str, *, gently: bool = False) -> None:
        """End it, and its process if it has one: at once, or `gently`, by itself first."""
        self.ended.now(why, gently=gently)
        if not self._opened.done():
            self._owner.cancel()
        await asyncio.wait({self._owner}, timeout=END_SECONDS)
        self._owner.cancel()

    async def _own(self) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                given = self._looked_up()
                mcp = await asyncio.to_thread(_library)
                streams = (process_streams if self.server.command else http_streams)(self.server, given, self.ended)
                ourselves = mcp.Implementation(name="interlock", version="0.1.0")
                async with asyncio.timeout(self.server.start_within):
                    client = await stack.enter_async_context(mcp.Client(streams, cache=None, client_info=ourselves))
                self._opened.set_result(client.session)
                await self.ended.seen.wait()
        except asyncio.CancelledError:
            self.ended.now("it was given up")
            raise
        except TimeoutError:
            self.ended.now(f"it didn't start within {self.server.start_within:g} s")
        except ServerFailed as failed:
            self.ended.now(failed.message)
            if not self._opened.done():
                self._opened.set_exception(failed)
        except (Exception, BaseExceptionGroup) as wrong:
            self.ended.now(self._words.of_error(wrong))
        finally:
            if not self.ended.gently:
                self._restarts.failed()
            if not self._opened.done():
                self._opened.set_exception(self.outage())

    def outage(self) -> ServerFailed:
        said = self._words.of(f"`{self.server.name}` can't be had: {self.ended.why or 'it ended'}")
        return ServerFailed("outage", said, True, False)

    def _looked_up(self) -> dict[str, str]:
        """What the server is given, by the environment of now. Raises `ServerFailed` for what isn't set."""
        declared = dict(self.server.env if self.server.command else self.server.headers)
        names = {name for text in declared.values() for name in references(text)}
        missing = sorted(name for name in names if name not in self._environment)
        if missing:
            said = f"`{self.server.name}` needs {', '.join(missing)} in the environment"
            raise ServerFailed("unset", said, False, False)
        self._words.secrets = [(self._environment[name], name) for name in names]
        return {name: resolved(text, self._environment) for name, text in declared.items()}


def _library() -> Any:
    try:
        return import_module("mcp")
    except ImportError:
        raise ServerFailed("unset", "servers need the package `mcp`: install interlock[mcp]", False, False) from None
