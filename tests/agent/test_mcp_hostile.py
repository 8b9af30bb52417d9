"""A server that hangs, dies, floods, lies or asks for more than it gets: each ends where a run's failures end.

What it really did is read from its files: `done` has a line per effect, `starts` a pid per process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Literal

import pytest

from interlock import Turn, Worker, state
from interlock.agent import mcp as agent_mcp
from interlock.agent.servers import ServerCall, ServerFailed
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.tools import Happened
from tests.agent.served import Case, calling, hostile, lines, lives, machine, nobody_lives, scene, until


def play(folder: Path, made: Any, store: str = "store.db", **more: Any) -> tuple[Any, list[e.Event]]:
    """One run in real time: how it stands, and its log. Nothing that was started may be left after it."""

    async def main() -> tuple[Any, list[e.Event]]:
        async with scene(folder / store, **more) as on:
            result = await on.play(made)
            assert nobody_lives(folder)
            return result, on.log()

    return asyncio.run(main())


def of(log: list[e.Event], kind: type[Any]) -> list[Any]:
    return [event for event in log if isinstance(event, kind)]


# -- it doesn't answer -------------------------------------------------------------------------------------------------


def test_a_hung_server_is_killed_at_the_deadline_of_a_call_and_started_anew(tmp_path: Path) -> None:
    server = hostile(tmp_path, "deaf")
    hang, echo = server.tool("hang", does="read", within=1.0), server.tool("echo", does="read")

    @state(tools=[hang, echo], writes=["said"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(echo, text="warm")
        try:
            await turn.call(hang, text="")
        except Exception as failed:
            turn.record.said = [str(failed), await turn.call(echo, text="again")]
        return "done"

    result, log = play(tmp_path, machine(work, attempts=1))
    assert result.record.said == ["no answer within 1 s", "again"]
    assert len(lines(tmp_path, "starts")) == 2
    assert [(failed.kind, failed.doubt) for failed in of(log, e.AttemptFailed)] == [("timeout", False)]


def test_all_that_a_hung_server_has_started_is_killed_with_it(tmp_path: Path) -> None:
    server = hostile(tmp_path, "deaf")
    spawn, hang = server.tool("spawn", does="read"), server.tool("hang", does="read", within=0.5)

    @state(tools=[spawn, hang], writes=["said"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.said = await turn.call(spawn, text="")
        try:
            await turn.call(hang, text="")
        except Exception:
            await until(lambda: nobody_lives(tmp_path))
        return "done"

    result, _ = play(tmp_path, machine(work, attempts=1))
    assert result.status == "completed"
    assert len(lines(tmp_path, "starts")) == 2  # it and its child
    assert not lives(result.record.said)


def test_a_server_that_starts_slowly_costs_no_doubt(tmp_path: Path) -> None:
    """It has to be started in the middle of the run, and takes longer than a call may."""
    server = hostile(tmp_path, "late=2.0")
    put = server.tool("put", does="send", within=1.0)

    @state(tools=[put], writes=["said"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(put, n=1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(lines(tmp_path, "starts")[-1]), signal.SIGKILL)
        turn.record.said = await turn.call(put, n=2)
        return "done"

    result, log = play(tmp_path, machine(work, attempts=4), timing=Timing(grace=0.05, park_after=20.0))
    assert (result.status, result.record.said) == ("completed", "put")
    assert [line.split()[:2] for line in lines(tmp_path, "done")] == [["put", "1"], ["put", "2"]]
    unsent = [failed for failed in of(log, e.AttemptFailed) if not failed.sent]
    assert unsent and not any(failed.doubt for failed in unsent)


def test_a_server_that_never_speaks_is_unavailable(tmp_path: Path) -> None:
    echo = hostile(tmp_path, "mute", start_within=0.5).tool("echo", does="read")
    result, log = play(tmp_path, calling(echo, text="x"))
    assert (result.status, result.reason) == ("waiting", "unavailable")
    (refused,) = of(log, e.ToolRefused)
    assert (refused.why, "didn't start within 0.5 s" in refused.message) == ("outage", True)
    assert not of(log, e.ToolCalled)


def test_a_server_that_crashes_at_its_start_is_started_ever_more_seldom(tmp_path: Path) -> None:
    server = hostile(tmp_path, "crash")

    async def main() -> None:
        async with agent_mcp.Connections() as servers:
            said = []
            for _ in range(30):
                with pytest.raises(ServerFailed) as failed:
                    await servers.listed(server)
                said.append(failed.value)
            assert len(lines(tmp_path, "starts")) == 2  # the first restart is at once, and then there is a pause
            assert all((one.kind, one.happened, one.retry) == ("outage", False, True) for one in said)
            assert "it ended with code 7: no such configuration: /etc/cheese" in said[0].message
            assert "no such configuration" in said[-1].message
            assert said[-1].retry_after is not None and said[-1].retry_after > 0
            await asyncio.sleep(said[-1].retry_after)
            with pytest.raises(ServerFailed):
                await servers.listed(server)
            assert len(lines(tmp_path, "starts")) == 3

    asyncio.run(main())


def test_a_command_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    from interlock import mcp_server

    echo = mcp_server("none", command=[str(tmp_path / "no-such-program")]).tool("echo", does="read")

    async def main() -> None:
        async with scene(tmp_path / "store.db") as on:
            result = await on.play(calling(echo, text="x"))
            assert (result.status, result.reason) == ("waiting", "unavailable")
            assert "can't be started" in on.of(e.ToolRefused)[0].message

    asyncio.run(main())


# -- it dies, or fails, in a call --------------------------------------------------------------------------------------


def probe_of(folder: Path, name: str) -> Any:
    async def probe(call: Any, **arguments: Any) -> Happened[str] | None:
        known = any(line.startswith(f"{name} {arguments['n']}") for line in lines(folder, "done"))
        return Happened("as probed") if known else None

    return probe


@pytest.mark.parametrize("tool", ["put_and_die", "put_and_hang", "put_and_fail"])
class TestWhatIsNotKnown:
    """The effect takes place, and then the server dies, hangs, or says that it failed: a doubt, cleared as declared."""

    def test_at_most_once_is_a_question_to_a_person(self, tool: str, tmp_path: Path) -> None:
        put = hostile(tmp_path).tool(tool, within=1.0)
        result, log = play(tmp_path, calling(put, n=7))
        assert (result.status, result.waits[0].why) == ("waiting", "doubt")
        assert len(lines(tmp_path, "done")) == 1
        (failed,) = of(log, e.AttemptFailed)
        assert failed.doubt and failed.kind == {"die": "cut", "hang": "timeout", "fail": "tool_error"}[tool[8:]]

    def test_keyed_is_done_again_under_the_same_key(self, tool: str, tmp_path: Path) -> None:
        put = hostile(tmp_path).tool(tool, does="write", keyed="key", within=0.6)
        result, _ = play(tmp_path, calling(put, n=7), timing=Timing(grace=0.05, send_window=0.3))
        key = f"{result.id}-1"
        done = lines(tmp_path, "done")
        assert len(done) > 1 and set(done) == {f"{tool} 7 {key} {key}"}  # all attempts under one key
        assert (result.status, result.waits[0].why) == ("waiting", "doubt")

    def test_a_probe_tells(self, tool: str, tmp_path: Path) -> None:
        put = hostile(tmp_path).tool(tool, does="write", probe=probe_of(tmp_path, tool), within=0.6)
        result, _ = play(tmp_path, calling(put, n=7), timing=Timing(grace=0.05, send_window=0.3))
        assert (result.status, result.record.said) == ("completed", "as probed")
        assert len(lines(tmp_path, "done")) == 1


def test_a_repeat_that_is_never_sent_leaves_the_doubt_that_it_was_to_clear(tmp_path: Path) -> None:
    server = hostile(tmp_path)
    echo, put = server.tool("echo", does="read"), server.tool("put_and_die", does="write", keyed=True, within=1.0)

    @state(tools=[echo, put])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(echo, text="warm")
        (tmp_path / "crash").touch()  # the next start fails
        await turn.call(put, n=1)
        return "done"

    result, log = play(tmp_path, machine(work, attempts=2))
    assert [(failed.kind, failed.sent) for failed in of(log, e.AttemptFailed)] == [("cut", True), ("outage", False)]
    assert (result.status, result.waits[0].why) == ("waiting", "doubt")


def test_an_error_that_means_not_done_leaves_no_doubt(tmp_path: Path) -> None:
    put = hostile(tmp_path).tool("put_and_fail", does="write", error_means="not_done")
    result, log = play(tmp_path, calling(put, n=7))
    assert (result.status, result.reason) == ("waiting", "error")
    (failed,) = of(log, e.AttemptFailed)
    assert (failed.kind, failed.message, failed.doubt, failed.final) == ("tool_error", "the disk is full", False, True)


@pytest.mark.parametrize("tool", ["fail", "refuse", "wrong"])
def test_an_error_of_a_read_is_told_to_who_asked(tool: str, tmp_path: Path) -> None:
    read = hostile(tmp_path).tool(tool, does="read")
    result, log = play(tmp_path, calling(read, text="x"))
    assert (result.status, result.reason) == ("waiting", "error")
    assert len(of(log, e.ToolCalled)) == 1
    said = {"fail": "can't: x", "refuse": "no such thing", "wrong": "content"}[tool]
    assert said in of(log, e.AttemptFailed)[0].message


def test_a_read_in_which_the_server_dies_is_tried_again_by_a_new_one(tmp_path: Path) -> None:
    die = hostile(tmp_path).tool("die", does="read")
    result, log = play(tmp_path, calling(die, text="x"), timing=Timing(park_after=5.0))
    assert (result.status, result.reason) == ("waiting", "retries_spent")
    failures = of(log, e.AttemptFailed)
    assert [failed.kind for failed in failures] == ["cut"] * 4
    assert "it ended with code 3: panic: out of cheese, token=[hidden]" in failures[0].message
    assert len(lines(tmp_path, "starts")) == 4


def test_a_server_dies_under_all_calls_that_it_has_under_way(tmp_path: Path) -> None:
    server = hostile(tmp_path)
    forget, put = server.tool("forget", does="read", within=1.0), server.tool("put_and_forget", within=4.0)

    @state(tools=[forget, put], calls=8)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        both = [turn.call(forget, text=""), turn.call(put, n=1)]
        await asyncio.gather(*both, return_exceptions=True)
        return "done"

    result, log = play(tmp_path, machine(work, attempts=1))
    assert (result.status, result.waits[0].why) == ("waiting", "doubt")  # the put was sent; nobody knows
    assert sorted((failed.kind, failed.doubt) for failed in of(log, e.AttemptFailed)) == [
        ("cut", True),
        ("timeout", False),
    ]
    assert lines(tmp_path, "done") == [f"put_and_forget 1  {result.id}-2"]


def test_an_answer_that_comes_after_the_caller_has_gone_is_evidence(tmp_path: Path) -> None:
    sleep = hostile(tmp_path).tool("sleep", within=5.0)

    @state(tools=[sleep], within=1.0)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(sleep, text="2.0")
        return "done"

    async def main() -> None:
        made = machine(work)
        async with scene(tmp_path / "store.db") as on, Worker(on.client, [made], name="w"):
            result = await on.go_on(made)
            assert (result.status, result.reason) == ("waiting", "timeout")
            await asyncio.sleep(2.0)
            await on.client.resolve(result.id, "retry", by="me")  # whatever: the mail is read
            await until(lambda: bool(on.of(e.EvidenceRecorded)))
            assert on.of(e.EvidenceRecorded)[0].value == "slept"
            assert len(lines(tmp_path, "starts")) == 1

    asyncio.run(main())


# -- it says too much --------------------------------------------------------------------------------------------------


def test_noise_on_standard_output_is_passed_over(tmp_path: Path) -> None:
    echo = hostile(tmp_path, "noise").tool("echo", does="read")
    result, _ = play(tmp_path, calling(echo, text="x"))
    assert result.record.said == "x"


def test_a_server_that_never_stops_talking_is_ended(tmp_path: Path) -> None:
    chatter = hostile(tmp_path).tool("chatter", does="read", within=20.0)
    result, _ = play(tmp_path, calling(chatter, text="500"))
    assert result.record.said == "done"
    result, log = play(tmp_path, calling(chatter, text="100000"), "other.db", timing=Timing(park_after=5.0))
    assert (result.status, result.reason) == ("waiting", "retries_spent")
    assert "10000 things in a row that nobody asked for" in of(log, e.AttemptFailed)[0].message


@pytest.mark.parametrize("size", [200_000, 30_000_000])
def test_a_huge_result_is_refused(size: int, tmp_path: Path) -> None:
    """Over the bound of the result, and far over that of a message, which isn't even read."""
    big = hostile(tmp_path, result_bytes_max=100_000).tool("big", does="read", within=20.0)
    result, log = play(tmp_path, calling(big, text="1000"))
    assert result.record.said == "x" * 1000
    result, log = play(tmp_path, calling(big, text=str(size)), "other.db")
    assert (result.status, result.reason) == ("waiting", "error")
    (failed,) = of(log, e.AttemptFailed)
    assert failed.kind == "oversize" and "bytes" in failed.message
    assert (tmp_path / "other.db").stat().st_size < 1_000_000


