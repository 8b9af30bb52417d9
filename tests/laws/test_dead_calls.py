"""Dead calls: what failed for good is kept until a person redoes or drops it, once, also after the run's end; a redone
call really happens, once, under a new key, and its result is in the log."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from interlock import Call, Turn, state, tool, use
from interlock.engine.live_run import leave_evidence
from interlock.errors import BadInput, EffectFailed, NotDone, WaitClosed
from interlock.history import events as e
from interlock.history.calls import DEAD, IN_DOUBT
from interlock.machine.tools import Happened
from tests.laws.machines import Case, machine
from tests.laws.stage import Stage, dies_at, on_stage

ROOT = Path(__file__).parents[2]
Fault = BaseException | None


class Shop:
    """Where refunds are made. `faults`: what each of the next calls meets before it does anything."""

    def __init__(self, *faults: Fault, keyed: bool = True, probe: bool = False, usd_max: float = 0.0) -> None:
        self.faults = list(faults)
        self.paid: list[tuple[str, int]] = []
        self.calls = 0
        self.seconds = 0.0

        async def happened(call: Call[None], n: int) -> Happened[str] | None:
            return Happened(f"paid {n}") if (call.key, n) in self.paid else None

        @tool(does="write", keyed=keyed, probe=happened if probe else None, within=5, usd_max=usd_max)
        async def refund(call: Call[None], n: int) -> str:
            self.calls += 1
            await asyncio.sleep(self.seconds)
            fault = self.faults.pop(0) if self.faults else None
            if fault is not None:
                raise fault
            self.paid.append((call.key, n))
            return f"paid {n}"

        self.refund = refund

    @property
    def work(self) -> Any:
        refund = self.refund

        @state(tools=[refund], writes=["text"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.text = await turn.call(refund, 7)
            return "done"

        return work

    def machine(self, **limits: Any) -> Any:
        """A run that fails when the refund can't be made."""
        moves = dict.fromkeys(("retries_spent", "error", "unavailable", "timeout", "in_doubt"), "lost")
        return machine(self.work, moves, attempts=3, **limits)


def never(times: int = 3) -> list[Fault]:
    """What a shop says that is closed."""
    return [NotDone("closed", retry=True) for _ in range(times)]


async def dies(stage: Stage, scene: Any) -> str:
    """A run whose call is dead when it has ended."""
    run = await stage.client.start(scene, Case(), by="test")
    await stage.worker(scene)
    await stage.until(lambda: stage.status() == "failed")
    return run.id


def statuses(stage: Stage, run: str = "@last") -> dict[int, str]:
    return {int(effect): call.status for effect, call in stage.client.show(run).state.calls.items()}


def rows(stage: Stage, run: str = "@last") -> dict[int, str]:
    return {call.effect: call.status for call in stage.store.snapshot(stage.store.find(run).number).calls}


class TestDying:
    def test_a_call_whose_attempts_are_spent_is_dead_and_listed(self) -> None:
        shop = Shop(*never())

        async def play(stage: Stage) -> None:
            run = await dies(stage, shop.machine())
            [call] = stage.client.dead_calls()
            assert (call.run, call.effect, call.tool, call.args, call.attempts) == (run, 1, "refund", {"n": 7}, 3)
            assert (call.kind, call.message, call.asked) == ("not_done", "closed", "")
            assert rows(stage) == statuses(stage) == {1: DEAD}

        on_stage(play)

    def test_what_the_tool_itself_refuses_is_an_answer_and_not_dead(self) -> None:
        shop = Shop(NotDone("no such order", retry=False))

        async def play(stage: Stage) -> None:
            await dies(stage, shop.machine())
            assert stage.client.dead_calls() == [] and rows(stage) == {}

        on_stage(play)

    def test_what_took_place_and_answered_nonsense_is_not_dead(self) -> None:
        """Done again it would happen twice."""
        shop = Shop()

        @tool(does="write", keyed=True)
        async def odd(call: Call[None], n: int) -> int:
            return "nonsense"  # type: ignore[return-value]

        shop.refund = odd  # type: ignore[assignment]

        async def play(stage: Stage) -> None:
            await dies(stage, shop.machine())
            assert stage.client.dead_calls() == [] and rows(stage) == {}

        on_stage(play)

    def test_a_call_that_did_not_happen_and_is_not_tried_again_is_dead(self) -> None:
        """In doubt when its turn ended; a person says that it did not happen: then it is hers to redo."""
        shop = Shop(keyed=False)
        shop.seconds = 1e5

        async def play(stage: Stage) -> None:
            scene = shop.machine()
            run = await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status(run.id) == "failed")
            assert rows(stage, run.id) == {1: IN_DOUBT}
            await stage.client.clear(run.id, 1, happened=False, by="ann")
            await stage.until(lambda: rows(stage, run.id) == {1: DEAD})
            shop.seconds = 0
            await stage.client.redo(run.id, 1, by="ann")
            await stage.until(lambda: rows(stage, run.id) == {})

        on_stage(play)
        assert len(shop.paid) == 1

    def test_a_doubt_of_an_ended_run_that_did_happen_is_off_the_queue(self) -> None:
        shop = Shop(keyed=False)
        shop.seconds = 1e5
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await dies(stage, scene)
            await stage.client.clear(run, 1, happened=True, by="ann")
            await stage.until(lambda: rows(stage) == {})
            with pytest.raises(WaitClosed, match="asks nothing about effect 1"):
                await stage.client.clear(run, 1, happened=False, by="bob")

        on_stage(play)


