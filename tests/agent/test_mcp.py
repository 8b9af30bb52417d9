"""Tools of servers, through client, worker and store: granted, offered, checked, pinned, approved and logged like any.

With servers as they are installed, over standard input and output and over HTTP; and with one that changes as it is
told. What a server really did is read from its files, never from what it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from interlock import Limits, Machine, Turn, Worker, ask, final, mcp_server, model_state, state, use
from interlock.agent.mcp import Connections
from interlock.agent.model import ModelRequest
from interlock.agent.scripted import Script, ScriptedModel, call, choose
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.limits import Price
from interlock.machine.servers import Server
from tests.agent import serving
from tests.agent.served import (
    ROOT,
    Case,
    Scene,
    calling,
    everything_over_http,
    hostile,
    lines,
    lives,
    machine,
    nobody_lives,
    npm,
    scene,
    until,
)

PRICES = {"test:model": Price.per_million(1, 4)}


def model_machine(*tools: Any, **settings: Any) -> Any:
    """A model that may call tools and then say what it found."""
    look = model_state("Look at {text}", model="test:model", tools=tools, writes={"found": ["said"]}, **settings)
    table = {
        "look": look.then({"found": "closed", "denied": "denied", "unavailable": "person"}),
        "person": ask("Well?", of="support", writes={"stop": []}).then({"stop": "closed", "timeout": "closed"}),
        "denied": final("failed"),
        "closed": final(),
    }
    return Machine("looker", Case, table=table, limits=Limits(turns=8, usd=1.0), prices=PRICES)


async def play(folder: Path, made: Any, script: Script = (), record: Case | None = None) -> tuple[Any, Scene]:
    async with scene(folder / "store.db", models=ScriptedModel(script)) as on:
        return await on.play(made, record), on


# -- as they are installed ---------------------------------------------------------------------------------------------


def plain(server: Server) -> Any:
    """Two tools of `everything`."""
    echo, add = server.tool("echo", does="read"), server.tool("get-sum", does="read")

    @state(tools=[echo, add], writes=["said"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.said = [await turn.call(echo, message="hi"), await turn.call(add, a=1, b=2)]
        return "done"

    return machine(work)


async def assert_plain(folder: Path, server: Server) -> None:
    async with scene(folder / "store.db") as on:
        result = await on.play(plain(server))
        assert (result.status, result.record.said) == ("completed", ["Echo: hi", "The sum of 1 and 2 is 3."])
        first, second = on.of(e.ToolPinned)
        assert (first.tool, first.server, first.remote) == ("echo", "everything", "echo")
        assert (second.tool, second.remote, set(second.schema["properties"])) == ("get_sum", "get-sum", {"a", "b"})
        assert len(first.digest) == 64
        assert [event.origin for event in on.of(e.ToolReturned)] == ["tool:echo", "tool:get_sum"]


def test_tools_of_a_command_are_called_like_any(tmp_path: Path) -> None:
    asyncio.run(assert_plain(tmp_path, mcp_server("everything", command=npm("everything"))))


def test_tools_of_a_service_are_called_like_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "correct-horse-battery")
    with everything_over_http() as url:
        server = mcp_server("everything", url=url, headers={"Authorization": "Bearer {SERVICE_TOKEN}"})
        asyncio.run(assert_plain(tmp_path, server))
    assert b"correct-horse" not in b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))


def test_a_model_reads_files_that_a_server_may_read(tmp_path: Path) -> None:
    """And what lies outside is refused by the server, told to the model, and logged."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "note.txt").write_text("the kettle is on")
    (tmp_path / "secret.txt").write_text("don't")
    files = mcp_server("files", command=npm("filesystem", str(folder)))
    read = files.tool("read_text_file", does="read")
    script = [
        call("read_text_file", path=str(tmp_path / "secret.txt")),
        call("read_text_file", path=str(folder / "note.txt")),
        choose("found", said="it is on"),
    ]

    async def main() -> None:
        result, on = await play(tmp_path, model_machine(read), script, Case(text="the note"))
        assert (result.status, result.record.said) == ("completed", "it is on")
        (refused,) = on.of(e.AttemptFailed)
        assert refused.kind == "tool_error" and "denied" in refused.message.lower()
        (returned,) = on.of(e.ToolReturned)
        assert returned.value == {"content": "the kettle is on"}

    asyncio.run(main())


