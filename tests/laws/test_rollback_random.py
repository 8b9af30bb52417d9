"""People who do whatever comes to their mind, workers that die, tools that fail: rollbacks and forks in between.
Whatever the order, the audit at the end holds: nothing undone twice, nothing left standing that nobody accepted, the
record what the events say."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from interlock import BadInput, InterlockError, NotDone, WaitClosed
from interlock.engine.timing import Timing
from interlock.history import events as e
from tests.laws.stage import Stage, dies_at, on_stage
from tests.laws.undoing import Case, Tools, steps

SCENES = 25
STEPS = 14
HURRIED = Timing(lease=1.0, send_window=0.5, grace=0.2, park_after=1.0)
FAULTS: tuple[Any, ...] = (NotDone("no"), NotDone("not now", retry=True), RuntimeError("?"), 0.3, 3, ("after", 3))


def test_whatever_people_do_and_whoever_dies_a_rollback_is_right(chance: Random) -> None:
    told: Counter[str] = Counter()
    for _ in range(SCENES):
        seed = chance.getrandbits(32)
        try:
            told += on_stage(_Scene(seed).play, seed=seed, timing=HURRIED)
        except BaseException as failed:
            failed.add_note(f"scene {seed}")
            raise
    assert told["rolled_back"] >= SCENES // 3, told


class _Scene:
    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.tools = Tools(within=1)
        self.scene = steps(self.tools, attempts=2, calls=10**4, turns=10**4)
        for name, share in (("pay", 0.15), ("book", 0.15), ("mail", 0.15), ("unpay", 0.5), ("unbook", 0.5)):
            chance = self.chance
            self.tools.faults[name] = [chance.choice(FAULTS) if chance.random() < share else None for _ in range(60)]

    async def play(self, stage: Stage) -> Counter[str]:
        chance = self.chance
        self.runs = [(await stage.client.start(self.scene, Case(n=1), by="test")).id]
        worker = await stage.worker(self.scene)
        for _ in range(STEPS):
            await asyncio.sleep(chance.choice((0, 0.01, 0.3, 2, 20)))
            if stage.status(self.runs[0]) in ("completed", "failed", "cancelled"):
                break
            if chance.random() < 0.2:
                await stage.kill(worker)
                fail = dies_at(chance.randrange(1, 12), chance.choice(("lose", "die")))
                worker = await stage.worker(self.scene, fail=fail if chance.random() < 0.5 else lambda write: "")
            try:
                await self._act(stage)
            except (WaitClosed, BadInput):
                continue  # somebody was first, or it doesn't fit
        await stage.kill(worker)
        await stage.worker(self.scene)
        self.tools.faults.clear()
        for run in self.runs:
            await self._calm_down(stage, run)
        return Counter(event.TYPE for run in self.runs for event in stage.log(run))

    async def _act(self, stage: Stage) -> None:
        chance, client, run = self.chance, stage.client, self.chance.choice(self.runs)
        view = client.show(run)
        people = [wait for wait in view.waits if wait.kind == "person"]
        what = chance.choice(
            ("back", "back", "back", "answer", "answer", "answer", "pause", "resume", "signal", "fork")
        )
        if what == "back":
            await self._roll_back(stage, run, chance.randrange(1, view.row.turn + 1))
        elif what == "answer" and people:
            await self._answer(stage, run, chance.choice(people))
        elif what == "fork":
            self.runs.append((await client.fork(run, at=chance.randrange(1, view.row.turn + 1), by="ann")).id)
        elif what == "pause":
            await client.pause(run, by="ann")
        elif what == "resume":
            await client.resume(run, by="ann")
        elif what == "signal":
            await client.signal(run, "bell", by="sys")

    async def _roll_back(self, stage: Stage, run: str, to: int) -> None:
        plan = stage.client.rollback_plan(run, to=to)
        await stage.client.rollback(run, to=to, accept=[deed.effect for deed in plan.stays], by="ann")

    async def _answer(self, stage: Stage, run: str, wait: Any) -> None:
        """From the truth, where there is one."""
        client = stage.client
        if wait.why == "doubt":
            deed = self.tools.outside.lines.get(f"{run}-{wait.effect}")
            known = {"pay": "paid", "book": "booked", "mail": "sent"}
            result = f"{known[deed[0]]} {deed[1]}" if deed is not None and deed[0] in known else None
            await client.clear(run, wait.effect, happened=deed is not None, result=result, by="ann")
            return
        fields = {"again": {"n": self.chance.randrange(5)}}
        outcome = self.chance.choice([name for name in wait.form if name != "yes"])
        await client.resolve(run, outcome, fields.get(outcome, {}), wait=wait.number, by="ann")

    async def _calm_down(self, stage: Stage, run: str) -> None:
        """Everything is answered, until the run stands in `person` and nothing is under way."""
        for _ in range(3000):
            view = stage.client.show(run)
            asked = [wait for wait in view.waits if wait.kind == "person"]
            if view.ended or (view.status == "waiting" and [wait.why for wait in asked] == ["ask"]):
                return
            if view.status == "paused":
                await stage.client.resume(run, by="ann")
            elif view.status == "waiting" and asked:
                try:
                    await self._answer(stage, run, asked[0])
                except InterlockError:
                    await asyncio.sleep(1)
            await asyncio.sleep(0.5)
        raise AssertionError(f"it never comes to rest: {view.as_json()}\n" + "\n".join(map(str, stage.log(run)[-30:])))


def test_what_really_happened_is_what_stands() -> None:
    """After it all, told once more by the world itself: what was done and not taken back is what the run knows of."""
    tools = Tools()
    scene = steps(tools)

    async def play(stage: Stage) -> None:
        await stage.client.start(scene, Case(n=1), by="test")
        await stage.worker(scene)
        for to, accept in ((2, 4), (2, 9), (1, 14)):
            await stage.until(lambda: stage.status() == "waiting")
            await stage.client.rollback("@last", to=to, accept=[accept], by="ann")
            count = len(stage.of(e.RolledBack))
            await stage.until(lambda count=count: len(stage.of(e.RolledBack)) > count)
        await stage.until(lambda: stage.status() == "waiting")

    on_stage(play)
    for name, undo in (("pay", "unpay"), ("book", "unbook")):
        standing = Counter(tools.outside.done(name))
        standing.subtract(argument for argument, _ in tools.outside.done(undo))
        assert +standing == Counter({"pay": [1, 3], "book": [2]}[name]), (name, standing)
