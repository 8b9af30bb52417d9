"""Tools of servers in a run: pinned at first use, held to that ever after, and called.

What a server says of a tool is an event the first time (`ToolPinned`); states then offer and check it by that, also
when the turn is entered again or replayed. Before each offer and each call the live server is asked anew, and a tool
that has changed or gone ends the turn `denied`. Runs that use no server pay for one test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import jsonschema

from interlock.agent.servers import UNREADABLE, Listed, ServerFailed
from interlock.canonical import encode
from interlock.engine.desk import Desk
from interlock.errors import EffectFailed
from interlock.history.events import ToolPinned, ToolRefused
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.servers import Pin, Server, ServerTool, validator_of
from interlock.machine.states import ModelState
from interlock.machine.tools import Tool
from interlock.policy.retry import delay_seconds

SCHEMA_BYTES_MAX = 64_000
DESCRIPTION_CHARS_MAX = 16_000
KEPT_MAX = 256

Asked = dict[Server, Mapping[str, Listed]]
"""What servers have said within one look at the tools of a state."""

_OUTCOMES = {
    "changed": EngineOutcome.DENIED,
    "vanished": EngineOutcome.DENIED,
    "invalid": EngineOutcome.DENIED,
    "outage": EngineOutcome.UNAVAILABLE,
    "unset": EngineOutcome.UNAVAILABLE,
}


async def pinned(desk: Desk, tool: Tool[Any, Any, Any]) -> Tool[Any, Any, Any]:
    """The tool as this run knows it; what is a server's is pinned now if it is used for the first time.

    Raises `EffectFailed`: `denied`, or `unavailable` when the server can't be had.
    """
    return await _pinned(desk, tool, {}) if isinstance(tool, ServerTool) else tool


async def _pinned(desk: Desk, tool: ServerTool, asked: Asked) -> ServerTool:
    if _digest_of(desk, tool) is None:
        listed = await _found(desk, tool, asked)
        if _digest_of(desk, tool) is None:  # nobody else has meanwhile
            _check(desk, tool, listed)
            desk.add(
                ToolPinned(
                    tool=tool.name,
                    server=tool.server.name,
                    remote=tool.remote,
                    digest=listed.digest,
                    schema=listed.schema,
                    description=listed.description,
                    output=listed.output,
                    hints=listed.hints,
                )
            )
    return _as_pinned(desk, tool)


async def pinned_state(desk: Desk, state: ModelState) -> ModelState:
    """The state with its tools as this run knows them. The same object for all runs that know the same."""
    asked: Asked = {}
    tools = tuple([await _pinned(desk, tool, asked) if isinstance(tool, ServerTool) else tool for tool in state.tools])
    key = (id(state), *(tool.pin.digest for tool in tools if isinstance(tool, ServerTool) and tool.pin is not None))
    kept = _STATES.get(key)
    if kept is None or kept[0] is not state:
        kept = (state, replace(state, tools=tools))
        _keep(_STATES, key, kept)
    return kept[1]


_STATES: dict[tuple[Any, ...], tuple[ModelState, ModelState]] = {}


async def unchanged(desk: Desk, tools: Sequence[Tool[Any, Any, Any]]) -> None:
    """Ask the servers whether their tools are still what the run knows: before they are offered. Raises as `pinned`."""
    asked: Asked = {}
    ours = [tool for tool in tools if isinstance(tool, ServerTool)]
    for tool in ours:
        _as_told_before(desk, tool)
    if desk.live:
        for tool in ours:
            listed = await _found(desk, tool, asked)
            if listed.digest != _digest_of(desk, tool):
                said = f"`{tool.server.name}` describes `{tool.remote}` in another way than when this run first used it"
                _refuse(desk, tool, "changed", said, listed.digest)


def _digest_of(desk: Desk, tool: ServerTool) -> str | None:
    """What the run is held to, if it has used the tool before."""
    event = desk.journal.pins.get(tool.name)
    if event is not None:
        return event.digest
    known = desk.run.state.pins.get(tool.name)
    return None if known is None else str(known[0])


def _as_pinned(desk: Desk, tool: ServerTool) -> ServerTool:
    """The tool with its pin. Made once for all runs that know the same."""
    key = (id(tool), digest := _digest_of(desk, tool))
    kept = _TOOLS.get(key)
    if kept is None or kept[0] is not tool:
        event = desk.journal.pins.get(tool.name) or desk.run.event_at(desk.run.state.pins[tool.name][1])
        assert isinstance(event, ToolPinned) and event.digest == digest
        kept = (tool, tool.pinned(Pin(event.digest, event.schema, event.description)))
        _keep(_TOOLS, key, kept)
    return kept[1]


_TOOLS: dict[Any, tuple[ServerTool, ServerTool]] = {}


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    if len(kept) >= KEPT_MAX:
        kept.pop(next(iter(kept)))
    kept[key] = value


def _as_told_before(desk: Desk, tool: ServerTool) -> None:
    """Raises what this turn was told of a tool before it was entered again."""
    refused = desk.journal.refusals.get(tool.name)
    if refused is not None:
        raise EffectFailed(_OUTCOMES.get(refused.why, EngineOutcome.ERROR), refused.message)


async def _found(desk: Desk, tool: ServerTool, asked: Asked) -> Listed:
    """What the live server says of a tool, asked once for all of its tools."""
    _as_told_before(desk, tool)
    if tool.server not in asked:
        asked[tool.server] = await _listing(desk, tool)
    found = asked[tool.server].get(tool.remote)
    if found is None:
        _refuse(desk, tool, "vanished", f"`{tool.server.name}` has no tool `{tool.remote}`")
    return found


async def _listing(desk: Desk, tool: ServerTool) -> Mapping[str, Listed]:
    """All that a tool's server has now. Tried as often as an effect is."""
    world, attempts = desk.world, desk.run.machine.limits.attempts
    for attempt in range(1, attempts + 1):
        try:
            return await world.servers.listed(tool.server)
        except ServerFailed as failed:
            if not failed.retry or attempt == attempts:
                _refuse(desk, tool, failed.kind, failed.message)
            await asyncio.sleep(delay_seconds(attempt, world.chance, failed.retry_after))
    raise AssertionError("unreachable: the last attempt returns or refuses")


