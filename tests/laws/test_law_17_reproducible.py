"""Law 17: time, chance and I/O are passed in; the same seed makes the same log, byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, Literal

from interlock import Turn, final, model_state, state
from interlock.agent.model import ModelFailed
from interlock.agent.scripted import ScriptedModel, call, choose
from interlock.machine.limits import Limits
from interlock.machine.table import Machine
from tests.laws.machines import MODEL, Case, Tools
from tests.laws.stage import Stage, dies_at, on_stage

ROOT = Path(__file__).parents[2]


def scene(tools: Tools) -> Any:
    """Models, tools side by side, failures, chance, time, sleep, and a person."""

    @state(tools=tools.all, models=[MODEL], writes=["text", "items"], within=600, calls=40)
    async def work(turn: Turn[Case]) -> Literal["done", "again"]:
        names = {"keyed", "probed", "read", "once"}
        said = await asyncio.gather(*(turn.call(getattr(tools, name), turn.number) for name in sorted(names)))
        reply = await turn.model(MODEL, "x")
        await turn.sleep(20)
        turn.record.items.extend([*said, reply.text])
        turn.record.text = f"{await turn.random()} {await turn.now()}"
        return "again" if turn.number < 4 else "done"

    return Machine("seeded", Case, limits=Limits(turns=20, warn_at=1.0), table={
        "ask": model_state("go", model=MODEL, tools=[tools.read, tools.keyed], writes={"done": []}).then(
            {"called": "ask", "done": "work"}),
        "work": work.then({"done": "end", "again": "work"}),
        "end": final("completed"),
    })  # fmt: skip


def bodies(seed: int) -> list[bytes]:
    """Every stored event, with its hash, of three runs that two workers share, one of which dies."""
    tools = Tools(before=0.1, after=0.3)
    chance = Random(seed)

    def brain(request: Any) -> Any:
        if chance.random() < 0.3:
            return ModelFailed("outage", "503", billed=False)
        if not request.offers:
            return "text"
        done = any(message.role == "tool" for message in request.messages)
        return choose("done") if done else [call("read", n=1), call("keyed", n=1)]

    made = scene(tools)

    async def act(stage: Stage) -> list[bytes]:
        runs = [await stage.client.start(made, Case(n=n), by="test") for n in range(3)]
        fatal = await stage.worker(made, fail=dies_at(9, "die"))
        await stage.worker(made)
        await fatal.world.committer.died.wait()  # type: ignore[attr-defined]
        await stage.kill(fatal)
        for run in runs:
            for _ in range(9):
                await stage.until(lambda run=run: stage.status(run.id) in ("completed", "waiting"))  # type: ignore[misc]
                for wait in run.show().waits:
                    if wait.kind == "person" and wait.why == "doubt":
                        await stage.client.clear(run.id, wait.effect or 0, happened=False, by="ann")
                await asyncio.sleep(30)
        stored = [stage.store.events(run.show().row.number) for run in runs]
        return [part for log in stored for event in log for part in (event.body, event.hash)]

    return on_stage(act, ScriptedModel(brain), seed=seed)


def test_the_same_seed_makes_the_same_log_byte_for_byte(seed: int) -> None:
    first, second = bodies(seed), bodies(seed)
    assert first == second and len(first) > 200


def test_another_seed_makes_another_log(seed: int) -> None:
    assert bodies(seed) != bodies(seed + 1)


def test_the_order_of_sets_and_dicts_does_not_show() -> None:
    """Python's hashes differ from process to process: nothing in a log may depend on them."""
    program = "from tests.laws.test_law_17_reproducible import bodies, digest; print(digest(bodies(7)))"
    said = set()
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.add(done.stdout)
    assert len(said) == 1


def digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
