"""Undo in a rollback: doubts are cleared first, what can't be undone is a person's, and nothing is undone twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interlock import BadInput, NotDone, WaitClosed
from interlock.engine.timing import Timing
from interlock.history import events as e
from interlock.reading import rollback_plan
from interlock.store.protocol import Commit, InboxItem, Leave
from tests.laws.stage import Stage, dies_at, on_stage
from tests.laws.test_rollback import asked, rolled_back, to_the_person
from tests.laws.undoing import Case, Tools, doubtful, steps

SOON = Timing(lease=1.0)
UNDONE = [("unpay", (3, "paid 3")), ("unbook", (2, "booked 2")), ("unpay", (1, "paid 1"))]


async def asks(stage: Stage, why: str) -> Any:
    """Until a person is asked this; the wait."""
    await stage.until(lambda: any(wait.why == why for wait in stage.client.waiting()))
    return next(wait for wait in stage.client.waiting() if wait.why == why)


class TestAccepting:
    def test_what_cannot_be_undone_must_be_accepted_by_number(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            before = stage.log()
            with pytest.raises(BadInput, match=r"effect 4 \(mail\) can't be undone: accept .*--accept 4"):
                await stage.client.rollback("@last", to=1, by="ann")
            for needless in ((4, 1), (4, 99)):
                with pytest.raises(BadInput, match=f"nothing to accept about effect {needless[1]}"):
                    await stage.client.rollback("@last", to=1, accept=needless, by="ann")
            assert stage.log() == before
            await stage.client.rollback("@last", to=4, by="ann")  # nothing was done since
            assert (await rolled_back(stage)).undone == ()

        on_stage(play)

    def test_what_came_to_pass_since_the_plan_was_made_is_not_accepted_by_it(self) -> None:
        """The worker looks anew; what nobody has seen, nobody has accepted, and then nothing is changed."""
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.resolve("@last", "again", {"n": 5}, by="ann")
            item = InboxItem("late", "rollback", {"to": 1, "accept": [4], "by": "ann", "reason": ""}, 0)
            await stage.until(lambda: stage.client.show("@last").row.turn == 8)
            await stage.client._submit(Leave(stage.client.show("@last").id, item, stage.clock.now_ms()))
            await stage.until(lambda: bool(stage.of(e.AnswerDropped)))
            [dropped] = stage.of(e.AnswerDropped)
            assert dropped.kind == "rollback" and "effect 8 (mail) can't be undone" in dropped.why
            assert not stage.of(e.RollbackBegun) and stage.client.show("@last").row.state == "person"

        on_stage(play)
        assert not tools.outside.done("unpay")

    def test_what_was_accepted_once_is_not_asked_about_again(self) -> None:
        tools = Tools()
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=3, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)
            await stage.client.rollback("@last", to=1, accept=[5], by="ann")
            back = await rolled_back(stage, 2)
            assert (back.undone, back.accepted) == ((3, 2, 1), (5,))

        on_stage(play)


class TestAnUndoThatFails:
    @pytest.mark.parametrize("choice", ["retry", "accept", "give_up"])
    def test_it_is_a_persons_to_retry_to_accept_or_to_give_up(self, choice: str) -> None:
        tools = Tools()
        tools.faults["unbook"] = [NotDone("the desk is closed")]
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            wait = await asks(stage, "undo")
            assert wait.effect == 2 and list(wait.form) == ["retry", "accept", "give_up"]
            assert "the desk is closed" in wait.prompt and "book" in wait.prompt
            assert stage.client.show("@last").state.rollback[0] == 1
            await stage.client.resolve("@last", choice, by="bob", reason="so be it")
            if choice == "give_up":
                wait = await asks(stage, "escalated")
                [over] = stage.of(e.RollbackGivenUp)
                assert (over.undone, over.effect, over.by, over.reason) == ((3,), 2, "bob", "so be it")
                assert "given up" in wait.prompt and stage.client.show("@last").row.state == "person"
                await stage.client.resolve("@last", "yes", by="bob")
                await stage.until(lambda: stage.status() == "completed")
                return
            back = await rolled_back(stage)
            assert back.undone == ((3, 2, 1) if choice == "retry" else (3, 1))
            assert back.accepted == ((4,) if choice == "retry" else (4, 2))

        on_stage(play)
        wanted = {"retry": UNDONE, "accept": [UNDONE[0], UNDONE[2]], "give_up": UNDONE[:1]}[choice]
        assert tools.outside.deeds[4 : 4 + len(wanted)] == wanted

    def test_a_retry_of_what_surely_did_nothing_is_a_new_effect_and_may_fail_again(self) -> None:
        tools = Tools()
        tools.faults["unbook"] = [NotDone("closed"), NotDone("still closed")]
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await asks(stage, "undo")
            await stage.client.resolve("@last", "retry", by="bob")
            await stage.until(lambda: any("still closed" in wait.prompt for wait in stage.client.waiting()))
            await stage.client.resolve("@last", "retry", by="bob")
            await rolled_back(stage)
            tried = [event.effect for event in stage.of(e.ToolCalled) if event.undoes == 2]
            assert tried == [6, 7, 8]

        on_stage(play)

    def test_after_giving_up_another_rollback_undoes_only_what_stands(self) -> None:
        tools = Tools()
        tools.faults["unbook"] = [NotDone("closed")]
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            await asks(stage, "undo")
            await stage.client.resolve("@last", "give_up", by="bob")
            await asks(stage, "escalated")
            with pytest.raises(BadInput, match=r"effect 3 \(pay\) came before turn 3 and was undone since"):
                stage.client.rollback_plan("@last", to=3)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            assert (await rolled_back(stage)).undone == (2, 1)

        on_stage(play)
        assert tools.outside.deeds[4:7] == UNDONE

    def test_a_tool_that_lost_its_undo_in_a_deploy_is_a_persons(self) -> None:
        tools = Tools()
        scene, bare = steps(tools), Tools()
        object.__setattr__(bare.pay, "undo", None)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            worker = await stage.worker(scene)
            await asked(stage)
            await worker.stop()
            stage._workers.remove(worker)
            await stage.worker(steps(bare))
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            wait = await asks(stage, "undo")
            assert "has no undo any more" in wait.prompt
            await stage.client.resolve("@last", "give_up", by="ann")
            await asks(stage, "escalated")

        on_stage(play)


class TestDoubts:
    @pytest.mark.parametrize("happened", [True, False], ids=["happened", "did not"])
    def test_an_undo_in_doubt_is_done_again_under_its_key(self, happened: bool) -> None:
        tools = Tools(within=1)
        tools.faults["unpay"] = [("after", 50) if happened else 50]
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await rolled_back(stage)
            undo = [event for event in stage.of(e.ToolCalled) if event.undoes == 3]
            assert [event.effect for event in undo] == [5, 5] and {event.way for event in undo} == {"key"}

        on_stage(play)
        assert tools.outside.done("unpay") == [(3, "paid 3")]

    @pytest.mark.parametrize("truth", [True, False], ids=["happened", "did not"])
    def test_an_undo_that_stays_in_doubt_is_cleared_by_a_person(self, truth: bool) -> None:
        tools = Tools(within=1)
        tools.faults["unpay"] = [RuntimeError("?")] * 2
        scene = steps(tools, attempts=2)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            wait = await asks(stage, "doubt")
            await stage.client.clear("@last", wait.effect, happened=truth, by="bob")
            if not truth:
                await asks(stage, "undo")
                await stage.client.resolve("@last", "retry", by="bob")
            back = await rolled_back(stage)
            assert back.undone == (3, 2)

        on_stage(play)
        assert len(tools.outside.done("unpay")) == (0 if truth else 1)

    @pytest.mark.parametrize("happened", [True, False], ids=["happened", "did not"])
    def test_a_doubt_about_a_keyed_deed_is_cleared_by_its_key_and_then_undone(self, happened: bool) -> None:
        """Its worker died in the call: done again under its key it has surely happened, once, and is undone, once."""
        tools = Tools()
        tools.faults["pay"] = [("after", 3) if happened else 3]
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: bool(stage.of(e.ToolCalled)))
            await asyncio.sleep(1)
            await stage.client.rollback("@last", to=1, by="ann")
            await stage.kill(first)
            await stage.worker(scene)
            back = await rolled_back(stage)
            assert back.undone == (1,)
            [begun] = stage.of(e.RollbackBegun)
            assert begun.doubts == (1,) or begun.undo == (1,)

        on_stage(play, timing=SOON)
        assert tools.outside.deeds[:3] == [("pay", 1), ("unpay", (1, "paid 1")), ("pay", 1)]

    @pytest.mark.parametrize("truth", [True, False], ids=["happened", "did not"])
    @pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "not accepted"])
    def test_a_doubt_about_what_has_no_undo_is_cleared_and_then_accepted(self, truth: bool, accepted: bool) -> None:
        tools = Tools(within=1)
        tools.faults["mail"] = [("after", 50)] if truth else [50]
        scene = doubtful(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            assert stage.client.show("@last").state.doubts
            plan = stage.client.rollback_plan("@last", to=1)
            assert [deed.effect for deed in plan.doubts] == [1] and not plan.stays
            await stage.client.rollback("@last", to=1, accept=[1] if accepted else [], by="ann")
            wait = await asks(stage, "doubt")
            await stage.client.clear("@last", wait.effect, happened=truth, by="bob")
            if truth and not accepted:
                wait = await asks(stage, "undo")
                assert list(wait.form) == ["accept", "give_up"]
                await stage.client.resolve("@last", "accept", by="bob")
            back = await rolled_back(stage)
            assert back.accepted == ((1,) if truth else ())

        on_stage(play)

    def test_a_doubt_of_an_earlier_turn_stays_what_it_was(self) -> None:
        """It belongs to what isn't undone: nobody is asked about it here, and the run doesn't complete before it is."""
        tools = Tools(within=1)
        tools.faults["mail"] = [("after", 50)]
        scene = doubtful(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, by="ann")
            await rolled_back(stage)
            await asked(stage)
            assert list(stage.client.show("@last").state.doubts) == ["1"]
            await stage.client.resolve("@last", "yes", by="ann")
            await asks(stage, "doubt")
            await stage.client.clear("@last", 1, happened=True, by="ann")
            await stage.until(lambda: stage.status() == "completed")

        on_stage(play)

    def test_a_deed_whose_result_came_late_is_undone_too(self) -> None:
        """A person said that it didn't happen; evidence says it did."""
        tools = Tools(within=1)
        tools.faults["book"] = [("after", 50)]
        scene = steps(tools, attempts=1)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "doubt")
            await stage.client.clear("@last", 2, happened=False, by="ann")
            await asks(stage, "escalated")
            late = {"type": "tool_returned", "effect": 2, "value": "booked 2", "turn": 2}
            item = InboxItem("late", "evidence", late, 0)
            await stage.client._submit(Leave(stage.client.show("@last").id, item, stage.clock.now_ms()))
            await stage.client.rollback("@last", to=2, by="ann")
            assert (await rolled_back(stage)).undone == (2,)

        on_stage(play)
        assert tools.outside.done("unbook") == [(2, "booked 2")]


