"""What a worker remembers is what the next one reads: conversations, origins, and events that can be read at all.

Each test is a way in which the two once differed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import (
    BadInput,
    Call,
    Client,
    Limits,
    Machine,
    Price,
    Turn,
    ask,
    final,
    model_state,
    state,
    tool,
)
from interlock.agent.model import Message, ModelFailed, ModelRequest
from interlock.engine import live_run, model_turn, threads
from interlock.history.events import AnswerDropped, ModelReplied, Transitioned
from interlock.reading import verify_run
from interlock.store.protocol import InboxItem, Leave
from interlock.testing import ModelReply, ScriptedModel, call, choose, say
from tests.stage import Stage, play

M = "acme:small"


class Rec(BaseModel):
    text: str = ""


def machine(table: dict[str, Any], **more: Any) -> Any:
    return Machine("m", Rec, table={**table, "end": final()}, **more)


def asking() -> Any:
    return machine({"a": ask("?", of="x", writes={"ok": []}).then({"ok": "end", "timeout": "end"})})


# -- conversations -----------------------------------------------------------------------------------------------------


def looping() -> Any:
    row = model_state("Say {text}", model=M, writes={"more": ["text"], "ok": []})
    return machine({"s": row.then({"more": "s", "ok": "end"})})


def test_every_call_in_a_request_is_answered(stage: Stage) -> None:
    """Also that of a choice which led to the same state: providers refuse a call that nobody answers."""
    model = ScriptedModel([choose("more", text="a"), choose("ok")])
    stage.play(looping(), Rec(text="x"), model=model)
    for request in model.requests:
        called = {one.id for message in request.messages for one in message.calls}
        assert called == {message.call_id for message in request.messages if message.role == "tool"}


def told(request: ModelRequest) -> list[Message]:
    return [message for message in request.messages if message.role == "tool"]


def test_an_accepted_choice_stays_accepted_when_the_next_turn_fails(stage: Stage) -> None:
    """Turn 1 chose `more` and wrote; turn 2 failed before the model said anything, and is retried by a person."""
    script = [choose("more", text="a"), ModelFailed("auth", "401"), choose("more", text="b"), choose("ok")]
    model = ScriptedModel(script)

    async def scenario() -> None:
        async with stage.working(looping(), model=model) as client:
            handle = await client.start(looping(), Rec(text="x"))
            await handle.result(until_waiting=True)
            await client.resolve(handle.id, "retry")
            await handle.result()

    stage.perform(scenario)
    assert told(model.requests[-1])[0].text == "accepted"


def test_a_conversation_remembered_is_the_one_read_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared thread, and a turn that ended before its model was asked."""
    decide = model_turn._ModelTurn.decide
    seen: list[bool] = []

    async def compared(self: Any) -> Any:
        run, known = self.run, self.run.state.threads.get(self.thread)
        if self.thread in run.conversations and known is not None:
            await run.durable()
            read = threads.read(self.thread, known, run.state.turn_seq, run)
            seen.append(run.conversations[self.thread].messages == read.messages)
        return await decide(self)

    monkeypatch.setattr(model_turn._ModelTurn, "decide", compared)
    a = model_state("A", model=M, thread="t", writes={"more": ["text"]})
    b = model_state("B", model=M, thread="t", writes={"ok": []})
    table = {"a": a.then({"more": "a", "limit_reached": "b"}, visits=1), "b": b.then({"ok": "end"})}
    model = ScriptedModel([choose("more", text="a"), choose("ok")])
    stage.play(machine(table, limits=Limits(wrap_up=0.3)), Rec(), model=model)
    assert seen and all(seen)


@tool(does="read")
def look(call: Call[None], at: int) -> str:
    return "seen " + "x" * 9_000


@tool(does="read", trusted=True)
def known(call: Call[None], at: int) -> str:
    return "known " + "x" * 9_000


