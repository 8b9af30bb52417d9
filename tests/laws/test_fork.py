"""Fork: a new run that takes another's history for its own and goes on live, with nothing done twice in either. Laws 6
and 14."""

from __future__ import annotations

import re
from typing import Any

import pytest

from interlock import BadInput, KeyTaken
from interlock.agent.scripted import ScriptedModel, call, choose
from interlock.canonical import encode
from interlock.engine.timing import Timing
from interlock.errors import ShapeChanged
from interlock.history import events as e
from interlock.machine.limits import Amounts
from interlock.machine.window import Window
from tests.laws.stage import Stage, on_stage
from tests.laws.test_rollback import asked, at_turn, rolled_back, to_the_person
from tests.laws.undoing import Case, Tools, brain, doubtful, reader, requests_by_turn, steps, talk

DEEDS = [("pay", 1), ("book", 2), ("pay", 3), ("mail", 1)]


async def settled(stage: Stage, run: str) -> None:
    await stage.until(lambda: stage.status(run) in ("waiting", "completed", "failed", "cancelled", "paused"))


class TestWhatAForkHas:
    @pytest.mark.parametrize("at", [1, 2, 3, 4])
    def test_between_anything_no_effect_happens_twice_in_either_run(self, at: int) -> None:
        """What came before the fork is its history; what comes after is its own, under keys of its own."""
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            source = stage.client.show("@last").id
            before = stage.log(source)
            fork = await stage.client.fork(source, at=at, by="ann")
            await settled(stage, fork.id)
            assert stage.log(source) == before
            done = {1: DEEDS, 2: DEEDS[1:], 3: DEEDS[3:], 4: []}[at]
            assert tools.outside.deeds == [*DEEDS, *done]
            assert {key.rpartition("-")[0] for _, key in tools.outside.calls[4:]} <= {fork.id}
            record = stage.client.show(fork.id).record
            assert encode(record) == encode(stage.client.show(source).record)
            assert stage.client.show(fork.id).row.state == "person"

        on_stage(play)

    def test_the_record_is_that_of_the_moment_byte_for_byte_with_its_origins(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1, tags={"z": 1, "a": [True, None, 1.5]}), by="test")
            await stage.worker(scene)
            await asked(stage)
            source = stage.client.show("@last")
            then = at_turn(stage, 2)
            fork = await stage.client.fork(source.id, at=2, by="ann")
            begun = fork.show()
            assert encode(begun.record) == encode({**source.record, "items": ["paid 1"], "text": "first",
                                                   "tags": {"z": 1, "a": [True, None, 1.5]}})  # fmt: skip
            assert (begun.row.state, begun.row.turn, begun.row.seq) == ("second", 1, 1)
            origins = {name: pointers[0].origin for name, pointers in then.cells.items()}
            start = stage.log(fork.id)[0]
            assert isinstance(start, e.RunStarted)
            assert start.origins["text"] == origins["text"] and "tool:pay" in start.origins["items"]
            assert start.forked_from["run"] == source.id and start.forked_from["turn"] == 2
            await settled(stage, fork.id)

        on_stage(play)

    def test_its_account_is_fresh(self) -> None:
        tools = Tools(usd_max=0.01)
        scene = steps(tools, usd=1)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.extend("@last", usd=3, by="ann")
            await stage.until(lambda: bool(stage.of(e.Extended)))
            source = stage.client.show("@last").id
            fork = await stage.client.fork(source, at=3, by="ann")
            assert fork.show().spent == Amounts() and fork.show().row.account.held == Amounts()
            assert fork.show().row.account.ceiling.nanousd == 10**9
            other = await stage.client.fork(source, at=3, machine=scene, by="ann")
            assert other.show().row.account.ceiling == stage.client.ceiling_of(scene)
            await settled(stage, fork.id)
            await settled(stage, other.id)

        on_stage(play)

    @pytest.mark.parametrize("at", [2, 3, 4])
    @pytest.mark.parametrize("thread", [None, "shared"])
    def test_a_model_is_sent_exactly_what_it_was_sent_then(self, at: int, thread: str | None) -> None:
        tools = Tools()
        scene = talk(tools, thread)
        replies = [call("look", n=1), call("pay", n=2), call("look", n=3), choose("found", text="it")]
        model = ScriptedModel([*replies, *replies[at - 1 :]])

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            fork = await stage.client.fork("@last", at=at, by="ann")
            await settled(stage, fork.id)

        on_stage(play, model)
        assert model.requests[4] == model.requests[at - 1]
        assert encode(model.requests[4].messages) == encode(model.requests[at - 1].messages)
        sent = [re.sub(rb"call_\d+", b"call", encode(request.messages)) for request in model.requests]
        assert sent[4:] == sent[at - 1 : 4]

    def test_a_conversation_that_was_left_goes_on_where_its_thread_is_entered_again(self) -> None:
        tools = Tools()
        scene = talk(tools, "shared")
        model = ScriptedModel([call("look", n=1), choose("found", text="it"), choose("found", text="x")] * 2)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            source = stage.client.show("@last").id
            fork = await stage.client.fork(source, at=3, by="ann")
            await settled(stage, fork.id)
            for run in (source, fork.id):
                await stage.client.resolve(run, "more", by="ann")
                count = len(model.requests)
                await stage.until(lambda count=count: len(model.requests) > count)
                await settled(stage, run)

        on_stage(play, model)
        assert model.requests[2] == model.requests[3] and len(model.requests[3].messages) == 6

    def test_a_fork_of_a_fork_has_the_whole_conversation(self) -> None:
        tools = Tools()
        scene = talk(tools)
        replies = [call("look", n=1), call("look", n=2), call("look", n=3), choose("found", text="it")]
        model = ScriptedModel([*replies, replies[2], replies[3], replies[3]])

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            first = await stage.client.fork("@last", at=3, by="ann")
            await settled(stage, first.id)
            second = await stage.client.fork(first.id, at=2, by="ann")
            await settled(stage, second.id)

        on_stage(play, model)
        last = [re.sub(rb"call_\d+", b"call", encode(model.requests[at].messages)) for at in (3, 6)]
        assert last[0] == last[1]

    @pytest.mark.parametrize("over", ["drop", "summarise"])
    def test_a_conversation_that_outgrew_its_window_is_sent_as_it_was_sent_then_and_goes_on_so(self, over: Any) -> None:
        """Whatever was left out by then, summed up or pinned; and messages said in another run are left out like any,
        also when another worker reads them off the log."""
        scene = reader(Window(bytes=5000, over=over, pin=["items"]))
        model = ScriptedModel(brain)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(text="it", items=["pinned"]), by="test")
            worker = await stage.worker(scene)
            await stage.until(lambda: stage.client.show("@last").row.turn > 40)
            source = stage.client.show("@last").id
            await stage.client.cancel(source, by="ann")
            await stage.until(lambda: stage.status(source) == "cancelled")
            sent = requests_by_turn(stage.log(source), model.requests)
            assert len(stage.of(e.ContextTrimmed, source)) >= 3
            for at in range(2, 26, 3):
                before = len(model.requests)
                fork = await stage.client.fork(source, at=at, by="ann")
                await stage.until(lambda run=fork.id: stage.client.show(run).row.turn > 4)
                await stage.kill(worker)
                worker = await stage.worker(scene)
                await stage.until(lambda run=fork.id: stage.client.show(run).row.turn > 10)
                await stage.client.cancel(fork.id, by="ann")
                await stage.until(lambda run=fork.id: stage.status(run) == "cancelled")
                again = requests_by_turn(stage.log(fork.id), model.requests[before:])
                for turn in range(1, 4):
                    assert again[turn] == sent[at + turn - 1], (at, turn)
                assert again[10][-1:] == sent[at + 9][-1:], at

        on_stage(play, model, timing=Timing(lease=1.0))