class TestRedoing:
    def test_a_dead_call_redone_happens_once_under_a_new_key_and_its_result_is_in_the_log(self) -> None:
        shop = Shop(*never(), usd_max=0.01)

        async def play(stage: Stage) -> None:
            run = await dies(stage, shop.machine(usd=0.03))
            before = stage.client.show(run).row.account
            left = await stage.client.redo(run, 1, by="ann", reason="the shop is open again")
            assert not left.held
            await stage.until(lambda: bool(shop.paid))
            await stage.until(lambda: rows(stage) == {})
            assert shop.paid == [(f"{run}-2", 7)] and shop.calls == 4
            [redone] = stage.of(e.CallRedone)
            assert (redone.effect, redone.again, redone.by, redone.reason) == (1, 2, "ann", "the shop is open again")
            [result] = stage.of(e.ToolReturned)
            assert (result.effect, result.value) == (2, "paid 7")
            [call] = [event for event in stage.of(e.ToolCalled) if event.effect == 2]
            assert (call.redoes, call.args, call.attempt) == (1, {"n": 7}, 1)
            after = stage.client.show(run).row.account
            assert after.ceiling.calls == before.ceiling.calls + 3 and after.spent.calls == before.spent.calls + 1
            assert after.spent.active_ms == before.spent.active_ms, "it isn't on the run's clock"
            assert stage.status() == "failed" and stage.client.show(run).record["text"] == ""

        on_stage(play)

    def test_a_redone_call_that_fails_for_good_is_dead_again_and_may_be_redone(self) -> None:
        shop = Shop(*never(6))

        async def play(stage: Stage) -> None:
            run = await dies(stage, shop.machine())
            await stage.client.redo(run, 1, by="ann")
            await stage.until(lambda: rows(stage) == {2: DEAD})
            [call] = stage.client.dead_calls()
            assert (call.redoes, call.attempts) == (1, 3)
            await stage.client.redo(run, 2, by="ann")
            await stage.until(lambda: rows(stage) == {})

        on_stage(play)
        assert [key[-2:] for key, _ in shop.paid] == ["-3"]

    def test_a_run_that_goes_on_is_redone_for_beside_its_turn(self) -> None:
        """The call's effect isn't the turn's: entered again, the turn isn't taken for another."""
        shop = Shop(*never())
        refund = shop.refund

        @state(tools=[refund], writes=["text"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            if turn.record.n == 0:
                turn.record.text = await turn.call(refund, 7)
            await turn.sleep(300)
            return "done"

        scene = machine(work, {"retries_spent": "person"}, attempts=3)

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "waiting")
            await stage.client.redo(run.id, 1, by="ann")
            await stage.until(lambda: bool(shop.paid))
            assert stage.status() == "waiting", "it still waits for a person"
            shop.faults = []
            await stage.client.resolve(run.id, "again", by="ann")
            await stage.until(lambda: len(shop.paid) == 2)
            await stage.until(lambda: stage.status() == "completed")
            assert stage.of(e.Diverged) == []

        on_stage(play)
        assert len({key for key, _ in shop.paid}) == 2

    def test_a_redo_while_its_turn_sleeps_is_no_divergence(self) -> None:
        shop = Shop(*never())
        refund = shop.refund

        @state(tools=[refund], within=3600)
        async def first(turn: Turn[Case]) -> Literal["done"]:
            with suppress(EffectFailed):
                await turn.call(refund, 7)
            await turn.sleep(100)
            await turn.call(refund, 8)
            return "done"

        scene = machine(first, attempts=3)

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "waiting")
            await stage.client.redo(run.id, 1, by="ann")
            await stage.until(lambda: stage.status() == "completed")
            assert stage.of(e.Diverged) == []

        on_stage(play)
        assert sorted(n for _, n in shop.paid) == [7, 8]

    def test_a_paused_run_is_redone_for_when_it_is_resumed(self) -> None:
        shop = Shop(*never())
        refund = shop.refund

        @state(tools=[refund], writes=["text"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.text = await turn.call(refund, 7)
            return "done"

        scene = machine(work, {"retries_spent": "person"}, attempts=3)

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "waiting")
            await stage.client.pause(run.id, by="ann")
            await stage.until(lambda: stage.status() == "paused")
            await stage.client.redo(run.id, 1, by="ann")
            await stage.until(lambda: bool(stage.of(e.CallRedone)))
            await asyncio.sleep(60)
            assert shop.paid == []
            await stage.client.resume(run.id, by="ann")
            await stage.until(lambda: bool(shop.paid))

        on_stage(play)

    def test_a_tool_that_asks_for_approval_is_not_redone_without_one(self) -> None:
        shop = Shop(*never())
        refund = shop.refund
        scene = machine(
            use(refund, args={"n": "n"}, approve="finance", within=600),
            {"retries_spent": "person", "denied": "person", "timeout": "person"},
            attempts=3,
        )

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(n=7), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "waiting")
            await stage.client.approve(run.id, by="ann")
            await stage.until(lambda: rows(stage) == {1: DEAD})
            await stage.client.redo(run.id, 1, by="bob")
            await stage.until(lambda: bool(stage.of(e.AnswerDropped)))
            [said] = stage.of(e.AnswerDropped)
            assert "approval" in said.why
            assert rows(stage) == {1: DEAD} and stage.client.dead_calls()[0].asked == "", "it may be dropped still"

        on_stage(play)
        assert shop.paid == []

    @pytest.mark.parametrize("probe", [True, False], ids=["checkable", "at most once"])
    def test_a_redone_call_in_doubt_is_not_repeated_blindly(self, probe: bool) -> None:
        shop = Shop(*never(), keyed=False, probe=probe)
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await dies(stage, scene)
            shop.faults = [RuntimeError("cut off")]
            await stage.client.redo(run, 1, by="ann")
            if probe:
                await stage.until(lambda: rows(stage) == {})
                return
            await stage.until(lambda: rows(stage) == {2: IN_DOUBT})
            await asyncio.sleep(100)
            assert shop.calls == 4
            with pytest.raises(BadInput, match="no dead call of effect 2"):
                await stage.client.redo(run, 2, by="ann")
            await stage.client.clear(run, 2, happened=False, by="ann")  # so what was asked for goes on
            await stage.until(lambda: rows(stage) == {})

        on_stage(play)
        assert len(shop.paid) == 1 and shop.calls == 5

    def test_late_evidence_that_it_happened_takes_a_dead_call_off_the_queue(self) -> None:
        """A redo that lies unread then is told so, and nothing happens twice."""
        shop = Shop(*never())
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await dies(stage, scene)
            number = stage.store.find(run).number
            for worker in list(stage._workers):
                await worker.stop()
            stage._workers.clear()
            late = e.ToolReturned(effect=1, attempt=2, value="paid 7", at=stage.clock.now_ms(), turn=1)
            leave_evidence(stage.client.world, run, 1, late)
            await asyncio.sleep(1)
            await stage.client.redo(run, 1, by="ann")
            await stage.worker(scene)
            await stage.until(lambda: not stage.store.snapshot(number).row.mail)
            assert rows(stage) == {} and stage.of(e.CallRedone) == []
            assert [said.kind for said in stage.of(e.AnswerDropped)] == ["redo"]

        on_stage(play)
        assert shop.paid == []