class TestMoney:
    def test_compensations_are_held_and_counted_and_without_money_a_person_extends(self) -> None:
        tools = Tools(usd_max=0.1)
        scene = steps(tools, usd=0.35)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            wait = await asks(stage, "undo")
            assert wait.outcome == "budget_spent" and wait.effect == 1
            assert stage.client.show("@last").spent.nanousd == 300_000_000
            await stage.client.extend("@last", usd=1, by="ann")
            back = await rolled_back(stage)
            assert back.undone == (3, 2, 1)
            await asked(stage)
            assert stage.client.show("@last").spent.nanousd == 600_000_000

        on_stage(play)

    def test_calls_are_counted_and_a_person_extends_them(self) -> None:
        tools = Tools()
        scene = steps(tools, calls=5)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            wait = await asks(stage, "undo")
            assert wait.outcome == "limit_reached"
            await stage.client.extend("@last", calls=20, by="ann")
            assert (await rolled_back(stage)).undone == (3, 2, 1)

        on_stage(play)

    def test_a_warning_does_not_stop_a_rollback_and_is_said_before_the_next_effect(self) -> None:
        tools = Tools(usd_max=0.1)
        scene = steps(tools, usd=0.5, warn_at=0.5)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await rolled_back(stage)
            await asks(stage, "budget")
            await stage.client.extend("@last", usd=5, by="ann")
            await asked(stage)
            assert len(stage.of(e.Warned)) == 1

        on_stage(play)

    def test_a_question_about_money_that_nobody_answered_is_asked_again(self) -> None:
        tools = Tools(usd_max=0.1)
        scene = steps(tools, usd=0.5, warn_at=0.3)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            await stage.worker(scene)
            await asks(stage, "budget")
            wait = stage.client.waiting()[0].number
            await stage.client.rollback("@last", to=1, by="ann")
            await rolled_back(stage)
            await stage.until(lambda: any(w.why == "budget" and w.number != wait for w in stage.client.waiting()))
            await stage.client.resolve("@last", "go_on", by="ann")
            await asked(stage)

        on_stage(play)


