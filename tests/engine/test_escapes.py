"""SystemExit out of a task that a handler made ends that task: neither the loop nor any other run."""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Machine, Turn, ask, final, state
from interlock.engine.escapes import bar_exits
from interlock.machine.limits import Limits
from interlock.worker import Worker
from tests.stage import Stage


class Case(BaseModel):
    how: str = ""


async def quits() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


_kept: set[asyncio.Task[None]] = set()


@state(within=30)
async def work(turn: Turn[Case]) -> Literal["done"]:
    match turn.record.how:
        case "gathers":
            await asyncio.gather(quits(), asyncio.sleep(5))
        case "leaves behind":
            _kept.add(left := asyncio.create_task(quits()))
            left.add_done_callback(asyncio.Task.exception)  # nobody else asks what became of it
            await asyncio.sleep(5)
        case "groups":
            async with asyncio.TaskGroup() as group:
                group.create_task(quits())
    return "done"


def _machine() -> Any:
    asks = ask("now?", of="ops", writes={"go": []}, within=3600).then({"go": "end", "timeout": "end"})
    table: dict[str, Any] = {"work": work.then({"done": "end", "error": "person"}), "person": asks}
    return Machine("quitter", Case, limits=Limits(turns=4), table={**table, "end": final("completed")})


def test_a_task_that_exits_ends_its_own_turn_and_no_other_run(stage: Stage) -> None:
    made, loops = _machine(), []

    async def scene() -> None:
        client = stage.client()
        runs = {how: await client.start(made, Case(how=how), by="test") for how in ("gathers", "groups")}
        others = [await client.start(made, Case(how=how), by="test") for how in ("leaves behind", "")]
        loops.append(asyncio.get_running_loop())
        async with Worker(client, [made]):
            for run in others:
                assert (await run.result()).status == "completed"
            for run in runs.values():
                async for _, event in run.events(follow=True):
                    if event.TYPE == "wait_opened":
                        break
        for how, run in runs.items():
            [moved] = [event async for _, event in run.events() if event.TYPE == "transitioned"]
            assert getattr(moved, "outcome", "") == "error", how
        [why] = [
            getattr(event, "why", "") async for _, event in runs["gathers"].events() if event.TYPE == "transitioned"
        ]
        assert why == "RuntimeError: SystemExit: 3"

    stage.perform(scene)


def test_a_host_tasks_own_exit_is_left_to_it() -> None:
    """Only what turns have made is barred; the host's tasks, and the factory that it has, are its own."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **how: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **how)

    async def turn() -> None:
        bar_exits()
        bar_exits()
        await asyncio.wait({asyncio.create_task(asyncio.sleep(0))})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        await asyncio.create_task(turn())
        await asyncio.create_task(quits())

    try:
        asyncio.run(main())
    except SystemExit as escaped:
        assert escaped.code == 3
    else:
        raise AssertionError("the host's exit was swallowed")
    assert made[:3] == ["turn", "sleep", "quits"]


def test_a_foreign_task_looks_like_what_it_runs_and_may_be_cancelled_before_it_begins() -> None:
    async def main() -> None:
        bar_exits()
        task = asyncio.create_task(quits())
        assert "quits" in repr(task) and task.get_stack() is not None
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    with warnings.catch_warnings(action="error"):
        asyncio.run(main())