class TestDropping:
    def test_dropped_is_an_event_and_the_call_is_gone(self) -> None:
        shop = Shop(*never())

        async def play(stage: Stage) -> None:
            run = await dies(stage, shop.machine())
            await stage.client.drop(run, 1, by="ann", reason="paid by hand")
            await stage.until(lambda: rows(stage) == {})
            [dropped] = stage.of(e.CallDropped)
            assert (dropped.effect, dropped.by, dropped.reason) == (1, "ann", "paid by hand")

        on_stage(play)
        assert shop.calls == 3

    @pytest.mark.parametrize("first", ["redo", "drop"])
    @pytest.mark.parametrize("second", ["redo", "drop"])
    @pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
    def test_of_two_people_one_wins_and_the_other_is_told_who(self, first: str, second: str, read: bool) -> None:
        shop = Shop(*never())
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await dies(stage, scene)
            if not read:
                for worker in list(stage._workers):
                    await worker.stop()
                stage._workers.clear()
            await getattr(stage.client, first)(run, 1, by="ann")
            if read:
                await stage.until(lambda: rows(stage) == {})
            with pytest.raises(WaitClosed, match="ann"):
                await getattr(stage.client, second)(run, 1, by="bob")
            if not read:
                await stage.worker(scene)
                await stage.until(lambda: rows(stage) == {})
            assert len(stage.of(e.CallRedone)) + len(stage.of(e.CallDropped)) == 1

        on_stage(play)
        assert len(shop.paid) == (first == "redo")

    def test_two_people_in_the_same_moment(self) -> None:
        shop = Shop(*never())

        async def play(stage: Stage) -> None:
            run = await dies(stage, shop.machine())
            said = await asyncio.gather(
                stage.client.redo(run, 1, by="ann"),
                stage.client.redo(run, 1, by="bob"),
                stage.client.drop(run, 1, by="cid"),
                return_exceptions=True,
            )
            lost = [each for each in said if isinstance(each, WaitClosed)]
            assert len(lost) == 2 and all("redo by ann" in str(each) for each in lost), said
            await stage.until(lambda: rows(stage) == {})

        on_stage(play)
        assert len(shop.paid) == 1

    def test_what_is_not_dead_is_neither_redone_nor_dropped(self) -> None:
        shop = Shop()
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed")
            for effect in (1, 2):
                with pytest.raises(BadInput, match=f"no dead call of effect {effect}"):
                    await stage.client.redo(run.id, effect)

        on_stage(play)
        assert len(shop.paid) == 1


