"""Law 14, approvals through crashes: a yes that was accepted is neither lost nor used twice, wherever a worker dies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interlock.history import events as e
from interlock.testing import ScriptedModel, call, choose
from tests.laws.approving import Order, Till, in_code, in_model, in_use
from tests.laws.stage import Stage, dies_at, on_stage

ROOT = Path(__file__).parents[2]


class People:
    """They answer whatever is asked: each approval once, a doubt by the truth."""

    def __init__(self, stage: Stage, till: Till) -> None:
        self.stage, self.till = stage, till
        self.said: list[tuple[str, int]] = []
        self.died = False

    async def answer(self, edited: bool) -> None:
        for wait in self.stage.client.waiting():
            if wait.why == "approve":
                cents = wait.call["args"]["cents"]
                args = {"cents": cents + 7} if edited else None
                await self.stage.client.approve(wait.run, wait=wait.number, args=args)
                self.said.append(("approve", wait.number))
            elif wait.why == "doubt":
                key = f"{wait.run}-{wait.effect}"
                paid = [cents for seen, _, cents in self.till.paid if seen == key]
                result = f"A-17 {paid[0]}" if paid else None
                await self.stage.client.clear(wait.run, wait.effect or 0, happened=bool(paid), result=result)


async def live(stage: Stage, machine: Any, till: Till, fail: Any, edited: bool) -> People:
    """A worker that dies where `fail` says, then one that doesn't; people answer all the time."""
    people = People(stage, till)
    first = await stage.worker(machine, fail=fail)
    run = await stage.client.start(machine, Order())
    second: Any = None
    for _ in range(4000):
        if second is None and first.world.committer.died.is_set():  # type: ignore[attr-defined]
            people.died = True
            await stage.kill(first)
            second = await stage.worker(machine)
        if stage.status(run.id) in ("completed", "failed", "cancelled"):
            break
        await people.answer(edited)
        await asyncio.sleep(0.5)
    return people


KINDS = {"use": (in_use, 1, [500]), "code": (in_code, 3, [1, 250, 250]), "model": (in_model, 1, [500])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terms", [{}, {"keyed": False}], ids=["keyed", "at most once"])
@pytest.mark.parametrize("how", ["lose", "die"])
def test_whichever_commit_a_worker_dies_at(kind: str, terms: dict[str, Any], how: str) -> None:
    build, questions, sums = KINDS[kind]
    died, number = True, 0
    while died:
        number += 1
        edited = number % 2 == 0
        till = Till()

        async def scene(stage: Stage, at: int = number, till: Till = till, edited: bool = edited) -> bool:
            people = await live(stage, build(till, **terms), till, dies_at(at, how), edited)
            assert stage.status() == "completed", (at, stage.log())
            assert till.sums == [cents + 7 * edited for cents in sums], (at, till.paid)
            till.assert_nothing_twice()
            # Nobody was asked again for what she had answered.
            assert len(people.said) == len(stage.of(e.WaitOpened)) - doubts(stage) == questions, (at, people.said)
            assert len(stage.of(e.Approved)) == questions and stage.of(e.ApprovalRefused) == []
            return people.died

        model = ScriptedModel(lambda request: _model_says(request))
        died = on_stage(scene, model)
        assert number < 60
    assert number > 4, "it died at some"


def doubts(stage: Stage) -> int:
    return sum(opened.why != "approve" for opened in stage.of(e.WaitOpened))


def _model_says(request: Any) -> Any:
    answered = any(message.role == "tool" for message in request.messages)
    return choose("done") if answered else call("refund", order_id="A-17", cents=500)


def test_approvals_survive_sigkill_at_every_commit_and_every_answer(tmp_path: Path) -> None:
    """Real processes, a real file, a real outside world; see `approval_child`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.laws.approval_child", str(tmp_path)],
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
    assert points | {"pay starts", "pay ends", "letter starts", "letter ends"} <= set(names)