def test_pictures_are_kept_as_data_up_to_a_bound(tmp_path: Path) -> None:
    picture = hostile(tmp_path, binary_bytes_max=1000).tool("picture", does="read")
    result, _ = play(tmp_path, calling(picture, text="2"))
    kept = {"type": "image", "data": "iVBOR4lQTkc=", "mimeType": "image/png"}
    assert result.record.said == {"content": [kept]}
    result, _ = play(tmp_path, calling(picture, text="1000"), "other.db")
    assert result.record.said == {"content": [{"type": "image", "mimeType": "image/png", "bytes": 4000}]}


def test_structured_content_is_the_result(tmp_path: Path) -> None:
    structured = hostile(tmp_path).tool("structured", does="read")
    result, _ = play(tmp_path, calling(structured, text="yes"))
    assert result.record.said == {"said": "yes"}


def test_a_result_that_is_too_deep_for_any_reader_is_refused(tmp_path: Path) -> None:
    deep = hostile(tmp_path).tool("deep", within=20.0)
    result, log = play(tmp_path, calling(deep, text="120"))
    assert (result.status, result.reason) == ("waiting", "error")
    (failed,) = of(log, e.AttemptFailed)
    assert (failed.kind, failed.doubt) == ("malformed", False)
    assert "nested more than" in failed.message


