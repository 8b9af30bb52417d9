"""Law 12: crossing the warning share hands the run over before its next effect, once per ceiling."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Client, Limits, Machine, Turn, ask, final, model_state, state, tool
from interlock.agent.model import ModelRequest
from interlock.agent.scripted import as_reply
from interlock.client import RunHandle
from interlock.errors import EffectFailed
from interlock.history.events import ModelCalled, Transitioned, WaitEnded, WaitOpened, Warned
from interlock.testing import ModelReply, ScriptedModel, assert_log, choose
from tests.stage import Stage, assert_within_ceiling

M = "acme:small"


class Work(BaseModel):
    done: int = 0


def hundred(request: ModelRequest) -> ModelReply:
    return ModelReply(text="k", tokens_in=90, tokens_out=10)


def calling(count: int, **limits: Any) -> Machine[Work, None]:
    """Spends 100 tokens a call."""

    @state(models=[M], calls=count, max_tokens=20, writes=["done"])
    async def work(turn: Turn[Work]) -> Literal["ok"]:
        for number in range(count):
            await turn.model(M, f"part {number}")
            turn.record.done += 1
        return "ok"

    table = {"s": work.then({"ok": "end", "budget_spent": "lost"}), "end": final(), "lost": final("failed")}
    return Machine("calling", Work, limits=Limits(**{"tokens": 1_000, **limits}), table=table)


def test_at_eighty_percent_it_pauses_before_the_next_effect(stage: Stage) -> None:
    model = ScriptedModel(hundred)
    played = stage.play(calling(9), Work(), model=model)
    assert len(model.requests) == 8
    (wait,) = played.result.waits
    assert (played.status, wait.why, sorted(wait.form)) == ("waiting", "budget", ["end", "go_on"])
    (warned,) = [e for e in played.events if isinstance(e, Warned)]
    assert (warned.dimension, warned.spent, warned.ceiling) == ("tokens", 800, 1_000)


def test_money_warns_as_tokens_do(stage: Stage) -> None:
    played = stage.play(calling(9, tokens=None, usd=0.00104), Work(), model=ScriptedModel(hundred))
    assert [e.dimension for e in played.events if isinstance(e, Warned)] == ["nanousd"]


def scenario(stage: Stage, machine: Machine[Work, None], model: ScriptedModel, **more: Any) -> None:
    """Run to the pause, extend, run on to the end."""

    async def play() -> None:
        async with stage.working(machine, model=model) as client:
            handle = await client.start(machine, Work())
            await handle.result(until_waiting=True)
            await client.extend(handle.id, by="ann", **more)
            await handle.result(until_waiting=True)

    stage.perform(play)


def test_a_person_extends_and_it_goes_on_from_exactly_there(stage: Stage) -> None:
    """No effect is had again: the ninth call follows the eighth."""
    model = ScriptedModel(hundred)
    scenario(stage, calling(12), model, tokens=1_000)
    assert [request.messages[0].text for request in model.requests] == [f"part {n}" for n in range(12)]
    called = [e.effect for e in stage.events() if isinstance(e, ModelCalled)]
    assert called == list(range(1, 13))
    assert stage.store.find("@last").status == "completed"
    (ended,) = [e for e in stage.events() if isinstance(e, WaitEnded)]
    assert (ended.how, ended.outcome, ended.by) == ("extend", "go_on", "ann")
    assert_within_ceiling(stage.events())


def test_the_worker_may_be_another_one_after_the_pause(stage: Stage) -> None:
    """The pause is in the store, not in a process."""
    model, machine = ScriptedModel(hundred), calling(12)

    async def first() -> str:
        async with stage.working(machine, model=model) as client:
            handle = await client.start(machine, Work())
            await handle.result(until_waiting=True)
            return handle.id

    run = stage.perform(first)

    async def second() -> str:
        async with stage.working(machine, model=model, seed=1) as client:
            await client.extend(run, tokens=1_000)
            return (await client.run(run, machine).result()).status

    assert stage.perform(second) == "completed"
    assert len(model.requests) == 12


def test_each_new_ceiling_warns_once_more(stage: Stage) -> None:
    """1,000 + 500: 80 % of 1,500 is crossed at 1,200."""
    model = ScriptedModel(hundred)
    scenario(stage, calling(14), model, tokens=500)
    assert len(model.requests) == 12
    assert [(e.spent, e.ceiling) for e in stage.events() if isinstance(e, Warned)] == [(800, 1_000), (1_200, 1_500)]


def test_an_extension_of_something_else_does_not_warn_again(stage: Stage) -> None:
    """One acknowledgement per ceiling."""
    model = ScriptedModel(hundred)
    scenario(stage, calling(9), model, turns=5)
    assert stage.said().count("warned") == 1
    assert stage.store.find("@last").status == "completed"


def test_go_on_without_extending_is_an_acknowledgement(stage: Stage) -> None:
    """It goes on below the ceiling, is not asked again, and still never passes it."""
    model = ScriptedModel(hundred)
    played = stage.play(calling(12), Work(), model=model, answers=[("go_on",)])
    assert_log(played, warned=1)
    assert played.result.reason == "budget_spent"
    assert played.result.spent.tokens <= 1_000
    assert len(model.requests) > 8
    assert_within_ceiling(played.events)


def test_end_leads_where_budget_spent_does(stage: Stage) -> None:
    played = stage.play(calling(12), Work(), model=ScriptedModel(hundred), answers=[("end",)])
    assert (played.status, played.result.state) == ("failed", "lost")
    move = next(e for e in played.events if isinstance(e, Transitioned))
    assert (move.outcome, move.by) == ("budget_spent", "person")


def test_end_without_a_destination_is_a_person_s_and_their_answer_counts(stage: Stage) -> None:
    """The earlier `end` must not swallow what is answered to the escalation it led to."""

    @state(models=[M], calls=20, max_tokens=20)
    async def work(turn: Turn[Work]) -> Literal["ok"]:
        for number in range(20):
            await turn.model(M, str(number))
        return "ok"

    machine = Machine("m", Work, limits=Limits(tokens=1_000), table={"s": work.then({"ok": "end"}), "end": final()})
    played = stage.play(machine, Work(), model=ScriptedModel(hundred), answers=[("end",), ("ok",)])
    assert played.status == "completed"
    opened = [(e.why, e.outcome) for e in played.events if isinstance(e, WaitOpened)]
    assert opened == [("budget", None), ("escalated", "budget_spent")]


@pytest.mark.parametrize("moves", [{"timeout": "other"}, {}], ids=["the run has moved on", "a person has it"])
def test_end_counts_although_the_turn_that_asked_is_over(stage: Stage, moves: dict[str, str]) -> None:
    """Its time passed while a call was under way beside the question. Whatever came of the turn, an accepted `end` is
    one."""

    @tool(does="read", within=100)
    async def slow(call: Call[None]) -> int:
        await asyncio.sleep(60)
        return 1

    @state(models=[M], tools=[slow], within=20, calls=3)
    async def work(turn: Turn[Work]) -> Literal["ok"]:
        async def talk() -> None:
            await turn.model(M, "a", max_tokens=20)
            await turn.model(M, "b", max_tokens=20)

        await asyncio.gather(turn.call(slow), talk())
        return "ok"

    @state()
    async def other(turn: Turn[Work]) -> Literal["ok"]:
        return "ok"

    table: dict[str, Any] = {
        "s": work.then({"ok": "other", "budget_spent": "lost", **moves}),
        "other": other.then({"ok": "end", "budget_spent": "lost"}),
        "end": final(),
        "lost": final("failed"),
    }
    machine: Machine[Work, None] = Machine("m", Work, limits=Limits(tokens=560), table=table)
    model = ScriptedModel(lambda request: ModelReply(text="hi", tokens_in=450, tokens_out=3))

    async def play() -> None:
        async with stage.working(machine, model=model) as client:
            handle = await client.start(machine, Work())
            await asyncio.sleep(30)
            asked = {wait.why: wait.number for wait in client.waiting()}
            if "escalated" in asked:
                await client.resolve(handle.id, "ok", wait=asked["escalated"], by="bob")
            await client.resolve(handle.id, "end", wait=asked["budget"], by="ann")
            assert (await handle.result()).state == "lost"

    stage.perform(play)
    last = [e for e in stage.events() if isinstance(e, Transitioned)][-1]
    assert (last.outcome, last.by) == ("budget_spent", "ann")


def test_on_warn_end_ends_without_asking(stage: Stage) -> None:
    model = ScriptedModel(hundred)
    played = stage.play(calling(12, on_warn="end"), Work(), model=model)
    assert (played.status, played.result.reason, len(model.requests)) == ("failed", "budget_spent", 8)
    assert_log(played, warned=1, wait_opened=0)


def test_on_warn_end_can_t_be_talked_away_by_a_handler(stage: Stage) -> None:
    """A handler that catches the refusal and asks again gets no further effect in this turn."""

    @state(models=[M], calls=20, max_tokens=20)
    async def stubborn(turn: Turn[Work]) -> Literal["ok"]:
        for number in range(20):
            try:
                await turn.model(M, str(number))
            except EffectFailed:
                continue
        return "ok"

    model = ScriptedModel(hundred)
    table = {"s": stubborn.then({"ok": "end", "budget_spent": "lost"}), "end": final(), "lost": final("failed")}
    stage.play(Machine("m", Work, limits=Limits(tokens=1_000, on_warn="end"), table=table), Work(), model=model)
    assert len(model.requests) == 8


def test_a_model_state_is_handed_over_as_well(stage: Stage) -> None:
    step = model_state("go", model=M, writes={"more": [], "done": []}, max_tokens=20)
    table = {"s": step.then({"more": "s", "done": "end"}), "end": final()}
    machine = Machine("m", Work, limits=Limits(tokens=10_000, repeats=None), table=table)

    def brain(request: ModelRequest) -> ModelReply:
        calls = as_reply(choose("more"), len(model.requests)).calls
        return ModelReply(calls=calls, tokens_in=990, tokens_out=10)

    model = ScriptedModel(brain)
    played = stage.play(machine, Work(), model=model)
    assert (played.status, len(model.requests)) == ("waiting", 8)


def test_an_ask_costs_nothing_and_is_not_held_up(stage: Stage) -> None:
    """Crossing the share in the last effect before a person is asked asks once, not twice."""

    @state(models=[M], max_tokens=20)
    async def spend(turn: Turn[Work]) -> Literal["ok"]:
        for number in range(8):
            await turn.model(M, str(number))
        return "ok"

    person = ask("?", of="x", writes={"ok": []}).then({"ok": "end", "timeout": "end"})
    table = {"s": spend.then({"ok": "p"}), "p": person, "end": final()}
    machine = Machine("m", Work, limits=Limits(tokens=1_000), table=table)
    played = stage.play(machine, Work(), model=ScriptedModel(hundred))
    assert [wait.why for wait in played.result.waits] == ["ask"]


@pytest.mark.parametrize("parallel", [2, 5])
def test_effects_side_by_side_are_handed_over_once(stage: Stage, parallel: int) -> None:
    @state(models=[M], calls=40, max_tokens=20)
    async def many(turn: Turn[Work]) -> Literal["ok"]:
        await asyncio.gather(*(turn.model(M, str(n)) for n in range(8)))
        await asyncio.gather(*(turn.model(M, f"more {n}") for n in range(parallel)))
        return "ok"

    machine = Machine("m", Work, limits=Limits(tokens=1_000), table={"s": many.then({"ok": "end"}), "end": final()})
    model = ScriptedModel(hundred)

    async def play() -> RunHandle[Work]:
        async with stage.working(machine, model=model) as client:
            handle: RunHandle[Work] = await client.start(machine, Work())
            assert (await handle.result(until_waiting=True)).status == "waiting"
            assert len(model.requests) == 8
            assert len(waiting(client)) == 1
            await client.extend(handle.id, tokens=10_000)
            assert (await handle.result()).status == "completed"
            return handle

    stage.perform(play)
    assert len(model.requests) == 8 + parallel, "nothing is asked twice"


def waiting(client: Client) -> list[str]:
    return [wait.why for wait in client.waiting()]
