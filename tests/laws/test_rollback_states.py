"""Rollback from and to every kind of state: questions, signals, time, sleep, limits, a shared conversation."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from interlock import BadInput, Limits, Machine, Turn, ask, final, model_state, state, use, wait
from interlock.agent.scripted import ScriptedModel, choose
from interlock.canonical import encode
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.machine.window import Window
from tests.laws.stage import Stage, on_stage
from tests.laws.test_rollback import asked, rolled_back
from tests.laws.test_rollback_undo import asks
from tests.laws.undoing import MODEL, Case, Tools, brain, reader, steps


def bells(tools: Tools) -> Any:
    """Waits for a signal, pays, waits for another, pays again, and asks."""
    paying = {"args": {"n": "n"}, "within": 3600}
    return Machine("bells", Case, limits=Limits(turns=40, warn_at=1.0), table={
        "first": wait(signal="bell", within=1e6, writes=["n"]).then({"arrived": "pay", "timeout": "lost"}),
        "pay": use(tools.pay, **paying).then({"done": "second"}),
        "second": wait(signal="bell", within=1e6, writes=["n"]).then({"arrived": "again", "timeout": "lost"}),
        "again": use(tools.pay, **paying).then({"done": "person"}),
        "person": ask("Right?", of="desk", writes={"yes": []}, within=1e6).then({"yes": "closed", "timeout": "lost"}),
        "closed": final("completed"),
        "lost": final("failed"),
    })  # fmt: skip


class TestSignals:
    def test_signals_are_facts_and_are_there_again_for_the_turns_that_are_taken_again(self) -> None:
        """Nobody sends them a second time: what a rolled back turn took is not lost."""
        tools = Tools()

        async def play(stage: Stage) -> None:
            await stage.client.start(bells(tools), Case(), by="test")
            await stage.worker(bells(tools))
            for n in (5, 7):
                await stage.client.signal("@last", "bell", {"n": n}, by="sys")
            await asks(stage, "ask")
            assert tools.outside.done("pay") == [5, 7]
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage)
            await asks(stage, "ask")
            assert len(stage.of(e.SignalArrived)) == 2 and not any(stage.client.show("@last").state.signals.values())

        on_stage(play)
        assert tools.outside.deeds == [
            ("pay", 5), ("pay", 7), ("unpay", (7, "paid 7")), ("unpay", (5, "paid 5")), ("pay", 5), ("pay", 7),
        ]  # fmt: skip

    def test_one_that_was_taken_before_stays_taken_and_one_that_came_since_is_kept(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await stage.client.start(bells(tools), Case(), by="test")
            await stage.worker(bells(tools))
            await stage.client.signal("@last", "bell", {"n": 5}, by="sys")
            await stage.until(lambda: stage.client.show("@last").row.state == "second")
            await stage.client.rollback("@last", to=3, by="ann")
            await rolled_back(stage)
            await asyncio.sleep(30)
            assert stage.client.show("@last").row.state == "second"
            await stage.client.signal("@last", "bell", {"n": 7}, by="sys")
            await asks(stage, "ask")

        on_stage(play)
        assert tools.outside.deeds == [("pay", 5), ("pay", 7)]


class TestTime:
    def test_a_sleeping_turn_is_left_and_slept_anew(self) -> None:
        tools = Tools()

        @state(tools=[tools.pay], within=1e5)
        async def nap(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(tools.pay, 1)
            await turn.sleep(1000)
            await turn.call(tools.pay, 2)
            return "done"

        scene = Machine("nap", Case, limits=Limits(turns=9, warn_at=1.0, seconds=1e5), table={
            "nap": nap.then({"done": "closed"}), "closed": final("completed")})  # fmt: skip

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await asyncio.sleep(500)
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage)
            await stage.until(lambda: stage.status() == "completed")
            waits = stage.of(e.WaitOpened)
            assert [wait.why for wait in waits] == ["sleep", "sleep"]
            assert waits[1].due is not None and waits[0].due is not None and waits[1].due - waits[0].due >= 499_000

        on_stage(play)
        assert tools.outside.deeds == [("pay", 1), ("unpay", (1, "paid 1")), ("pay", 1), ("pay", 2)]

    def test_a_question_has_its_whole_time_again(self) -> None:
        tools = Tools()
        patient = Timing(poll=1000, lease=1e6)  # or else half a million polls are simulated

        async def play(stage: Stage) -> None:
            await stage.client.start(steps(tools), Case(n=1), by="test")
            await stage.worker(steps(tools))
            await asked(stage)
            await asyncio.sleep(900_000)
            await stage.client.rollback("@last", to=4, by="ann")
            await rolled_back(stage)
            await asyncio.sleep(900_000)
            assert stage.status() == "waiting"
            await asyncio.sleep(200_000)
            assert stage.status() == "failed"

        on_stage(play, timing=patient)

    def test_a_state_has_its_whole_time_again_and_a_rollback_is_bound_by_none(self) -> None:
        """The state's `within` is shorter than what takes it back."""
        tools = Tools(within=50)
        tools.faults["unpay"] = [30]

        @state(tools=[tools.pay], within=20)
        async def brief(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(tools.pay, turn.record.n)
            await asyncio.sleep(15)
            return "done"

        scene = Machine("brief", Case, limits=Limits(turns=9, warn_at=1.0, seconds=500), table={
            "brief": brief.then({"done": "person"}),
            "person": ask("Well?", of="d", writes={"yes": []}, within=1e6).then({"yes": "closed", "timeout": "closed"}),
            "closed": final("completed")})  # fmt: skip

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            await stage.client.rollback("@last", to=1, by="ann")
            assert (await rolled_back(stage)).undone == (1,)
            await asks(stage, "ask")
            assert not any(event.outcome == "timeout" for event in stage.of(e.Transitioned))

        on_stage(play)


class TestLimits:
    def test_from_an_escalation_for_want_of_turns_it_goes_back_and_waits_there_for_more(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await stage.client.start(steps(tools, turns=3), Case(n=1), by="test")
            await stage.worker(steps(tools, turns=3))
            await asked(stage)
            await stage.client.resolve("@last", "again", {"n": 1}, by="ann")
            await asks(stage, "escalated")
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await rolled_back(stage)
            wait = await asks(stage, "escalated")
            assert wait.outcome == "limit_reached" and stage.client.show("@last").row.state == "second"
            await stage.client.extend("@last", turns=9, by="ann")
            await asks(stage, "ask")

        on_stage(play)

    def test_no_progress_is_counted_as_it_was_then(self) -> None:
        tools = Tools()

        @state(tools=[tools.look], within=3600, writes=["n"])
        async def look(turn: Turn[Case]) -> Literal["more", "done"]:
            return "more" if await turn.call(tools.look, 1) else "done"

        scene = Machine("loop", Case, limits=Limits(turns=50, warn_at=1.0, repeats=4), table={
            "look": look.then({"more": "look", "done": "closed"}), "closed": final("completed")})  # fmt: skip

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            wait = await asks(stage, "escalated")
            assert wait.outcome == "stalled" and len(stage.of(e.Transitioned)) == 3
            await stage.client.rollback("@last", to=2, by="ann")
            await rolled_back(stage)
            await asks(stage, "escalated")
            assert len(stage.of(e.Transitioned)) == 3 + 2

        on_stage(play)


class TestConversations:
    def test_two_states_in_one_thread_and_a_return_into_the_middle_of_it(self) -> None:
        said = {"max_tokens": 64, "thread": "one", "within": 3600}
        scene = Machine("two", Case, limits=Limits(turns=40, warn_at=1.0, usd=9, tokens=10**6), table={
            "ask": model_state("Ask {text}", model=MODEL, writes={"asked": ["text"]}, **said).then({"asked": "tell"}),
            "tell": model_state("Tell {text}", model=MODEL, writes={"told": ["text"]}, **said).then({"told": "person"}),
            "person": ask("?", of="d", writes={"more": [], "yes": []}, within=1e6).then(
                {"more": "ask", "yes": "closed", "timeout": "closed"}),
            "closed": final("completed"),
        })  # fmt: skip
        model = ScriptedModel([choose("asked", text="a"), choose("told", text="b")] * 6)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(text="it"), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            await stage.client.resolve("@last", "more", by="ann")
            await stage.until(lambda: len(model.requests) == 4)
            await asks(stage, "ask")
            for to in (5, 2, 1):
                before = len(model.requests)
                count = len(stage.of(e.RolledBack))
                await stage.client.rollback("@last", to=to, by="ann")
                await rolled_back(stage, count + 1)
                await asks(stage, "ask")
                first = {5: 3, 2: 1, 1: 0}[to]
                assert encode(model.requests[before].messages) == encode(model.requests[first].messages)

        on_stage(play, model)


class TestTheStore:
    def test_a_run_that_a_restored_store_parked_is_released_before_it_is_rolled_back(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await stage.client.start(steps(tools), Case(n=1), by="test")
            worker = await stage.worker(steps(tools))
            await asked(stage)
            await stage.kill(worker)
            stage.store._writes.begin()  # type: ignore[attr-defined]
            stage.store._writes.begin_epoch("store restored", stage.clock.now_ms())  # type: ignore[attr-defined]
            stage.store._writes.commit()  # type: ignore[attr-defined]
            with pytest.raises(BadInput, match="resume it first"):
                await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            await stage.client.resume("@last", by="ann")
            await stage.worker(steps(tools))
            await stage.until(lambda: stage.status() == "waiting")
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)

        on_stage(play)

    @pytest.mark.parametrize("paused", ["before", "after"])
    def test_a_parked_run_that_is_paused_as_well_stays_parked(self, paused: str) -> None:
        """Once the pause took the place of the park, and the run could be rolled back although nobody released it."""
        tools = Tools()

        async def play(stage: Stage) -> None:
            await stage.client.start(steps(tools), Case(n=1), by="test")
            worker = await stage.worker(steps(tools))
            await asked(stage)
            if paused == "before":
                await stage.client.pause("@last", by="bob")
                await stage.until(lambda: stage.status() == "paused")
            await stage.kill(worker)
            stage.store._writes.begin()  # type: ignore[attr-defined]
            stage.store._writes.begin_epoch("store restored", stage.clock.now_ms())  # type: ignore[attr-defined]
            stage.store._writes.commit()  # type: ignore[attr-defined]
            await stage.worker(steps(tools))
            await stage.client.pause("@last", by="carl", reason="all of them")
            await asyncio.sleep(60)
            with pytest.raises(BadInput, match="resume it first"):
                await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            assert stage.store.find("@last").reason.startswith("store restored")
            await stage.client.resume("@last", by="ann")
            await stage.until(lambda: stage.status() == "waiting")
            assert stage.of(e.Resumed)[-1].released
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)

        on_stage(play)

    def test_a_long_record_goes_back_whole(self, tmp_path: Any) -> None:
        """More cells than an event holds in line, on a file."""

        @state(writes=["items", "tags", "n"], within=3600)
        async def grow(turn: Turn[Case]) -> Literal["more", "done"]:
            turn.record.items.extend([f"{turn.number}-{n}" for n in range(200)])
            turn.record.tags = {"at": turn.number, "much": "x" * (40_000 if turn.number % 9 == 0 else 4)}
            turn.record.n = turn.number
            return "more" if turn.number % 9 else "done"

        scene = Machine("long", Case, limits=Limits(turns=60, warn_at=1.0, repeats=None), table={
            "grow": grow.then({"more": "grow", "done": "person"}),
            "person": ask("?", of="d", writes={"more": []}, within=1e6).then({"more": "grow", "timeout": "closed"}),
            "closed": final("completed"),
        })  # fmt: skip

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await asks(stage, "ask")
            first = stage.client.show("@last").record
            await stage.client.resolve("@last", "more", by="ann")
            await stage.until(lambda: stage.client.show("@last").row.turn > 15 and stage.status() == "waiting")
            await stage.client.rollback("@last", to=10, by="ann")
            await rolled_back(stage)
            await asks(stage, "ask")
            assert encode(stage.client.show("@last").record) == encode(first)
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage, 2)
            await stage.until(lambda: stage.client.show("@last").record["n"] > 20)

        on_stage(play, path=tmp_path / "s.db")

    def test_a_run_costs_nothing_for_what_it_does_not_use(self) -> None:
        """No byte of an event says anything of rollbacks or forks before there is one."""

        async def play(stage: Stage) -> None:
            await stage.client.start(reader(Window()), Case(text="x"), by="test")
            await stage.worker(reader(Window()))
            await stage.until(lambda: stage.client.show("@last").row.turn > 2)
            stored = b"".join(each.body for each in stage.store.events(stage.store.find("@last").number))
            for word in (b"undo", b"forked", b"origins", b"threads", b"redoes"):
                assert word not in stored, word

        on_stage(play, ScriptedModel(brain))
