"""Connect: what a machine's servers say when asked, beside what the machine declares of them. Changes no run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from interlock.agent.mcp import Connections
from interlock.agent.servers import Listed, ServerFailed, Servers
from interlock.errors import Finding
from interlock.machine.rules.remark import near, tool_uses
from interlock.machine.servers import Server, ServerTool
from interlock.machine.table import AnyMachine

Answer = Mapping[str, Listed] | ServerFailed


def findings_of_servers(machine: AnyMachine) -> list[Finding]:
    """Start or reach every server that the machine uses, once, and say what is wrong with what it answers."""
    tools = [(tool, state) for tool, state in tool_uses(machine) if isinstance(tool, ServerTool)]
    answers = asyncio.run(_answers([tool.server for tool, _ in tools], Connections()))
    found: list[Finding] = []
    for server, answer in answers.items():
        if isinstance(answer, ServerFailed):
            found.append(Finding("server", answer.message, None, server.file, server.line))
    for tool, state in tools:
        answer = answers[tool.server]
        if not isinstance(answer, ServerFailed):
            found += [_finding(tool, state, *said) for said in _of_tool(tool, answer)]
    return found


async def _answers(servers: Sequence[Server], connections: Servers) -> dict[Server, Answer]:
    async with connections:
        asked = list(dict.fromkeys(servers))
        return dict(zip(asked, await asyncio.gather(*(_answer(each, connections) for each in asked)), strict=True))


async def _answer(server: Server, connections: Servers) -> Answer:
    try:
        return await connections.listed(server)
    except ServerFailed as failed:
        return failed


def _of_tool(tool: ServerTool, listed: Mapping[str, Listed]) -> Iterator[tuple[str, bool]]:
    """What is wrong with a tool, and whether that is an error."""
    found = listed.get(tool.remote)
    if found is None:
        yield f"`{tool.server.name}` has no such tool; {near(tool.remote, list(listed))}", True
        return
    if tool.key_argument is not None and tool.key_argument not in found.schema.get("properties", {}):
        yield f"it takes no `{tool.key_argument}`, which is to take the key", True
    # A hint proves nothing. One that contradicts what is declared is worth a look.
    if tool.does == "read" and found.hints.get("readOnlyHint") is False:
        yield "it is declared to read, and its server says that it changes something: look which is true", False
    if tool.does == "read" and found.hints.get("destructiveHint") is True and not found.hints.get("readOnlyHint"):
        yield "it is declared to read, and its server says that it destroys: look which is true", False


def _finding(tool: ServerTool, state: str, message: str, is_error: bool) -> Finding:
    said = f"tool `{tool.name}`: {message}"
    return Finding("server", said, state, tool.file, tool.line, "error" if is_error else "warning")
