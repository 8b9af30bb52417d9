"""Law 1: a transition commits only if the table has it, or it is a control move with who and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, use
from interlock.errors import BadInput, NotDone
from interlock.history.events import AnswerDropped, MoveRefused, Transitioned, WaitOpened
from interlock.store.protocol import InboxItem, Leave
from interlock.testing import ModelFailed, Played, ScriptedModel, assert_log, call, choose
from tests.stage import Stage

M = "acme:small"


class Note(BaseModel):
    text: str = ""
    count: int = 0


@tool(does="read")
def look(call: Call[None], at: int) -> int:
    return at


def moves(played: Played[Any]) -> list[tuple[str, str, str]]:
    return [(e.state, e.outcome, e.to) for e in played.events if isinstance(e, Transitioned)]


def chooser(**limits: Any) -> Machine[Note, None]:
    decide = model_state(
        "Decide on {text}", model=M, tools=[look], writes={"yes": ["text", "count"], "no": []}, max_tokens=200
    )
    return Machine(
        "chooser",
        Note,
        limits=Limits(**limits),
        table={
            "decide": decide.then({"yes": "closed", "no": "lost", "invalid": "lost"}),
            "closed": final(),
            "lost": final("failed"),
        },
    )


ILLEGAL: dict[str, Any] = {
    "an unknown name": call("drop_table"),
    "an engine's outcome": choose("stalled"),
    "a state's name": choose("closed"),
    "nothing": "I would rather talk",
    "two outcomes": [choose("no"), choose("yes", text="a", count=1)],
    "a tool and an outcome": [call("look", at=1), choose("no")],
    "a missing field": choose("yes", text="a"),
    "a field too many": choose("no", text="a"),
    "a field of the wrong type": choose("yes", text="a", count="many"),
    "a tool's argument of the wrong type": call("look", at="here"),
    "a tool's argument too many": call("look", at=1, sudo=True),
    "too many calls": [call("look", at=n) for n in range(5)],
}


@pytest.mark.parametrize("said", ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_move_is_refused_logged_told_and_not_made(stage: Stage, said: Any) -> None:
    model = ScriptedModel([said, choose("no")])
    played = stage.play(chooser(), Note(text="x"), model=model)
    assert moves(played) == [("decide", "no", "lost")]
    (refused,) = [e for e in played.events if isinstance(e, MoveRefused)]
    told = [message.text for message in model.requests[1].messages]
    assert refused.told in told, "the model must be told"
    assert_log(played, tool_called=0)


class Holds(BaseModel):
    any: Any = None


@pytest.mark.parametrize("depth", [150, 300, 5_000])
@pytest.mark.parametrize("says", ["outcome", "tool"])
def test_a_model_that_nests_too_deeply_is_told(stage: Stage, says: str, depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]

    @tool(does="read")
    def take(call: Call[None], any: Any) -> int:
        return 1

    decide = model_state("Go", model=M, tools=[take], writes={"yes": ["any"]})
    table = {"decide": decide.then({"called": "decide", "yes": "closed"}), "closed": final()}
    script = [choose("yes", any=deep) if says == "outcome" else call("take", any=deep), choose("yes", any=[1])]
    played = stage.play(Machine("holder", Holds, table=table), Holds(), model=script)
    assert_log(played, move_refused=1, tool_called=0)
    assert (played.status, played.record.any) == ("completed", [1])


@pytest.mark.parametrize("depth", [150, 300, 5_000])
def test_a_record_that_is_nested_too_deeply_is_refused_at_the_door(stage: Stage, depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = {"in": deep}
    asked = ask("?", of="desk", writes={"yes": ["any"]}).then({"yes": "closed", "timeout": "closed"})
    with pytest.raises(BadInput):
        stage.play(Machine("holder", Holds, table={"asked": asked, "closed": final()}), Holds(any=deep))
    assert stage.client().runs() == []


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_illegal_moves_are_bounded_and_then_invalid(stage: Stage, allowed: int) -> None:
    model = ScriptedModel(lambda request: call("nope"))
    played = stage.play(chooser(illegal_moves=allowed), Note(), model=model)
    assert moves(played) == [("decide", "invalid", "lost")]
    assert len(model.requests) == 1 + allowed
    assert_log(played, move_refused=1 + allowed)


def test_a_model_is_offered_exactly_its_tools_and_outcomes(stage: Stage) -> None:
    model = ScriptedModel([choose("no")])
    stage.play(chooser(), Note(text="x"), model=model)
    (request,) = model.requests
    assert [offer.name for offer in request.offers] == ["look", "yes", "no"]
    schemas = {offer.name: offer.schema for offer in request.offers}
    assert schemas["yes"]["required"] == ["text", "count"]
    assert all(schema["additionalProperties"] is False for schema in schemas.values())
    assert request.must_choose


def test_a_model_state_never_commits_an_outcome_of_another_state(stage: Stage) -> None:
    """Each state's offers are its own, also in one shared conversation."""
    first = model_state("one", model=M, writes={"left": []}, thread="talk")
    second = model_state("two", model=M, writes={"right": []}, thread="talk")
    machine = Machine(
        "two",
        Note,
        table={
            "first": first.then({"left": "second"}),
            "second": second.then({"right": "end"}),
            "end": final(),
        },
    )
    model = ScriptedModel([choose("right"), choose("left"), choose("left"), choose("right")])
    played = stage.play(machine, Note(), model=model)
    assert moves(played) == [("first", "left", "second"), ("second", "right", "end")]
    assert_log(played, move_refused=2)


