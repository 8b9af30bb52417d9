"""Law 4: everyone but the owner leaves things in the inbox, each read once and in order; a wait is closed once."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, state, tool, wait
from interlock.errors import BadInput, WaitClosed
from interlock.history.events import AnswerDropped, Cancelled, SignalArrived, Transitioned, WaitEnded
from interlock.store.protocol import InboxItem, Leave
from interlock.testing import ModelReply, ScriptedModel
from tests.stage import Stage


class Rec(BaseModel):
    text: str = ""
    note: str = ""


def asking(within: float = 600) -> Machine[Rec, None]:
    row = ask("Well?", of="desk", writes={"yes": ["text"], "no": []}, within=within)
    table = {"p": row.then({"yes": "end", "no": "end", "timeout": "late"}), "end": final(), "late": final("failed")}
    return Machine("asking", Rec, table=table)


def signalled(within: float = 600) -> Machine[Rec, None]:
    row = wait("paid", writes=["text"], within=within)
    return Machine(
        "signalled",
        Rec,
        table={
            "nap": wait(seconds=100).then({"elapsed": "sig"}),
            "sig": row.then({"arrived": "end", "timeout": "late"}),
            "end": final(),
            "late": final("failed"),
        },
    )


def how(stage: Stage) -> list[str]:
    return [event.how for event in stage.events() if isinstance(event, WaitEnded)]


def test_of_two_deciders_one_wins_and_the_other_is_told(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
            answers = await asyncio.gather(
                client.resolve(handle.id, "yes", {"text": "ann"}, by="ann"),
                client.resolve(handle.id, "no", by="bob"),
                return_exceptions=True,
            )
            assert sum(isinstance(answer, WaitClosed) for answer in answers) == 1
            result = await handle.result()
            assert result.record.text == ("ann" if not isinstance(answers[0], WaitClosed) else "")

    stage.perform(scenario)
    assert how(stage) == ["decision"]


def test_accepted_before_any_worker_lives_is_still_accepted(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
        left = await client.resolve(handle.id, "yes", {"text": "early"})
        assert not left.held
        with pytest.raises(WaitClosed):
            await client.resolve(handle.id, "no")
        async with stage.working(asking(), seed=1) as later:
            assert (await later.run(handle.id, asking()).result()).record.text == "early"

    stage.perform(scenario)


def test_a_decision_after_the_due_time_is_refused_although_no_worker_has_noticed(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking(within=60)) as client:
            handle = await client.start(asking(within=60), Rec())
            await handle.result(until_waiting=True)
        await asyncio.sleep(59.9)
        stage.clock.advance(0.2)
        with pytest.raises(WaitClosed, match="due"):
            await client.resolve(handle.id, "yes", {"text": "late"})
        async with stage.working(asking(within=60), seed=1) as later:
            assert (await later.run(handle.id, asking(within=60)).result()).state == "late"

    stage.perform(scenario)
    assert how(stage) == ["timer"]


def test_nobody_answers_and_the_timer_does(stage: Stage) -> None:
    async def scenario() -> float:
        async with stage.working(asking(within=60)) as client:
            handle = await client.start(asking(within=60), Rec())
            result = await handle.result()
            assert (result.status, result.state) == ("failed", "late")
            return stage.clock.monotonic()

    assert stage.perform(scenario) == pytest.approx(60, abs=1)


@pytest.mark.parametrize("first", ["cancel", "decision"])
def test_cancel_and_decision_end_in_the_order_they_were_left(stage: Stage, first: str) -> None:
    async def scenario() -> str:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
        if first == "cancel":
            await client.cancel(handle.id, by="ann")
            with pytest.raises(WaitClosed, match="cancelled by ann"):
                await client.resolve(handle.id, "yes", {"text": "x"})
        else:
            await client.resolve(handle.id, "yes", {"text": "x"})
            await client.cancel(handle.id, by="ann")
        async with stage.working(asking(), seed=1) as later:
            return (await later.run(handle.id, asking()).result()).status

    assert stage.perform(scenario) == "cancelled"
    assert stage.client().verify() == []
    assert sum(isinstance(event, Cancelled) for event in stage.events()) == 1


def test_a_cancelled_run_takes_nothing_more(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
            await client.cancel(handle.id)
            await handle.result()
            for late in (client.pause, client.resume, client.cancel):
                with pytest.raises(WaitClosed, match="ended"):
                    await late(handle.id)
            with pytest.raises(WaitClosed):
                await client.resolve(handle.id, "no")

    stage.perform(scenario)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_counts_whether_it_comes_before_the_wait_or_after(stage: Stage, moment: str) -> None:
    async def scenario() -> None:
        async with stage.working(signalled()) as client:
            handle = await client.start(signalled(), Rec())
            await asyncio.sleep(10 if moment == "before" else 150)
            await client.signal(handle.id, "paid", {"text": "42 EUR"})
            result = await handle.result()
            assert (result.status, result.record.text) == ("completed", "42 EUR")

    stage.perform(scenario)
    assert how(stage) == ["timer", "signal"]
    assert stage.store.snapshot(stage.store.find("@last").number).waits == (), "no wait stays open behind"
    assert stage.client().verify() == []


def test_the_same_signal_counts_once(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(signalled()) as client:
            handle = await client.start(signalled(), Rec())
            for _ in range(3):
                await client.signal(handle.id, "paid", {"text": "once"}, id="payment-7")
            await handle.result()

    stage.perform(scenario)
    assert sum(isinstance(event, SignalArrived) for event in stage.events()) == 1


def test_a_signal_of_another_name_is_kept_and_wakes_nobody(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(signalled(within=60)) as client:
            handle = await client.start(signalled(within=60), Rec())
            await client.signal(handle.id, "shipped")
            assert (await handle.result()).state == "late"

    stage.perform(scenario)


def test_a_signal_that_does_not_fit_is_dropped_and_the_wait_goes_on(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(signalled()) as client:
            handle = await client.start(signalled(), Rec())
            await asyncio.sleep(150)
            await client.signal(handle.id, "paid", {"shoe": 1})
            await asyncio.sleep(1)
            await client.signal(handle.id, "paid", {"text": "good"})
            assert (await handle.result()).record.text == "good"

    stage.perform(scenario)
    assert stage.said().count("answer_dropped") == 1


def test_a_signal_after_the_due_time_is_too_late_although_no_worker_has_noticed(stage: Stage) -> None:
    """As a decision is. It is kept all the same: somebody said it."""

    async def scenario() -> None:
        async with stage.working(signalled(within=60)) as client:
            handle = await client.start(signalled(within=60), Rec())
            await asyncio.sleep(110)
        await asyncio.sleep(1000)
        client = stage.client(seed=2)
        await client.signal(handle.id, "paid", {"text": "late"})
        async with stage.working(signalled(within=60), seed=1) as later:
            assert (await later.run(handle.id, signalled(within=60)).result()).state == "late"

    stage.perform(scenario)
    assert how(stage) == ["timer", "timer"] and "signal_arrived" in stage.said()


@pytest.mark.parametrize("depth", [150, 980, 100_000])
def test_what_is_nested_too_deeply_is_refused_at_the_door(stage: Stage, depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]

    async def scenario() -> None:
        client = stage.client()
        handle = await client.start(signalled(), Rec())
        with pytest.raises(BadInput, match="deep"):
            await client.signal(handle.id, "paid", {"text": deep})
        assert stage.store.snapshot(1).inbox == ()

    stage.perform(scenario)


def test_what_can_t_be_read_in_one_inbox_keeps_no_worker_from_any_run(file_stage: Stage) -> None:
    """Inboxes are read inside the claim. What can't be read is dropped by its run, which goes on."""

    async def start(seed: int) -> str:
        client = file_stage.client(seed=seed)
        handle = await client.start(signalled(within=60), Rec())
        await client.signal(handle.id, "paid", {"text": "x"})
        return handle.id

    spoilt = file_stage.perform(lambda: start(1))
    file_stage.edit("UPDATE inbox SET body = '" + "[" * 5_000 + "]" * 5_000 + "'")
    sound = file_stage.perform(lambda: start(2))

    async def scenario() -> None:
        async with file_stage.working(signalled(within=60)) as client:
            assert (await client.run(spoilt, signalled(within=60)).result()).state == "late"
            assert (await client.run(sound, signalled(within=60)).result()).state == "end"

    file_stage.perform(scenario)
    [dropped] = [event for event in file_stage.events(spoilt) if isinstance(event, AnswerDropped)]
    assert (dropped.kind, dropped.why) == ("signal", "it can't be read")
    assert file_stage.client().verify() == []


