"""What is handed over to a person: why, what happened last, what it cost, what each answer will do; for every kind of
wait, and true: what it says of an answer is what happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, wait
from interlock.cli.story import repeated_by_retry
from interlock.errors import BadInput, WaitClosed
from interlock.handover import Choice, HandOver, hand_overs
from interlock.machine.limits import Price
from interlock.testing import choose
from tests.laws.approving import Order, Till, in_code, in_use
from tests.laws.machines import MODEL, Case, Tools, machine
from tests.laws.stage import Stage, on_stage
from tests.laws.test_law_04_deciders import QUESTIONS, Question, model


async def handed(stage: Stage, machine: Any, record: Any) -> HandOver:
    await stage.worker(machine)
    run = await stage.client.start(machine, record)
    await stage.until(lambda: stage.status() == "waiting" and any(w.kind != "time" for w in run.show().waits))
    return stage.client.hand_over(run.id)


def by_answer(given: HandOver) -> dict[str, Choice]:
    return {choice.answer: choice for choice in given.choices}


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_wait_hands_over_what_each_answer_does(kind: Callable[[], Question]) -> None:
    question = kind()

    async def scene(stage: Stage) -> None:
        given = await handed(stage, question.machine, question.record)
        assert {question.yes[0], question.no[0]} <= set(by_answer(given)) == set(given.wait.form)
        assert given.because and all(choice.does for choice in given.choices)
        assert given.record == question.record.model_dump() and given.machine == question.machine.name
        assert given.last[-1][0] == stage.store.find(given.run).seq
        assert (given.unanswered != "") == (given.wait.due is not None)
        document = given.as_json()
        assert json.loads(json.dumps(document)) == document
        assert {choice["answer"] for choice in document["choices"]} == set(given.wait.form)

    on_stage(scene, model())


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("which", ["yes", "no"])
def test_an_answer_leads_where_it_was_said_to_lead(kind: Callable[[], Question], which: str) -> None:
    question = kind()
    answer, fields = getattr(question, which)

    async def scene(stage: Stage) -> None:
        given = await handed(stage, question.machine, question.record)
        choice = by_answer(given)[answer]
        await stage.client.resolve(given.run, answer, fields)
        if choice.to == "":
            await stage.until(lambda: stage.status() in ("completed", "failed"))  # the turn goes on, to its end
            return
        await stage.until(lambda: stage.store.find(given.run).state == choice.to)
        if choice.ends:
            await stage.until(lambda: stage.status() == choice.ends)
            assert f"the run ends {choice.ends} in `{choice.to}`" in choice.does

    on_stage(scene, model())


def test_an_approval_hands_over_the_whole_call_and_what_it_costs_at_most() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        given = await handed(stage, in_use(till, usd_max=0.25), Order(order_id="B-" + "9" * 500))
        choices = by_answer(given)
        assert f'refund(order_id="B-{"9" * 500}", cents=500)' in choices["approve"].does
        assert choices["approve"].nanousd_max == 4 * 250_000_000 and "$1" in choices["approve"].does
        assert (choices["approve"].to, choices["approve"].ends) == ("closed", "completed")
        assert (choices["deny"].to, choices["deny"].nanousd_max) == ("person", 0)
        assert choices["edit"].fields == ("order_id", "cents") and choices["edit"].required == ()
        assert given.unanswered == "the turn ends `timeout`: the run ends failed in `late`"

    on_stage(scene)


def test_of_a_call_in_code_the_turn_goes_on() -> None:
    async def scene(stage: Stage) -> None:
        machine = in_code(Till())
        await stage.worker(machine)
        run = await stage.client.start(machine, Order())
        await stage.until(lambda: len(stage.client.waiting()) == 2)
        with pytest.raises(BadInput, match="several"):
            stage.client.hand_over(run.id)
        given = stage.client.hand_over(run.id, stage.client.waiting()[0].number)
        assert by_answer(given)["approve"].to == "" and "the turn goes on" in by_answer(given)["approve"].does

    on_stage(scene)


def test_retry_names_a_call_that_nobody_knows_of_whether_it_happened() -> None:
    """Its account allows no repeat that would tell. The turn taken anew asks for it as well, under a new key."""
    tools = Tools(within=5.0)
    tools.slow.add(1)

    @state(tools=[tools.keyed], writes=["text"], within=60)
    async def pay(turn: Turn[Case]) -> Literal["done"]:
        turn.record.text = await turn.call(tools.keyed, 1)
        return "done"

    async def scene(stage: Stage) -> None:
        given = await handed(stage, machine(pay, calls=1), Case())
        assert given.wait.why == "escalated"
        assert (
            "nobody knows whether this happened in it, and it will be called again: keyed"
            in by_answer(given)["retry"].does
        )
        said = "keyed(1) may have happened in this turn and will be called again, under a new key"
        assert repeated_by_retry(stage.log()) == said
        await stage.client.extend(given.run, calls=5, by="ann")
        await stage.until(lambda: stage.status() == "completed")
        assert tools.outside.times("keyed") == 2, "as it was said"
        assert repeated_by_retry(stage.log()).count("may have") == 0

    on_stage(scene)


def test_retry_says_what_happens_again_and_what_it_costs_at_most() -> None:
    @tool(does="send", within=5)
    async def letter(call: Call[None], to: str) -> str:
        return to

    @state(tools=[letter], models=[MODEL], calls=3, max_tokens=100)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(letter, "ann\u202e")
        raise RuntimeError("a bug")

    machine = Machine(
        "letters",
        Case,
        table={"w": work.then({"done": "end"}), "end": final()},
        prices={MODEL: Price.per_million(1, 4)},
    )

    async def scene(stage: Stage) -> None:
        given = await handed(stage, machine, Case())
        again = by_answer(given)["retry"]
        assert again.to == "w" and again.nanousd_max > 0 and "at most" in again.does
        assert 'called again, as another effect: letter(to="ann\\u202e")' in again.does
        assert given.because == "`w` ended `error`: RuntimeError: a bug"

    on_stage(scene)


def test_a_model_that_comes_next_is_counted_into_what_an_answer_costs() -> None:
    table = {
        "ask": ask("Well?", of="desk", writes={"think": [], "stop": []}, within=60).then(
            {"think": "think", "stop": "lost", "timeout": "think"}
        ),
        "think": model_state("Go", model=MODEL, writes={"done": []}, max_tokens=100).then({"done": "end"}),
        "end": final(),
        "lost": final("failed"),
    }
    prices = {MODEL: Price.per_million(1, 4)}
    machine = Machine(
        "thinking", Case, table=table, prices=prices, limits=Limits(usd=0.01, illegal_moves=0, attempts=1)
    )

    async def scene(stage: Stage) -> None:
        given = await handed(stage, machine, Case())
        choices = by_answer(given)
        assert choices["think"].nanousd_max == 10_000_000, "no more than the account has left"
        assert (choices["stop"].nanousd_max, choices["stop"].ends) == (0, "failed")
        assert given.unanswered == "the turn ends `timeout`: the run goes on in `think`"

    on_stage(scene, [choose("done")])


def test_what_people_are_told_in_words_is_safe_to_show() -> None:
    async def scene(stage: Stage) -> None:
        given = await handed(stage, in_use(Till()), Order(order_id="p\u0430ypal\x1b[2J\u200b"))
        said = " ".join([given.because, given.unanswered, *(choice.does for choice in given.choices)])
        assert "p\\u0430ypal\\x1b[2J\\u200b" in said.replace("\\u001b", "\\x1b")
        assert not {"\x1b", "\u0430", "\u200b"} & set(said)
        assert given.wait.call["args"]["order_id"] == "p\u0430ypal\x1b[2J\u200b", "data stays as it is"

    on_stage(scene)


def test_a_signal_s_wait_is_handed_over_too_and_time_s_is_not() -> None:
    table = {
        "nap": wait(seconds=50).then({"elapsed": "bell"}),
        "bell": wait("bell", within=60).then({"arrived": "end", "timeout": "lost"}),
        "end": final(),
        "lost": final("failed"),
    }
    machine = Machine("bells", Case, table=table)

    async def scene(stage: Stage) -> None:
        await stage.worker(machine)
        run = await stage.client.start(machine, Case())
        await stage.until(lambda: stage.status() == "waiting")
        assert hand_overs(stage.store, run.show()) == []
        await stage.until(lambda: any(each.kind == "signal" for each in run.show().waits))
        (given,) = hand_overs(stage.store, run.show())
        assert given.because == "waits for the signal `bell`" and given.choices == ()
        assert given.unanswered == "the turn ends `timeout`: the run ends failed in `lost`"
        with pytest.raises(WaitClosed, match="waits for no person"):
            stage.client.hand_over(run.id)

    on_stage(scene)


def test_an_ended_run_hands_nothing_over_and_says_who_answered() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        given = await handed(stage, in_use(till), Order())
        await stage.client.approve(given.run, by="ann")
        await stage.until(lambda: stage.status() == "completed")
        with pytest.raises(WaitClosed, match="answered first, by ann"):
            stage.client.hand_over(given.run)

    on_stage(scene)
