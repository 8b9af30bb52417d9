"""The queue of tool calls: its rows say what the log says after every commit; limits of a tool hold over all runs and
workers, exactly, whatever dies; what comes late under an old token is evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest

from interlock import Call, Turn, state, tool
from interlock.engine.live_run import leave_evidence
from interlock.engine.timing import Timing
from interlock.errors import NotDone
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.reading import verify_run
from interlock.store.protocol import Answer, Commit, Reserve, RunFilter, Store, Write
from tests.laws.machines import Case, Tools, machine
from tests.laws.stage import Stage, dies_at, on_stage

RUNS = 24


class Gate:
    """A tool with limits that notes when its calls begin and end, in virtual time."""

    def __init__(self, seconds: tuple[float, float], chance: Random, within: float = 30.0, **limits: Any) -> None:
        self.inside = self.most = 0
        self.began: list[float] = []
        self.names: list[str] = []

        @tool(does="write", keyed=True, within=within, **limits)
        async def pass_gate(call: Call[None], n: int) -> str:
            now = asyncio.get_running_loop().time
            self.began.append(now())
            self.names.append(call.key)
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await asyncio.sleep(chance.uniform(*seconds))
            finally:
                self.inside -= 1
            return f"passed {n}"

        self.tool = pass_gate

    def scene(self, within: float = 86_400, **limits: Any) -> Any:
        gate = self.tool

        @state(tools=[gate], writes=["text"], within=within)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.text = await turn.call(gate, turn.record.n)
            return "done"

        return machine(work, seconds=86_400, **limits)


def crowded(times: Sequence[float], seconds: float) -> int:
    """The most of them within any stretch of so many seconds."""
    return max(sum(first <= each < first + seconds for each in times) for first in times)


async def start_all(stage: Stage, scene: Any, runs: int = RUNS) -> list[str]:
    return [(await stage.client.start(scene, Case(n=n), by="test")).id for n in range(runs)]


def all_completed(stage: Stage) -> bool:
    return all(row.status == "completed" for row in stage.store.runs(RunFilter()))


class TestLimits:
    @pytest.mark.parametrize("most", [1, 3])
    def test_a_concurrency_limit_holds_over_all_workers_and_is_used(self, most: int, chance: Random) -> None:
        gate = Gate((0.5, 4.0), chance, concurrency=most)
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            for _ in range(4):
                await stage.worker(scene)
            await start_all(stage, scene)
            await stage.until(lambda: all_completed(stage), 3000)

        on_stage(play)
        assert gate.most == most and len(gate.began) == RUNS

    def test_a_rate_holds_in_every_stretch_of_time_and_is_used(self, chance: Random) -> None:
        gate = Gate((0.0, 30.0), chance, rate=(3, 10))
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            for _ in range(4):
                await stage.worker(scene)
            await start_all(stage, scene)
            await stage.until(lambda: all_completed(stage), 3000)

        on_stage(play)
        assert crowded(gate.began, 10) == 3 and len(gate.began) == RUNS
        # Eight stretches of ten seconds would do; who was parked comes a little late.
        assert gate.began[-1] - gate.began[0] < 2 * RUNS / 3 * 10

    def test_both_limits_hold_at_once(self, chance: Random) -> None:
        gate = Gate((1.0, 9.0), chance, concurrency=2, rate=(5, 20))
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            for _ in range(3):
                await stage.worker(scene)
            await start_all(stage, scene)
            await stage.until(lambda: all_completed(stage), 6000)

        on_stage(play)
        assert gate.most <= 2 and crowded(gate.began, 20) <= 5 and len(gate.began) == RUNS

    def test_the_log_says_when_each_call_was_let_begin(self, chance: Random) -> None:
        """So that whoever has the log can see that the rate was kept."""
        gate = Gate((0.0, 1.0), chance, rate=(4, 60))
        scene = gate.scene()

        async def play(stage: Stage) -> list[int]:
            for _ in range(2):
                await stage.worker(scene)
            runs = await start_all(stage, scene, 10)
            await stage.until(lambda: all_completed(stage), 3000)
            return [call.reserved_at for run in runs for call in stage.of(e.ToolCalled, run)]

        begun = sorted(on_stage(play))
        assert len(begun) == 10 and all(begun)
        assert all(later - first >= 60_000 for first, later in zip(begun, begun[4:], strict=False))

    def test_a_long_wait_for_a_place_holds_no_worker(self) -> None:
        gate = Gate((100.0, 100.0), Random(0), within=200, concurrency=1)
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            worker = await stage.worker(scene)
            await start_all(stage, scene, 3)
            await asyncio.sleep(30)
            assert worker.busy == 1
            waits = [wait for run in stage.client.runs() for wait in run.waits]
            assert [wait.why for wait in waits] == ["queue", "queue"]
            await stage.until(lambda: all_completed(stage), 3000)

        on_stage(play)
        assert gate.most == 1 and len(gate.began) == 3

    @pytest.mark.parametrize("seconds", [3.0, 8.0])
    def test_a_worker_that_drains_lets_go_at_once_of_runs_that_wait_in_line(self, seconds: float) -> None:
        """Only the call under way is waited for; the others are parked, and another worker goes on with them."""
        gate = Gate((seconds, seconds), Random(0), within=20, concurrency=1)
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            worker = await stage.worker(scene, drain=60)
            await start_all(stage, scene, 8)
            await stage.until(lambda: len(gate.began) == 3)
            await worker.stop()
            assert len(gate.began) == 3 and gate.inside == 0
            assert not any(isinstance(event, e.TakenOver) for run in stage.store.runs() for event in stage.log(run.id))
            await stage.worker(scene)
            await stage.until(lambda: all_completed(stage), 3000)

        on_stage(play)
        assert gate.most == 1 and len(gate.began) == 8

    def test_another_tools_calls_are_not_held_up(self) -> None:
        gate = Gate((50.0, 50.0), Random(0), within=60, concurrency=1)
        tools = Tools()

        @state(tools=[tools.read], within=60)
        async def free(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(tools.read, 1)
            return "done"

        scene, other = gate.scene(), machine(free)

        async def play(stage: Stage) -> None:
            await start_all(stage, scene, 2)
            await stage.worker(scene)
            await stage.until(lambda: gate.inside == 1)
            object.__setattr__(other, "name", "other")
            run = await stage.client.start(other, Case(), by="test")
            await stage.worker(other)
            await stage.until(lambda: stage.status(run.id) == "completed", 5)
            await stage.until(lambda: all_completed(stage), 3000)

        on_stage(play)

    def test_waiting_for_a_place_is_no_active_time_and_no_reason_to_take_a_run_over(self) -> None:
        """What others do at a tool ends no turn `timeout`, whether it waits in its worker or parked."""
        gate = Gate((9.0, 9.0), Random(0), within=20, concurrency=1)
        scene = gate.scene(within=11)

        async def play(stage: Stage) -> None:
            for _ in range(2):
                await stage.worker(scene)
            runs = await start_all(stage, scene, 12)
            await stage.until(lambda: all_completed(stage), 600)
            for run in runs:
                assert stage.of(e.TakenOver, run) == []
                assert sum(event.ms for event in stage.log(run)) < 10_000

        on_stage(play)
        assert gate.most == 1 and len(gate.began) == 12

    def test_a_turn_that_waits_for_a_place_beside_work_ends_in_time(self) -> None:
        """Its other calls are its active time, as ever."""
        gate, tools = Gate((100.0, 100.0), Random(0), within=200, concurrency=1), Tools(before=50)
        granted, other = gate.tool, tools.read

        @state(tools=[granted, other], calls=2, within=5)
        async def hasty(turn: Turn[Case]) -> Literal["done"]:
            await asyncio.gather(turn.call(other, 2), turn.call(granted, 1))
            return "done"

        slow = gate.scene()
        scene = machine(hasty, {"timeout": "lost"})
        object.__setattr__(scene, "name", "hasty")

        async def play(stage: Stage) -> None:
            await start_all(stage, slow, 1)
            await stage.worker(slow)
            await stage.until(lambda: gate.inside == 1)
            run = await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: stage.status(run.id) == "failed", 30)
            assert [call.tool for call in stage.of(e.ToolCalled, run.id)] == ["read"]
            await stage.until(lambda: gate.inside == 0)

        on_stage(play)

    @pytest.mark.parametrize("limits", [{"concurrency": 1}, {"rate": (1, 1)}], ids=str)
    def test_a_long_line_moves_as_fast_as_its_tool_and_costs_little(self, limits: dict[str, Any]) -> None:
        """Who waits asks when its turn may have come, not all whenever anything happens."""
        gate, runs, asked = Gate((1.0, 1.0), Random(0), **limits), 200, 0
        scene = gate.scene(within=60)

        def count(write: Write) -> str:
            nonlocal asked
            asked += isinstance(write, Reserve)
            return ""

        async def play(stage: Stage) -> int:
            for _ in range(2):
                await stage.worker(scene, fail=count)
            started = await start_all(stage, scene, runs)
            await stage.until(lambda: all_completed(stage), 2 * runs)
            return max(len(stage.log(run)) for run in started)

        events = on_stage(play)
        assert gate.began[-1] - gate.began[0] < 1.2 * runs
        assert asked < 20 * runs and events <= 20

    def test_who_comes_late_to_a_rate_waits_behind_those_who_came_before(self) -> None:
        order: list[int] = []

        @tool(does="write", keyed=True, within=5, rate=(1, 20))
        async def pass_gate(call: Call[None], n: int) -> None:
            order.append(n)

        @state(tools=[pass_gate], within=60)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(pass_gate, turn.record.n)
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            await stage.worker(scene)
            for n in range(8):
                await stage.client.start(scene, Case(n=n), by="test")
                await asyncio.sleep(1)
            for n in range(8, 40):
                await stage.client.start(scene, Case(n=n), by="test")
                await asyncio.sleep(4.9)
            await stage.until(lambda: all_completed(stage), 3000)

        on_stage(play)
        assert order[:20] == list(range(20))


class TestDeath:
    def test_the_place_of_a_dead_workers_call_is_free_when_its_time_is_up_and_not_before(self) -> None:
        """The call may still be on its way outside: nobody knows."""
        gate = Gate((5.0, 5.0), Random(0), within=20, concurrency=1)
        scene = gate.scene()
        timing = Timing()

        async def play(stage: Stage) -> tuple[float, float]:
            await start_all(stage, scene, 2)
            first = await stage.worker(scene, concurrency=1)
            await stage.until(lambda: gate.inside == 1, step=0.01)
            [began] = gate.began
            await stage.kill(first)
            gate.inside = 0
            await stage.worker(scene)
            await stage.until(lambda: len(gate.began) >= 2)
            await stage.until(lambda: all_completed(stage), 3000)
            return began, gate.began[1]

        began, next_began = on_stage(play, timing=timing)
        assert next_began - began >= 20 + timing.send_window + timing.grace - 0.01
        assert gate.most == 1

    @pytest.mark.parametrize("how", ["lose", "die"])
    @pytest.mark.parametrize("at", range(1, 9))
    def test_a_worker_that_dies_at_any_write_of_a_hand_over_loses_and_doubles_nothing(self, at: int, how: str) -> None:
        """At each commit and each reservation, before and after it is written."""
        gate = Gate((1.0, 1.0), Random(at), within=5, concurrency=1, rate=(1, 2))
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            runs = await start_all(stage, scene, 4)
            doomed = await stage.worker(scene, fail=dies_at(at, how, (Commit, Reserve)))
            cable: Any = doomed.world.committer
            async with asyncio.timeout(60):
                await cable.died.wait()
            await stage.kill(doomed)
            gate.inside = 0
            await stage.worker(scene)
            await stage.worker(scene)
            await stage.until(lambda: all_completed(stage), 600)
            for run in runs:
                assert stage.store.snapshot(stage.store.find(run).number).calls == ()
                assert len(stage.of(e.ToolReturned, run)) == 1

        on_stage(play)
        assert len(set(gate.names)) == 4, "each run's call under one key, whatever died"
        assert gate.most == 1

    def test_a_place_that_no_attempt_was_made_of_comes_free_by_itself(self) -> None:
        """As soon as it is sure that none will be made: not when a long call would have ended."""
        gate = Gate((1.0, 1.0), Random(0), within=3600, concurrency=1)
        scene = gate.scene()

        async def play(stage: Stage) -> None:
            await start_all(stage, scene, 1)
            doomed = await stage.worker(scene, fail=dies_at(1, "die", (Reserve,)))
            cable: Any = doomed.world.committer
            async with asyncio.timeout(60):
                await cable.died.wait()
            row = stage.store.find("@last")
            assert [call.status for call in stage.store.snapshot(row.number).calls] == ["reserved"]
            assert verify_run(stage.store, row) is None, "what is only reserved is nothing the log must say"
            await stage.kill(doomed)
            await start_all(stage, scene, 1)
            await stage.worker(scene)
            await stage.until(lambda: all_completed(stage), 60)

        on_stage(play)
        assert gate.most == 1 and len(gate.began) == 2


class TestLate:
    def test_a_late_result_under_an_old_token_is_evidence(self) -> None:
        """The worker slept; its run went on without it, and has ended."""
        tools = Tools(before=1, after=3)
        granted = tools.keyed

        @state(tools=[granted], writes=["text"], within=3600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.text = await turn.call(granted, 7)
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: bool(tools.outside.lines))
            [call] = stage.store.snapshot(stage.store.find(run.id).number).calls
            assert (call.status, call.fence, call.attempt) == ("under way", 1, 1)
            await stage.kill(first)
            tools.before = tools.after = 0
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)
            late = e.ToolReturned(effect=1, attempt=1, value="keyed 7", turn=1, at=stage.clock.now_ms())
            for _ in range(2):
                leave_evidence(stage.client.world, run.id, call.fence, late)
            await stage.until(lambda: bool(stage.of(e.EvidenceRecorded)))
            await stage.until(lambda: not stage.store.find(run.id).mail)
            [kept] = stage.of(e.EvidenceRecorded)
            assert (kept.effect, kept.attempt, kept.inbox) == (1, 1, f"{run.id}/1/1/1")
            assert [result.attempt for result in stage.of(e.ToolReturned)] == [2]

        on_stage(play)

    def test_what_is_said_too_late_to_a_run_that_has_ended_is_kept_once(self) -> None:
        """A signal that crossed the run's end: it is read, said to be of no use, and the run isn't claimed for ever."""
        tools = Tools(after=2)
        granted = tools.read

        @state(tools=[granted], within=60)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(granted, 7)
            return "done"

        scene = machine(work)

        async def play(stage: Stage) -> None:
            run = await stage.client.start(scene, Case(), by="test")
            worker = await stage.worker(scene)
            await stage.until(lambda: stage.status() == "running", step=0.01)
            await stage.client.signal(run.id, "ping", by="test")
            await stage.until(lambda: stage.status() == "completed")
            await asyncio.sleep(30)
            fence = stage.store.find(run.id).fence
            await asyncio.sleep(30)
            assert stage.store.find(run.id).fence == fence and not stage.store.find(run.id).mail
            assert worker.busy == 0

        on_stage(play)


class Checked:
    """A store in which, after every batch, what it keeps of the runs written is compared with their logs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.checks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        answers = self._store.write(batch)
        for number in {write.run for write in batch if isinstance(write, Commit | Reserve)}:
            self.checks += 1
            broken = verify_run(self._store, self._store.snapshot(number).row)
            assert broken is None, (broken, batch)
        return answers


