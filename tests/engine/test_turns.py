"""Turns of each kind: what a model sees, what a handler gets, and how limits end a turn."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, use
from interlock.agent.model import ModelCall, ModelRequest
from interlock.errors import EffectFailed, NotDone
from interlock.history.events import Transitioned, WaitOpened
from interlock.testing import ModelReply, ScriptedModel, assert_log, call, choose, say
from tests.stage import Stage, assert_within_ceiling

M = "acme:small"


class Rec(BaseModel):
    text: str = ""
    count: int = 0
    items: list[str] = []


@tool(does="read")
def look(call: Call[None], at: int) -> str:
    return f"seen {at}"


def texts(request: ModelRequest) -> list[str]:
    return [message.text for message in request.messages]


def outcomes(played: Any) -> list[str]:
    return [event.outcome for event in played.events if isinstance(event, Transitioned)]


# -- prompts and conversations ------------------------------------------------


def test_a_prompt_takes_fields_and_leaves_other_braces_alone(stage: Stage) -> None:
    row = model_state('Say {text} as {"json": {}} and { text }', model=M, writes={"ok": []})
    model = ScriptedModel([choose("ok")])
    machine = Machine("m", Rec, table={"s": row.then({"ok": "end"}), "end": final()})
    stage.play(machine, Rec(text="{count} 😀"), model=model)
    assert texts(model.requests[0]) == ['Say {count} 😀 as {"json": {}} and { text }']


def test_a_prompt_may_be_a_function_of_the_record(stage: Stage) -> None:
    def prompt(record: Rec) -> str:
        return f"{record.text.upper()} {len(record.items)}"

    row = model_state(prompt, model=M, writes={"ok": []}, instructions="Be brief.")
    model = ScriptedModel([choose("ok")])
    machine = Machine("m", Rec, table={"s": row.then({"ok": "end"}), "end": final()})
    stage.play(machine, Rec(text="a", items=["x"]), model=model)
    assert texts(model.requests[0]) == ["A 1"]
    assert model.requests[0].instructions == "Be brief."


def test_a_conversation_lives_while_a_state_loops_and_ends_when_it_leaves(stage: Stage) -> None:
    row = model_state("Look", model=M, tools=[look], writes={"done": []})
    table = {"a": row.then({"done": "b"}), "b": row.then({"done": "end"}), "end": final()}
    model = ScriptedModel([call("look", at=1), choose("done"), call("look", at=2), choose("done")])
    stage.play(Machine("m", Rec, table=table), Rec(), model=model)
    assert [texts(request) for request in model.requests] == [
        ["Look"],
        ["Look", "", "seen 1"],
        ["Look"],
        ["Look", "", "seen 2"],
    ]


def test_a_thread_is_shared_by_name(stage: Stage) -> None:
    first = model_state("One", model=M, tools=[look], writes={"done": []}, thread="talk")
    second = model_state("Two", model=M, writes={"done": []}, thread="talk")
    table = {"a": first.then({"done": "b"}), "b": second.then({"done": "end"}), "end": final()}
    model = ScriptedModel([call("look", at=1), say("good", choose("done")), choose("done")])
    stage.play(Machine("m", Rec, table=table), Rec(), model=model)
    last = model.requests[-1].messages
    assert [message.role for message in last] == ["user", "assistant", "tool", "assistant", "tool", "user"]
    assert [message.text for message in last if message.role == "user"] == ["One", "Two"]
    answered = {message.call_id for message in last if message.role == "tool"}
    assert answered == {call.id for message in last for call in message.calls}, "every call has its answer"


def test_a_conversation_goes_on_after_another_worker_took_over(stage: Stage) -> None:
    """It is read from the log: what the second worker sends begins with what the first one sent."""
    row = model_state("Look", model=M, tools=[look], writes={"done": [], "rest": []}, thread="talk")
    person = ask("Go on?", of="x", writes={"yes": []}).then({"yes": "a", "timeout": "end"})
    machine = Machine("m", Rec, table={"a": row.then({"done": "end", "rest": "p"}), "p": person, "end": final()})
    first = ScriptedModel([call("look", at=1), call("nonsense"), choose("rest")])

    async def before() -> str:
        async with stage.working(machine, model=first) as client:
            handle = await client.start(machine, Rec())
            await handle.result(until_waiting=True)
            return handle.id

    run = stage.perform(before)
    second = ScriptedModel([choose("done")])

    async def after() -> None:
        async with stage.working(machine, model=second, seed=1) as client:
            await client.resolve(run, "yes")
            assert (await client.run(run, machine).result()).status == "completed"

    stage.perform(after)
    sent = first.requests[-1].messages
    assert second.requests[0].messages[: len(sent)] == sent


def test_a_tool_that_says_no_is_told_to_the_model(stage: Stage) -> None:
    @tool(does="read")
    def refuses(call: Call[None]) -> str:
        raise NotDone("closed on Sundays")

    row = model_state("Look", model=M, tools=[refuses], writes={"done": []})
    model = ScriptedModel([call("refuses"), choose("done")])
    machine = Machine("m", Rec, table={"s": row.then({"done": "end"}), "end": final()})
    assert_log(stage.play(machine, Rec(), model=model), "s > end")
    assert texts(model.requests[1])[-1] == "error: closed on Sundays"


def test_calls_that_come_under_one_id_are_told_apart(stage: Stage) -> None:
    """Providers choose the ids, and want one answer to each."""
    row = model_state("Look", model=M, tools=[look], writes={"done": []})
    twice = ModelReply(calls=(ModelCall("c", "look", {"at": 1}), ModelCall("c", "look", {"at": 2})))
    model = ScriptedModel([twice, choose("done")])
    played = stage.play(
        Machine("m", Rec, table={"s": row.then({"called": "s", "done": "end"}), "end": final()}), Rec(), model=model
    )
    assert_log(played, tool_called=2, move_refused=0)
    asked = [call.id for message in model.requests[-1].messages for call in message.calls]
    answers = {m.call_id: m.text for m in model.requests[-1].messages if m.role == "tool" and m.name == "look"}
    assert answers == dict(zip(asked, ["seen 1", "seen 2"], strict=True))


def test_a_result_too_large_for_any_window_is_overflow(stage: Stage) -> None:
    @tool(does="read")
    def huge(call: Call[None]) -> str:
        return "x" * 200_000

    row = model_state("Look", model=M, tools=[huge], writes={"done": []})
    table = {"s": row.then({"done": "end", "overflow": "lost"}), "end": final(), "lost": final("failed")}
    model = ScriptedModel([call("huge"), choose("done")])
    played = stage.play(Machine("m", Rec, table=table, limits=Limits(tokens=10**7, usd=100)), Rec(), model=model)
    assert outcomes(played) == ["called", "overflow"]


ODD = ["\0", "\ud800", "😀" * 50, "\u202e", '{"$payload": "00"}', "\r\n\t", "a" * 20_000, ""]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_text_passes_through_prompts_tools_and_records(stage: Stage, text: str) -> None:
    @tool(does="read")
    def echo(call: Call[None], said: Any) -> Any:
        return {"said": said}

    class Odd(BaseModel):
        given: Any = None
        got: Any = None

    row = model_state("Echo {given}", model=M, tools=[echo], writes={"done": ["got"]})
    model = ScriptedModel([call("echo", said=text), say(text, choose("done", got=[text]))])
    machine = Machine("m", Odd, table={"s": row.then({"done": "end"}), "end": final()}, limits=Limits(usd=100))
    played = stage.play(machine, Odd(given=text), model=model)
    assert (played.status, played.record.got) == ("completed", [text])


# -- code states ------------------------------------------------


class Verdict(BaseModel):
    good: bool
    why: str = ""


async def judge(turn: Turn[Rec]) -> Literal["good", "bad", "none"]:
    try:
        reply = await turn.model(M, "Judge", returns=Verdict)
    except EffectFailed as failed:
        turn.record.text = failed.outcome
        return "none"
    turn.record.text = reply.value.why
    return "good" if reply.value.good else "bad"


@pytest.mark.parametrize(
    ("said", "outcome", "text"),
    [
        (choose("answer", good=True, why="x"), "good", "x"),
        (choose("answer", good=False), "bad", ""),
        (choose("answer", good="perhaps"), "none", "invalid"),
        ("just words", "none", "invalid"),
    ],
)
def test_structured_answers(stage: Stage, said: Any, outcome: str, text: str) -> None:
    row = state(models=[M], writes=["text"])(judge)
    table = {"s": row.then({"good": "end", "bad": "end", "none": "end"}), "end": final()}
    model = ScriptedModel([said])
    played = stage.play(Machine("m", Rec, table=table), Rec(), model=model)
    assert (outcomes(played), played.record.text) == ([outcome], text)
    assert model.requests[0].must_choose and len(model.requests[0].offers) == 1


def test_effects_gathered_sleep_and_time_are_recorded(stage: Stage) -> None:
    @state(tools=[look], writes=["items"], within=600)
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        found = await asyncio.gather(*(turn.call(look, n) for n in range(4)))
        began = await turn.now()
        await turn.sleep(3600)
        passed = (await turn.now() - began).total_seconds()
        turn.record.items = [*found, f"{passed:.0f}", str(0 <= await turn.random() < 1)]
        return "ok"

    played = stage.play(Machine("m", Rec, table={"s": work.then({"ok": "end"}), "end": final()}), Rec())
    assert played.record.items == ["seen 0", "seen 1", "seen 2", "seen 3", "3600", "True"]
    assert played.result.spent.active_ms < 10_000, "parked time isn't active"


def test_use_writes_its_result_where_it_says(stage: Stage) -> None:
    table = {"s": use(look, args={"at": "count"}, into="text").then({"done": "end"}), "end": final()}
    assert stage.play(Machine("m", Rec, table=table), Rec(count=7)).record.text == "seen 7"


# -- limits ------------------------------------------------


@state(writes=["count"])
def count(turn: Turn[Rec]) -> Literal["more", "done"]:
    turn.record.count += 1
    return "more" if turn.record.count < 100 else "done"


def looping(visits: int | None = None, **limits: Any) -> Machine[Rec, None]:
    moves: Any = {"more": "s", "done": "end", "limit_reached": "lost"}
    table = {"s": count.then(moves, visits=visits), "end": final(), "lost": final("failed")}
    return Machine("looping", Rec, table=table, limits=Limits(**limits))


@pytest.mark.parametrize(
    ("machine", "turns"),
    [(looping(turns=5), 5), (looping(visits=4), 4), (looping(turns=60, visits=3), 3), (looping(turns=2, visits=9), 2)],
)
def test_turns_and_visits_are_bounded(stage: Stage, machine: Machine[Rec, None], turns: int) -> None:
    played = stage.play(machine, Rec())
    assert outcomes(played) == ["more"] * turns + ["limit_reached"]
    assert (played.record.count, played.result.spent.turns) == (turns, turns)


def test_a_row_s_visits_go_before_the_limits(stage: Stage) -> None:
    machine = looping(visits=6)
    assert stage.play(machine, Rec()).record.count == 6


def test_active_seconds_are_bounded_and_parked_time_is_free(stage: Stage) -> None:
    @tool(does="read", within=60)
    async def slow(call: Call[None], at: int) -> int:
        await asyncio.sleep(20)
        return at

    @state(tools=[slow], within=1000, calls=20)
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        await turn.sleep(10**6)
        for number in range(10):
            await turn.call(slow, number)
        return "ok"

    table = {"s": work.then({"ok": "end", "limit_reached": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Rec, table=table, limits=Limits(seconds=50)), Rec())
    assert outcomes(played) == ["limit_reached"]
    assert 50_000 <= played.result.spent.active_ms <= 51_000
    assert_log(played, tool_called=3)


def test_extending_turns_lets_an_escalated_run_go_on(stage: Stage) -> None:
    table = {"s": count.then({"more": "s", "done": "end"}), "end": final()}
    machine = Machine("m", Rec, table=table, limits=Limits(turns=50))

    async def scenario() -> None:
        async with stage.working(machine) as client:
            handle = await client.start(machine, Rec())
            result = await handle.result(until_waiting=True)
            assert (result.reason, result.record.count) == ("limit_reached", 50)
            await client.extend(handle.id, turns=60)
            assert (await handle.result()).record.count == 100

    stage.perform(scenario)


def test_a_person_s_answer_beyond_the_last_turn_does_not_pass_the_ceiling(stage: Stage) -> None:
    table = {"s": count.then({"more": "s", "done": "end"}), "end": final()}
    played = stage.play(Machine("m", Rec, table=table, limits=Limits(turns=3)), Rec(), answers=[("done",)])
    assert (played.status, played.result.spent.turns) == ("completed", 3)


def test_wrapping_up_uses_what_was_kept_back_and_no_more(stage: Stage) -> None:
    """90 % is for the work; the last 10 % pays the call that says sorry."""

    @state(models=[M], calls=60, max_tokens=20)
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        for number in range(60):
            await turn.model(M, f"part {number}")
        return "ok"

    @state(models=[M], calls=1, max_tokens=20, writes=["text"])
    async def sorry(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.text = (await turn.model(M, "Say sorry")).text
        return "ok"

    table = {
        "work": work.then({"ok": "end", "budget_spent": "sorry"}),
        "sorry": sorry.then({"ok": "lost", "budget_spent": "lost", "limit_reached": "lost"}),
        "end": final(),
        "lost": final("failed"),
    }
    limits = Limits(turns=20, tokens=8_000_000, usd=0.01, wrap_up=0.1, warn_at=1.0, attempts=2)
    model = ScriptedModel(lambda request: ModelReply(text="sorry", tokens_in=100, tokens_out=20))
    played = stage.play(Machine("m", Rec, table=table, limits=limits), Rec(), model=model)
    assert (played.path, played.record.text) == ("work > sorry > lost", "sorry")
    before = sum(1 for request in model.requests if "part" in request.messages[0].text)
    assert before * 180_000 <= 9_000_000, "work never touches the reserve"
    assert_within_ceiling(played.events)


# -- no progress ------------------------------------------------


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_equal_turns_in_a_row_are_stalled(stage: Stage, repeats: int) -> None:
    row = model_state("Look", model=M, tools=[look], writes={"done": []})
    model = ScriptedModel(lambda request: call("look", at=1))
    table = {"s": row.then({"done": "end", "stalled": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Rec, table=table, limits=Limits(repeats=repeats)), Rec(), model=model)
    assert outcomes(played) == ["called"] * (repeats - 1) + ["stalled"]
    (last,) = [event for event in played.events if isinstance(event, Transitioned)][-1:]
    assert last.why == f"look(1) {repeats}x, same result"


def test_other_arguments_results_or_changes_are_progress(stage: Stage) -> None:
    row = model_state("Look", model=M, tools=[look], writes={"done": []})
    script = [call("look", at=n % 2) for n in range(8)]
    machine = Machine("m", Rec, table={"s": row.then({"done": "end"}), "end": final()}, limits=Limits(repeats=2))
    assert stage.play(machine, Rec(), model=[*script, choose("done")]).status == "completed"


def test_the_order_in_which_calls_side_by_side_come_back_is_no_progress(stage: Stage) -> None:
    begun: list[int] = []

    @tool(does="read", within=9)
    async def slow(call: Call[None], at: int) -> int:
        begun.append(at)
        first_turn = len(begun) <= 2
        await asyncio.sleep(at if first_turn else 3 - at)
        return at

    row = model_state("Look", model=M, tools=[slow], writes={"done": []})
    model = ScriptedModel(lambda request: [call("slow", at=1), call("slow", at=2)])
    table = {"s": row.then({"done": "end", "stalled": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Rec, table=table, limits=Limits(repeats=2)), Rec(), model=model)
    assert outcomes(played) == ["called", "stalled"]


def test_progress_can_be_left_unwatched(stage: Stage) -> None:
    row = model_state("Look", model=M, tools=[look], writes={"done": []})
    script = [call("look", at=1)] * 9
    machine = Machine("m", Rec, table={"s": row.then({"done": "end"}), "end": final()}, limits=Limits(repeats=None))
    assert stage.play(machine, Rec(), model=[*script, choose("done")]).status == "completed"


def test_an_escalation_says_which_outcome_led_to_it(stage: Stage) -> None:
    row = model_state("Look", model=M, tools=[look], writes={"done": []})
    model = ScriptedModel(lambda request: call("look", at=1))
    played = stage.play(Machine("m", Rec, table={"s": row.then({"done": "end"}), "end": final()}), Rec(), model=model)
    (opened,) = [event for event in played.events if isinstance(event, WaitOpened)]
    assert (opened.why, opened.outcome, opened.of) == ("escalated", "stalled", "operator")
    assert list(opened.form) == ["done", "retry"]