def test_a_handler_that_returns_what_it_does_not_declare_ends_in_error(stage: Stage) -> None:
    @state()
    def rogue(turn: Turn[Note]) -> Literal["ok"]:
        said: Any = turn.record.text
        return said

    table = {"s": rogue.then({"ok": "end", "error": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("rogue", Note, table=table), Note(text="end"))
    assert moves(played) == [("s", "error", "lost")]


# -- every failure has a destination ------------------------------------------------


def raising(turn: Any) -> None:
    raise RuntimeError("boom")


@tool(does="read", within=1)
async def slow(call: Call[None]) -> int:
    await asyncio.sleep(3600)
    return 1


@tool(does="read")
def never_done(call: Call[None]) -> int:
    raise NotDone("closed on Sundays", retry=True)


@tool(does="read")
def refuses(call: Call[None]) -> int:
    raise NotDone("no")


def model_row(**how: Any) -> Any:
    return model_state("go", model=M, writes={"ok": []}, **{"within": 30.0, **how})


def big_prompt(record: Any) -> str:
    return "x" * 200_000


def bad_prompt(record: Any) -> str:
    return str(1 // 0)


FAILURES: dict[str, tuple[str, Callable[[], Any], Any]] = {
    "a handler raises": ("error", lambda: state()(_raises), ()),
    "a prompt's function raises": (
        "error",
        lambda: model_state(bad_prompt, model=M, writes={"ok": []}),
        [choose("ok")],
    ),
    "a tool says surely not": ("error", lambda: use(refuses, args={}), ()),
    "a tool never gets it done": ("retries_spent", lambda: use(never_done, args={}), ()),
    "a tool is slow for ever": ("timeout", lambda: use(slow, args={}, within=0.9), ()),
    "a model is slow for ever": ("timeout", model_row, ScriptedModel([choose("ok")], delay=9999)),
    "a provider is down": ("retries_spent", model_row, lambda request: ModelFailed("outage", "503", billed=False)),
    "a key is refused": ("unavailable", model_row, [ModelFailed("auth", "401", billed=False)]),
    "a quota is used up": ("unavailable", model_row, [ModelFailed("quota", "429", billed=False)]),
    "a request is rejected": ("error", model_row, [ModelFailed("rejected", "400", billed=False)]),
    "a provider's window is too small": ("overflow", model_row, [ModelFailed("overflow", "400", billed=False)]),
    "a prompt is too large": ("overflow", lambda: model_state(big_prompt, model=M, writes={"ok": []}), [choose("ok")]),
    "a model never makes sense": ("invalid", model_row, lambda request: "hm"),
    "a model has a bug": ("error", model_row, lambda request: KeyError("bug")),
}


async def _raises(turn: Turn[Note]) -> Literal["ok"]:
    if turn.record.count == 0:
        raise RuntimeError("boom")
    return "ok"


WAYS: dict[str, Callable[[str], tuple[dict[str, str], str | None]]] = {
    "the row says": lambda outcome: ({outcome: "caught"}, None),
    "otherwise": lambda outcome: ({}, "caught"),
    "a person": lambda outcome: ({}, None),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_has_a_destination(stage: Stage, failure: str, way: str) -> None:
    outcome, make, script = FAILURES[failure]
    row, otherwise = WAYS[way](outcome)
    declared: Any = make()
    word = declared.outcomes[0] if declared.outcomes[0] != "called" else "ok"
    table = {"s": declared.then({word: "end", **row}), "end": final(), "caught": final("failed")}
    if way == "a person":
        table["caught"] = ask("?", of="x", writes={"ok": []}).then({"ok": "end", "timeout": "end"})
        table["s"] = declared.then({word: "end", "denied": "caught"})
    machine = Machine("failing", Note, table=table, otherwise=otherwise, limits=Limits(attempts=2))
    played = stage.play(machine, Note(), model=script)
    if way == "a person":
        (wait,) = played.result.waits
        assert (played.status, wait.why, wait.outcome) == ("waiting", "escalated", outcome)
        assert "retry" in wait.form and word in wait.form
    else:
        assert moves(played) == [("s", outcome, "caught")]


# -- people ------------------------------------------------


def escalating() -> Machine[Note, None]:
    @state(writes=["text", "count"])
    async def work(turn: Turn[Note]) -> Literal["ok", "again"]:
        if turn.record.count == 0:
            raise RuntimeError("boom")
        return "ok" if turn.record.count == 1 else "again"

    table = {"s": work.then({"ok": "end", "again": "s", "denied": "lost"}), "end": final(), "lost": final("failed")}
    return Machine("escalating", Note, table=table)


@pytest.mark.parametrize(("outcome", "to"), [("ok", "end"), ("denied", "lost"), ("again", "s")])
def test_a_person_may_choose_any_outcome_of_the_row(stage: Stage, outcome: str, to: str) -> None:
    played = stage.play(escalating(), Note(), answers=[(outcome, {"text": "by hand", "count": 1})])
    assert moves(played)[0] == ("s", outcome, to)
    assert played.record.text == "by hand"
    move = next(e for e in played.events if isinstance(e, Transitioned))
    assert (move.by, move.origin) == ("person", "person")


def test_retry_is_a_new_turn_in_the_same_state(stage: Stage) -> None:
    played = stage.play(escalating(), Note(), answers=[("retry",), ("ok", {"count": 1})])
    assert moves(played) == [("s", "retry", "s"), ("s", "ok", "end")]
    opened = [e for e in played.events if isinstance(e, WaitOpened)]
    assert [wait.turn for wait in opened] == [1, 2]


def test_a_person_s_choice_is_done_although_the_turn_looks_stalled(stage: Stage) -> None:
    """The third equal turn is handed over; choosing to go on must not be called a stall again."""

    @state(tools=[look])
    async def loop(turn: Turn[Note]) -> Literal["again", "ok"]:
        await turn.call(look, 1)
        return "again" if turn.record.count == 0 else "ok"

    machine = Machine("loop", Note, table={"s": loop.then({"again": "s", "ok": "end"}), "end": final()})
    played = stage.play(machine, Note(), answers=[("again",), ("ok",)])
    assert [outcome for _, outcome, _ in moves(played)][:3] == ["again"] * 3
    assert played.status == "completed"


WRONG_AT_THE_DOOR: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown outcome": ("shrug", {}),
    "an unknown field": ("done", {"text": "a", "shoe": 1}),
    "a missing field": ("done", {}),
    "the wrong type": ("done", {"text": 7}),
    "an engine's outcome": ("timeout", {}),
    "retry, which is for escalations": ("retry", {}),
}


def asking() -> Machine[Note, None]:
    row = ask("Well?", of="desk", writes={"done": ["text"]}, within=600).then({"done": "end", "timeout": "lost"})
    return Machine("asking", Note, table={"person": row, "end": final(), "lost": final("failed")})


@pytest.mark.parametrize("wrong", WRONG_AT_THE_DOOR)
def test_an_answer_that_does_not_fit_is_refused_at_the_door(stage: Stage, wrong: str) -> None:
    outcome, fields = WRONG_AT_THE_DOOR[wrong]

    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Note())
            await handle.result(until_waiting=True)
            with pytest.raises(BadInput):
                await client.resolve(handle.id, outcome, fields)
            await client.resolve(handle.id, "done", {"text": "a"})
            assert (await handle.result()).status == "completed"

    stage.perform(scenario)


@pytest.mark.parametrize("wrong", WRONG_AT_THE_DOOR)
@pytest.mark.parametrize("machine", [asking, escalating], ids=["ask", "escalation"])
def test_an_answer_past_the_door_that_does_not_fit_is_dropped_and_the_wait_reopened(
    stage: Stage, machine: Callable[[], Machine[Note, None]], wrong: str
) -> None:
    """The door checks what it knows; the host checks against the machine it runs."""
    outcome, fields = WRONG_AT_THE_DOOR[wrong]
    if machine is escalating and outcome in ("retry", "done"):
        outcome, fields = ("ok", {"shoe": 1})

    async def scenario() -> None:
        async with stage.working(machine()) as client:
            handle = await client.start(machine(), Note())
            before = await handle.result(until_waiting=True)
            body = {"wait": 1, "outcome": outcome, "fields": fields, "by": "mallory", "reason": ""}
            item = InboxItem("raw", "decision", body, stage.clock.now_ms())
            await client.world.committer.submit(Leave(handle.id, item, stage.clock.now_ms(), 1, "decision"))
            for told in client.listeners:
                told()
            after = await handle.result(until_waiting=True)
            assert after.record == before.record and after.state == before.state
            assert [wait.number for wait in after.waits] == [2]
            assert "Refused" in after.waits[0].prompt or "here" in after.waits[0].prompt or "`" in after.waits[0].prompt

    stage.perform(scenario)
    assert [e.by for e in stage.events() if isinstance(e, Transitioned)] == []
    assert any(isinstance(e, AnswerDropped) for e in stage.events())
    assert stage.client().verify() == []


def test_control_moves_say_who_and_why(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Note(), by="ann")
            await handle.result(until_waiting=True)
            await client.pause(handle.id, by="bob", reason="lunch")
            await client.resume(handle.id, by="cid", reason="back")
            await client.extend(handle.id, usd=1, by="dee", reason="needed")
            await client.cancel(handle.id, by="eve", reason="enough")
            assert (await handle.result()).status == "cancelled"

    stage.perform(scenario)
    told = {e.TYPE: (getattr(e, "by", ""), getattr(e, "reason", "")) for e in stage.events()}
    assert told["run_started"][0] == "ann"
    assert told["paused"] == ("bob", "lunch")
    assert told["resumed"] == ("cid", "back")
    assert told["extended"] == ("dee", "needed")
    assert told["cancelled"] == ("eve", "enough")
