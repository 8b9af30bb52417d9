"""Law 14, approvals: what a person approved is what is called; her yes is for one effect, expires, and is used up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest

from interlock import Call, Machine, Turn, final, state, tool, use
from interlock.client import RunHandle
from interlock.errors import BadInput, WaitClosed
from interlock.history import events as e
from interlock.reading import OpenWait
from interlock.store.protocol import InboxItem, Leave
from interlock.testing import ScriptedModel, call, choose
from tests.laws.approving import MINUTES, Order, Till, denied_goes_another_way, in_code, in_model, in_use
from tests.laws.stage import Stage, dies_at, on_stage

Scene = Callable[[Stage, Any, Till], Any]


def waits(stage: Stage) -> list[OpenWait]:
    return [wait for wait in stage.client.waiting() if wait.why == "approve"]


async def asked(stage: Stage, count: int = 1) -> list[OpenWait]:
    """Until so many calls wait for a yes, and the worker has put the run down."""
    await stage.until(lambda: len(waits(stage)) == count and stage.status() == "waiting")
    return waits(stage)


async def started(stage: Stage, machine: Any, **record: Any) -> RunHandle[Order]:
    await stage.worker(machine)
    return await stage.client.start(machine, Order(**record))


# -- what is approved is what is called -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [in_use, in_code, in_model])
def test_nothing_is_called_before_somebody_says_yes(kind: Any) -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        await started(stage, kind(till))
        found = await asked(stage, 2 if kind is in_code else 1)
        await asyncio.sleep(MINUTES / 2)
        assert till.paid == [] and stage.of(e.ToolCalled) == []
        assert {(wait.kind, wait.of) for wait in found} == {("person", "finance")}

    on_stage(scene, [call("refund", order_id="A-17", cents=500)])


def test_in_a_use_state_what_is_approved_is_called() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_use(till))
        [wait] = await asked(stage)
        await stage.client.approve(run.id, by="ann", reason="as agreed")
        result = await run.result()
        assert (result.status, till.sums) == ("completed", [500])
        [approved], [called] = stage.of(e.Approved), stage.of(e.ToolCalled)
        assert (approved.by, approved.reason, approved.binding) == ("ann", "as agreed", wait.binding)
        assert called.args == wait.call["args"] == {"order_id": "A-17", "cents": 500}
        assert (called.approval, called.effect) == (wait.number, wait.effect)

    on_stage(scene)


def test_in_a_model_state_what_is_approved_is_called_and_the_model_isn_t_asked_again() -> None:
    """Asked again, it would say something else by now."""
    till = Till()
    model = ScriptedModel([call("refund", order_id="A-17", cents=500), choose("done")])

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_model(till))
        [wait] = await asked(stage)
        assert wait.call["args"] == {"order_id": "A-17", "cents": 500}
        await stage.client.approve(run.id)
        assert ((await run.result()).status, till.sums, len(model.requests)) == ("completed", [500], 2)
        assert "A-17 500" in str(model.requests[1].messages)

    on_stage(scene, model)


def test_a_model_that_calls_several_at_once_has_each_approved() -> None:
    till = Till()
    calls = [call("refund", order_id="A-17", cents=cents) for cents in (1, 1, 2)]
    model = ScriptedModel([calls, choose("done")])

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_model(till))
        found = await asked(stage, 3)
        assert sorted(wait.call["args"]["cents"] for wait in found) == [1, 1, 2]
        for wait in reversed(found):
            await stage.client.approve(run.id, wait=wait.number)
        assert (await run.result()).status == "completed"
        assert till.sums == [1, 1, 2] and len(model.requests) == 2
        till.assert_nothing_twice()

    on_stage(scene, model)


def test_a_model_is_told_that_a_person_changed_its_arguments() -> None:
    """Else it goes on believing in what it asked for. Also after the conversation was read from the log again."""
    till = Till()
    model = ScriptedModel([call("refund", order_id="A-17", cents=500), choose("done")])

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_model(till))
        await asked(stage)
        await stage.client.approve(run.id, args={"cents": 5})
        await run.result()
        [answer] = [message for message in model.requests[1].messages if message.role == "tool"]
        assert answer.text.endswith("A-17 5") and '"cents":5' in answer.text and "a person said" in answer.text

    on_stage(scene, model)


def test_equal_calls_side_by_side_need_a_yes_each() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till))
        first, second = await asked(stage, 2)
        assert first.call["args"] == second.call["args"] and first.binding != second.binding
        with pytest.raises(BadInput, match=f"{first.number}.*{second.number}"):
            await stage.client.approve(run.id)
        await stage.client.approve(run.id, wait=second.number, args={"cents": 240})
        await asyncio.sleep(60)
        assert till.paid == []
        await stage.client.approve(run.id, wait=first.number)
        [third] = await asked(stage)
        assert till.sums == [240, 250]
        assert third.call["args"]["cents"] == 1
        await stage.client.approve(run.id)
        assert (await run.result()).record.receipts == ["A-17 250", "A-17 240", "A-17 1"]
        assert till.sums == [1, 240, 250]
        till.assert_nothing_twice()

    on_stage(scene)


def test_arguments_that_a_person_changed_are_the_ones_that_are_called() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_use(till))
        [wait] = await asked(stage)
        for wrong in ({"cents": "a lot"}, {"euros": 3}):
            with pytest.raises(BadInput):
                await stage.client.approve(run.id, args=wrong)
        await stage.client.approve(run.id, args={"cents": 300}, by="ann")
        assert (await run.result()).status == "completed"
        [approved], [called] = stage.of(e.Approved), stage.of(e.ToolCalled)
        assert called.args == approved.args == {"order_id": "A-17", "cents": 300}
        assert approved.binding != wait.binding, "another approval"
        assert till.sums == [300]

    on_stage(scene)


def test_arguments_that_the_tool_refuses_are_asked_about_again() -> None:
    """A form says less than a type may."""
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_use(till))
        [wait] = await asked(stage)
        body = {"wait": wait.number, "outcome": "edit", "fields": {"euros": 3}, "by": "x", "approval": wait.binding}
        item = InboxItem("forged", "decision", body, stage.clock.now_ms())
        await stage.client.world.committer.submit(Leave(run.id, item, stage.clock.now_ms(), wait.number, "decision"))
        await stage.until(lambda: len(stage.of(e.ApprovalRefused)) == 1)
        [again] = await asked(stage)
        assert "euros" in again.prompt and till.paid == []
        assert again.due == wait.due, "what doesn't fit buys no time"
        await stage.client.approve(run.id)
        assert (await run.result()).status == "completed"

    on_stage(scene)


# -- no ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [in_use, in_code, in_model])
def test_what_is_denied_is_not_called_and_its_turn_ends_denied(kind: Any) -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, kind(till))
        for wait in await asked(stage, 2 if kind is in_code else 1):
            await stage.client.deny(run.id, wait=wait.number, by="ann", reason="not ours")
        await stage.until(lambda: stage.store.find(run.id).state == "person")
        [moved] = stage.of(e.Transitioned)
        assert (moved.outcome, moved.why, till.paid) == ("denied", "denied by ann: not ours", [])

    on_stage(scene, [call("refund", order_id="A-17", cents=500)])


@pytest.mark.parametrize("kind", [in_use, in_code, in_model])
def test_what_nobody_answers_is_not_called_and_its_turn_ends_timeout(kind: Any) -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, kind(till))
        await asked(stage, 2 if kind is in_code else 1)
        result = await run.result()
        assert (result.state, till.paid) == ("late", [])
        assert stage.clock.monotonic() == pytest.approx(MINUTES, abs=60)

    on_stage(scene, [call("refund", order_id="A-17", cents=500)])


def test_a_handler_may_go_another_way_when_it_is_denied() -> None:
    till = Till()

    def handler(refund: Any) -> Any:
        @state(tools=[refund], writes=["receipts"], within=MINUTES)
        async def work(turn: Turn[Order]) -> Literal["done"]:
            return await denied_goes_another_way(turn, refund)

        return work

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till, handler))
        [whole] = await asked(stage)
        await stage.client.deny(run.id)
        await stage.until(lambda: any(wait.number != whole.number for wait in waits(stage)))
        await stage.client.approve(run.id)
        assert ((await run.result()).status, till.sums) == ("completed", [250])

    on_stage(scene)


# -- one yes, one effect ----------------------------------------------------------------------------------------------


def test_one_yes_covers_an_attempt_whose_end_nobody_knows() -> None:
    """Its worker died in the middle of the call: it is repeated under its key, and nobody is asked again."""
    till = Till()

    async def scene(stage: Stage) -> None:
        first = await stage.worker(machine := in_use(till), fail=dies_at(4, "lose"))
        run = await stage.client.start(machine, Order())
        [wait] = await asked(stage)
        await stage.client.approve(run.id)
        await stage.until(lambda: first.world.committer.died.is_set())  # type: ignore[attr-defined]
        await stage.kill(first)
        assert till.sums == [500] and stage.of(e.ToolReturned) == []
        await stage.worker(machine)
        assert (await run.result()).status == "completed"
        assert [(called.attempt, called.approval) for called in stage.of(e.ToolCalled)] == [
            (1, wait.number),
            (2, wait.number),
        ]
        till.assert_nothing_twice()

    on_stage(scene)


def test_one_yes_covers_the_attempts_of_its_effect() -> None:
    till = Till(fails=2)

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_use(till))
        [wait] = await asked(stage)
        await stage.client.approve(run.id, args={"cents": 400})
        assert (await run.result()).status == "completed"
        calls = stage.of(e.ToolCalled)
        assert [(c.attempt, c.approval, c.args["cents"]) for c in calls] == [
            (attempt, wait.number, 400) for attempt in (1, 2, 3)
        ]
        assert till.sums == [400]

    on_stage(scene)


def test_after_a_new_turn_there_is_a_new_question() -> None:
    """The same call of the same state: the old yes was for another effect."""
    till = Till(fails=4)

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_use(till))
        [first] = await asked(stage)
        await stage.client.approve(run.id)
        await stage.until(lambda: [wait.why for wait in stage.client.waiting()] == ["escalated"])
        await stage.client.resolve(run.id, "retry")
        [second] = await asked(stage)
        assert second.effect != first.effect and second.binding != first.binding and till.paid == []
        await stage.client.approve(run.id)
        assert ((await run.result()).status, till.sums) == ("completed", [500])

    on_stage(scene)


def test_a_handler_that_asks_twice_needs_two() -> None:
    till = Till()

    def handler(refund: Any) -> Any:
        @state(tools=[refund], writes=["receipts"], within=MINUTES)
        async def work(turn: Turn[Order]) -> Literal["done"]:
            for _ in range(2):
                turn.record.receipts.append(await turn.call(refund, "A-17", 5))
            return "done"

        return work

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till, handler))
        [first] = await asked(stage)
        await stage.client.approve(run.id)
        await stage.until(lambda: till.sums == [5])
        [second] = await asked(stage)
        assert second.number != first.number
        await stage.client.approve(run.id)
        assert (await run.result()).status == "completed"
        assert len(till.paid) == 2

    on_stage(scene)


# -- what is stopped, and logged --------------------------------------------------------------------------------------


def refused(stage: Stage) -> list[str]:
    return [event.why for event in stage.of(e.ApprovalRefused)]


def test_a_handler_that_changes_the_arguments_after_the_yes_is_stopped() -> None:
    till = Till()
    sums = iter([500, 999, 999])

    def handler(refund: Any) -> Any:
        @state(tools=[refund], within=MINUTES)
        async def work(turn: Turn[Order]) -> Literal["done"]:
            await turn.call(refund, "A-17", next(sums))
            return "done"

        return work

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till, handler))
        await asked(stage)
        await stage.client.approve(run.id)
        await stage.until(lambda: stage.store.find(run.id).state == "person")
        assert till.paid == [] and stage.of(e.ToolCalled) == []
        assert len(stage.of(e.Diverged)) == 1
        assert len(refused(stage)) == 1 and refused(stage)[0].startswith("not used")

    on_stage(scene)


def test_a_record_is_read_once_so_that_a_use_cannot_change_its_arguments() -> None:
    """Another machine of the same shape, deployed between question and yes, fills the arguments otherwise."""
    till = Till()

    async def scene(stage: Stage) -> None:
        old = await stage.worker(machine := in_use(till))
        run = await stage.client.start(machine, Order())
        await asked(stage)
        await old.stop()
        stage._workers.remove(old)
        await stage.client.approve(run.id)
        deployed = in_use(till)
        object.__setattr__(deployed.row("pay").state, "args", {"order_id": "order_id", "cents": "order_id"})
        await stage.worker(deployed)
        await stage.until(lambda: stage.store.find(run.id).state == "person")
        assert till.paid == [] and stage.of(e.ToolCalled) == []
        assert len(refused(stage)) == 1

    on_stage(scene)


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"does": "destroy", "keyed": False}, "declared otherwise"),
        ({"name": "repay"}, ""),
        ({"within": 4}, None),
    ],
)
def test_a_tool_declared_otherwise_by_now_is_asked_about_again(terms: dict[str, Any], why: str | None) -> None:
    """Its schema, or what it does; not how long it may take. Under another name it is another call."""
    till = Till()

    async def scene(stage: Stage) -> None:
        old = await stage.worker(machine := in_use(till))
        run = await stage.client.start(machine, Order())
        [wait] = await asked(stage)
        await old.stop()
        stage._workers.remove(old)
        await stage.client.approve(run.id)
        await stage.worker(in_use(till, **terms))
        if why is None:
            assert ((await run.result()).status, till.sums) == ("completed", [500])
            return
        await stage.until(lambda: len(refused(stage)) == 1)
        assert why in refused(stage)[0] and till.paid == []
        if why:
            [again] = await asked(stage)
            assert again.effect == wait.effect and again.number != wait.number
            await stage.client.approve(run.id)
            assert (await run.result()).status == "completed"

    on_stage(scene)


async def redeployed(stage: Stage, before: Any, after: Any, between: Any) -> RunHandle[Order]:
    """A run that begins on one machine; then `between` happens, with no worker; it goes on with the other machine."""
    old = await stage.worker(before)
    run = await stage.client.start(before, Order())
    await between(run.id, old)
    if old in stage._workers:
        await old.stop()
        stage._workers.remove(old)
    await stage.worker(after)
    return run


def one_call(refund: Any) -> Any:
    @state(tools=[refund], writes=["receipts"], within=MINUTES)
    async def work(turn: Turn[Order]) -> Literal["done"]:
        turn.record.receipts = [await turn.call(refund, "A-17", 500)]
        return "done"

    return work


@pytest.mark.parametrize("answer", ["approve", "edit", "deny"])
def test_an_answer_holds_also_when_the_tool_asks_nobody_any_more(answer: str) -> None:
    """A deploy between question and answer takes the question back. What was said is what is done."""
    till = Till()

    async def scene(stage: Stage) -> None:
        async def between(run: str, old: Any) -> None:
            await asked(stage)
            await old.stop()
            stage._workers.remove(old)
            await stage.client.resolve(run, answer, {"cents": 300} if answer == "edit" else None)

        free = in_code(till, one_call, approve=None)
        run = await redeployed(stage, in_code(till, one_call), free, between)
        if answer == "deny":
            await stage.until(lambda: stage.store.find(run.id).state == "person")
            assert till.paid == []
        else:
            assert ((await run.result()).status, till.sums) == ("completed", [300 if answer == "edit" else 500])
            assert len(stage.of(e.ToolCalled)) == len(stage.of(e.Approved)) == 1

    on_stage(scene)


@pytest.mark.parametrize("answer", ["approve", "deny", "nobody"])
def test_a_tool_that_asks_since_a_deploy_asks_before_the_next_attempt_too(answer: str) -> None:
    """Its first attempt was made unasked, and surely nothing happened."""
    till = Till(fails=1)

    async def scene(stage: Stage) -> None:
        async def between(run: str, old: Any) -> None:
            await stage.until(lambda: stage.of(e.AttemptFailed) != [], step=0.001)
            await stage.kill(old)

        run = await redeployed(stage, in_code(till, one_call, approve=None), in_code(till, one_call), between)
        [wait] = await asked(stage)
        assert (wait.effect, till.paid) == (1, [])
        if answer == "nobody":
            assert (await run.result()).state == "late"
        else:
            await stage.client.resolve(run.id, answer)
            await stage.until(lambda: stage.store.find(run.id).state != "pay")
        attempts = [(called.attempt, called.approval) for called in stage.of(e.ToolCalled)]
        assert attempts == [(1, None), *([(2, wait.number)] if answer == "approve" else [])]
        assert till.sums == ([500] if answer == "approve" else [])

    on_stage(scene)


def test_a_yes_that_nobody_used_in_time_is_asked_for_again() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        old = await stage.worker(machine := in_use(till))
        run = await stage.client.start(machine, Order())
        [wait] = await asked(stage)
        await old.stop()
        stage._workers.remove(old)
        await stage.client.approve(run.id, by="ann")
        await asyncio.sleep(MINUTES + 1)
        await stage.worker(machine)
        await stage.until(lambda: len(refused(stage)) == 1)
        assert refused(stage)[0].startswith("expired") and till.paid == []
        [again] = await asked(stage)
        assert again.number != wait.number and again.due is not None and again.due > stage.clock.now_ms()
        await stage.client.approve(run.id)
        assert ((await run.result()).status, till.sums) == ("completed", [500])

    on_stage(scene)


@pytest.mark.parametrize(("valid", "busy"), [(5, 8), (100, 150)], ids=["waiting here", "parked"])
def test_a_yes_that_expires_while_its_call_waits_for_a_place_is_asked_for_again(valid: float, busy: float) -> None:
    """Of a tool that one at a time may use. What was permitted before the waiting is looked at again after it."""
    till = Till()

    @tool(does="write", keyed=True, within=MINUTES, concurrency=1, name="refund")
    async def slowly(call: Call[None], order_id: str, cents: int) -> str:
        await asyncio.sleep(busy)
        return "at last"

    uses = use(slowly, args={"order_id": "order_id", "cents": "cents"}, within=MINUTES).then({"done": "end"})
    slow = Machine("slow", Order, table={"s": uses, "end": final()})

    async def scene(stage: Stage) -> None:
        machine = in_code(till, one_call, concurrency=1, approve_within=valid)
        await stage.worker(machine, slow)
        run = await stage.client.start(machine, Order())
        [wait] = await asked(stage)
        await stage.client.start(slow, Order())
        await asyncio.sleep(1)
        await stage.client.approve(run.id, args={"cents": 300})
        await stage.until(lambda: len(stage.of(e.ApprovalRefused, run.id)) == 1, MINUTES)
        [again] = waits(stage)
        assert wait.number != again.number and till.paid == []
        assert again.run == run.id and again.call["args"]["cents"] == 500, "as it was asked for first"
        await stage.client.approve(run.id)
        result = await run.result()
        assert (result.status, till.sums) == ("completed", [500]), stage.log(run.id)

    on_stage(scene)


def leave(stage: Stage, run: str, item: str, body: dict[str, Any], wait: int | None = None) -> Any:
    """Put something into the inbox past the client, as somebody with the file could."""
    now = stage.clock.now_ms()
    write = Leave(run, InboxItem(item, "decision", body, now), now, wait, "decision" if wait is not None else "")
    return stage.client.world.committer.submit(write)


def test_the_same_item_again_counts_once_and_a_copy_of_it_not_at_all() -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till))
        first, second = await asked(stage, 2)
        body = {"wait": first.number, "outcome": "approve", "by": "ann", "approval": first.binding}
        for _ in range(3):
            await leave(stage, run.id, "the yes", body, first.number)
        await leave(stage, run.id, "a copy", body)
        await leave(stage, run.id, "a copy for the other", {**body, "wait": second.number})
        await stage.until(lambda: len(refused(stage)) == 2)
        assert "replayed" in refused(stage)[0] and "without closing its wait" in refused(stage)[1]
        await stage.client.approve(run.id, wait=second.number)
        await stage.until(lambda: till.sums == [250, 250])
        await asked(stage)
        await leave(stage, run.id, "a copy, later", body)
        await stage.until(lambda: len(refused(stage)) == 3)
        assert len(till.paid) == 2
        await stage.client.cancel(run.id)
        await run.result()

    on_stage(scene)


@pytest.mark.parametrize("what", ["run", "effect", "arguments", "nothing"])
def test_a_borrowed_yes_is_stopped(what: str) -> None:
    """It closes the wait, as any answer that gets there first; but it is for something else, so somebody is asked
    again, and told why."""
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till))
        first, second = await asked(stage, 2)
        other = await stage.client.start(in_code(till), Order())
        await stage.until(lambda: len(waits(stage)) == 4)
        theirs = next(wait for wait in waits(stage) if wait.run == other.id)
        binding = {"run": theirs.binding, "effect": second.binding, "arguments": "0" * 64, "nothing": None}[what]
        body = {"wait": first.number, "outcome": "approve", "by": "eve"}
        await leave(stage, run.id, "x", body if binding is None else {**body, "approval": binding}, first.number)
        await stage.until(lambda: len(stage.of(e.ApprovalRefused, run.id)) == 1)
        [said] = stage.of(e.ApprovalRefused, run.id)
        assert (said.by, said.effect, said.body["wait"]) == ("eve", first.effect, first.number)
        assert "borrowed" in said.why
        await stage.client.approve(run.id, wait=second.number)
        await stage.until(lambda: len([w for w in waits(stage) if w.run == run.id]) == 1)
        [again] = [wait for wait in waits(stage) if wait.run == run.id]
        assert (again.effect, till.sums) == (first.effect, [250])
        assert len(till.paid) == 1
        for each in (run, other):
            await stage.client.cancel(each.id)
            await each.result()

    on_stage(scene)


def test_a_call_that_is_approved_beside_one_that_is_denied_leaves_no_doubt() -> None:
    """The handler ends by the denial. What was approved is called or isn't; its yes counts for nothing later."""
    till = Till()

    async def scene(stage: Stage) -> None:
        run = await started(stage, in_code(till))
        first, second = await asked(stage, 2)
        await stage.client.approve(run.id, wait=first.number)
        await stage.client.deny(run.id, wait=second.number)
        await stage.until(lambda: stage.store.find(run.id).state == "person")
        assert till.paid == [] and run.show().state.doubts == {} and run.show().state.approvals == {}
        await stage.client.resolve(run.id, "again", {"cents": 2})
        again = await asked(stage, 2)
        assert till.paid == [] and not {w.effect for w in again} & {first.effect, second.effect}

    on_stage(scene)


def test_a_run_that_asks_for_no_approval_takes_none() -> None:
    async def scene(stage: Stage) -> None:
        run = await started(stage, in_use(Till()))
        await asked(stage)
        await stage.client.deny(run.id)
        await stage.until(lambda: stage.store.find(run.id).state == "person")
        for answer in (stage.client.approve, stage.client.deny):
            with pytest.raises(WaitClosed, match="asks for no approval"):
                await answer(run.id)

    on_stage(scene)
