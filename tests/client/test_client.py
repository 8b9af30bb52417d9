"""Client: start once by key, await, read, answer, refuse what doesn't fit; and `run` for scripts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, model_validator

from interlock import Client, Limits, Machine, Turn, ask, final, model_state, run, state, wait
from interlock.client import RunHandle
from interlock.engine.timing import Timing
from interlock.errors import BadInput, KeyTaken, ShapeChanged, UnknownRun, WaitClosed
from interlock.history.events import ContentChanged
from interlock.machine.limits import Price
from interlock.store.protocol import RunFilter, RunRow, Store
from interlock.testing import ScriptedModel, choose
from interlock.worker import Worker
from tests.stage import Stage


class Rec(BaseModel):
    text: str = ""
    number: int = 0
    lines: dict[str, Any] = {}


def asking(prompt: str = "Well?", outcome: str = "yes") -> Machine[Rec, None]:
    row = ask(prompt, of="desk", writes={outcome: ["text"]})
    return Machine("asking", Rec, table={"p": row.then({outcome: "end", "timeout": "end"}), "end": final()})


def napping() -> Machine[Rec, None]:
    return Machine("napping", Rec, table={"nap": wait(seconds=60).then({"elapsed": "end"}), "end": final()})


def test_the_same_key_and_record_are_the_same_run(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        one = await client.start(asking(), Rec(text="a"), key="ticket-1")
        two = await client.start(asking(), {"text": "a"}, key="ticket-1")
        assert (one.id, one.new, two.new) == (two.id, True, False)
        assert len(client.runs()) == 1

    stage.perform(scenario)


def test_the_same_record_in_another_order_is_the_same_run(stage: Stage) -> None:
    """A webhook is delivered twice, by servers that write their objects differently. Lists have an order, though."""

    async def scenario() -> None:
        client = stage.client()
        one = await client.start(asking(), Rec(lines={"a": 1, "b": {"c": [{"d": 2, "e": None}]}}), key="ticket-1")
        two = await client.start(asking(), {"lines": {"b": {"c": [{"e": None, "d": 2}]}, "a": 1}}, key="ticket-1")
        assert (two.id, two.new) == (one.id, False)
        await client.start(asking(), Rec(lines={"a": [1, 2]}), key="ticket-2")
        with pytest.raises(KeyTaken):
            await client.start(asking(), Rec(lines={"a": [2, 1]}), key="ticket-2")

    stage.perform(scenario)


def test_the_same_key_with_another_record_is_refused(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        await client.start(asking(), Rec(text="a"), key="ticket-1")
        with pytest.raises(KeyTaken, match="ticket-1"):
            await client.start(asking(), Rec(text="b"), key="ticket-1")
        other = await client.start(napping(), Rec(text="b"), key="ticket-1")
        assert other.new, "a key belongs to its machine"

    stage.perform(scenario)


def test_many_starts_at_once_with_one_key_are_one_run(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        handles = await asyncio.gather(*(client.start(asking(), Rec(), key="k") for _ in range(10)))
        assert len({handle.id for handle in handles}) == 1
        assert sum(handle.new for handle in handles) == 1

    stage.perform(scenario)


@pytest.mark.parametrize("record", [{"number": "many"}, {"text": 1}, {"text": None}, "text", None, 7])
def test_a_record_that_does_not_fit_is_refused_and_nothing_is_written(stage: Stage, record: Any) -> None:
    async def scenario() -> None:
        client = stage.client()
        with pytest.raises(BadInput):
            await client.start(asking(), record)
        assert client.runs() == []

    stage.perform(scenario)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"usd": -1},
        {"usd": float("nan")},
        {"usd": float("inf")},
        {"usd": 1e300},
        {"tokens": 1.5},
        {"turns": True},
        {"seconds": float("inf")},
        {"calls": 10**30},
    ],
)
def test_an_extension_that_is_no_amount_is_refused_at_the_door(stage: Stage, more: dict[str, Any]) -> None:
    """Past the door it would be a commit that no store can take."""

    async def scenario() -> None:
        client = stage.client()
        handle = await client.start(asking(), Rec())
        with pytest.raises(BadInput, match="extend"):
            await client.extend(handle.id, **more)

    stage.perform(scenario)


def test_ids_may_be_shortened_and_the_newest_has_a_name(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        first = await client.start(asking(), Rec())
        second = await client.start(asking(), Rec())
        assert client.run(first.id[:8]).id == first.id
        assert client.run("@last").id == second.id
        for unknown in ("zzzz", "", "ffffffffffffffffffff"):
            with pytest.raises(UnknownRun):
                client.run(unknown)

    stage.perform(scenario)


def test_events_follow_a_run_to_its_end_each_once(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(napping()) as client:
            handle = await client.start(napping(), Rec())
            seqs = [seq async for seq, _ in handle.events(follow=True)]
            assert seqs == list(range(1, client.show(handle.id).row.seq + 1))
            assert [seq async for seq, _ in handle.events(after=2)] == seqs[2:]

    stage.perform(scenario)


class CountedReads:
    """A store that counts how often a run is looked up in it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.finds = 0

    def find(self, run_id: str) -> RunRow:
        self.finds += 1
        return self._store.find(run_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_run_that_changes_is_read_by_those_who_wait_for_it_and_by_nobody_else(stage: Stage) -> None:
    """Else many waiters read each time for all that change: as the square of their number."""
    waiters = 50

    async def scenario() -> None:
        counted = CountedReads(stage.store)
        client = stage.client(store=cast(Store, counted))
        async with Worker(client, [asking()], name="stage"):
            handles = [await client.start(asking(), Rec()) for _ in range(waiters)]
            results = [asyncio.create_task(handle.result()) for handle in handles]
            await asyncio.sleep(1)
            assert counted.finds <= 2 * waiters, "each looked when it began, and when its run began to wait"
            for handle, result in zip(handles, results, strict=True):
                await client.resolve(handle.id, "yes", {"text": "a"})
                before = counted.finds
                assert (await result).status == "completed"
                await asyncio.sleep(1)
                assert counted.finds - before == 1

    stage.perform(scenario)


def test_all_who_wait_for_one_run_are_told_at_once(stage: Stage) -> None:
    """However each waits, and with a poll time that never passes."""

    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            followed = asyncio.create_task(_types(handle))
            ended = [asyncio.create_task(handle.result()) for _ in range(3)]
            halted = [asyncio.create_task(client.run(handle.id, asking()).result(until_waiting=True)) for _ in range(3)]
            assert [(await result).status for result in halted] == ["waiting"] * 3
            assert not any(result.done() for result in [*ended, followed])
            await client.resolve(handle.id, "yes", {"text": "a"})
            assert [(await result).record.text for result in ended] == ["a"] * 3
            assert (await followed)[-1] == "Transitioned"
        assert stage.clock.monotonic() < 1

    stage.perform(scenario)


async def _types(handle: RunHandle[Rec]) -> list[str]:
    return [type(event).__name__ async for _, event in handle.events(follow=True)]


def test_what_happens_while_a_follower_is_busy_is_not_missed(stage: Stage) -> None:
    """The run ends between two of its events: nobody will tell the follower again."""

    async def scenario() -> None:
        async with stage.working(napping()) as client:
            handle = await client.start(napping(), Rec())
            seqs = []
            async for seq, _ in handle.events(follow=True):
                await asyncio.sleep(100 if seq == 1 else 0)
                seqs.append(seq)
            assert seqs == list(range(1, client.show(handle.id).row.seq + 1))
        assert stage.clock.monotonic() < 1000

    stage.perform(scenario)


def test_a_run_that_another_process_advances_is_seen_within_the_poll_time(stage: Stage) -> None:
    """Its worker tells its own client, never ours."""

    async def scenario() -> None:
        ours = stage.client(timing=Timing(poll=2, lease=1e9))
        handle = await ours.start(asking(), Rec())
        async with stage.working(asking(), seed=1) as theirs:
            followed = asyncio.create_task(_types(handle))
            assert (await handle.result(until_waiting=True)).status == "waiting"
            ended = asyncio.create_task(handle.result())
            await theirs.resolve(handle.id, "yes", {"text": "a"})
            assert (await ended).status == "completed"
            assert (await followed)[-1] == "Transitioned"
        assert stage.clock.monotonic() <= 3 * 2

    stage.perform(scenario)


def test_who_gives_up_waiting_is_forgotten(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            patient, hasty = asyncio.create_task(handle.result()), asyncio.create_task(handle.result())
            await handle.result(until_waiting=True)
            hasty.cancel()
            await client.resolve(handle.id, "yes", {"text": "a"})
            assert (await patient).status == "completed"
            assert hasty.cancelled()
            assert client._waiting == {}

    stage.perform(scenario)


def test_what_waits_is_listed_with_what_may_be_answered(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec(), by="ann")
            await handle.result(until_waiting=True)
            (waiting,) = client.waiting()
            assert (waiting.run, waiting.of, waiting.prompt) == (handle.id, "desk", "Well?")
            assert list(waiting.form) == ["yes"]
            shown = client.show(handle.id).as_json()
            assert shown["status"] == "waiting" and shown["waiting"][0]["of"] == "desk"
            assert client.runs(RunFilter(statuses=("completed",))) == []

    stage.perform(scenario)


def test_a_wait_that_does_not_exist_can_t_be_answered(stage: Stage) -> None:
    async def scenario() -> None:
        async with stage.working(napping()) as client:
            handle = await client.start(napping(), Rec())
            await asyncio.sleep(1)
            with pytest.raises(WaitClosed):
                await client.resolve(handle.id, "elapsed")
            with pytest.raises(WaitClosed):
                await client.clear(handle.id, 1, happened=True)
            with pytest.raises(UnknownRun):
                await client.resolve("nobody", "yes")

    stage.perform(scenario)


@pytest.mark.replay_differs("its question is another when its run goes on: that is what it is about")
def test_changed_content_is_taken_up_and_logged(stage: Stage) -> None:
    async def before() -> str:
        async with stage.working(asking("Well?")) as client:
            handle = await client.start(asking("Well?"), Rec())
            await handle.result(until_waiting=True)
            return handle.id

    run_id = stage.perform(before)
    changed = asking("Well now?")
    assert changed.shape == asking().shape and changed.content != asking().content

    async def after() -> str:
        async with stage.working(changed, seed=1) as client:
            await client.resolve(run_id, "yes", {"text": "x"})
            return (await client.run(run_id, changed).result()).status

    assert stage.perform(after) == "completed"
    assert [event.content for event in stage.events(run_id) if isinstance(event, ContentChanged)] == [changed.content]
    assert stage.client().verify() == []


def test_a_changed_shape_is_refused_by_name_and_the_run_left_alone(stage: Stage) -> None:
    async def before() -> str:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec(), key="k")
            await handle.result(until_waiting=True)
            return handle.id

    run_id = stage.perform(before)
    changed = asking(outcome="indeed")
    row = stage.store.find(run_id)

    async def after() -> None:
        async with stage.working(changed, seed=1) as client:
            with pytest.raises(ShapeChanged, match="asking"):
                client.run(run_id, changed)
            with pytest.raises(ShapeChanged, match="asking"):
                await client.start(changed, Rec(), key="k")
            await client.resolve(run_id, "yes", {"text": "x"})
            await asyncio.sleep(60)
            assert client.show(run_id).row.seq == row.seq, "no worker of another shape touches it"

    stage.perform(after)


def test_run_for_scripts(tmp_path: Path) -> None:
    """Real time, real threads, a real file; the model given stands in for every model named."""

    @state(models=["acme:any"], writes=["text"])
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.text = (await turn.model("acme:any", "hello")).text
        return "ok"

    machine = Machine(
        "m", Rec, table={"s": work.then({"ok": "end"}), "end": final()}, prices={"acme:any": Price.per_million(1, 1)}
    )
    url = f"sqlite:///{tmp_path}/runs.db"
    result = run(machine, Rec(), store=url, model=ScriptedModel(["hi"]), key="once")
    assert (result.status, result.record.text, result.spent.calls) == ("completed", "hi", 1)
    again = run(machine, Rec(), store=url, model=ScriptedModel([]), key="once")
    assert again.id == result.id


def test_run_returns_when_a_person_is_needed(tmp_path: Path) -> None:
    result = run(asking(), Rec(), store=f"sqlite:///{tmp_path}/runs.db")
    assert (result.status, [wait.of for wait in result.waits]) == ("waiting", ["desk"])


def test_a_client_reads_while_a_worker_writes(tmp_path: Path) -> None:
    row = model_state("go", model="acme:any", writes={"more": ["number"], "done": []})
    machine = Machine(
        "m",
        Rec,
        limits=Limits(repeats=None),
        table={"s": row.then({"more": "s", "done": "end"}), "end": final()},
        prices={"acme:any": Price(0, 0)},
    )
    script = [*(choose("more", number=n) for n in range(20)), choose("done")]

    async def scenario() -> None:
        async with Client(f"sqlite:///{tmp_path}/runs.db", models=ScriptedModel(script)) as client:
            handle = await client.start(machine, Rec())
            async with Worker(client, [machine]):
                seen = [type(event).__name__ async for _, event in handle.events(follow=True)]
            assert seen.count("Transitioned") == 21
            assert client.verify() == []

    asyncio.run(scenario())


class Named(BaseModel, validate_by_name=True):
    """Every way in which a field may be given another name."""

    plain: str = Field("", alias="Plain")
    either: str = Field("", validation_alias=AliasChoices("one", AliasPath("two", 0)))


class Careless(BaseModel, extra="ignore"):
    text: str = ""


class Lenient(BaseModel):
    text: str = ""

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, given: Any) -> Any:
        return {"text": given["old"]} if "old" in given else given


