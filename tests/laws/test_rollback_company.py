"""Rollback in company: with approvals, dead calls, breakers, limits of tools, and notices of who is asked."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from interlock import BadInput, Call, Limits, Machine, NotDone, Turn, WaitClosed, ask, final, state, tool, use
from interlock.history import events as e
from tests.laws.stage import Stage, on_stage
from tests.laws.test_rollback import asked, rolled_back
from tests.laws.test_rollback_undo import asks
from tests.laws.undoing import Case, Outside

ENDS = {"closed": final("completed"), "lost": final("failed")}
WELL = ask("Well?", of="desk", writes={"yes": []}, within=1e6).then({"yes": "closed", "timeout": "lost"})


def paying(outside: Outside, use_more: dict[str, Any] | None = None, **how: Any) -> Any:
    """Pays once, by a tool with an undo, then asks."""

    async def unpay(call: Call[None], result: str, n: int) -> None:
        outside.happens("unpay", call, n)

    @tool(does="write", keyed=True, undo=unpay, within=5, **how)
    async def pay(call: Call[None], n: int) -> str:
        outside.happens("pay", call, n)
        return f"paid {n}"

    row = use(pay, args={"n": "n"}, within=3600, **(use_more or {}))
    return Machine("paying", Case, limits=Limits(turns=30, warn_at=1.0), table={
        "pay": row.then({"done": "person"}), "person": WELL, **ENDS})  # fmt: skip


class TestApprovals:
    def test_whoever_rolls_back_has_approved_the_undo_and_the_call_itself_needs_a_new_yes(self) -> None:
        outside = Outside()
        scene = paying(outside, approve="finance")

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "approve")
            await stage.client.approve("@last", by="fay")
            await asks(stage, "ask")
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage)
            assert outside.deeds == [("pay", 1), ("unpay", 1)]
            await asks(stage, "approve")
            assert len(outside.calls) == 2
            await stage.client.approve("@last", by="fay")
            await asks(stage, "ask")

        on_stage(play)
        assert outside.deeds == [("pay", 1), ("unpay", 1), ("pay", 1)]

    def test_an_approval_that_was_asked_for_is_closed_and_who_answers_is_told(self) -> None:
        outside = Outside()
        scene = paying(outside, approve="finance")

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            wait = await asks(stage, "approve")
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage)
            with pytest.raises(WaitClosed, match="rolled back"):
                await stage.client.approve("@last", wait=wait.number, by="fay")
            assert not outside.calls

        on_stage(play)


class TestTheQueue:
    def test_a_dead_call_of_a_turn_that_is_undone_is_off_the_queue(self) -> None:
        """It failed for good in what is no more: nobody may have it done again beside the turn that asks anew."""

        @tool(does="write", within=5)
        async def book(call: Call[None], n: int) -> str:
            raise NotDone("later", retry=True)

        @state(tools=[book], within=3600)
        async def try_it(turn: Turn[Case]) -> Literal["done", "not"]:
            try:
                await turn.call(book, 1)
            except Exception:
                return "not"
            return "done"

        scene = Machine("dead", Case, limits=Limits(turns=30, warn_at=1.0, attempts=2), table={
            "try_it": try_it.then({"done": "person", "not": "person"}), "person": WELL, **ENDS})  # fmt: skip

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            assert [call.status for call in stage.client.show("@last").state.calls.values()] == ["dead"]
            await stage.client.rollback("@last", to=2, by="ann")
            await rolled_back(stage)
            assert [call.status for call in stage.client.show("@last").state.calls.values()] == ["dead"]
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage, 2)
            await asks(stage, "ask")
            assert list(stage.client.show("@last").state.calls) == ["2"]

        on_stage(play)

    def test_an_undo_that_failed_is_a_persons_there_and_no_dead_call(self) -> None:
        outside = Outside()

        def unpay(call: Call[None], result: str, n: int) -> None:
            raise NotDone("closed", retry=True)

        @tool(does="write", keyed=True, undo=unpay, within=5)
        async def pay(call: Call[None], n: int) -> str:
            outside.happens("pay", call, n)
            return "paid"

        row = use(pay, args={"n": "n"}, within=3600).then({"done": "person"})
        limits = Limits(turns=30, warn_at=1.0, attempts=2)
        scene = Machine("once", Case, limits=limits, table={"pay": row, "person": WELL, **ENDS})

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            await stage.client.rollback("@last", to=1, by="ann")
            wait = await asks(stage, "undo")
            assert wait.outcome == "retries_spent"
            assert not stage.client.show("@last").state.calls
            await stage.client.resolve("@last", "accept", by="ann")
            assert (await rolled_back(stage)).accepted == (1,)
            await asked(stage)

        on_stage(play)

    def test_an_undo_waits_for_no_place_among_the_calls_of_its_tool(self) -> None:
        outside = Outside()
        scene = paying(outside, rate=(1, 3000.0))

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            await stage.client.rollback("@last", to=1, by="ann")
            before = stage.clock.now_ms()
            await rolled_back(stage)
            assert stage.clock.now_ms() - before < 10_000

        on_stage(play)
        assert outside.deeds[:2] == [("pay", 1), ("unpay", 1)]


class TestBreakers:
    def test_a_tool_that_is_left_alone_can_still_be_undone(self) -> None:
        outside = Outside()
        scene = paying(outside)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            await stage.client.trip("tool:pay", by="ann")
            await stage.client.rollback("@last", to=1, by="ann")
            assert (await rolled_back(stage)).undone == (1,)
            await stage.client.reset("tool:pay", by="ann")
            await stage.client.cancel("@last", by="ann")
            await stage.until(lambda: stage.status() == "cancelled")

        on_stage(play)

    def test_an_undo_that_is_left_alone_is_a_persons(self) -> None:
        outside = Outside()
        scene = paying(outside)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            await stage.client.trip("tool:undo pay", by="ann")
            await stage.client.rollback("@last", to=1, by="ann")
            for times in (1, 2):
                await stage.until(lambda n=times: len([w for w in stage.of(e.WaitOpened) if w.why == "undo"]) == n)
                wait = await asks(stage, "undo")
                assert wait.outcome == "unavailable"
                if times == 2:
                    await stage.client.reset("tool:undo pay", by="ann")
                await stage.client.resolve("@last", "retry", by="ann")
            assert (await rolled_back(stage)).undone == (1,)

        on_stage(play)
        assert outside.deeds[:2] == [("pay", 1), ("unpay", 1)]


class TestUpgrades:
    def test_there_is_no_way_back_to_an_older_shape(self) -> None:
        outside = Outside()
        old = paying(outside)
        new = Machine("paying", Case, limits=Limits(turns=30, warn_at=1.0), table={
            **{name: row for name, row in old.table.items() if name != "person"},
            "person": ask("Well?", of="desk", writes={"yes": [], "no": []}, within=1e6).then(
                {"yes": "closed", "no": "lost", "timeout": "lost"}),
        })  # fmt: skip

        async def play(stage: Stage) -> None:
            await stage.client.start(old, Case(n=1), by="test")
            worker = await stage.worker(old)
            await asks(stage, "ask")
            await worker.stop()
            stage._workers.remove(worker)
            await stage.client.upgrade(new, by="ann")
            await stage.worker(new)
            await asks(stage, "ask")
            for turn in (1, 2):
                with pytest.raises(BadInput, match="upgraded since"):
                    await stage.client.rollback("@last", to=turn, by="ann")
                with pytest.raises(BadInput, match="upgraded since"):
                    await stage.client.fork("@last", at=turn, by="ann")
            await stage.client.rollback("@last", to=3, by="ann")
            await rolled_back(stage)
            await asks(stage, "ask")

        on_stage(play)
        assert outside.deeds == [("pay", 1)]
