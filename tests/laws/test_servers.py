"""What holds of tools of servers as of any tool, in virtual time: pins outlive crashes and rollbacks, and nothing of a
server's is believed or asked for again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from interlock import Turn, mcp_server, state
from interlock.agent.scripted_servers import ScriptedServers
from interlock.agent.servers import ServerFailed
from interlock.cli.story import Note, tell
from interlock.history import events as e
from interlock.testing import assert_log, play
from tests.laws.machines import Case, machine
from tests.laws.stage import Stage, dies_at, on_stage

desk = mcp_server("desk", command=["desk"])
look = desk.tool("look", does="read")
put = desk.tool("put", does="write", keyed=True)
post = desk.tool("post", does="send", error_means="not_done")


@state(tools=[look, put], writes=["items"], calls=4)
async def work(turn: Turn[Case, Any]) -> Literal["done"]:
    turn.record.items.append(await turn.call(look, n=turn.record.n))
    turn.record.items.append(await turn.call(put, n=turn.record.n))
    return "done"


def served(**answers: Any) -> ScriptedServers:
    return ScriptedServers({"desk": {"look": lambda n: f"saw {n}", "put": lambda n: f"put {n}", **answers}})


def with_servers(stage: Stage, servers: ScriptedServers) -> None:
    """Every worker of the stage reaches these."""
    made = stage.world

    def world(*args: Any, **more: Any) -> Any:
        from dataclasses import replace

        return replace(made(*args, **more), servers=servers)

    stage.world = world  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["lose", "die"])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_crash_at_any_commit_repeats_no_pin_and_no_effect(number: int, how: str) -> None:
    servers, done = served(), []
    servers.tools["desk"]["put"] = lambda n: done.append(n) or "put"

    async def scene(stage: Stage) -> None:
        with_servers(stage, servers)
        made = machine(work)
        first = await stage.worker(made, fail=dies_at(number, how))
        await stage.client.start(made, Case(n=3))
        cable: Any = first.world.committer
        await stage.until(lambda: stage.status() == "completed" or cable.died.is_set())
        if cable.died.is_set():
            await stage.kill(first)
            await stage.worker(made)
            await stage.until(lambda: stage.status() == "completed")
        pinned = [event.tool for event in stage.of(e.ToolPinned)]
        assert sorted(pinned) == ["look", "put"]
        assert len(stage.of(e.ToolReturned)) == 2
        keys = {event.effect for event in stage.of(e.ToolCalled) if event.tool == "put"}
        assert len(keys) == 1  # a repeat is under the same key

    on_stage(scene)


def test_a_rollback_keeps_what_was_pinned() -> None:
    """It takes back what a run did, not what it has learned to distrust."""
    servers = served()

    @state(tools=[put], writes=["items"], within=1e5)
    async def twice(turn: Turn[Case, Any]) -> Literal["done"]:
        turn.record.items.append(await turn.call(put, n=turn.number))
        await turn.sleep(1000)
        return "done"

    async def scene(stage: Stage) -> None:
        with_servers(stage, servers)
        made = machine(twice)
        await stage.worker(made)
        handle = await stage.client.start(made, Case())
        await stage.until(lambda: stage.status() == "waiting")
        servers.describe("desk", "put", {"type": "object"}, "puts, and tells everybody")
        await stage.client.rollback(handle.id, to=1, by="me", accept=[1])
        await stage.until(lambda: bool(stage.of(e.RolledBack)))
        await stage.client.resume(handle.id, by="me")
        await stage.until(lambda: stage.status() == "waiting" and len(stage.of(e.AttemptFailed)) == 1)
        assert stage.of(e.AttemptFailed)[0].kind == "changed"
        assert len(stage.of(e.ToolPinned)) == 1
        assert servers.calls == [("desk", "put", {"n": 1})]

    on_stage(scene)


def test_the_log_tells_of_pins_and_refusals() -> None:
    servers = served()
    run = play(machine(work), {"n": 1}, servers=servers)
    said = [line.text for line in tell(enumerate(run.events, 1)) if isinstance(line, Note)]
    assert any(text.startswith("`look` of server `desk` is pinned as ") for text in said)
    gone = play(machine(work), {"n": 1})
    said = [line.text for line in tell(enumerate(gone.events, 1)) if isinstance(line, Note)]
    assert "`look` REFUSED, outage: `desk` can't be had: it is in no script" in said


def test_a_server_that_comes_back_is_used_without_a_word() -> None:
    servers, asked = served(), 0
    listed = servers.listed

    async def shaky(server: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise ServerFailed("outage", "starting", True, False)
        return await listed(server)

    servers.listed = shaky  # type: ignore[method-assign]
    run = play(machine(work), {"n": 1}, servers=servers)
    assert run.status == "completed"
    assert_log(run, None, tool_refused=0)


def test_an_error_is_a_doubt_or_not_as_its_tool_declares() -> None:
    def fails(n: int) -> None:
        raise ServerFailed("tool_error", "no")

    @state(tools=[post], calls=1)
    async def send(turn: Turn[Case, Any]) -> Literal["done"]:
        await turn.call(post, n=1)
        return "done"

    run = play(machine(send), {}, servers=served(post=fails))
    assert (run.status, run.result.reason) == ("waiting", "error")
    (failed,) = (event for event in run.events if isinstance(event, e.AttemptFailed))
    assert not failed.doubt


def test_a_limit_across_runs_holds_for_a_server_too() -> None:
    single = desk.tool("put", does="write", keyed=True, concurrency=1)
    under_way, most = 0, 0

    async def one_at_a_time(n: int) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(3)
        under_way -= 1
        return "put"

    @state(tools=[single], within=1e4)
    async def file(turn: Turn[Case, Any]) -> Literal["done"]:
        await turn.call(single, n=turn.record.n)
        return "done"

    async def scene(stage: Stage) -> None:
        with_servers(stage, served(put=one_at_a_time))
        made = machine(file)
        await stage.worker(made)
        await stage.worker(made)
        runs = [await stage.client.start(made, Case(n=n)) for n in range(4)]
        await stage.until(lambda: all(stage.status(run.id) == "completed" for run in runs))
        assert most == 1

    on_stage(scene)


def test_a_call_that_was_refused_is_redone_when_the_server_is_as_it_was() -> None:
    """By a person, who has put it back: the run is still held to what it has pinned."""
    servers = served()

    @state(tools=[put], within=1e5)
    async def twice(turn: Turn[Case, Any]) -> Literal["done"]:
        await turn.call(put, n=1)
        await turn.sleep(100)
        await turn.call(put, n=2)
        return "done"

    async def scene(stage: Stage) -> None:
        with_servers(stage, servers)
        made = machine(twice)
        await stage.worker(made)
        handle = await stage.client.start(made, Case())
        await stage.until(lambda: stage.status() == "waiting")
        servers.describe("desk", "put", {"type": "object"}, "puts, and tells everybody")
        await stage.until(lambda: stage.client.store.find(handle.id).reason == "denied")
        servers.describe("desk", "put", {"type": "object"})
        await stage.client.resolve(handle.id, "retry", by="me")
        await stage.until(lambda: stage.status() == "completed")
        assert len(stage.of(e.ToolPinned)) == 1
        assert [arguments for _, _, arguments in servers.calls] == [{"n": 1}, {"n": 1}, {"n": 2}]

    on_stage(scene)
