"""Whatever lies in an inbox, and whoever left it there: it does what it says, or it is kept and does nothing. Past the
client, as somebody with the file could leave it; each scene is audited, so that log, rows and life cycles agree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interlock import Limits, Machine, final, use
from interlock.engine.letters import CEILING_MAX
from interlock.errors import WaitClosed
from interlock.history import events as e
from interlock.machine.limits import DIMENSIONS
from interlock.store.protocol import InboxItem, Leave, Left
from tests.laws.approving import Order, Till, in_use
from tests.laws.stage import Stage, on_stage
from tests.laws.undoing import Case, Tools


async def put(stage: Stage, kind: str, body: Any, wait: int | None = None) -> Any:
    run, now = stage.store.find("@last").id, stage.clock.now_ms()
    closes = "decision" if wait is not None else ""
    return await stage.client.world.committer.submit(Leave(run, InboxItem("it", kind, body, now), now, wait, closes))


async def asked(stage: Stage, till: Till) -> Any:
    await stage.worker(in_use(till))
    await stage.client.start(in_use(till), Order())
    await stage.until(lambda: stage.status() == "waiting")
    [wait] = stage.client.waiting()
    return wait


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("extend", {"more": {"bogus": 1}, "by": "eve"}),  # once: a hole in the log
        ("extend", {"more": {"turns": -(10**6)}, "by": "eve"}),  # once: a run that nobody could cancel any more
        ("extend", {"more": {"turns": 10**30}, "by": "eve"}),
        ("extend", {"more": {"turns": 2**63 - 1}, "by": "eve"}),
        ("cancel", {"by": "eve", "reason": 5}),  # once: its questions gone, and not cancelled
        ("decision", {"wait": 1, "outcome": "approve", "by": "eve", "fields": [1]}),
        ("decision", {"wait": [], "outcome": "approve", "by": "eve"}),
        ("rollback", {"to": "x", "accept": [], "by": "eve"}),
        ("rollback", {"to": 1, "accept": 5, "by": "eve"}),
        ("signal", {"name": 5, "by": "eve"}),
        ("evidence", {"type": "tool_called", "effect": 1, "digest": "", "tool": "", "way": "", "args": {}}),
        ("evidence", {"type": "model_replied", "effect": 1, "tokens_in": -1, "tokens_out": 0, "nanousd": 0}),
        ("evidence", {"type": "model_replied", "effect": 1, "tokens_in": 2**62, "tokens_out": 2**62, "nanousd": 1}),
        ("redo", {"effect": "1", "by": "eve"}),
        ("clear", {"effect": None, "happened": True, "by": "eve"}),
        ("pause", None),
        ("resume", []),
        ("never heard of", {"by": "eve"}),
    ],
)
def test_what_does_not_say_what_its_kind_says_is_kept_and_changes_nothing(kind: str, body: Any) -> None:
    till = Till()

    async def scene(stage: Stage) -> None:
        wait = await asked(stage, till)
        before = stage.log()
        await put(stage, kind, body)
        await asyncio.sleep(60)
        [dropped] = stage.log()[len(before) :]
        assert isinstance(dropped, e.AnswerDropped) and (dropped.kind, dropped.body) == (kind, body)
        await stage.client.approve(wait.run)
        await stage.until(lambda: stage.status() == "completed")
        assert till.sums == [500]

    on_stage(scene)


@pytest.mark.parametrize("said", [{"outcome": None}, {"outcome": "approve", "fields": "x"}, {"wait": 99}, {"by": 5}])
def test_a_wait_that_was_closed_by_what_nobody_can_read_is_asked_about_again(said: dict[str, Any]) -> None:
    """Once its worker went round and round: what the store had closed was open to the run."""
    till = Till()

    async def scene(stage: Stage) -> None:
        wait = await asked(stage, till)
        body = {"wait": wait.number, "outcome": "deny", "by": "eve", "approval": wait.binding, **said}
        assert isinstance(await put(stage, "decision", body, wait.number), Left)
        await stage.until(lambda: [w.number for w in stage.client.waiting()] == [wait.number + 1])
        assert till.paid == []
        await stage.client.approve(wait.run)
        await stage.until(lambda: stage.status() == "completed")
        assert till.sums == [500]

    on_stage(scene)


def test_a_question_is_not_over_by_a_decision_that_did_not_close_it() -> None:
    async def scene(stage: Stage) -> None:
        wait = await asked(stage, Till())
        await stage.client.deny(wait.run)
        await stage.until(lambda: stage.store.find("@last").state == "person" and stage.status() == "waiting")
        [wait] = stage.client.waiting()
        await put(stage, "decision", {"wait": wait.number, "outcome": "stop", "by": "eve"})
        await asyncio.sleep(60)
        assert stage.client.waiting() == [wait] and len(stage.of(e.AnswerDropped)) == 1

    on_stage(scene)


def test_no_sum_of_extensions_is_more_than_can_be_counted() -> None:
    """Through the client alone: each is fine by itself."""

    async def scene(stage: Stage) -> None:
        wait = await asked(stage, Till())
        for _ in range(12):
            await stage.client.extend(wait.run, usd=1e9, tokens=10**9)
            await asyncio.sleep(5)
        assert stage.of(e.AnswerDropped) and stage.status() == "waiting"
        ceiling = stage.client.show(wait.run).state.ceiling
        assert all(ceiling[name] <= CEILING_MAX for name in DIMENSIONS)
        await stage.client.cancel(wait.run)
        await stage.until(lambda: stage.status() == "cancelled")

    on_stage(scene)


def test_a_word_that_no_doubt_takes_clears_none() -> None:
    """Once it was taken for `did_not`, so that what may have happened was called again."""
    tools = Tools()
    tools.faults["mail"] = [("after", 1000.0)]
    row = use(tools.mail, args={"n": "n"}, within=100).then({"done": "closed"})
    machine = Machine(
        "one", Case, limits=Limits(turns=9, warn_at=1.0), table={"mail": row, "closed": final("completed")}
    )

    async def scene(stage: Stage) -> None:
        await stage.worker(machine)
        run = await stage.client.start(machine, Case())
        await stage.until(lambda: [w.why for w in stage.client.waiting()] == ["doubt"])
        [wait] = stage.client.waiting()
        await put(stage, "decision", {"wait": wait.number, "outcome": "bogus", "by": "eve"}, wait.number)
        await stage.until(lambda: [w.number for w in stage.client.waiting()] == [wait.number + 1])
        assert stage.of(e.DoubtCleared) == [] and len(stage.of(e.ToolCalled)) == 1
        await stage.client.clear(run.id, 1, happened=True, result="sent 0")
        await stage.until(lambda: stage.status() == "completed")
        assert tools.outside.done("mail") == [0]

    on_stage(scene)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"wait": []}])
def test_nonsense_that_nobody_has_read_yet_stops_no_reader(body: Any) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker(in_use(Till()))
        run = await stage.client.start(in_use(Till()), Order())
        await stage.until(lambda: stage.status() == "waiting")
        [wait] = stage.client.waiting()
        await stage.kill(worker)
        await put(stage, "decision", body)
        stage.client.show(run.id)
        assert [event for event in stage.log() if isinstance(event, e.WaitOpened)]
        assert stage.client.verify() == []
        await stage.client.approve(run.id)
        with pytest.raises(WaitClosed):
            await stage.client.approve(run.id, wait=wait.number)
        await stage.worker(in_use(Till()))
        await stage.until(lambda: stage.status() == "completed")

    on_stage(scene)
