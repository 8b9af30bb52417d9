"""Scripted models: every entry of a script means what its head says, and counts tokens by one rule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interlock.agent.model import Message, ModelCall, ModelFailed, ModelReply, ModelRequest
from interlock.agent.scripted import ScriptedModel, ScriptedModels, as_reply, call, choose, say
from interlock.canonical import encode
from interlock.clock import ManualClock, run_virtually
from interlock.errors import UnknownModel

REQUEST = ModelRequest("any", (Message("user", "four"),))


def replies(model: ScriptedModel, count: int) -> list[ModelReply]:
    async def all_of_them() -> list[ModelReply]:
        return [await model.reply(REQUEST) for _ in range(count)]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(
    ("entry", "text", "calls"),
    [
        ("hello", "hello", []),
        (choose("owed", cents=5), "", [("owed", {"cents": 5})]),
        ([call("look", id="A"), call("look", id="B")], "", [("look", {"id": "A"}), ("look", {"id": "B"})]),
        ({"owed": {"cents": 5}}, "", [("owed", {"cents": 5})]),
        (say("so:", choose("owed")), "so:", [("owed", {})]),
        (ModelReply("x", (ModelCall("own", "look", {}),)), "x", [("look", {})]),
    ],
)
def test_an_entry_means_what_it_says(entry: Any, text: str, calls: list[tuple[str, Any]]) -> None:
    [reply] = replies(ScriptedModel([entry]), 1)
    assert reply.text == text
    assert [(one.name, one.args) for one in reply.calls] == calls


def test_a_field_may_have_any_name() -> None:
    """`choose("x", outcome=..., self=...)` is about the record's fields, not about Python's parameters."""
    assert choose("x", outcome=1, tool=2, self=3).args == {"outcome": 1, "tool": 2, "self": 3}


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(TypeError, match="a script says"):
        as_reply(7)  # type: ignore[arg-type]


def test_call_ids_are_unique_and_the_same_in_every_repetition() -> None:
    def ids() -> list[str]:
        model = ScriptedModel([[call("a"), call("a")], call("a"), say("", call("a"))])
        return [one.id for reply in replies(model, 3) for one in reply.calls]

    assert len(set(ids())) == 4 and ids() == ids()


def test_a_given_call_id_stays() -> None:
    [reply] = replies(ScriptedModel([ModelReply(calls=(ModelCall("own", "a", {}), ModelCall("", "b", {})))]), 1)
    assert reply.calls[0].id == "own" and reply.calls[1].id


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_sees_the_request_and_answers(asynchronous: bool) -> None:
    def brain(request: ModelRequest) -> str:
        return request.messages[-1].text.upper()

    async def slow_brain(request: ModelRequest) -> str:
        await asyncio.sleep(0)
        return brain(request)

    model = ScriptedModel(slow_brain if asynchronous else brain)
    assert replies(model, 1)[0].text == "FOUR"
    assert model.requests == [REQUEST]


def test_an_exception_in_the_script_is_raised() -> None:
    model = ScriptedModel([ModelFailed("outage", "503"), "back"])
    with pytest.raises(ModelFailed, match="outage: 503"):
        replies(model, 1)
    assert replies(model, 1)[0].text == "back"


def test_a_used_up_script_is_a_rejection_that_cost_nothing() -> None:
    with pytest.raises(ModelFailed, match="script of 1 replies is used up") as failed:
        replies(ScriptedModel(["only"]), 2)
    assert (failed.value.kind, failed.value.billed) == ("rejected", False)


def test_tokens_are_a_quarter_of_the_bytes_rounded_up() -> None:
    [reply] = replies(ScriptedModel([say("fünf", choose("ok", n=1))]), 1)
    assert reply.tokens_in == 1  # "four"
    assert reply.tokens_out == -(-(len("fünf".encode()) + len("ok") + len(encode({"n": 1}))) // 4)
    assert replies(ScriptedModel([""]), 1)[0].tokens_out == 1


def test_stated_tokens_go_before_the_rule() -> None:
    model = ScriptedModel(["x", ModelReply("y", tokens_in=9, tokens_out=8)], tokens=(100, 50))
    assert [(reply.tokens_in, reply.tokens_out) for reply in replies(model, 2)] == [(100, 50), (9, 8)]


def test_a_delay_passes_in_virtual_time() -> None:
    clock = ManualClock()
    run_virtually(ScriptedModel(["late"], delay=3600).reply(REQUEST), clock)
    assert clock.monotonic() == 3600


def test_models_are_one_for_all_or_one_by_name() -> None:
    one = ScriptedModel(["x"])
    assert ScriptedModels(one).find("a") is ScriptedModels(one).find("b") is one
    named = ScriptedModels({"a": one, "b": ["y"]})
    assert named.find("a") is one and isinstance(named.find("b"), ScriptedModel)
    with pytest.raises(UnknownModel, match=r"'c' \(there are: a, b\)"):
        named.find("c")