def test_what_a_server_keeps_is_there_for_the_next_worker(tmp_path: Path) -> None:
    memory = mcp_server("memory", command=npm("memory"), env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")})
    create = memory.tool("create_entities", does="write", keyed=True)
    read = memory.tool("read_graph", does="read")
    kettle = {"name": "kettle", "entityType": "thing", "observations": ["it is on"]}

    @state(tools=[create])
    async def keep(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(create, entities=[kettle])
        return "done"

    async def main() -> None:
        async with scene(tmp_path / "store.db") as on:
            assert (await on.play(machine(keep))).status == "completed"
        async with scene(tmp_path / "store.db2") as on:
            result = await on.play(calling(read))
            assert result.record.said["entities"] == [kettle]

    asyncio.run(main())


def test_every_tool_of_the_installed_servers_can_be_pinned(tmp_path: Path) -> None:
    """Real schemas, of any kind: each is one that arguments can be checked by."""

    servers = [
        mcp_server("everything", command=npm("everything")),
        mcp_server("files", command=npm("filesystem", str(tmp_path))),
        mcp_server("memory", command=npm("memory"), env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}),
    ]

    async def main() -> None:
        async with Connections() as connections:
            listed = {server: list(await connections.listed(server)) for server in servers}
        tools = [server.tool(name, does="read") for server, names in listed.items() for name in names]
        assert len(tools) > 30
        result, on = await play(tmp_path, model_machine(*tools), [choose("found", said=1)])
        assert (result.status, len(on.of(e.ToolPinned))) == ("completed", len(tools))

    asyncio.run(main())


# -- granted and checked -----------------------------------------------------------------------------------------------


def test_a_model_is_offered_what_the_run_has_pinned_and_is_told_what_does_not_fit(tmp_path: Path) -> None:
    tool = hostile(tmp_path).tool("put", does="write", keyed="key", name="put_it")
    seen: list[ModelRequest] = []
    moves = iter(
        [call("put_it", n="three"), call("put_it", n=3, key="mine"), call("put_it", n=3), choose("found", said=1)]
    )

    def brain(request: ModelRequest) -> Any:
        seen.append(request)
        return next(moves)

    async def main() -> None:
        result, on = await play(tmp_path, model_machine(tool), brain)
        assert result.status == "completed"
        offer = seen[0].offers[0]
        assert (offer.name, offer.description) == ("put_it", "does put")
        assert offer.schema == {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        assert [refused.why for refused in on.of(e.MoveRefused)] == [
            "put_it: `n`: doesn't fit `type: 'integer'`",
            "put_it: `key` is not yours to give",
        ]
        assert lines(tmp_path, "done") == [f"put 3 {result.id}-4 {result.id}-4"]

    asyncio.run(main())


def test_a_use_state_calls_a_server(tmp_path: Path) -> None:
    tool = hostile(tmp_path).tool("put", does="write", keyed=True)
    table = {"put": use(tool, args={"n": "n"}, into="said").then({"done": "closed"}), "closed": final()}

    class Numbered(Case):
        n: int = 4

    async def main() -> None:
        result, on = await play(tmp_path, Machine("user", Numbered, table=table), (), Numbered())
        assert (result.status, result.record.said) == ("completed", "put")
        assert [event.TYPE for event in on.log()][:4] == ["run_started", "tool_pinned", "tool_called", "tool_returned"]

    asyncio.run(main())


def test_what_a_server_says_of_its_tools_is_a_hint_and_no_grant(tmp_path: Path) -> None:
    """It says that every tool only reads."""
    tool = hostile(tmp_path).tool("put_and_die", within=1.0)

    async def main() -> None:
        result, on = await play(tmp_path, calling(tool, n=1))
        assert on.of(e.ToolPinned)[0].hints["readOnlyHint"] is True
        assert (result.status, result.waits[0].why) == ("waiting", "doubt")
        assert len(lines(tmp_path, "done")) == 1

    asyncio.run(main())


def test_a_call_waits_for_a_yes_and_nothing_is_sent_before(tmp_path: Path) -> None:
    tool = hostile(tmp_path).tool("put", does="write", keyed=True, approve="finance")

    async def main() -> None:
        made = calling(tool, n=5)
        async with scene(tmp_path / "store.db") as on, Worker(on.client, [made], name="w"):
            result = await on.go_on(made)
            assert (result.status, result.waits[0].why) == ("waiting", "approve")
            assert lines(tmp_path, "done") == []
            await on.client.approve(result.id, by="boss")
            await until(lambda: len(lines(tmp_path, "done")) == 1)

    asyncio.run(main())


def test_a_tool_that_changes_while_a_person_thinks_is_not_called_on_their_yes(tmp_path: Path) -> None:
    tool = hostile(tmp_path).tool("put", does="write", keyed=True, approve="finance")

    async def main() -> None:
        made = calling(tool, n=5)
        async with scene(tmp_path / "store.db") as on, Worker(on.client, [made], name="w"):
            result = await on.go_on(made)
            (tmp_path / "list").write_text("other put")
            await on.client.approve(result.id, by="boss")
            await until(lambda: bool(on.of(e.AttemptFailed)))
            assert on.of(e.AttemptFailed)[0].kind == "changed"
            await until(lambda: on.client.store.find(result.id).reason == "denied")
            assert lines(tmp_path, "done") == []

    asyncio.run(main())


# -- what changes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["other echo", "wider echo", "without echo"])
def test_a_tool_that_changes_within_a_turn_is_refused(how: str, tmp_path: Path) -> None:
    echo = hostile(tmp_path).tool("echo", does="read")

    @state(tools=[echo], writes=["more"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.more.append(await turn.call(echo, text="one"))
        (tmp_path / "list").write_text(how)
        turn.record.more.append(await turn.call(echo, text="two"))
        return "done"

    async def main() -> None:
        result, on = await play(tmp_path, machine(work))
        assert (result.status, result.reason) == ("waiting", "denied")
        (failed,) = on.of(e.AttemptFailed)
        assert failed.kind == ("vanished" if how.startswith("without") else "changed")
        assert failed.final and not failed.doubt and not failed.sent
        assert len(on.of(e.ToolReturned)) == 1
        assert len(on.of(e.ToolPinned)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("how", ["other echo", "wider echo", "without echo"])
def test_a_tool_that_has_changed_is_not_offered(how: str, tmp_path: Path) -> None:
    echo = hostile(tmp_path).tool("echo", does="read")
    asked = 0

    def brain(request: ModelRequest) -> Any:
        nonlocal asked
        asked += 1
        (tmp_path / "list").write_text(how)  # after the call, before the next offer
        return call("echo", text="x")

    async def main() -> None:
        result, on = await play(tmp_path, model_machine(echo), brain)
        assert (result.status, result.state) == ("failed", "denied")
        assert asked == 1
        assert not on.of(e.ToolReturned)  # checked before the call as well
        (failed,) = on.of(e.AttemptFailed)
        assert failed.kind in ("changed", "vanished")

    asyncio.run(main())


@pytest.mark.parametrize("how", ["other echo", "without echo"])
def test_a_tool_that_changes_between_two_turns_is_refused_before_the_model_is_asked(how: str, tmp_path: Path) -> None:
    server = hostile(tmp_path)
    echo, put = server.tool("echo", does="read"), server.tool("put", does="write", keyed=True)
    asked = 0

    def brain(request: ModelRequest) -> Any:
        nonlocal asked
        asked += 1
        return call("put", n=asked)

    class Changes(ScriptedModel):
        async def reply(self, request: ModelRequest) -> Any:
            if asked == 1:
                (tmp_path / "list").write_text("reversed")  # the same tools in another order are the same tools
            if asked == 2:
                (tmp_path / "list").write_text(how)  # `echo`; what is called is still what it was
            return await super().reply(request)

    async def main() -> None:
        async with scene(tmp_path / "store.db", models=Changes(brain)) as on:
            result = await on.play(model_machine(echo, put))
            assert (result.status, result.state) == ("failed", "denied")
            assert asked == 3
            (refused,) = on.of(e.ToolRefused)
            assert (refused.tool, refused.why) == ("echo", "vanished" if how.startswith("without") else "changed")
            assert refused.pinned == on.of(e.ToolPinned)[0].digest != refused.found
            assert len(lines(tmp_path, "done")) == 3

    asyncio.run(main())


@pytest.mark.parametrize("how", ["broken echo", "huge echo", "without echo"])
def test_what_cannot_be_worked_with_is_refused_at_first_sight(how: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(how)
    echo = hostile(tmp_path).tool("echo", does="read")

    async def main() -> None:
        result, on = await play(tmp_path, calling(echo, text="x"))
        assert (result.status, result.reason) == ("waiting", "denied")
        (refused,) = on.of(e.ToolRefused)
        assert refused.why == ("vanished" if how.startswith("without") else "invalid")
        assert not on.of(e.ToolPinned) and not on.of(e.ToolCalled)

    asyncio.run(main())


def test_a_new_run_takes_the_tool_as_it_is_now_and_an_old_one_does_not(tmp_path: Path) -> None:
    echo = hostile(tmp_path).tool("echo", does="read")

    @state(tools=[echo], writes=["more"], within=60)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.more.append(await turn.call(echo, text="one"))
        await turn.sleep(1.0)
        turn.record.more.append(await turn.call(echo, text="two"))
        return "done"

    async def main() -> None:
        made = machine(work)
        async with scene(tmp_path / "store.db") as on, Worker(on.client, [made], name="w"):
            on.machines.append(made)
            old = await on.client.start(made, Case(text="old"))
            await until(lambda: len(on.of(e.ToolReturned, old.id)) == 1)
            (tmp_path / "list").write_text("other echo")
            new = await on.client.start(made, Case(text="new"))
            assert (await new.result(until_waiting=True)).status == "completed"
            assert (await old.result(until_waiting=True)).reason == "denied"
            digests = [on.of(e.ToolPinned, run.id)[0].digest for run in (old, new)]
            assert digests[0] != digests[1]

    asyncio.run(main())


def test_a_turn_entered_again_needs_no_server_for_what_is_recorded(tmp_path: Path) -> None:
    """It waits for a person after a call; when it goes on the server can't be had, and nobody asks for it."""
    server = hostile(tmp_path)
    put = server.tool("put", does="write", keyed=True)

    @state(tools=[put], writes=["said"], within=600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.said = await turn.call(put, n=1)
        await turn.sleep(1.0)
        return "done"

    async def main() -> None:
        made = machine(work)
        async with scene(tmp_path / "store.db", timing=Timing(park_after=0.1)) as on:
            async with Worker(on.client, [made], name="first"):
                handle = await on.client.start(made, Case())
                await until(lambda: on.client.store.find(handle.id).status == "waiting")
                on.machines.append(made)
            (tmp_path / "crash").touch()
            async with Worker(on.client, [made], name="second"):
                result = await handle.result(until_waiting=True)
            assert (result.status, result.record.said) == ("completed", "put")
            assert len(lines(tmp_path, "starts")) == 1

    asyncio.run(main())


def child(folder: Path) -> subprocess.Popen[bytes]:
    """A worker process whose run is in the middle of a call: `serving.py` below."""
    command = [sys.executable, "-m", "tests.agent.serving", str(folder)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})


# -- workers -----------------------------------------------------------------------------------------------------------


def test_nothing_is_left_when_the_worker_stops(tmp_path: Path) -> None:
    """Also of a server that ends neither with its input nor when it is asked to."""
    server = hostile(tmp_path, "deaf")
    spawn = server.tool("spawn", does="read")

    async def main() -> None:
        async with scene(tmp_path / "store.db") as on:
            assert (await on.play(calling(spawn, text=""))).status == "completed"
            assert len(lines(tmp_path, "starts")) == 2
            assert nobody_lives(tmp_path)

    asyncio.run(main())


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_worker_however_that_ends(way: signal.Signals, tmp_path: Path) -> None:
    """The server is deaf to the end of its input and to SIGTERM, has a child of its own, and hangs in a call."""
    with child(tmp_path) as worker:
        try:
            asyncio.run(until(lambda: bool(lines(tmp_path, "done")), 60.0))
            pids = lines(tmp_path, "starts")
            assert len(pids) == 2 and all(lives(pid) for pid in pids)
            worker.send_signal(way)
            worker.wait(timeout=60)
        finally:
            worker.kill()
    asyncio.run(until(lambda: nobody_lives(tmp_path)))


def test_what_a_dead_worker_had_sent_is_a_doubt(tmp_path: Path) -> None:
    with child(tmp_path) as worker:
        try:
            asyncio.run(until(lambda: bool(lines(tmp_path, "done")), 60.0))
        finally:
            worker.kill()

    async def main() -> None:
        made = serving.made(tmp_path)
        async with scene(tmp_path / "store.db", timing=serving.TIMING) as on, Worker(on.client, [made], name="second"):
            on.machines.append(made)
            await until(lambda: on.client.store.find("@last").status == "waiting", 30.0)
            assert on.client.show("@last").waits[0].why == "doubt"
            assert len(lines(tmp_path, "done")) == 1
            assert len(lines(tmp_path, "starts")) == 2  # what is recorded is not asked for again

    asyncio.run(main())


def test_a_machine_is_checked_drawn_and_started_without_its_server(tmp_path: Path) -> None:
    echo = hostile(tmp_path).tool("echo", does="read")

    async def main() -> None:
        made = model_machine(echo)
        async with scene(tmp_path / "store.db") as on:
            handle = await on.client.start(made, Case())
            assert on.client.store.find(handle.id).status == "ready"
            assert json.dumps(echo.schema) == '{"type": "object"}'
            assert lines(tmp_path, "starts") == []
            on.machines.append(made)

    asyncio.run(main())
