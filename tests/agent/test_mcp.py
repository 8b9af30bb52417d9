"""Tools of servers, through client, worker and store: with servers as they are installed, and with one that misbehaves.

What a server really did is read from its files, never from what it says.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest

from interlock import Turn, mcp_server, state
from interlock.history import events as e
from tests.agent.served import Case, hostile, machine, npm, scene


def play(folder: Path, made: Any, record: Case | None = None, **more: Any) -> tuple[Any, Any]:
    """One run in real time: its result, and the scene with its log."""

    async def main() -> tuple[Any, Any]:
        async with scene(folder / "store.db", **more) as on:
            result = await on.play(made, record)
            return result, on

    return asyncio.run(main())


# -- as they are installed ---------------------------------------------------------------------------------------------


def test_tools_of_a_server_are_called_like_any(tmp_path: Path) -> None:
    everything = mcp_server("everything", command=npm("everything"))
    echo = everything.tool("echo", does="read")
    add = everything.tool("get-sum", does="read")

    @state(tools=[echo, add], writes=["said"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.said = [await turn.call(echo, message="hi"), await turn.call(add, a=1, b=2)]
        return "done"

    async def main() -> None:
        async with scene(tmp_path / "store.db") as on:
            result = await on.play(machine(work))
            assert (result.status, result.record.said) == ("completed", ["Echo: hi", "The sum of 1 and 2 is 3."])
            first, second = on.of(e.ToolPinned)
            assert (first.tool, first.server, first.remote) == ("echo", "everything", "echo")
            assert (second.tool, second.remote, set(second.schema["properties"])) == ("get_sum", "get-sum", {"a", "b"})
            assert len(first.digest) == 64
            assert [event.origin for event in on.of(e.ToolReturned)] == ["tool:echo", "tool:get_sum"]

    asyncio.run(main())


# -- what changes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["other echo", "wider echo", "without echo"])
def test_a_tool_that_changes_within_a_run_is_refused(how: str, tmp_path: Path) -> None:
    echo = hostile(tmp_path).tool("echo", does="read")

    @state(tools=[echo], writes=["more"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.more.append(await turn.call(echo, text="one"))
        (tmp_path / "list").write_text(how)
        turn.record.more.append(await turn.call(echo, text="two"))
        return "done"

    async def main() -> None:
        async with scene(tmp_path / "store.db") as on:
            result = await on.play(machine(work))
            assert (result.status, result.reason) == ("waiting", "denied")
            (failed,) = on.of(e.AttemptFailed)
            assert failed.kind == ("vanished" if how.startswith("without") else "changed")
            assert failed.final and not failed.doubt
            assert len(on.of(e.ToolReturned)) == 1
            assert len(on.of(e.ToolPinned)) == 1

    asyncio.run(main())
