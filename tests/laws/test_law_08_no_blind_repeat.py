"""Law 8: an attempt whose intent is committed and whose result is not is a doubt: cleared, never repeated blindly."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from interlock import Call, Client, InterlockError, Turn, Worker, state, tool
from interlock.agent.model import ModelFailed, ModelReply
from interlock.agent.scripted import ScriptedModel
from interlock.bootstrap import Threads, open_world
from interlock.engine.live_run import leave_evidence
from interlock.engine.timing import Timing
from interlock.errors import BadInput, EffectFailed, WaitClosed
from interlock.history import events as e
from interlock.machine.tools import Happened
from interlock.store.protocol import Commit, InboxItem, Leave, Write
from tests.laws.audit import audit
from tests.laws.machines import MODEL, Case, Tools, machine
from tests.laws.stage import Stage, on_stage

WAYS = ("read", "keyed", "probed", "once")
T = Timing()
SOON = Timing(lease=1.0)  # taken over while the attempt is still fresh


def one_call(tools: Tools, name: str, **limits: Any) -> Any:
    """A machine that calls one tool once."""
    granted = getattr(tools, name)

    @state(tools=[granted], writes=["text"], within=3600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.text = await turn.call(granted, 7)
        return "done"

    return machine(work, **limits)


async def dies_during(stage: Stage, tools: Tools, scene: Any, name: str) -> None:
    """Start a run; its worker dies while the tool is under way."""
    await stage.client.start(scene, Case(), by="test")
    first = await stage.worker(scene)
    await stage.until(lambda: tools.outside.calls[name] == 1)
    await stage.kill(first)


class TestFourWays:
    """A worker dies while a call is under way; another takes over."""

    @pytest.mark.parametrize("happened", [True, False], ids=["happened", "did not happen"])
    @pytest.mark.parametrize("name", ["read", "keyed", "probed"])
    def test_a_doubt_is_cleared_in_the_way_its_tool_declares(self, name: str, happened: bool) -> None:
        tools = Tools(after=3) if happened else Tools(before=3)
        scene = one_call(tools, name)

        async def play(stage: Stage) -> list[e.Event]:
            await dies_during(stage, tools, scene, name)
            assert tools.outside.times(name) == happened
            tools.before = tools.after = 0
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)
            return stage.log()

        log = on_stage(play)
        assert tools.outside.times(name) == 1 + (name == "read" and happened)
        cleared = [event for event in log if isinstance(event, e.DoubtCleared)]
        assert [(c.way, c.happened) for c in cleared] == {
            "read": [],
            "keyed": [("key", False)],
            "probed": [("probe", happened)],
        }[name]

    def test_the_same_key_is_sent_on_every_attempt(self) -> None:
        tools = Tools(after=3)
        scene = one_call(tools, "keyed")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "keyed")
            tools.after = 0
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert len(tools.outside.lines) == 2 and len({key for _, key, _ in tools.outside.lines}) == 1

    @pytest.mark.parametrize("truth", [True, False], ids=["happened", "did not"])
    def test_a_call_at_most_once_is_asked_about(self, truth: bool) -> None:
        """Nobody but a person can tell; what she says is what goes on, with the result she gives."""
        tools = Tools(after=3) if truth else Tools(before=3)
        scene = one_call(tools, "once")

        async def play(stage: Stage) -> str:
            await dies_during(stage, tools, scene, "once")
            tools.before = tools.after = 0
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            [asked] = stage.client.waiting()
            assert (asked.why, asked.effect, list(asked.form)) == ("doubt", 1, ["happened", "did_not"])
            await stage.client.clear("@last", 1, happened=truth, result="as seen" if truth else None, by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)
            [cleared] = stage.of(e.DoubtCleared)
            assert (cleared.way, cleared.happened, cleared.by) == ("person", truth, "ann")
            return str(stage.client.show("@last").record["text"])

        assert on_stage(play) == ("as seen" if truth else "once 7")
        assert tools.outside.times("once") == 1

    def test_a_doubt_is_cleared_by_one_person_only(self) -> None:
        tools = Tools(after=3)
        scene = one_call(tools, "once")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "once")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            said = await asyncio.gather(
                stage.client.clear("@last", 1, happened=True, result="a", by="ann"),
                stage.client.clear("@last", 1, happened=False, by="bob"),
                return_exceptions=True,
            )
            assert [isinstance(one, WaitClosed) for one in said] == [False, True]
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)

    def test_a_row_may_send_its_doubts_somewhere(self) -> None:
        """With a move for `in_doubt` nobody is asked in that turn; but nothing completes until the doubt is cleared."""
        tools = Tools(after=3)
        once = tools.once

        @state(tools=[once], within=3600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(once, turn.number)
            return "done"

        scene = machine(work, {"in_doubt": "closed"})

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "once")
            await stage.worker(scene)
            await asyncio.sleep(300)
            assert stage.status() == "waiting"
            with pytest.raises(BadInput, match="result"):
                await stage.client.clear("@last", 1, happened=True, result=5, by="ann")
            await stage.client.clear("@last", 1, happened=True, result="seen", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert tools.outside.times("once") == 1


class TestNotBefore:
    """send_before + timeout + grace: until then the attempt may still be on its way."""

    @pytest.mark.parametrize("name", ["keyed", "probed", "once"])
    def test_nobody_clears_a_doubt_before_the_attempt_is_surely_over(self, name: str) -> None:
        tools = Tools(after=3)
        scene = one_call(tools, name)

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, name)
            [intent] = stage.of(e.ToolCalled)
            over = intent.send_before + intent.timeout_ms + int(T.grace * 1000)
            assert intent.send_before == intent.at + int(T.send_window * 1000)
            await stage.worker(scene)
            while stage.clock.now_ms() < over - 500:
                assert not stage.of(e.DoubtCleared) and not stage.client.waiting()
                assert len(tools.outside.at) == 1
                await asyncio.sleep(0.25)
            await stage.until(lambda: bool(stage.of(e.DoubtCleared) or stage.client.waiting()), 30)
            assert stage.clock.now_ms() >= over

        on_stage(play, timing=SOON)

    def test_a_timed_out_call_is_given_its_grace(self) -> None:
        """The attempt's own worker waits as long as a stranger would."""
        tools = Tools()
        tools.slow = {7}
        scene = one_call(tools, "probed")

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)
            [intent] = stage.of(e.ToolCalled)
            [cleared] = stage.of(e.DoubtCleared)
            assert cleared.at >= intent.send_before + intent.timeout_ms + int(T.grace * 1000)

        on_stage(play)
        assert tools.outside.times("probed") == 1