# -- it wants more than it gets ----------------------------------------------------------------------------------------


def test_requests_for_samples_roots_and_answers_are_refused(tmp_path: Path) -> None:
    ask = hostile(tmp_path).tool("ask", does="read")
    result, _ = play(tmp_path, calling(ask, text=""))
    said = result.record.said.split(" | ")
    assert len(said) == 3 and not any("GRANTED" in each for each in said)


def test_a_server_gets_what_is_declared_and_nothing_else_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-the-workers-own")
    monkeypatch.setenv("FILES_TOKEN", "correct-horse-battery")
    given = {"TOKEN": "Bearer {FILES_TOKEN}", "MODE": "quiet"}
    environment = hostile(tmp_path, env=given).tool("environment", does="read")
    result, _ = play(tmp_path, calling(environment, text=""))
    seen = json.loads(result.record.said)
    assert (seen["TOKEN"], seen["MODE"]) == ("Bearer [FILES_TOKEN]", "quiet")  # it had it; the log doesn't
    assert "PROVIDER_KEY" not in seen
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))
    assert b"correct-horse-battery" not in stored and b"FILES_TOKEN" in stored


def test_a_variable_that_is_not_set_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    echo = hostile(tmp_path, env={"TOKEN": "{NO_SUCH_VARIABLE}"}).tool("echo", does="read")

    async def main() -> None:
        async with scene(tmp_path / "store.db") as on:
            result = await on.play(calling(echo, text="x"))
            assert (result.status, result.reason) == ("waiting", "unavailable")
            assert "needs NO_SUCH_VARIABLE in the environment" in on.of(e.ToolRefused)[0].message
            assert lines(tmp_path, "starts") == []

    asyncio.run(main())