def test_what_was_left_is_read_in_order_each_once(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        handle = await client.start(signalled(), Rec())
        for number in range(5):
            await client.signal(handle.id, f"n{number}")
        async with stage.working(signalled(), seed=1) as later:
            await later.signal(handle.id, "paid")
            await later.run(handle.id, signalled()).result()

    stage.perform(scenario)
    names = [event.name for event in stage.events() if isinstance(event, SignalArrived)]
    assert names == ["n0", "n1", "n2", "n3", "n4", "paid"]


def test_a_reason_of_any_characters_poisons_no_run(stage: Stage) -> None:
    """A shell may hand over half a character; it is in the log, and the run ends."""

    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
            await client.cancel(handle.id, by="\ud800", reason="bro\udcffken \0 \u202e")
            async with asyncio.timeout(60):
                assert (await handle.result()).status == "cancelled"

    stage.perform(scenario)
    assert next(event.reason for event in stage.events() if isinstance(event, Cancelled)) == "bro\udcffken \0 \u202e"


def test_a_pause_during_an_effect_lets_it_end_and_starts_no_other(stage: Stage) -> None:
    sent: list[int] = []

    @tool(does="write", keyed=True, within=60)
    async def slow(call: Call[None], number: int) -> int:
        await asyncio.sleep(10)
        sent.append(number)
        return number

    @state(tools=[slow], writes=["text"], within=300)
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        for number in range(3):
            await turn.call(slow, number)
        turn.record.text = "done"
        return "ok"

    machine = Machine("working", Rec, table={"s": work.then({"ok": "end"}), "end": final()})

    async def scenario() -> None:
        async with stage.working(machine) as client:
            handle = await client.start(machine, Rec())
            await asyncio.sleep(5)
            await client.pause(handle.id, by="ann", reason="deploy")
            result = await handle.result(until_waiting=True)
            assert (result.status, sent) == ("paused", [0])
            await asyncio.sleep(1000)
            assert sent == [0]
            await client.resume(handle.id)
            assert (await handle.result()).record.text == "done"

    stage.perform(scenario)
    assert sent == [0, 1, 2]
    assert sum(isinstance(event, Transitioned) for event in stage.events()) == 1
    assert stage.client().verify() == []


def test_an_extension_and_a_decision_about_the_same_wait_both_count(stage: Stage) -> None:
    """Left in this order while no host reads: the extension would close the wait that the decision has closed."""

    @state(models=["m"], calls=9, max_tokens=20)
    async def spend(turn: Turn[Rec]) -> Literal["ok"]:
        for number in range(9):
            await turn.model("m", str(number))
        return "ok"

    machine = Machine("m", Rec, limits=Limits(tokens=1_000), table={"s": spend.then({"ok": "end"}), "end": final()})
    model = ScriptedModel(lambda request: ModelReply(text="k", tokens_in=90, tokens_out=10))

    async def scenario() -> None:
        async with stage.working(machine, model=model) as client:
            handle = await client.start(machine, Rec())
            await handle.result(until_waiting=True)
        await client.extend(handle.id, tokens=1_000)
        await client.resolve(handle.id, "go_on")
        async with stage.working(machine, model=model, seed=1) as later:
            assert (await later.run(handle.id, machine).result()).status == "completed"

    stage.perform(scenario)


@pytest.mark.parametrize("kind", ["ask", "signal"])
def test_what_does_not_fit_buys_no_time(stage: Stage, kind: str) -> None:
    """A wait that is opened again keeps its due time."""
    machine = signalled(within=600) if kind == "signal" else asking(within=600)
    opens = 100 if kind == "signal" else 0

    async def scenario() -> float:
        async with stage.working(machine) as client:
            handle = await client.start(machine, Rec())
            await asyncio.sleep(opens + 500)
            if kind == "signal":
                await client.signal(handle.id, "paid", {"shoe": 1})
            else:
                body = {"wait": 1, "outcome": "yes", "fields": {"shoe": 1}, "by": "x", "reason": ""}
                item = InboxItem("raw", "decision", body, stage.clock.now_ms())
                await client.world.committer.submit(Leave(handle.id, item, stage.clock.now_ms(), 1, "decision"))
                for told in client.listeners:
                    told()
            assert (await handle.result()).state == "late"
            return stage.clock.monotonic()

    assert stage.perform(scenario) == pytest.approx(opens + 600, abs=1)
