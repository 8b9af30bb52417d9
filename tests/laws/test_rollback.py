"""Rollback: back to where an earlier turn began: what was done since is undone, what was known is known again, and what
counts goes on. Laws 1, 6 and 8."""

from __future__ import annotations

import re
from typing import Any

import pytest

from interlock.agent.scripted import ScriptedModel, call, choose
from interlock.canonical import encode
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.history.fold import RunState
from interlock.machine.window import Window
from tests.laws.stage import Stage, on_stage
from tests.laws.undoing import Case, Tools, brain, reader, requests_by_turn, steps, talk


async def asked(stage: Stage) -> None:
    """Until a person is asked something, or it has ended."""
    await stage.until(lambda: stage.status() in ("waiting", "completed", "failed", "cancelled", "paused"))


async def rolled_back(stage: Stage, count: int = 1) -> e.RolledBack:
    await stage.until(lambda: len(stage.of(e.RolledBack)) == count)
    return stage.of(e.RolledBack)[-1]


def at_turn(stage: Stage, turn: int) -> RunState:
    """The run as its events say it stood when a turn began."""
    state = RunState()
    for seq, event in enumerate(stage.log(), start=1):
        state.apply(seq, event)
        if state.turn == turn:
            return state
    raise AssertionError(f"no turn {turn}")


async def to_the_person(stage: Stage, scene: Any, record: Case | None = None) -> None:
    await stage.client.start(scene, record or Case(n=1), by="test")
    await stage.worker(scene)
    await asked(stage)


class TestWhatReturns:
    def test_the_record_is_what_it_was_byte_for_byte(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1, tags={"z": 1, "a": [True, None]}), by="test")
            await stage.worker(scene)
            await asked(stage)
            before = stage.client.show("@last")
            assert before.record["items"] == ["paid 1", "booked 2", "paid 3"] and before.row.state == "person"
            await stage.client.resolve("@last", "again", {"n": 1}, by="ann")
            await stage.until(lambda: stage.client.show("@last").row.turn == 8)
            await stage.client.rollback("@last", to=4, accept=[8], by="ann", reason="wrong case")
            await rolled_back(stage)
            await asked(stage)
            after = stage.client.show("@last")
            assert encode(after.record) == encode(before.record)
            assert after.row.state == "person" and after.row.turn == 10

        on_stage(play)

    def test_what_was_done_since_is_undone_newest_first(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            back = await rolled_back(stage)
            assert (back.undone, back.accepted) == ((3, 2, 1), (4,))

        on_stage(play)
        assert tools.outside.deeds[:7] == [
            ("pay", 1), ("book", 2), ("pay", 3), ("mail", 1),
            ("unpay", (3, "paid 3")), ("unbook", (2, "booked 2")), ("unpay", (1, "paid 1")),
        ]  # fmt: skip

    def test_the_same_call_really_happens_again_under_a_new_key(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)
            assert stage.client.show("@last").record["items"] == ["paid 1", "booked 2", "paid 3"]

        on_stage(play)
        assert tools.outside.done("pay") == [1, 3, 1, 3] and tools.outside.done("mail") == [1, 1]
        assert len({key for _, key in tools.outside.calls}) == len(tools.outside.calls)

    def test_a_model_is_sent_exactly_what_it_was_sent_then(self) -> None:
        tools = Tools()
        scene = talk(tools)
        replies = [call("look", n=1), call("pay", n=2), call("look", n=3), choose("found", text="it")]
        model = ScriptedModel([*replies, *replies[1:]])

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, by="ann")
            await rolled_back(stage)
            await asked(stage)

        on_stage(play, model)
        assert encode(model.requests[4].messages) == encode(model.requests[1].messages)
        assert model.requests[4] == model.requests[1]
        # The script numbers the ids of its calls; else the whole second life is the first one again.
        sent = [re.sub(rb"call_\d+", b"call", encode(request.messages)) for request in model.requests]
        assert len(sent) == 7 and sent[4:] == sent[1:4]
        assert tools.outside.deeds.count(("pay", 2)) == 2 and tools.outside.done("unpay") == [(2, "paid 2")]

    @pytest.mark.parametrize("over", ["drop", "summarise"])
    @pytest.mark.parametrize("thread", [None, "shared"])
    def test_a_conversation_that_outgrew_its_window_is_sent_as_it_was_sent_then(
        self, over: Any, thread: str | None
    ) -> None:
        """Whatever was left out by then, summed up or pinned, also when another worker reads it off the log; and what
        was said since is not in it."""
        scene = reader(Window(bytes=5000, over=over, pin=["items"]), thread)
        model = ScriptedModel(brain)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(text="it", items=["pinned"]), by="test")
            worker = await stage.worker(scene)
            await stage.until(lambda: stage.client.show("@last").row.turn > 30)
            await stage.client.pause("@last", by="ann")
            await stage.until(lambda: stage.status() == "paused")
            sent = requests_by_turn(stage.log(), model.requests)
            assert len(stage.of(e.ContextTrimmed)) >= 3
            for count, at in enumerate((19, 14, 13, 9, 8, 2), start=1):
                await stage.client.rollback("@last", to=at, by="ann")
                await rolled_back(stage, count)
                await stage.kill(worker)
                worker = await stage.worker(scene)
                before, turn = len(model.requests), stage.client.show("@last").row.turn
                assert not model.requests[before:]  # it was paused, and still is
                await stage.client.resume("@last", by="ann")
                await stage.until(lambda turn=turn: stage.client.show("@last").row.turn > turn + 8)
                await stage.client.pause("@last", by="ann")
                await stage.until(lambda: stage.status() == "paused")
                events = [event for event in stage.log() if event.turn >= turn]
                again = requests_by_turn(events, model.requests[before:])
                for ahead in range(8):
                    assert again[turn + ahead] == sent[at + ahead], (at, ahead)

        on_stage(play, model, timing=Timing(lease=1.0))


class TestWhatGoesOn:
    def test_numbers_spending_and_visits_do_not_rewind(self) -> None:
        tools = Tools(usd_max=0.01)
        scene = steps(tools, usd=1)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            before = stage.client.show("@last")
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)
            after = stage.client.show("@last")
            assert at_turn(stage, 6).effects == 6 and after.state.effects == 9
            assert after.spent.turns == before.spent.turns + 2
            assert after.spent.calls == before.spent.calls + 2 + 3
            assert after.spent.nanousd == before.spent.nanousd + 10_000_000 * 2
            assert after.state.visits["second"] == 2
            turns = [event.turn for event in stage.log()]
            assert turns == sorted(turns)

        on_stage(play)
