"""Scripted servers: they have the tools, and answer, as a test tells them to. Nothing is started. Knows no protocol.

    servers = ScriptedServers({"files": {"read_text_file": lambda path: "the kettle is on"}})

An answer is a value, or a function of the arguments (plain or async), which may raise `ServerFailed`. `describe` says
what a tool takes; else it takes anything. Both may be changed while a run is under way, as real servers do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from interlock.agent.servers import Listed, ServerCall, ServerFailed
from interlock.canonical import Json
from interlock.machine.servers import Server


class ScriptedServers:
    """Servers by name, each with its tools by their names there. `calls`: what was asked, in order."""

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self.tools: dict[str, dict[str, Any]] = {name: dict(answers) for name, answers in tools.items()}
        self.calls: list[tuple[str, str, Mapping[str, Json]]] = []
        self._described: dict[tuple[str, str], Listed] = {}

    def describe(self, server: str, tool: str, schema: Mapping[str, Json], description: str = "") -> None:
        """From now on the server says this of its tool."""
        self._described[server, tool] = Listed(tool, schema, description)

    async def __aenter__(self) -> ScriptedServers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def listed(self, server: Server) -> Mapping[str, Listed]:
        if server.name not in self.tools:
            raise ServerFailed("outage", f"`{server.name}` can't be had: it is in no script", True, False)
        said = self._described
        return {
            name: said.get((server.name, name)) or Listed(name, {"type": "object"}) for name in self.tools[server.name]
        }

    async def call(
        self, server: Server, call: ServerCall, begin: Callable[[], None], late: Callable[[Json], None]
    ) -> Json:
        tool = (await self.listed(server)).get(call.tool)
        if tool is None:
            raise ServerFailed("vanished", f"`{server.name}` has no `{call.tool}` any more", False, False)
        if tool.digest != call.digest:
            said = f"`{server.name}` describes `{call.tool}` in another way than when this run first used it"
            raise ServerFailed("changed", said, False, False)
        begin()
        self.calls.append((server.name, call.tool, dict(call.arguments)))
        answer = self.tools[server.name][call.tool]
        if callable(answer):
            answer = answer(**call.arguments)
        return await answer if inspect.isawaitable(answer) else answer