class TestProbe:
    def test_a_probe_that_raises_is_asked_again(self) -> None:
        tools = Tools(after=3)
        tools.probing = [ConnectionError("down"), ConnectionError("down")]
        scene = one_call(tools, "probed")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "probed")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert tools.outside.times("probed") == 1

    def test_a_probe_that_cannot_tell_leaves_it_to_a_person(self) -> None:
        tools = Tools(after=3)
        tools.probing = [ConnectionError("down")] * 9
        scene = one_call(tools, "probed")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "probed")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            await stage.client.clear("@last", 1, happened=True, result="x", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert tools.outside.times("probed") == 1


class TestKey:
    def test_a_key_that_is_no_longer_valid_is_not_used(self) -> None:
        """The other side may have forgotten it: a person answers."""
        tools = Tools(after=3, valid=10)
        scene = one_call(tools, "keyed")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "keyed")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            await stage.client.clear("@last", 1, happened=True, result="x", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert len(tools.outside.lines) == 1

    def test_attempts_under_a_key_are_bounded(self) -> None:
        """One that never answers is tried `attempts` times; what the last one did, a person is asked."""
        tools = Tools(after=1e5)
        scene = one_call(tools, "keyed", attempts=3)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 3000)
            assert len(stage.of(e.ToolCalled)) == 3
            assert len(stage.of(e.DoubtCleared)) == 2
            await stage.client.clear("@last", 1, happened=True, result="x", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)

    @pytest.mark.parametrize("lost", ["to a crash", "to a slow service"])
    def test_two_doubts_of_one_tool_do_not_wait_for_each_other(self, lost: str) -> None:
        """A repeat under its own key is no new call of the tool."""
        tools = Tools(before=3, within=20) if lost == "to a crash" else Tools(within=3)
        tools.slow = set() if lost == "to a crash" else {1, 2}

        @state(tools=tools.all, within=300)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await asyncio.gather(turn.call(tools.keyed, 1), turn.call(tools.keyed, 2))
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            if lost == "to a crash":
                await stage.until(lambda: tools.outside.calls["keyed"] == 2)
                await stage.kill(first)
                await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 100)

        on_stage(play)
        assert tools.outside.times("keyed") == 2