class TestDyingWorkers:
    @pytest.mark.parametrize("how", ["lose", "die"])
    @pytest.mark.parametrize("at", range(1, 7))
    def test_a_worker_that_dies_while_it_redoes_loses_and_doubles_nothing(self, at: int, how: str) -> None:
        """At each commit of the redo, before and after it is written; another worker takes the ended run over."""
        shop = Shop(*never())
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: stage.status() == "failed")
            await first.stop()
            stage._workers.clear()
            shop.seconds = 1.0
            doomed = await stage.worker(scene, fail=dies_at(at, how))
            await stage.client.redo(run.id, 1, by="ann")
            cable: Any = doomed.world.committer
            try:
                async with asyncio.timeout(30):
                    await cable.died.wait()
                await stage.kill(doomed)
            except TimeoutError:
                pass  # it was done with fewer commits
            await stage.worker(scene)
            await stage.until(lambda: rows(stage) == {}, 300)
            assert len(stage.of(e.CallRedone)) == 1
            assert [event.value for event in stage.of(e.ToolReturned)] == ["paid 7"]

        on_stage(play)
        assert {key for key, _ in shop.paid} == {shop.paid[0][0]} and shop.paid[0][0].endswith("-2")

    def test_a_worker_that_drains_while_it_redoes_leaves_the_call_to_another(self) -> None:
        shop = Shop(*never())
        scene = shop.machine()

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene, drain=0.5)
            await stage.until(lambda: stage.status() == "failed")
            shop.seconds = 3.0
            await stage.client.redo(run.id, 1, by="ann")
            await stage.until(lambda: shop.calls == 4)
            await first.stop()
            stage._workers.clear()
            await stage.worker(scene)
            await stage.until(lambda: rows(stage) == {}, 300)

        on_stage(play)
        assert len({key for key, _ in shop.paid}) == 1


def test_a_redone_call_of_a_paused_run_that_is_cancelled_is_dead_as_before() -> None:
    """It hadn't begun. The audit holds what becomes of it against the life cycle that is drawn."""
    shop = Shop(*never())
    scene = machine(shop.work, dict.fromkeys(("retries_spent", "error"), "person"), attempts=3)

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await stage.until(lambda: DEAD in rows(stage).values() and stage.status() == "waiting")
        [dead] = stage.client.dead_calls()
        await stage.client.pause("@last")
        await stage.until(lambda: stage.status() == "paused")
        await stage.client.redo("@last", dead.effect)
        await stage.until(lambda: bool(stage.of(e.CallRedone)))
        await stage.client.cancel("@last")
        await stage.until(lambda: stage.status() == "cancelled")
        [again] = stage.of(e.CallRedone)
        assert statuses(stage) == rows(stage) == {again.again: DEAD} and shop.paid == []
        await stage.client.redo("@last", again.again)
        await stage.until(lambda: len(shop.paid) == 1 and rows(stage) == {})

    on_stage(play)


def test_a_redo_survives_sigkill_at_every_commit_and_every_word_of_a_person(tmp_path: Path) -> None:
    """Real processes, a real file, a real outside world; see `redo_child`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.laws.redo_child", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-3000:]
    names, scenes = said[0]["points"], said[1:]
    wrong = [(names[each["fatal"] - 1], each) for each in scenes if not (each["resumed"] and each["holds"])]
    assert wrong == [], f"{wrong}\n{done.stderr[-4000:]}"
    assert sum(each["killed"] for each in scenes) >= len(names) - 4, "a life may share a transaction more or less"
    points = {f"{when} a {what}" for when in ("before", "after") for what in ("commit", "leave")}
    assert points | {"repair starts", "repair ends"} <= set(names)