@pytest.mark.parametrize("reload", [False, True])
def test_what_was_read_stays_in_the_origin_when_it_has_left_the_window(stage: Stage, reload: bool) -> None:
    """Also for the worker that reads the conversation back, which never sees it."""
    row = model_state("Look {text}", model=M, tools=[look, known], writes={"ok": ["text"]}, calls=1)
    script: list[Any] = [call("look", at=0), *[call("known", at=i) for i in range(1, 30)], choose("ok", text="done")]
    if reload:
        script.insert(-1, ModelFailed("auth", "401"))
    scene = machine({"s": row.then({"called": "s", "ok": "end"})}, limits=Limits(turns=90, repeats=None))

    async def scenario() -> None:
        async with stage.working(scene, model=ScriptedModel(script)) as client:
            handle = await client.start(scene, Rec(text="x"))
            if reload:
                await handle.result(until_waiting=True)
                await client.resolve(handle.id, "retry")
            await handle.result()

    stage.perform(scenario)
    last = [event for event in stage.events() if isinstance(event, Transitioned)][-1]
    assert "tool:look" in last.origin.split(",")


def test_a_conversation_keeps_no_more_than_its_window(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    end_turn: Callable[..., None] = live_run.LiveRun._end_turn

    def spy(self: Any, seq: int, event: Transitioned) -> None:
        talk = self.conversations.get(self.talking)
        end_turn(self, seq, event)
        if talk is not None:
            sizes.append((len(talk.messages), len(talk._answers)))

    monkeypatch.setitem(live_run._FOLLOW, Transitioned, spy)
    row = model_state("Look", model=M, tools=[look], writes={"ok": []}, calls=1)
    scene = machine({"s": row.then({"called": "s", "ok": "end"})}, limits=Limits(turns=900, repeats=None))
    stage.play(scene, Rec(), model=ScriptedModel([*[call("look", at=i) for i in range(200)], choose("ok")]))
    assert max(sizes)[0] < 40 and {answers for _, answers in sizes} == {0}


# -- events that can be read -------------------------------------------------------------------------------------------

NOTHING: Any = None


def test_no_word_that_is_no_text_gets_into_the_log(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
            wrong: Any = 7
            for attempt in (client.pause, client.cancel):
                with pytest.raises(BadInput, match="reason is text"):
                    await attempt(handle.id, reason=wrong)
            with pytest.raises(BadInput, match="by is text"):
                await client.signal(handle.id, "x", by=wrong)
            await client.resolve(handle.id, "ok", reason=NOTHING)
            assert (await handle.result()).status == "completed"

    stage.perform(scenario)
    assert stage.client().verify() == []


def test_what_somebody_left_who_does_not_know_the_form_is_dropped_and_kept(stage: Stage) -> None:
    """It is neither in the log as what it isn't, nor does it stop the run or its worker."""

    async def leave(client: Client, run: str, id: str, body: Any) -> None:
        item = InboxItem(id, "pause", body, 1)
        await client.world.committer.submit(Leave(run, item, 1))

    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
            await leave(client, handle.id, "1", {"by": "ann", "reason": None})
            await leave(client, handle.id, "2", {})
            await leave(client, handle.id, "3", ["?"])
            await asyncio.sleep(30)
            await client.resolve(handle.id, "ok")
            assert (await handle.result()).status == "completed"

    stage.perform(scenario)
    assert [event.kind for event in stage.events() if isinstance(event, AnswerDropped)] == ["pause"] * 3
    assert stage.client().verify() == []


def test_a_price_written_as_a_float_is_a_whole_number_or_none() -> None:
    assert Price(0.25e9, 1e9) == Price(250_000_000, 1_000_000_000)  # type: ignore[arg-type]
    for wrong in (0.5, -1, float("nan"), "1"):
        with pytest.raises(BadInput, match="nano-dollars per million tokens"):
            Price(wrong, 1)  # type: ignore[arg-type]


def test_a_bound_that_is_no_whole_number_ends_the_turn_in_error() -> None:
    @state(models=[M])
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        await turn.model(M, "hi", max_tokens=300 / 2)  # type: ignore[arg-type]
        return "ok"

    played = play(machine({"s": work.then({"ok": "end"})}), Rec(), model=[say("hm")])
    assert [wait.outcome for wait in played.result.waits] == ["error"]


def test_a_reply_that_is_none_is_an_error_of_its_turn_and_not_of_the_log(stage: Stage) -> None:
    """A model of somebody's own that says what no reply says."""
    wrong: Any = "many"
    model = ScriptedModel(lambda request: ModelReply(text="x", tokens_in=5, tokens_out=1, finish=wrong, cached_in=0.5))  # type: ignore[arg-type]
    played = stage.play(looping(), Rec(), model=model)
    assert [wait.outcome for wait in played.result.waits] == ["error"]
    assert not any(isinstance(event, ModelReplied) for event in played.events)
    assert verify_run(stage.store, stage.store.find("@last")) is None