class TestLeftBehind:
    """A turn that timed out leaves its doubt behind; later turns are held to it."""

    def scene(self, tools: Tools, name: str, second: Any, **more: Any) -> Any:
        granted = getattr(tools, name)

        @state(tools=tools.all, writes=["text"], within=4, calls=20)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            if turn.number == 1:
                await turn.call(granted, 1)
            return await second(turn)

        return machine(work, {"timeout": "work"}, **more)

    @pytest.mark.parametrize("name", ["keyed", "probed"])
    def test_a_new_call_of_the_tool_waits_for_the_doubt(self, name: str) -> None:
        tools = Tools()
        tools.slow = {1}

        async def second(turn: Turn[Case]) -> Any:
            turn.record.text = await turn.call(getattr(tools, name), 2)
            return "done"

        scene = self.scene(tools, name, second)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert (tools.outside.times(name, 1), tools.outside.times(name, 2)) == (1, 1)

    def test_another_tool_may_be_called_meanwhile_but_nothing_completes(self) -> None:
        tools = Tools()
        tools.slow = {1}

        async def second(turn: Turn[Case]) -> Any:
            turn.record.text = await turn.call(tools.read, 2)
            return "done"

        scene = self.scene(tools, "once", second)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            assert tools.outside.times("read") == 1 and stage.status() == "waiting"
            await stage.client.clear("@last", 1, happened=True, by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)

    @pytest.mark.parametrize("name", ["keyed", "probed", "once"])
    def test_calls_side_by_side_all_wait_for_the_doubt(self, name: str) -> None:
        """The first to notice clears it; the others must not slip past while it does."""
        tools = Tools()
        tools.slow = {1}

        async def second(turn: Turn[Case]) -> Any:
            await asyncio.gather(*(turn.call(getattr(tools, name), n) for n in (2, 3, 4)))
            return "done"

        scene = self.scene(tools, name, second)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            if name == "once":
                await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
                assert tools.outside.calls["once"] == 1
                await stage.client.clear("@last", 1, happened=True, by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert [tools.outside.times(name, n) for n in (1, 2, 3, 4)] == [1, 1, 1, 1]

    def test_a_doubt_repeated_under_its_key_is_not_taken_for_the_turns_own_call(self) -> None:
        """The worker dies after repeating the old call and before making the new one, whose arguments are the same."""
        tools = Tools()
        tools.slow = {1}

        async def second(turn: Turn[Case]) -> Any:
            await turn.call(tools.keyed, 1)
            await turn.call(tools.read, 9)
            return "done"

        scene = self.scene(tools, "keyed", second)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: len(tools.outside.at) == 1)
            tools.after = 1.5
            await stage.until(lambda: len(tools.outside.at) == 3, 100)  # the old one again, then the new one
            await stage.kill(first)
            tools.after = 0
            await stage.worker(scene)
            await stage.until(lambda: stage.status() in ("completed", "waiting"), 300)
            assert not stage.of(e.Diverged)
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        keys = [key for name, key, _ in tools.outside.lines if name == "keyed"]
        assert len(set(keys)) == 2, "the old call and the turn's own call are two effects"

    def test_a_doubt_that_fails_again_under_its_key_still_bars_the_tool(self) -> None:
        tools = Tools()
        tools.slow = {1}
        broken = [True]

        async def second(turn: Turn[Case]) -> Any:
            if broken[0]:
                tools.after = 1e5  # from now on nothing answers
            await turn.call(tools.keyed, 2)
            return "done"

        scene = self.scene(tools, "keyed", second, turns=8)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: len(stage.of(e.ToolCalled)) >= 3, 300)
            broken[0], tools.after = False, 0
            await stage.until(lambda: stage.status() in ("completed", "waiting"), 3000)

        on_stage(play)  # the audit says whether the tool was called in between
        assert tools.outside.times("keyed", 2) <= 1

    def test_a_tool_in_doubt_is_barred_in_the_same_turn_too(self) -> None:
        """A handler that catches `in_doubt` and calls again is told the same."""
        tools = Tools()
        tools.slow = {1}
        said: list[str] = []

        @state(tools=tools.all, within=3600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            for n in (1, 2):
                try:
                    await turn.call(tools.once, n)
                except EffectFailed as failed:
                    said.append(failed.outcome)
            return "done"

        scene = machine(work, {"in_doubt": "person"})

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            assert said == ["in_doubt", "in_doubt"]
            await stage.client.clear("@last", 1, happened=True, result="once 1", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert tools.outside.times("once", 1) == tools.outside.times("once", 2) == 1

    def test_calls_side_by_side_wait_for_each_others_doubts(self) -> None:
        """One of two parallel branches times out; the other's later call of the tool waits until that is cleared."""
        tools = Tools(within=3)
        tools.slow = {1}

        @state(tools=tools.all, within=3600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            async def later() -> None:
                await turn.sleep(4)
                await turn.call(tools.probed, 2)

            await asyncio.gather(turn.call(tools.probed, 1), later())
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)
        assert tools.outside.times("probed") == 2


class TestEvidence:
    """A result that comes too late is kept, and corrects what was charged meanwhile."""

    def test_a_paid_reply_that_its_worker_may_no_longer_commit_corrects_the_charge(self) -> None:
        model = ScriptedModel(lambda request: ModelReply(text="hi", tokens_in=10, tokens_out=3), delay=40)

        @state(models=[MODEL], writes=["text"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.text = (await turn.model(MODEL, "say hi", within=60)).text
            await turn.sleep(30)
            return "done"

        scene = machine(work, attempts=3)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            sleepy = await stage.worker(scene)
            await stage.until(lambda: len(model.requests) == 1)
            for task in sleepy._loops:  # its heart stops; the call is still under way
                task.cancel()
            await stage.worker(scene)
            await stage.until(lambda: bool(stage.of(e.TakenOver)), 60)
            model._delay = 30
            await stage.until(lambda: stage.status() == "completed", 300)
            [lost] = stage.of(e.AttemptFailed)
            [evidence] = stage.of(e.EvidenceRecorded)
            assert lost.kind == "lost" and (evidence.effect, evidence.attempt) == (lost.effect, 1)
            assert lost.tokens + evidence.tokens == 13
            spent = stage.store.find("@last").account.spent
            assert spent.tokens == 26 and spent.nanousd == 2 * (10 * 1000 + 3 * 4000)

        on_stage(play, model)

    def test_evidence_answers_the_question_that_a_person_was_asked(self) -> None:
        """A slow worker's call of an at-most-once tool comes back after all: nobody need answer any more."""
        tools = Tools(after=35, within=60)
        scene = one_call(tools, "once")

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            sleepy = await stage.worker(scene)
            await stage.until(lambda: tools.outside.calls["once"] == 1)
            for task in sleepy._loops:
                task.cancel()
            second = await stage.worker(scene)
            await stage.until(lambda: bool(stage.of(e.TakenOver)), 60)
            await stage.until(lambda: stage.status() == "completed", 300)
            [cleared] = stage.of(e.DoubtCleared)
            assert cleared.way == "evidence" and stage.client.show("@last").record["text"] == "once 7"
            assert second.busy == 0

        on_stage(play)
        assert tools.outside.times("once") == 1

    def test_evidence_that_comes_while_a_person_is_asked_closes_the_question(self) -> None:
        tools = Tools(after=3, within=5)
        scene = one_call(tools, "once")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "once")
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            run = stage.client.show("@last")
            leave_evidence(stage.client.world, run.id, 1, e.ToolReturned(effect=1, attempt=1, value="once 7"))
            await stage.until(lambda: stage.status() == "completed", 300)
            assert stage.client.waiting() == [] and stage.client.show("@last").record["text"] == "once 7"

        on_stage(play)

    def test_evidence_of_an_earlier_attempt_says_nothing_of_the_last(self) -> None:
        """Told that the first attempt did not happen, the tool was tried again, and that is in doubt too: the first
        one's late result does not answer for the second."""
        tools = Tools(after=3)
        scene = one_call(tools, "once")

        async def play(stage: Stage) -> None:
            await dies_during(stage, tools, scene, "once")
            second = await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            await stage.client.clear("@last", 1, happened=False, by="ann")
            await stage.until(lambda: tools.outside.calls["once"] == 2, 60)
            await stage.kill(second)
            await stage.worker(scene)
            await stage.until(lambda: any(w.kind == "person" for w in stage.client.waiting()), 300)
            run = stage.client.show("@last")
            leave_evidence(stage.client.world, run.id, 1, e.ToolReturned(effect=1, attempt=1, value="once 7"))
            await asyncio.sleep(60)
            assert stage.of(e.EvidenceRecorded) and [c.way for c in stage.of(e.DoubtCleared)] == ["person"]
            await stage.client.clear("@last", 1, happened=True, result="x", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play)

    def test_what_is_under_way_when_the_lease_is_lost_is_left_for_the_new_owner(self) -> None:
        """Another branch's commit finds out that the run is lost; the call beside it comes back all the same."""
        tools, quick = Tools(after=35, within=60), Tools()

        @state(tools=[tools.once, quick.read], writes=["text"], within=3600, calls=2)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            async def beside() -> None:
                await asyncio.sleep(25)  # longer than a lease
                await turn.call(quick.read, 1)

            turn.record.text, _ = await asyncio.gather(turn.call(tools.once, 7), beside())
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            sleepy = await stage.worker(scene)
            await stage.until(lambda: tools.outside.calls["once"] == 1)
            for task in sleepy._loops:
                task.cancel()
            await stage.worker(scene)
            await stage.until(lambda: bool(stage.of(e.TakenOver)), 60)
            assert tools.outside.calls["once"] == 1
            await stage.until(lambda: stage.status() == "completed", 300)
            assert [cleared.way for cleared in stage.of(e.DoubtCleared)] == ["evidence"]
            assert stage.client.show("@last").record["text"] == "once 7"

        on_stage(play)
        assert tools.outside.times("once") == 1

    def test_the_late_result_of_an_async_tool_is_kept_too(self) -> None:
        """A tool that can't stop half-way (a transaction, say) comes back after its turn, though it was cancelled."""

        @tool(does="send", within=10)
        async def once(call: Call[None], n: int) -> str:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(3)
            return "sent"

        @state(tools=[once], within=3)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(once, 1)
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: bool(stage.of(e.EvidenceRecorded)), 100)
            assert [event.value for event in stage.of(e.EvidenceRecorded)] == ["sent"]
            assert [cleared.way for cleared in stage.of(e.DoubtCleared)] == ["evidence"]

        on_stage(play)

    def test_evidence_that_passes_the_ceiling_is_an_overrun_and_nothing_more_starts(self) -> None:
        tools = Tools()
        model = ScriptedModel(lambda request: ModelReply(text="hi", tokens_in=10, tokens_out=3), delay=40)

        @state(models=[MODEL], tools=tools.all, within=600, calls=9)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            with suppress(InterlockError):
                await turn.model(MODEL, "say hi", within=60, max_tokens=20)
            await turn.sleep(30)
            await turn.call(tools.once, 1)
            return "done"

        scene = machine(work, attempts=1, tokens=600)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            worker = await stage.worker(scene)
            await stage.until(lambda: len(model.requests) == 1)
            await stage.kill(worker)
            await stage.worker(scene)
            await stage.until(lambda: bool(stage.of(e.WaitOpened)), 60)
            late = e.ModelReplied(effect=1, attempt=1, text="hi", tokens_in=5000, tokens_out=10, nanousd=50)
            leave_evidence(stage.client.world, stage.client.show("@last").id, 1, late)
            await stage.until(lambda: bool(stage.client.waiting()), 100)
            account = stage.store.find("@last").account
            assert account.spent.tokens > account.ceiling.tokens
            await stage.client.resolve("@last", "go_on", by="ann")
            await asyncio.sleep(10)
            [overrun] = stage.of(e.Overrun)
            assert overrun.excess == account.spent.tokens - account.ceiling.tokens
            assert not tools.outside.times("once")

        on_stage(play, model)

    def test_a_person_who_answers_between_the_reading_of_evidence_and_its_commit_wins(self) -> None:
        """The answer was accepted, so it alone clears the doubt; the evidence is kept."""
        tools = Tools(after=3, within=5)
        scene = one_call(tools, "once")

        async def play(stage: Stage) -> None:
            left: list[str] = []

            def decide(write: Write) -> str:
                if isinstance(write, Commit) and any(how == "evidence" for _, how in write.closes) and not left:
                    [asked] = stage.client.waiting()
                    said = {"wait": asked.number, "outcome": "did_not", "fields": {}, "by": "ann", "reason": ""}
                    item = InboxItem("d", "decision", said)
                    [answer] = stage.store.write([Leave(asked.run, item, 1, asked.number, "decision")])
                    left.append(type(answer).__name__)
                return ""

            await dies_during(stage, tools, scene, "once")
            await stage.worker(scene, fail=decide)
            await stage.until(lambda: bool(stage.client.waiting()), 300)
            late = e.ToolReturned(effect=1, attempt=1, value="once 7")
            leave_evidence(stage.client.world, stage.client.show("@last").id, 1, late)
            await stage.until(lambda: stage.status() == "completed", 300)
            assert left == ["Left"]
            assert [(cleared.way, cleared.happened) for cleared in stage.of(e.DoubtCleared)] == [("person", False)]
            assert [event.value for event in stage.of(e.EvidenceRecorded)] == ["once 7"]

        on_stage(play)

    def test_no_run_ends_before_the_evidence_that_was_left_for_it_is_read(self) -> None:
        """It comes after the last mail was read: the end is refused, and once more nobody's charge is a guess."""
        model = ScriptedModel(lambda request: ModelReply(text="hi", tokens_in=10, tokens_out=3), delay=2)

        @state(models=[MODEL], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.model(MODEL, "say hi")
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            left: list[str] = []

            def evidence(write: Write) -> str:
                if isinstance(write, Commit) and write.ends and not left:
                    late = e.ModelReplied(effect=1, attempt=1, text="hi", tokens_in=10, tokens_out=3, nanousd=22_000)
                    run = stage.store.find("@last").id
                    [answer] = stage.store.write([Leave(run, InboxItem("late", "evidence", e.to_json(late)), 1)])
                    left.append(type(answer).__name__)
                return ""

            await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: len(model.requests) == 1)
            await stage.kill(first)
            await stage.worker(scene, fail=evidence)
            await stage.until(lambda: stage.status() == "completed", 100)
            assert left == ["Left"] and len(stage.of(e.Transitioned)) == 1
            assert len(stage.of(e.EvidenceRecorded)) == 1
            assert stage.store.find("@last").account.spent.tokens == 26

        on_stage(play, model)

    def test_evidence_left_after_a_cancel_is_read_with_it(self) -> None:
        model = ScriptedModel(lambda request: ModelReply(text="hi", tokens_in=10, tokens_out=3), delay=40)

        @state(models=[MODEL], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.model(MODEL, "say hi", within=60)
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: len(model.requests) == 1)
            await stage.kill(first)
            await stage.client.cancel("@last", by="ann")
            late = e.ModelReplied(effect=1, attempt=1, text="hi", tokens_in=10, tokens_out=3, nanousd=22_000)
            leave_evidence(stage.client.world, stage.client.show("@last").id, 1, late)
            await asyncio.sleep(1)
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "cancelled", 100)
            spent = stage.store.find("@last").account.spent
            assert (spent.tokens, spent.nanousd) == (13, 22_000)

        on_stage(play, model)

    def test_a_paid_call_that_ends_late_is_still_paid_for(self, tmp_path: Path) -> None:
        """Real threads: a plain function is late; that it happened is no reason to take its price back."""

        @tool(does="read", within=0.2, usd_max=0.01)
        def paid(call: Call[None], n: int) -> str:
            time.sleep(0.6 if call.attempt == 1 else 0)
            return "late"

        @tool(does="send")
        async def send(call: Call[None], n: int) -> str:
            return "sent"

        @state(tools=[paid, send])
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(paid, 1)
            await turn.sleep(1)
            await turn.call(send, 1)
            await turn.call(send, 2)
            return "done"

        scene = machine(work, usd=1)

        async def play() -> None:
            async with Client(f"sqlite:///{tmp_path}/s.db") as client, Worker(client, [scene], watch=False):
                run = await client.start(scene, Case(), by="test")
                async with asyncio.timeout(20):
                    spent = (await run.result()).spent.nanousd
                log = [one async for _, one in client.events(run.id)]
                attempts = [one for one in log if isinstance(one, e.ToolCalled) and one.tool == "paid"]
                assert len(attempts) >= 2 and spent == len(attempts) * 10_000_000  # a slow machine may need a third
                evidence = [one for one in log if isinstance(one, e.EvidenceRecorded)]
                assert evidence and {(one.value, one.nanousd) for one in evidence} == {("late", 0)}
                audit(client.store)

        asyncio.run(play())


def test_no_commit_that_starts_a_call_leaves_without_its_deadline() -> None:
    """Every intent says until when it may be sent, and how long it may take."""
    tools = Tools()
    seen: list[Commit] = []
    scene = one_call(tools, "once")

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene, fail=lambda write: (seen.append(write) if isinstance(write, Commit) else None) or "")
        await stage.until(lambda: stage.status() == "completed", 300)
        [intent] = stage.of(e.ToolCalled)
        assert intent.send_before - intent.at == T.send_window * 1000 and intent.timeout_ms == 5000

    on_stage(play)
    assert [commit.begins for commit in seen].count(True) == 1


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_doubt_whose_repeat_was_refused_stays_a_doubt(verb: str) -> None:
    """A pause lies unread when the call would be repeated under its key: neither repeat nor clearing stands."""
    tools = Tools(after=3)
    scene = one_call(tools, "keyed")

    async def play(stage: Stage) -> None:
        await dies_during(stage, tools, scene, "keyed")
        [intent] = stage.of(e.ToolCalled)
        over = intent.send_before + intent.timeout_ms + int(T.grace * 1000)
        await stage.worker(scene)
        await stage.until(lambda: bool(stage.of(e.AttemptFailed)), 60)
        await stage.until(lambda: stage.clock.now_ms() >= over - 300)
        await getattr(stage.client, verb)("@last", by="ann")
        await stage.until(lambda: stage.status() in ("paused", "cancelled"), 60)
        assert not stage.of(e.DoubtCleared) and len(stage.of(e.ToolCalled)) == 1
        if verb == "pause":
            tools.after = 0
            await stage.client.resume("@last", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

    on_stage(play, timing=SOON)
    assert tools.outside.times("keyed") == 1


def test_a_call_that_its_handler_gives_up_is_a_doubt() -> None:
    """A handler's own timeout around a call leaves it in doubt, at once and for every call of the tool after it."""
    tools = Tools(within=30)
    tools.slow = {1}
    said: list[str] = []

    @state(tools=tools.all, within=3600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        try:
            async with asyncio.timeout(2):
                await turn.call(tools.probed, 1)
        except TimeoutError:
            said.append("gave up")
        await turn.call(tools.probed, 2)
        return "done"

    scene = machine(work)

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "completed", 300)
        [failed] = stage.of(e.AttemptFailed)
        assert (failed.kind, failed.doubt) == ("cancelled", True)

    on_stage(play)
    assert said[0] == "gave up" and [n for _, _, n in tools.outside.lines] == [1, 2]


def test_no_wait_of_an_ended_turn_holds_up_the_next() -> None:
    """A branch waits an hour for its provider when the turn runs out of time: the run goes on, not in an hour."""
    tools = Tools(within=60)
    tools.slow = {1}
    model = ScriptedModel(lambda request: ModelFailed("rate_limited", "later", retry_after=3600, billed=False))

    @state(tools=tools.all, models=[MODEL], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        if turn.number == 1:
            await asyncio.gather(turn.call(tools.read, 1), turn.model(MODEL, "x"))
        return "done"

    scene = machine(work, {"timeout": "work"})

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "completed", 100)

    on_stage(play, model)


def test_a_plain_function_whose_time_passed_while_it_waited_for_a_thread_is_never_called(tmp_path: Path) -> None:
    """Real threads, but only one. What is known not to have been sent is no doubt: nobody need be asked."""
    happened: list[int] = []
    asked: list[int] = []

    @tool(does="read", within=5)
    def slow(call: Call[None]) -> int:
        time.sleep(2)
        return 1

    async def probe(call: Call[None], n: int) -> Happened[str] | None:
        asked.append(n)
        return Happened("paid") if happened else None

    @tool(does="write", probe=probe, within=0.3)
    def pay(call: Call[None], n: int) -> str:
        happened.append(call.attempt)
        return "paid"

    @state(tools=[slow, pay], within=20)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        if turn.record.n == 0:
            await turn.call(slow)
        else:
            await turn.call(pay, turn.record.n)
        return "done"

    scene = machine(work, attempts=2)

    async def play() -> None:
        world = open_world(f"sqlite:///{tmp_path}/s.db", timing=Timing(send_window=0.3, grace=0.1))
        client = Client(world=replace(world, offload=Threads(1)))
        async with Worker(client, [scene], watch=False):
            busy = await client.start(scene, Case())
            await asyncio.sleep(0.2)
            await client.start(scene, Case(n=1))
            await busy.result()
            await asyncio.sleep(1)
        audit(client.store)
        world.committer.close()
        world.store.close()

    asyncio.run(play())
    assert (happened, asked) == ([], [])