# -- one connection ----------------------------------------------------------------------------------------------------


def test_many_calls_at_once_share_one_server(tmp_path: Path) -> None:
    echo = hostile(tmp_path).tool("echo", does="read", within=20.0)

    @state(tools=[echo], calls=40, writes=["more"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        said = await asyncio.gather(*(turn.call(echo, text=str(n)) for n in range(40)))
        turn.record.more = list(said)
        return "done"

    result, _ = play(tmp_path, machine(work))
    assert result.record.more == [str(n) for n in range(40)]
    assert len(lines(tmp_path, "starts")) == 1


def test_what_is_too_late_to_send_is_not_sent(tmp_path: Path) -> None:
    server = hostile(tmp_path)

    def too_late() -> None:
        raise TimeoutError("too late to send")

    async def main() -> None:
        async with agent_mcp.Connections() as servers:
            digest = (await servers.listed(server))["put"].digest
            with pytest.raises(TimeoutError, match="too late"):
                await servers.call(server, ServerCall("put", digest, {"n": 1}, "k", 5.0), too_late, print)
            assert lines(tmp_path, "done") == []
            assert (
                await servers.call(server, ServerCall("put", digest, {"n": 2}, "k", 5.0), lambda: None, print) == "put"
            )
        assert nobody_lives(tmp_path)

    asyncio.run(main())