class TestWhatArrivesMeanwhile:
    """Between the commits of a rollback."""

    async def slow(self, stage: Stage, tools: Tools) -> None:
        """Until the second compensation is under way, which takes its time."""
        tools.faults["unbook"] = [3]
        await to_the_person(stage, steps(tools))
        await stage.client.rollback("@last", to=1, accept=[4], by="ann")
        await stage.until(lambda: any(event.undoes == 2 for event in stage.of(e.ToolCalled)))

    def test_a_pause_stops_it_before_the_next_compensation_until_it_is_resumed(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await self.slow(stage, tools)
            await stage.client.pause("@last", by="bob")
            await stage.until(lambda: stage.status() == "paused")
            await asyncio.sleep(60)
            assert len(tools.outside.done("unpay")) == 1 and not stage.of(e.RolledBack)
            await stage.client.resume("@last", by="bob")
            await rolled_back(stage)
            await asked(stage)
            assert stage.status() == "waiting"

        on_stage(play)
        assert tools.outside.deeds[4:7] == UNDONE

    def test_a_cancel_ends_the_run_there_and_the_log_says_what_was_undone(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await self.slow(stage, tools)
            await stage.client.cancel("@last", by="bob")
            await stage.until(lambda: stage.status() == "cancelled")
            assert not stage.of(e.RolledBack) and not stage.client.show("@last").state.rollback

        on_stage(play)
        assert tools.outside.deeds[4:] == UNDONE[: len(tools.outside.deeds) - 4]

    def test_a_decision_comes_too_late_and_is_told_so(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await self.slow(stage, tools)
            with pytest.raises(WaitClosed):
                await stage.client.resolve("@last", "yes", by="bob")
            with pytest.raises(WaitClosed, match="rolled back"):
                await stage.client.resolve("@last", "yes", wait=1, by="bob")
            await rolled_back(stage)

        on_stage(play)

    def test_a_second_rollback_is_refused_and_said(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await self.slow(stage, tools)
            with pytest.raises(BadInput, match="is being rolled back to turn 1"):
                await stage.client.rollback("@last", to=2, accept=[4], by="bob")
            item = InboxItem("two", "rollback", {"to": 2, "accept": [4], "by": "bob", "reason": ""}, 0)
            await stage.client._submit(Leave(stage.client.show("@last").id, item, stage.clock.now_ms()))
            back = await rolled_back(stage)
            await asked(stage)
            assert back.to == 1 and len(stage.of(e.RollbackBegun)) == 1
            assert ["under way" in event.why for event in stage.of(e.AnswerDropped)] == [True]

        on_stage(play)

    def test_two_who_roll_back_at_once_are_one_rollback(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await to_the_person(stage, steps(tools))
            await asyncio.gather(*(stage.client.rollback("@last", to=n, accept=[4], by=f"b{n}") for n in (1, 2)))
            await rolled_back(stage)
            await asked(stage)
            assert len(stage.of(e.RollbackBegun)) == len(stage.of(e.AnswerDropped)) == 1

        on_stage(play)

    def test_a_signal_is_kept_and_an_extension_counts(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await self.slow(stage, tools)
            await stage.client.signal("@last", "bell", by="sys")
            await stage.client.extend("@last", calls=7, by="bob")
            ceiling = stage.client.show("@last").row.account.ceiling.calls
            await rolled_back(stage)
            await asked(stage)
            view = stage.client.show("@last")
            assert list(view.state.signals) == ["bell"] and view.row.account.ceiling.calls == ceiling + 7

        on_stage(play)

    def test_a_run_that_was_paused_before_is_rolled_back_and_stays_paused(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await to_the_person(stage, steps(tools))
            await stage.client.pause("@last", by="bob")
            await stage.until(lambda: stage.status() == "paused")
            await stage.client.rollback("@last", to=1, accept=[4], by="ann")
            await rolled_back(stage)
            await asyncio.sleep(60)
            assert stage.status() == "paused" and tools.outside.done("pay") == [1, 3]
            await stage.client.resume("@last", by="bob")
            await stage.until(lambda: stage.status() == "waiting")
            assert tools.outside.done("pay") == [1, 3, 1, 3]

        on_stage(play)
        assert tools.outside.deeds[4:7] == UNDONE

    def test_a_rollback_comes_before_the_next_effect_of_a_run_that_is_held(self) -> None:
        tools = Tools()
        tools.faults["book"] = [3]

        async def play(stage: Stage) -> None:
            await stage.client.start(steps(tools), Case(n=1), by="test")
            await stage.worker(steps(tools))
            await stage.until(lambda: any(event.tool == "book" for event in stage.of(e.ToolCalled)))
            await stage.client.rollback("@last", to=1, by="ann")
            back = await rolled_back(stage)
            assert back.undone == (2, 1)
            await asked(stage)

        on_stage(play)
        assert tools.outside.deeds[:4] == [("pay", 1), ("book", 2), *UNDONE[1:]]

    def test_a_run_does_not_end_while_an_accepted_rollback_lies_unread(self) -> None:
        tools = Tools()
        tools.faults["mail"] = [2]
        scene = doubtful(tools)

        async def play(stage: Stage) -> None:
            await to_the_person(stage, scene)
            await stage.client.resolve("@last", "yes", by="ann")
            await stage.client.rollback("@last", to=1, accept=[1], by="ann")
            await rolled_back(stage)
            await asked(stage)
            assert stage.status() == "waiting"

        on_stage(play)


class TestEnds:
    def test_an_ended_run_is_refused_with_a_line_that_names_fork(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await to_the_person(stage, steps(tools))
            await stage.client.resolve("@last", "yes", by="ann")
            await stage.until(lambda: stage.status() == "completed")
            with pytest.raises(WaitClosed, match=r"has ended \(completed\).*interlock fork [0-9a-f]+ --at 2"):
                await stage.client.rollback("@last", to=2, by="ann")

        on_stage(play)

    @pytest.mark.parametrize("to", [0, -3, 5, 1000])
    def test_a_turn_that_there_was_not_is_refused(self, to: int) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await to_the_person(stage, steps(tools))
            with pytest.raises(BadInput, match=f"no turn {to}: this run has had turns 1 to 4"):
                await stage.client.rollback("@last", to=to, by="ann")

        on_stage(play)


class TestOverOneAnother:
    def test_a_rollback_over_a_rollback_and_turns_that_are_no_more(self) -> None:
        tools = Tools()

        async def play(stage: Stage) -> None:
            await to_the_person(stage, steps(tools))
            await stage.client.rollback("@last", to=2, accept=[4], by="ann")
            await rolled_back(stage)
            await asked(stage)  # turns 6, 7 and 8, in place of 2, 3 and 4
            for gone, why in ((3, "undone since"), (5, "was a rollback")):
                with pytest.raises(BadInput, match=why):
                    stage.client.rollback_plan("@last", to=gone)
            plan = stage.client.rollback_plan("@last", to=2)
            assert [deed.effect for deed in plan.undo] == [8, 7]
            assert plan == rollback_plan(stage.store, stage.client.show("@last").id, 2)
            await stage.client.rollback("@last", to=7, accept=[9], by="ann")
            await rolled_back(stage, 2)
            await asked(stage)
            await stage.client.rollback("@last", to=1, accept=[10], by="ann")
            back = await rolled_back(stage, 3)
            assert back.undone == (8, 7, 1)

        on_stage(play)
        assert tools.outside.done("unpay") == [(3, "paid 3"), (3, "paid 3"), (1, "paid 1")]

    def test_over_a_takeover_an_escalation_and_a_question_about_doubt(self) -> None:
        tools = Tools()
        tools.faults["book"] = [("after", 3)]
        scene = steps(tools)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(n=1), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: any(event.tool == "book" for event in stage.of(e.ToolCalled)))
            await asyncio.sleep(1)
            await stage.kill(first)
            await stage.worker(scene)
            wait = await asks(stage, "doubt")
            await stage.client.rollback("@last", to=1, by="ann")
            await stage.until(lambda: bool(stage.of(e.RollbackBegun)))
            again = await asks(stage, "doubt")
            assert again.number != wait.number and again.effect == 2
            await stage.client.clear("@last", 2, happened=True, by="ann")  # nobody says what it answered
            back = await rolled_back(stage)
            assert back.undone == (2, 1)
            await asked(stage)

        on_stage(play, timing=SOON)
        assert tools.outside.done("unbook") == [(2, None)]


class TestCrashes:
    @pytest.mark.parametrize("how", ["lose", "die"])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_worker_that_dies_at_any_commit_loses_and_doubles_nothing(self, how: str, seed: int) -> None:
        """Every commit from the order on, before and after it is written; another worker goes on."""
        points = 0
        for number in range(1, 40):
            tools = Tools()
            reached = on_stage(lambda stage, n=number, t=tools: self._crash(stage, t, n, how), seed=seed, timing=SOON)
            assert tools.outside.deeds == [
                ("pay", 1), ("book", 2), ("pay", 3), ("mail", 1), *UNDONE,
                ("pay", 1), ("book", 2), ("pay", 3), ("mail", 1),
            ], number  # fmt: skip
            points += reached
            if not reached:
                break
        assert points >= 8

    async def _crash(self, stage: Stage, tools: Tools, number: int, how: str) -> bool:
        scene = steps(tools)
        await stage.client.start(scene, Case(n=1), by="test")
        first = await stage.worker(scene)
        await asked(stage)
        await first.stop()
        stage._workers.remove(first)
        await stage.client.rollback("@last", to=1, accept=[4], by="ann")
        fail = dies_at(number, how, (Commit,))
        second = await stage.worker(scene, fail=fail)
        died = second.world.committer.died
        await stage.until(lambda: died.is_set() or (bool(stage.of(e.RolledBack)) and stage.status() == "waiting"))
        fell = died.is_set()
        if fell:
            await stage.kill(second)
            await stage.worker(scene)
        await stage.until(lambda: bool(stage.of(e.RolledBack)))
        await self._clear(stage, tools)
        assert stage.client.show("@last").record["items"] == ["paid 1", "booked 2", "paid 3"]
        return fell

    async def _clear(self, stage: Stage, tools: Tools) -> None:
        """A person who looks answers what only the world can tell, after the rollback too."""
        run = stage.client.show("@last").id
        for _ in range(4000):
            view = stage.client.show(run)
            doubts = [wait for wait in view.waits if wait.why == "doubt" and wait.kind == "person"]
            if view.status == "waiting" and view.row.state == "person":
                return
            for wait in doubts:
                happened = f"{run}-{wait.effect}" in tools.outside.lines
                argument = tools.outside.lines.get(f"{run}-{wait.effect}", ("", 0))[1]
                result = {"book": f"booked {argument}", "mail": f"sent {argument}"}
                name = tools.outside.lines.get(f"{run}-{wait.effect}", ("book", 0))[0]
                await stage.client.clear(run, wait.effect or 0, happened=happened, result=result.get(name), by="ann")
            await asyncio.sleep(0.25)
        raise AssertionError(stage.log())