def _check(desk: Desk, tool: ServerTool, listed: Listed) -> None:
    """Whether what is said of a tool can be worked with at all."""
    problem = _problem(tool, listed)
    if problem:
        _refuse(desk, tool, "invalid", f"`{tool.remote}` of `{tool.server.name}`: {problem}", listed.digest)


def _problem(tool: ServerTool, listed: Listed) -> str:
    if listed.digest == UNREADABLE:
        return "what it says can't be written down"
    if len(encode(listed.schema)) + len(encode(listed.output)) > SCHEMA_BYTES_MAX:
        return f"its schema has more than {SCHEMA_BYTES_MAX} bytes"
    if len(listed.description) > DESCRIPTION_CHARS_MAX:
        return f"its description has more than {DESCRIPTION_CHARS_MAX} characters"
    if listed.schema.get("type") != "object":
        return "its schema is not one of an object"
    if tool.key_argument is not None and tool.key_argument not in listed.schema.get("properties", {}):
        return f"it takes no `{tool.key_argument}`, which is to take the key"
    try:
        validator = validator_of(listed.schema)
        validator.check_schema(dict(listed.schema))
    except jsonschema.SchemaError as wrong:
        return f"its schema is none: {wrong.message[:200]}"
    return ""


def _refuse(desk: Desk, tool: ServerTool, why: str, message: str, found: str = "") -> NoReturn:
    known = desk.run.state.pins.get(tool.name)
    event = ToolRefused(
        tool=tool.name,
        server=tool.server.name,
        why=why,
        message=message[:500],
        pinned=known[0] if known else "",
        found=found,
    )
    desk.add(event)
    raise EffectFailed(_OUTCOMES.get(why, EngineOutcome.ERROR), message)