class TestAgreement:
    def test_rows_and_log_agree_after_every_commit(self, tmp_path: Path, chance: Random) -> None:
        """Calls of every kind that fail in every way, side by side, on a real file, with a worker that dies now and
        then."""
        tools, limits = Tools(within=2), Limits(turns=8, attempts=2)

        @tool(does="write", within=2, concurrency=2, rate=(3, 5))
        async def paced(call: Call[None], n: int) -> str:
            if chance.random() < 0.4:
                raise NotDone("not now", retry=chance.random() < 0.7)
            await asyncio.sleep(chance.choice([0, 1, 5]))
            return f"paced {n}"

        every = (*tools.all, paced)

        @state(tools=every, calls=12, writes=["n"], within=300)
        async def work(turn: Turn[Case]) -> Literal["again", "done"]:
            asked = [turn.call(every[(turn.number + at) % 5], at) for at in range(3)]
            await asyncio.gather(*asked, return_exceptions=True)
            turn.record.n += 1
            return "again" if turn.record.n < 4 else "done"

        moves = {"again": "work", **dict.fromkeys(("timeout", "in_doubt", "retries_spent", "error"), "lost")}
        scene = machine(work, moves, attempts=limits.attempts, turns=limits.turns)

        async def play(stage: Stage) -> int:
            checked = Checked(stage.store)
            runs = await start_all(stage, scene, 4)
            for _ in range(3):
                tools.slow = {chance.randrange(3)}
                worker = await stage.worker(scene, store=checked)  # type: ignore[arg-type]
                await asyncio.sleep(chance.uniform(0.5, 20))
                await stage.kill(worker)
            await stage.worker(scene, store=checked)  # type: ignore[arg-type]
            for _ in range(200):
                await asyncio.sleep(5)
                for call in stage.client.dead_calls():
                    if not call.asked:
                        await chance.choice([stage.client.redo, stage.client.drop])(call.run, call.effect, by="ann")
                for wait in stage.client.waiting():
                    if wait.why == "doubt" and wait.effect is not None:
                        happened = chance.random() < 0.5
                        result = "seen" if happened else None
                        await stage.client.clear(wait.run, wait.effect, happened=happened, result=result, by="ann")
            for run in runs:
                assert stage.store.find(run).status in ("completed", "failed", "waiting")
            return checked.checks

        assert on_stage(play, path=tmp_path / "s.db") > 40
