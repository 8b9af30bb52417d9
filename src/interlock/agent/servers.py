"""Servers as the engine sees them: what tools one has now, and one call of one. Knows no protocol, run or retry.

`agent.mcp` speaks to real ones; tests give scripted ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from msgspec import Struct

from interlock.canonical import Json, encode, in_key_order, sha256
from interlock.errors import BadInput
from interlock.machine.servers import Pin, Server

UNREADABLE = "unreadable"
"""The digest of what can't be written down, and so is never pinned."""


class Listed(Struct, frozen=True):
    """One tool as its server describes it. `hints`: its annotations, which nobody believes."""

    name: str
    schema: Mapping[str, Json]
    description: str = ""
    output: Mapping[str, Json] | None = None
    hints: Mapping[str, Json] = {}

    @property
    def digest(self) -> str:
        """Of all it says of itself, in whatever order."""
        said = [self.name, self.description, self.schema, self.output, self.hints]
        try:
            return sha256(
                encode(in_key_order(said))
            ).hex()  # whole: a server may look for two tools of one short digest
        except BadInput:
            return UNREADABLE

    def pin(self) -> Pin:
        return Pin(self.digest, self.schema, self.description)


@dataclass(slots=True)
class ServerFailed(Exception):
    """A server brought no result. `happened` None: nobody knows; False: surely not. Kinds:

    outage, unset   it can't be had; it can't be started as declared          nothing was sent
    changed, vanished  the tool is not what was pinned; it is gone            nothing was sent
    cut, timeout    it died, or didn't answer in time                         nobody knows
    tool_error      it answered that the tool failed                          what that means is declared
    oversize, malformed   it answered what can't be kept                      nobody knows; it happened
    """

    kind: str
    message: str
    retry: bool = False
    happened: bool | None = None
    retry_after: float | None = None


class Ended:
    """Whether a session has ended, and why. The first word is kept."""

    def __init__(self) -> None:
        self.why = ""
        self.oversize = self.gently = False
        self.seen = asyncio.Event()

    def now(self, why: str, *, oversize: bool = False, gently: bool = False) -> None:
        """`gently`: a process may first end by itself."""
        if not self.seen.is_set():
            self.why, self.oversize, self.gently = why, oversize, gently
            self.seen.set()


FRAME_BYTES = 65_536
"""What a message may have beside its result; escapes and a structured twin of it are allowed for apart from this."""

_TIMES = 4


def message_bytes_max(server: Server) -> int:
    """The most that a server may say at once: what is longer isn't read to its end."""
    return _TIMES * max(server.result_bytes_max, FRAME_BYTES) + FRAME_BYTES


class ServerCall(Struct, frozen=True):
    """One call: `digest` is what the tool must still be. `seconds` it may take, the server's start included."""

    tool: str
    digest: str
    arguments: Mapping[str, Json]
    key: str
    seconds: float


class Servers(Protocol):
    """The servers of one worker, each started when it is first needed. A context: nothing is left running after it."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def listed(self, server: Server) -> Mapping[str, Listed]:
        """The tools that the server has now, by name. Raises `ServerFailed`."""
        ...

    async def call(
        self, server: Server, call: ServerCall, begin: Callable[[], None], late: Callable[[Json], None]
    ) -> Json:
        """The result of one call. `begin` is asked immediately before it is sent, and raises what it raises; `late` is
        told a result that comes after the caller was cancelled. Raises `ServerFailed`."""
        ...