class TestWhatAForkMayChange:
    def test_fields_may_be_others_and_are_the_persons(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            source = stage.client.show("@last").id
            fork = await stage.client.fork(source, at=3, fields={"n": 7}, machine=scene, by="ann")
            await settled(stage, fork.id)
            start = stage.log(fork.id)[0]
            assert isinstance(start, e.RunStarted) and start.origins["n"] == "person"
            assert stage.client.show(fork.id).record["text"] == "sent 7"
            assert stage.client.show(source).record["text"] == "sent 1"

        on_stage(play)
        assert tools.outside.done("mail") == [1, 7]

    @pytest.mark.parametrize("typed", [True, False], ids=["with its machine", "by kind alone"])
    @pytest.mark.parametrize(
        ("fields", "words"),
        [({"m": 1}, "no field `m`"), ({"n": "many"}, "`n`"), ({"items": "x"}, "`items`"), ({"tags": [1]}, "`tags`")],
    )
    def test_a_field_that_does_not_fit_the_record_is_refused(
        self, fields: dict[str, Any], words: str, typed: bool
    ) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            with pytest.raises(BadInput, match=words):
                await stage.client.fork("@last", at=3, fields=fields, machine=scene if typed else None, by="ann")
            assert len(stage.client.runs()) == 1

        on_stage(play)

    def test_the_same_key_is_the_same_fork(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            source = stage.client.show("@last").id
            one = await stage.client.fork(source, at=3, key="again", by="ann")
            two = await stage.client.fork(source, at=3, key="again", by="bob")
            assert one.id == two.id and one.new and not two.new
            with pytest.raises(KeyTaken):
                await stage.client.fork(source, at=2, key="again", by="ann")
            await settled(stage, one.id)

        on_stage(play)

    def test_another_shape_is_refused(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            with pytest.raises(ShapeChanged):
                await stage.client.fork("@last", at=2, machine=talk(tools), by="ann")

        on_stage(play)


class TestWhereThereIsNoFork:
    @pytest.mark.parametrize("at", [0, -1, 5, 99])
    def test_at_a_turn_that_there_was_not(self, at: int) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            with pytest.raises(BadInput, match=f"no turn {at}: this run has had turns 1 to 4"):
                await stage.client.fork("@last", at=at, by="ann")

        on_stage(play)

    def test_where_something_was_in_doubt_also_when_it_is_cleared_since(self) -> None:
        """The run as it stood then doesn't know whether it happened, and the fork would go on as if it hadn't."""
        tools = Tools(within=1)
        tools.faults["mail"] = [("after", 50)]
        scene = doubtful(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            for cleared in (False, True):
                with pytest.raises(BadInput, match=r"effect 1 \(mail\) was in doubt when turn 2 began"):
                    await stage.client.fork("@last", at=2, by="ann")
                if not cleared:
                    await stage.client.resolve("@last", "yes", by="ann")
                    await stage.until(lambda: any(w.why == "doubt" for w in stage.client.waiting()))
                    await stage.client.clear("@last", 1, happened=True, by="ann")
                    await stage.until(lambda: stage.status() == "completed")
            fork = await stage.client.fork("@last", at=1, by="ann")
            await settled(stage, fork.id)

        on_stage(play)

    def test_where_an_effect_of_its_history_was_undone_since(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)
            source = stage.client.show("@last").id
            with pytest.raises(BadInput, match="undone since"):
                await stage.client.fork(source, at=3, by="ann")
            with pytest.raises(BadInput, match="was a rollback"):
                await stage.client.fork(source, at=5, by="ann")
            for at in (1, 2, 6, 7, 8):
                fork = await stage.client.fork(source, at=at, by="ann")
                await settled(stage, fork.id)

        on_stage(play)


def test_an_ended_run_is_forked_too() -> None:
    tools = Tools()
    scene = steps(tools)

    async def play(stage: Stage) -> None:
        await to_the_person(stage, scene)
        await stage.client.resolve("@last", "yes", by="ann")
        await stage.until(lambda: stage.status() == "completed")
        source = stage.client.show("@last").id
        with pytest.raises(BadInput, match="turns 1 to 4"):
            await stage.client.fork(source, at=5, by="ann")
        fork = await stage.client.fork(source, at=4, by="ann")
        await settled(stage, fork.id)
        assert stage.client.show(fork.id).row.state == "person"
        assert stage.client.show(fork.id).forked_from["run"] == source

    on_stage(play)
    assert tools.outside.deeds == DEEDS