def ending(record: type[BaseModel]) -> Machine[Any, None]:
    return Machine("ending", record, table={"nap": wait(seconds=60).then({"elapsed": "end"}), "end": final()})


def test_a_field_that_the_record_does_not_have_is_refused_with_what_was_meant(stage: Stage) -> None:
    """Pydantic would drop it, and the run would go on without what its user thought to have said."""

    async def scenario() -> None:
        client = stage.client()
        with pytest.raises(BadInput, match=r"Rec has no field `numbr`; did you mean `number`\?"):
            await client.start(asking(), {"text": "a", "numbr": 3})
        assert client.runs() == []

    stage.perform(scenario)


def test_a_field_may_be_given_under_every_name_that_it_has(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        for given in ({"plain": "a"}, {"Plain": "a"}, {"either": "a"}, {"one": "a"}, {"two": ["a"]}):
            assert "a" in (await client.start(ending(Named), given)).show().record.values()
        with pytest.raises(BadInput, match="no field `three`"):
            await client.start(ending(Named), {"three": "a"})

    stage.perform(scenario)


def test_a_record_that_says_what_becomes_of_other_fields_is_asked(stage: Stage) -> None:
    async def scenario() -> None:
        client = stage.client()
        assert (await client.start(ending(Careless), {"more": 1})).show().record == {"text": ""}
        assert (await client.start(ending(Lenient), {"old": "a"})).show().record == {"text": "a"}

    stage.perform(scenario)


def test_an_empty_key_is_refused(stage: Stage) -> None:
    """A variable that wasn't set would make one run of all that come."""

    async def scenario() -> None:
        client = stage.client()
        for key in ("", "  "):
            with pytest.raises(BadInput, match="key is empty"):
                await client.start(asking(), Rec(), key=key)
        assert client.runs() == []

    stage.perform(scenario)
