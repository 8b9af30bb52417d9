"""Upgrade: open runs move to a new shape of their machine, each looked at before any moves, each in one commit."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, wait
from interlock.agent.scripted import ScriptedModel
from interlock.client import Client
from interlock.engine.replay import replay
from interlock.errors import BadInput, NotDone, ShapeChanged
from interlock.history import events as e
from interlock.history.deeds import plan
from interlock.reading import read_run, verify_runs
from interlock.store.protocol import Commit, Part
from interlock.testing import call, choose, say
from tests.laws.stage import Stage, dies_at, on_stage

M = "acme:small"
NEVER_ENDS = "code of an older shape isn't here any more to replay runs that stay on it"


class Old(BaseModel):
    """What a run knew."""

    name: str = "A-17"
    cents: int = 0
    notes: list[str] = []
    scrap: str = "x"


class New(BaseModel):
    """What it knows now: `name` is `order`, `scrap` is gone, `label` and `level` are new."""

    order: str
    cents: float = 0
    notes: list[str] = []
    label: str
    level: int = Field(default=3, ge=0)


@tool(does="send", within=5)
async def page(call: Call[None], name: str) -> str:
    return name


@tool(does="read", within=5)
async def look(call: Call[None], name: str) -> str:
    return name


@state(tools=[look, page], calls=9, writes=["cents", "notes"], within=50_000)
async def first(turn: Turn[Old]) -> Literal["done"]:
    turn.record.cents = 7
    turn.record.notes.append(await turn.call(look, name=turn.record.name))
    return "done"


def asking(of: str = "ops", **fields: list[str]) -> Any:
    return ask("What now?", of=of, writes={"fine": fields.get("fine", []), "bad": []}, within=5_000)


def old(second: Any = None) -> Any:
    """Goes from `first` to `second`, where it mostly waits for a person."""
    later = (second or asking()).then({"fine": "end", "bad": "end", "timeout": "end"} if second is None else {})
    return Machine(
        "mover",
        Old,
        limits=Limits(turns=20),
        table={"first": first.then({"done": "second"}), "second": later, "end": final("completed")},
    )


def new(second: Any = None) -> Any:
    return Machine(
        "mover",
        New,
        limits=Limits(turns=20),
        table={
            "begin": ask("Begin?", of="ops", writes={"go": []}, within=50).then({"go": "ask", "timeout": "end"}),
            "ask": (second or asking(fine=["order"])).then({"fine": "end", "bad": "end", "timeout": "end"}),
            "end": final("completed"),
        },
    )


MAP = {
    "states": {"first": "begin", "second": "ask"},
    "fields": {"name": "order", "scrap": None},
    "set": {"label": "moved"},
}


async def waiting(stage: Stage, machine: Any, record: Any = None, runs: int = 1) -> list[str]:
    """Runs that stand in their second state, with no worker any more."""
    worker = await stage.worker(machine)
    ids = [(await stage.client.start(machine, record or Old(), by="test")).id for _ in range(runs)]
    await stage.until(lambda: all(stage.status(run) == "waiting" for run in ids))
    await worker.stop()
    stage._workers.remove(worker)
    return ids


def shown(stage: Stage, run: str = "@last") -> Any:
    return read_run(stage.store, run)


def test_a_run_moves_with_state_record_and_origins_and_goes_on() -> None:
    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, old())
        before = stage.store.find(run)
        done = await stage.client.upgrade(new(), MAP, by="ann", reason="v2")
        assert done.moved == [run] and done.problems == []
        view = shown(stage)
        assert view.row.shape == new().shape != before.shape and view.row.content == new().content
        assert (view.status, view.row.state, view.row.worker) == ("ready", "ask", None)
        assert view.record == {"order": "A-17", "cents": 7.0, "notes": ["A-17"], "label": "moved", "level": 3}
        origins = {name: {p.origin for p in stage_cells(stage, name)} for name in view.record}
        assert origins["order"] == {"user"} and origins["label"] == {"person"} and origins["level"] == {"machine"}
        assert any("tool:look" in each for each in origins["notes"])
        assert verify_runs(stage.store).broken == []
        await stage.worker(new())
        await stage.until(lambda: stage.status() == "waiting")
        await stage.client.resolve(run, "fine", {"order": "B"}, by="ann")
        await stage.until(lambda: stage.status() == "completed")
        assert shown(stage).record["order"] == "B"
        (moved,) = stage.of(e.Upgraded)
        assert (moved.by, moved.reason, moved.state) == ("ann", "v2", "ask")
        again = replay(stage.client.world, new(), stage.store.find(run))
        assert again.ok and again.since == 1 + stage.log().index(moved)
        with pytest.raises(ShapeChanged):
            replay(stage.client.world, old(), stage.store.find(run))
        with pytest.raises(BadInput, match="upgraded since turn 1"):
            plan(list(enumerate(stage.log(run), 1)), 1)

    on_stage(scene)


def stage_cells(stage: Stage, name: str) -> list[Any]:
    snapshot = stage.store.snapshot(stage.store.find("@last").number)
    return [cell for cell in snapshot.cells if cell.field == name]


@pytest.mark.replay_differs(NEVER_ENDS)
def test_no_run_moves_while_one_does_not_fit_and_every_problem_is_named() -> None:
    async def scene(stage: Stage) -> None:
        first_run, second = await waiting(stage, old(), runs=2)
        heads = [stage.store.find(run).head for run in (first_run, second)]
        planned = stage.client.upgrade_plan(new())
        said = [f"{problem.what}: {problem.remedy}" for problem in planned.problems if problem.run == second]
        assert [row.id for row in planned.runs] == [first_run, second]
        assert said[0].startswith("its state `second` is none of mover as it is now: say which is meant")
        assert "`name` is none of New" in said[1]
        with pytest.raises(BadInput, match="none of mover"):
            await stage.client.upgrade(new())
        for lacking, words in [
            ({**MAP, "set": {}}, "`label` is new and has no default"),
            ({**MAP, "fields": {"name": "order"}}, "its field `scrap` is none"),
            ({**MAP, "set": {"label": "x", "level": -1}}, "its record doesn't fit"),
            ({**MAP, "states": {"first": "begin"}}, "its state `second`"),
        ]:
            assert [words in each.what for each in stage.client.upgrade_plan(new(), lacking).problems] == [True, True]
        assert [stage.store.find(run).head for run in (first_run, second)] == heads
        done = await stage.client.upgrade(new(), MAP, only=[second[:8]])
        assert done.moved == [second] and stage.store.find(first_run).head == heads[0]

    on_stage(scene)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "a map is an object"),
        ({"states": []}, "a map is an object"),
        ({"moves": {}}, "no `moves`"),
        ({"states": {"first": "end"}}, "no state of mover with a turn"),
        ({"states": {"first": "nowhere"}}, "no state of mover with a turn"),
        ({"fields": {"name": "nothing"}}, "`nothing` is no field of New"),
        ({"set": {"nothing": 1}}, "`nothing` is no field of New"),
        ({"fields": {"name": "label"}, "set": {"label": ""}}, "`label` would get two values"),
        ({"fields": {"name": "label", "scrap": "label"}}, "`label` would get two values"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_in_a_line(given: Any, words: str) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(BadInput, match=words):
            stage.client.upgrade_plan(new(), given)

    on_stage(scene)


@pytest.mark.replay_differs(NEVER_ENDS)
def test_a_run_that_a_living_worker_holds_is_not_moved() -> None:
    @state(writes=["cents"], within=50_000)
    async def slow(turn: Turn[Old]) -> Literal["done"]:
        await asyncio.sleep(1_000)
        return "done"

    machine = Machine("mover", Old, table={"first": slow.then({"done": "end"}), "end": final("completed")})

    async def scene(stage: Stage) -> None:
        worker = await stage.worker(machine, name="busy")
        handle = await stage.client.start(machine, Old(), by="test")
        await stage.until(lambda: stage.status() == "running")
        (problem,) = stage.client.upgrade_plan(new(), MAP).problems
        assert problem.what == "worker busy holds it" and f"interlock pause {handle.id}" in problem.remedy
        await stage.kill(worker)

    on_stage(scene)


@pytest.mark.replay_differs(NEVER_ENDS)
def test_a_turn_that_has_sent_something_is_not_begun_anew() -> None:
    """It would send it again. One that has only read is."""

    def machine(which: Any) -> Any:
        @state(tools=[look, page], calls=9, within=50_000)
        async def sends(turn: Turn[Old]) -> Literal["done"]:
            await turn.call(which, name="x")
            await turn.sleep(10_000)
            return "done"

        return Machine("mover", Old, table={"first": sends.then({"done": "end"}), "end": final("completed")})

    async def scene(stage: Stage) -> None:
        await waiting(stage, machine(page))
        (problem,) = stage.client.upgrade_plan(new(), MAP).problems
        assert problem.what == "its turn has called page (effect 1), which would be called again"
        (reader,) = await waiting(stage, machine(look))
        assert (await stage.client.upgrade(new(), MAP, only=[reader])).moved == [reader]
        assert [event.how for event in stage.of(e.WaitEnded)] == ["upgrade"]
        assert verify_runs(stage.store).broken == []

    on_stage(scene)


def test_a_person_who_has_the_turn_goes_on_having_it() -> None:
    """Whatever it has done: nothing is done again unless the person says so."""

    @state(tools=[page], within=50_000)
    async def fails(turn: Turn[Old]) -> Literal["done"]:
        await turn.call(page, name="x")
        raise ValueError("broken")

    machine = Machine("mover", Old, table={"first": fails.then({"done": "end"}), "end": final("completed")})

    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, machine)
        assert (await stage.client.upgrade(new(), MAP)).moved == [run]
        (asked,) = shown(stage).waits
        assert (asked.why, asked.outcome, set(asked.form)) == ("escalated", "error", {"go", "timeout", "retry"})
        assert "broken" in asked.prompt and shown(stage).status == "waiting"
        await stage.worker(new())
        await stage.client.resolve(run, "go", by="ann")
        await stage.until(lambda: stage.store.find(run).state == "ask" and stage.status() == "waiting")
        await stage.client.resolve(run, "bad", by="ann")
        await stage.until(lambda: stage.status() == "completed")

    on_stage(scene)


@pytest.mark.replay_differs(NEVER_ENDS)
def test_an_answer_that_nobody_has_acted_on_is_not_lost() -> None:
    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, old())
        await stage.client.resolve(run, "fine", by="ann")
        (problem,) = stage.client.upgrade_plan(new(), MAP).problems
        assert problem.what == "an answer lies unread in its inbox"

    on_stage(scene)


def test_a_paused_run_moves_and_stays_paused_and_what_else_lies_in_its_inbox_is_read_later() -> None:
    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, old())
        await stage.client.pause(run, by="ann")
        await stage.client.extend(run, turns=5, by="ann")
        assert (await stage.client.upgrade(new(), MAP)).moved == [run]
        await stage.worker(new())
        await stage.until(lambda: stage.status() == "paused")
        await stage.client.resume(run, by="ann")
        await stage.until(lambda: stage.status() == "waiting")
        assert shown(stage).row.account.ceiling.turns == 25

    on_stage(scene)


def test_a_signal_that_waited_is_taken_by_the_new_state() -> None:
    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, old())
        await stage.client.signal(run, "bell", {"order": "rung"}, by="bell")
        belled = Machine(
            "mover",
            New,
            table={
                "ask": wait(signal="bell", within=900, writes=["order"]).then({"arrived": "end", "timeout": "end"}),
                "end": final("completed"),
            },
        )
        map_ = {**MAP, "states": {"second": "ask"}}
        assert (await stage.client.upgrade(belled, map_)).moved == [run]
        await stage.worker(belled)
        await stage.until(lambda: stage.status() == "completed")
        assert shown(stage).record["order"] == "rung"

    on_stage(scene)


@pytest.mark.parametrize("why", ["retry", "approve", "budget"])
def test_what_the_old_turn_waited_for_is_over_and_its_queue_with_it(why: str) -> None:
    """A back-off, an approval, a warning: verified after the move, and the run goes on."""

    @tool(does="read", within=5)
    async def later(call: Call[None], name: str) -> str:
        raise NotDone("later", retry_after=500)

    @tool(does="send", within=5, approve="boss")
    async def gated(call: Call[None], name: str) -> str:
        return name

    @state(tools=[later, gated], models=[M], max_tokens=100, calls=9, within=50_000)
    async def waits(turn: Turn[Old]) -> Literal["done"]:
        match why:
            case "retry":
                await turn.call(later, name="x")
            case "approve":
                await turn.call(gated, name="x")
            case _:
                for _ in range(3):
                    await turn.model(M, "x" * 100)
        return "done"

    machine = Machine(
        "mover",
        Old,
        limits=Limits(turns=20, tokens=400, warn_at=0.1),
        table={"first": waits.then({"done": "end"}), "end": final("completed")},
    )

    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, machine)
        assert [event.why for event in stage.of(e.WaitOpened)] == [why]
        assert (await stage.client.upgrade(new(), MAP)).moved == [run]
        snapshot = stage.store.snapshot(stage.store.find(run).number)
        assert snapshot.waits == () and snapshot.calls == () and not shown(stage).state.approvals
        assert verify_runs(stage.store).broken == []
        await stage.worker(new())
        await stage.until(lambda: stage.status() == "completed")

    on_stage(scene, [say("a" * 40)] * 4)


def test_a_conversation_goes_on_without_the_turn_that_was_given_up() -> None:
    asked: list[Any] = []

    def model(request: Any) -> Any:
        asked.append([(message.role, message.text) for message in request.messages])
        return call("look", name="x") if len(asked) < 3 else choose("ok")

    def talk(record: Any, field: str) -> Any:
        return model_state(f"Is {{{field}}} ok?", model=M, tools=[look], writes={"ok": []}, max_tokens=50)

    before = Machine(
        "mover",
        Old,
        limits=Limits(turns=9),
        table={
            "talk": talk(Old, "name").then({"called": "rest", "ok": "end"}),
            "rest": ask("Go on?", of="ops", writes={"on": []}, within=900).then({"on": "talk", "timeout": "end"}),
            "end": final("completed"),
        },
    )
    after = Machine(
        "mover",
        Old,
        limits=Limits(turns=9),
        table={
            "speak": talk(Old, "name").then({"called": "speak", "ok": "end"}),
            "end": final("completed"),
        },
    )

    async def scene(stage: Stage) -> None:
        (run,) = await waiting(stage, before)
        map_ = {"states": {"talk": "speak", "rest": "speak"}}
        assert (await stage.client.upgrade(after, map_)).moved == [run]
        await stage.worker(after)
        await stage.until(lambda: stage.status() == "completed")
        assert [len(messages) for messages in asked] == [1, 1, 3]

    on_stage(scene, model=_Models(model))


class _Models:
    def __init__(self, reply: Any) -> None:
        self._model = ScriptedModel(reply)

    def find(self, name: str) -> Any:
        return self._model


@pytest.mark.parametrize("how", ["lose", "die"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_upgrade_that_dies_at_any_commit_goes_on_when_it_is_done_again(how: str, number: int) -> None:
    async def scene(stage: Stage) -> None:
        runs = await waiting(stage, old(), runs=3)
        dying = Client(world=stage.world(dies_at(number, how, [Commit])))
        task = asyncio.create_task(dying.upgrade(new(), MAP, by="ann"))
        await dying.world.committer.died.wait()  # type: ignore[attr-defined]
        task.cancel()
        await asyncio.sleep(1)  # its last word is never answered
        moved = [run for run in runs if stage.store.find(run).shape == new().shape]
        assert len(moved) == number - (how == "lose")
        assert verify_runs(stage.store).broken == []
        # The dead one holds what it had claimed until it stands still for a lease, or is seen to be dead.
        _bury(stage)
        done = await stage.client.upgrade(new(), MAP, by="ann")
        assert sorted(done.moved + moved) == sorted(runs) and done.problems == []
        assert (await stage.client.upgrade(new(), MAP)).moved == []
        for run in runs:
            assert len(stage.of(e.Upgraded, run)) == 1
        stage.machines.append(new())

    on_stage(scene)


def _bury(stage: Stage) -> None:
    for worker in stage.store.workers():
        stage.store.write([Part(worker.number, stage.clock.now_ms())])
