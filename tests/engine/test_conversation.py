"""Conversations: every call that a model made is answered, once, with what came of it, before it is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from interlock import Call, Machine, NotDone, final, model_state, tool
from interlock.canonical import Json
from interlock.engine.conversation import Conversation
from interlock.engine.live_run import leave_evidence
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.machine.tools import Happened
from interlock.testing import ScriptedModel, call, choose
from tests.laws.machines import MODEL, Case
from tests.laws.stage import Stage, on_stage
from tests.stage import play


def paying(granted: Any, within: float, **moves: str) -> Any:
    """A machine whose model may call one tool until it is done."""
    row = model_state("Go", model=MODEL, tools=[granted], writes={"done": []}, within=within)
    table: dict[str, Any] = {
        "work": row.then({"called": "work", "done": "closed", **moves}),
        "closed": final("completed"),
    }
    return Machine("scene", Case, limits=Limits(turns=9), table=table)


def calls_and_answers(model: ScriptedModel) -> tuple[list[str], dict[str, str]]:
    """What the last request showed the model of its own calls."""
    messages = model.requests[-1].messages
    answers = [(message.call_id, message.text) for message in messages if message.role == "tool"]
    assert len(dict(answers)) == len(answers), "a call is answered once"
    return [said.id for message in messages for said in message.calls], dict(answers)


@pytest.mark.parametrize("by", ["probe", "person", "evidence"])
def test_a_model_is_told_the_result_of_a_doubt_that_was_cleared(by: str) -> None:
    async def probe(call: Call[None], n: int) -> Happened[str] | None:
        return Happened("receipt 4711")

    @tool(does="send", within=2, probe=probe if by == "probe" else None)
    async def pay(call: Call[None], n: int) -> str:
        await asyncio.sleep(10)
        return "too late"

    scene = paying(pay, 60)
    model = ScriptedModel([call("pay", n=1), choose("done")])

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        if by != "probe":
            await stage.until(lambda: bool(stage.client.waiting()), 300)
            [asked] = stage.client.waiting()
        if by == "person":
            await stage.client.clear("@last", 2, happened=True, result="receipt 4711", by="ann")
        elif by == "evidence":
            late = e.ToolReturned(effect=2, attempt=1, value="receipt 4711", origin="tool:pay")
            leave_evidence(stage.client.world, asked.run, 1, late)
        await stage.until(lambda: stage.status() == "completed", 300)
        assert stage.of(e.DoubtCleared)[0].way == by
        calls, answers = calls_and_answers(model)
        assert answers == dict.fromkeys(calls, "receipt 4711")
        [*_, last] = stage.of(e.Transitioned)
        assert "tool:pay" in last.origin.split(",")

    on_stage(act, model)


def test_a_call_that_its_turn_had_no_time_for_is_answered_too() -> None:
    """The turn's time passes while a tool backs off: that is no failure of the tool yet, and nothing is under way that
    could be abandoned."""

    @tool(does="read", within=2)
    async def look(call: Call[None], n: int) -> str:
        raise NotDone("not yet", retry=True, retry_after=8)

    model = ScriptedModel([call("look", n=1), choose("done")])
    run = play(paying(look, 5, timeout="work"), Case(), model=model)
    assert run.status == "completed"
    calls, answers = calls_and_answers(model)
    assert answers == dict.fromkeys(calls, "error: no result, the turn ended `timeout`")


def told(*events: e.Event) -> list[tuple[str, str]]:
    """Role and text of the messages that these events, the first being event 1, make of a model's one reply."""
    talk = Conversation()
    talk.extend(enumerate(events, 1))
    return [(message.role, message.text) for message in talk.messages]


def reply(*names: str) -> e.ModelReplied:
    calls: tuple[Mapping[str, Json], ...] = tuple(
        {"id": f"c{n}", "name": name, "args": {}} for n, name in enumerate(names)
    )
    return e.ModelReplied(effect=1, text="", calls=calls, tokens_in=1, tokens_out=1, nanousd=0)


def pay(attempt: int = 1, answers: str | None = "c0") -> e.ToolCalled:
    return e.ToolCalled(effect=2, digest="", attempt=attempt, tool="pay", way="key", args={}, answers=answers)


IN_DOUBT = e.AttemptFailed(effect=2, kind="abandoned", message="gone", doubt=True, final=True)
TIMEOUT = e.Transitioned(state="s", outcome="timeout", to="s")
NO_RESULT = ("tool", "error: no result, the turn ended `timeout`")


def test_a_failure_in_doubt_is_no_answer_yet() -> None:
    cleared = e.DoubtCleared(effect=2, way="person", happened=True, value="receipt")
    assert told(reply("pay"), pay(), IN_DOUBT, cleared) == [("assistant", ""), ("tool", "receipt")]
    assert told(reply("pay"), pay(), IN_DOUBT, TIMEOUT) == [("assistant", ""), NO_RESULT]


def test_what_comes_of_a_call_after_its_turn_is_no_second_answer() -> None:
    """Providers refuse a request with two answers to one call."""
    again = e.ToolReturned(effect=2, attempt=2, value="receipt")
    assert told(reply("pay"), pay(), IN_DOUBT, TIMEOUT, pay(2, None), again) == [("assistant", ""), NO_RESULT]


def test_a_choice_is_accepted_only_if_its_turn_ended_so() -> None:
    done = e.Transitioned(state="s", outcome="done", to="s")
    assert told(reply("done"), done, reply())[1] == ("tool", "accepted")
    assert told(reply("done"), TIMEOUT, reply())[1] == NO_RESULT
