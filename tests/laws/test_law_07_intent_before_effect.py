"""Law 7: the request is committed before the attempt starts; a turn entered again is answered from what is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Turn, ask, final, model_state, state, tool, use, wait
from interlock.agent.scripted import ScriptedModel, call, choose
from interlock.errors import StoreError
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.machine.table import Machine
from interlock.store.protocol import Answer, Claim, Commit, Store, Write
from tests.laws.machines import MODEL, Case, Tools, machine
from tests.laws.stage import Stage, dies_at, on_stage
from tests.stage import play


class Recorder:
    """A store that notes every commit in the outside world's own list, so that their order can be told."""

    def __init__(self, store: Store, said: list[str]) -> None:
        self._store = store
        self._said = said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: list[Write]) -> list[Answer]:
        answers = self._store.write(batch)
        for write in batch:
            if isinstance(write, Commit):
                self._said.append("commit " + " ".join(_type(stored.body) for stored in write.events))
        return answers


def _type(body: bytes) -> str:
    return str(json.loads(body)["type"])


@pytest.mark.parametrize("name", ["read", "keyed", "probed", "once"])
def test_the_intent_is_committed_before_the_call_and_the_result_before_what_follows(name: str) -> None:
    tools, said = Tools(), list[str]()
    granted = getattr(tools, name)

    @state(tools=tools.all)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        for n in (1, 2):
            await turn.call(granted, n)
            said.append(f"got {n}")
        return "done"

    scene = machine(work)
    happens = tools.outside.happens
    tools.outside.happens = lambda name, call, n: (said.append(f"call {n}"), happens(name, call, n))[1]  # type: ignore[method-assign,assignment]

    async def play_it(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene, store=Recorder(stage.store, said))  # type: ignore[arg-type]
        await stage.until(lambda: stage.status() == "completed", 300)

    on_stage(play_it)
    at_once = name != "read"
    assert said == [
        "commit tool_called",
        "call 1",
        *(["commit tool_returned"] if at_once else []),
        "got 1",
        "commit tool_called" if at_once else "commit tool_returned tool_called",
        "call 2",
        *(["commit tool_returned"] if at_once else []),
        "got 2",
        "commit transitioned" if at_once else "commit tool_returned transitioned",
    ]


def test_a_turn_of_one_model_call_and_one_read_costs_two_commits() -> None:
    tools, said = Tools(), list[str]()
    model = ScriptedModel([*(call("read", n=n) for n in range(6)), choose("done")])
    scene = Machine("loop", Case, limits=Limits(turns=20), table={
        "ask": model_state("go", model=MODEL, tools=[tools.read], writes={"done": []}).then(
            {"called": "ask", "done": "end"}),
        "end": final("completed"),
    })  # fmt: skip

    async def play_it(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene, store=Recorder(stage.store, said))  # type: ignore[arg-type]
        await stage.until(lambda: stage.status() == "completed", 300)

    on_stage(play_it, model)
    assert said == [
        "commit model_called",
        *["commit model_replied tool_called", "commit tool_returned transitioned model_called"] * 6,
        "commit model_replied transitioned",
    ]


class Money(BaseModel):
    amount: float = 0.0


@tool(does="read", within=5)
async def one(call: Call[None]) -> int:
    return 1


@state(writes=["amount"], within=20)
async def no_number(turn: Turn[Money]) -> Literal["done"]:
    turn.record.amount = float("nan")
    return "done"


FIRST: dict[str, Any] = {
    "a person answers 1": ask("How much?", of="ann", writes={"done": ["amount"]}, within=1e4).then(
        {"done": "refund", "timeout": "refund"}
    ),
    "a signal brings 1": wait("amount", writes=["amount"], within=1e4).then({"arrived": "refund", "timeout": "refund"}),
    "a tool returns 1": use(one, args={}, into="amount").then({"done": "refund"}),
    "a handler writes NaN": no_number.then({"done": "refund"}),
}


class TestReentry:
    def test_recorded_results_are_had_again_also_side_by_side(self) -> None:
        """Of three parallel calls two were recorded before the crash; only the third runs again."""
        tools = Tools()

        @state(tools=tools.all, writes=["items"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            async def branch(n: int) -> str:
                first = await turn.call(tools.read, n)
                await turn.sleep(n)
                return first + "/" + await turn.call(tools.keyed, n)

            turn.record.items = list(await asyncio.gather(*map(branch, (1, 2, 3))))
            return "done"

        scene = machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: tools.outside.calls["keyed"] == 2)
            await asyncio.sleep(0.3)
            await stage.kill(first)
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)
            assert stage.client.show("@last").record["items"] == [f"read {n}/keyed {n}" for n in (1, 2, 3)]

        on_stage(play_it)
        assert tools.outside.calls == {"read": 3, "keyed": 3}

    @pytest.mark.parametrize(
        "first", ["a person answers 1", "a signal brings 1", "a tool returns 1", "a handler writes NaN"]
    )
    def test_a_killed_turn_asks_its_model_the_same_again(self, first: str) -> None:
        """What a worker holds in memory is what the log folds to, byte for byte: not 1.0 here and 1 there."""
        refund = model_state("Refund {amount}", model=MODEL, writes={"done": []}, within=60)
        table = {"first": FIRST[first], "refund": refund.then({"done": "closed"}), "closed": final()}
        scene: Any = Machine("scene", Money, limits=Limits(turns=9), table=table)
        model = ScriptedModel(lambda request: [choose("done")], delay=30)

        async def act(stage: Stage) -> None:
            await stage.client.start(scene, Money(), by="test")
            worker = await stage.worker(scene)
            if "person" in first:
                await stage.until(lambda: bool(stage.client.waiting()))
                await stage.client.resolve("@last", "done", {"amount": 1}, by="ann")
            elif "signal" in first:
                await stage.client.signal("@last", "amount", {"amount": 1}, by="bank")
            await stage.until(lambda: len(model.requests) == 1)
            await stage.kill(worker)
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed")
            assert stage.of(e.Diverged) == []

        on_stage(act, model)
        assert len(model.requests) == 2 and len({str(request.messages) for request in model.requests}) == 1

    def test_equal_requests_are_told_apart_by_their_order(self) -> None:
        tools = Tools()
        count = iter(range(100))

        async def numbered(turn: Turn[Case]) -> Any:
            return await asyncio.gather(*(turn.call(tools.keyed, 5) for _ in range(4)))

        @state(tools=tools.all, writes=["items"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            next(count)
            await numbered(turn)
            await turn.call(tools.read, 1)
            return "done"

        scene = machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            tools.after = 0
            first = await stage.worker(scene, fail=dies_at(3, "die"))
            await first.world.committer.died.wait()  # type: ignore[attr-defined]
            await stage.kill(first)
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)
            assert len({c.effect for c in stage.of(e.ToolCalled) if c.tool == "keyed"}) == 4

        on_stage(play_it)
        assert len({key for name, key, _ in tools.outside.lines if name == "keyed"}) == 4
        assert tools.outside.calls["keyed"] == 4 and next(count) == 2

    def test_time_chance_and_sleep_are_the_same_again(self) -> None:
        tools, seen = Tools(after=2), list[Any]()

        @state(tools=tools.all, within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            said = [await turn.now(), await turn.random(), await turn.random(), await turn.now()]
            await turn.sleep(5)
            await turn.sleep(3600)
            said.append(await turn.random())
            seen.append(said)
            await turn.call(tools.read, 1)
            return "done"

        scene = machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            first = await stage.worker(scene)
            await stage.until(lambda: tools.outside.calls["read"] == 1, 5000)
            began = stage.clock.monotonic()
            await stage.kill(first)
            await stage.worker(scene)
            await stage.until(lambda: stage.status() == "completed", 300)
            assert stage.clock.monotonic() - began < 60, "a sleep that is over isn't slept again"
            assert stage.store.find("@last").account.spent.active_ms < 30_000, "parked time isn't active"

        on_stage(play_it)
        assert len(seen) == 2 and seen[0] == seen[1]
        assert len(set(map(str, seen[0]))) == 4 and seen[0][1] != seen[0][2]

    def test_a_branch_that_works_between_two_recorded_effects_is_waited_for(self) -> None:
        """Its sibling's slow call is answered from the log at once, and asks for something new meanwhile."""
        tools, slow = Tools(), Tools(before=2)

        @state(tools=[tools.read, slow.keyed], within=600, calls=9)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            async def one() -> None:
                await turn.call(tools.read, 1)
                await asyncio.sleep(0.2)  # as `await asyncio.to_thread(parse, ...)` would take
                await turn.call(tools.read, 2)

            async def two() -> None:
                await turn.call(slow.keyed, 3)
                await turn.call(tools.read, 4)

            await asyncio.gather(one(), two())
            return "done"

        scene = machine(work)

        def before_the_fourth(write: Write) -> str:
            starts = isinstance(write, Commit) and any(b'"args":{"n":4}' in event.body for event in write.events)
            return "lose" if starts else ""

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            worker = await stage.worker(scene, fail=before_the_fourth)
            await asyncio.sleep(4)
            await stage.kill(worker)
            await stage.worker(scene)
            await stage.until(lambda: stage.status() in ("completed", "waiting"), 60)
            assert stage.of(e.Diverged) == [] and stage.status() == "completed"

        on_stage(play_it)

    def test_a_divergence_is_said_before_a_short_turn_runs_out_of_time(self) -> None:
        tools = Tools()

        def deployed(n: int) -> Any:
            @state(tools=tools.all, within=2)
            async def work(turn: Turn[Case]) -> Literal["done"]:
                await turn.call(tools.once, n)
                await turn.sleep(60)
                return "done"

            return machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(deployed(1), Case(), by="test")
            first = await stage.worker(deployed(1))
            await stage.until(lambda: stage.status() == "waiting")
            await first.stop()
            await stage.worker(deployed(7))
            await stage.until(lambda: bool(stage.client.waiting()), 300)
            assert stage.of(e.Diverged) and stage.client.waiting()[0].outcome == "error"

        on_stage(play_it)

    def test_a_handler_that_was_changed_under_its_turn_is_parked(self) -> None:
        """After a deploy the turn no longer asks for what was recorded: a divergence, never papered over."""
        tools = Tools()

        def deployed(n: int) -> Any:
            @state(tools=tools.all, within=600)
            async def work(turn: Turn[Case]) -> Literal["done"]:
                await turn.call(tools.once, n)
                await turn.sleep(60)
                await turn.call(tools.once, n + 1)
                return "done"

            return machine(work)

        old, new = deployed(1), deployed(7)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(old, Case(), by="test")
            first = await stage.worker(old)
            await stage.until(lambda: stage.status() == "waiting")
            await first.stop()
            await stage.worker(new)
            await stage.until(lambda: bool(stage.client.waiting()), 300)
            [diverged] = stage.of(e.Diverged)
            [asked] = stage.client.waiting()
            assert diverged.effects == (1,) and asked.outcome == "error" and "divergence" in asked.prompt

        on_stage(play_it)
        assert [n for _, _, n in tools.outside.lines] == [1]

    def test_a_handler_that_asks_for_less_after_a_deploy_is_parked_too(self) -> None:
        tools = Tools()

        def deployed(*numbers: int) -> Any:
            @state(tools=tools.all, within=600)
            async def work(turn: Turn[Case]) -> Literal["done"]:
                for n in numbers:
                    await turn.call(tools.once, n)
                    await turn.sleep(60)
                return "done"

            return machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(deployed(1, 2), Case(), by="test")
            first = await stage.worker(deployed(1, 2))
            await stage.until(lambda: tools.outside.calls["once"] == 2, 300)
            await first.stop()
            await stage.worker(deployed(1))
            await stage.until(lambda: bool(stage.client.waiting()), 300)
            assert stage.of(e.Diverged)

        on_stage(play_it)


class TestLostAcknowledgement:
    """The store committed and then failed to say so: the identical commit is sent again and recognises itself."""

    class Flaky:
        def __init__(self, store: Store, fails: Callable[[list[Write]], bool]) -> None:
            self._store = store
            self._fails = fails
            self.failures = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def write(self, batch: list[Write]) -> list[Answer]:
            answers = self._store.write(batch)
            if self._fails(batch):
                self.failures += 1
                raise StoreError("the answer was lost")
            return answers

    def scene(self, tools: Tools) -> Any:
        @state(tools=tools.all, writes=["text"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            for one in tools.all:
                turn.record.text = await turn.call(one, 1)
            return "done"

        return machine(work)

    @pytest.mark.parametrize("kinds", [(Commit,), (Claim,), (Commit, Claim)], ids=["commits", "claims", "both"])
    def test_nothing_is_lost_or_done_twice(self, kinds: tuple[type, ...], chance: Random) -> None:
        tools = Tools()
        scene = self.scene(tools)
        last: set[Any] = set()

        def fails(batch: list[Write]) -> bool:
            """Most writes' first answers are lost, the very first one's for certain."""
            fresh = [w for w in batch if isinstance(w, kinds) and id(w) not in last]
            new = [w for w in fresh if not last or chance.random() < 0.7]
            last.update(map(id, new))
            keep.extend(new)
            return bool(new)

        keep: list[Any] = []

        async def play_it(stage: Stage) -> int:
            flaky = self.Flaky(stage.store, fails)
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene, store=flaky)  # type: ignore[arg-type]
            await stage.until(lambda: stage.status() == "completed", 600)
            return flaky.failures

        assert on_stage(play_it) > 0
        assert tools.outside.calls == {"read": 1, "keyed": 1, "probed": 1, "once": 1}


class TestInterrupted:
    """Somebody says pause, resume or cancel while a turn is under way."""

    def scene(self, tools: Tools) -> Any:
        @state(tools=tools.all, writes=["text"], within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(tools.once, 1)
            await turn.call(tools.once, 2)
            return "done"

        return machine(work)

    def test_a_pause_in_the_middle_records_the_paid_result_and_starts_nothing_more(self) -> None:
        tools = Tools(after=3)
        scene = self.scene(tools)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: tools.outside.calls["once"] == 1)
            await stage.client.pause("@last", by="ann")
            await stage.until(lambda: stage.status() == "paused", 60)
            await asyncio.sleep(100)
            assert tools.outside.calls["once"] == 1
            assert [r.effect for r in stage.of(e.ToolReturned)] == [1]
            await stage.client.resume("@last", by="ann")
            await stage.until(lambda: stage.status() == "completed", 300)

        on_stage(play_it)
        assert [n for _, _, n in tools.outside.lines] == [1, 2]

    def test_a_pause_lets_what_runs_beside_end_and_be_recorded(self) -> None:
        """One branch is refused its next call while the other's is under way: that one ends, and isn't in doubt."""
        tools = Tools(before=1)

        @state(tools=tools.all, within=600)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            async def quick() -> None:
                await turn.call(tools.read, 1)
                await turn.call(tools.read, 2)

            await asyncio.gather(turn.call(slow, 9), quick())
            return "done"

        once = tools.once
        slow = replace(once, name="slow", within=60, function=_slowly(tools))
        work = replace(work, tools=(*tools.all, slow))  # type: ignore[type-var]
        scene = machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await stage.until(lambda: tools.outside.calls["read"] == 1)
            await stage.client.pause("@last", by="ann")
            await stage.until(lambda: stage.status() == "paused", 60)
            assert [r.value for r in stage.of(e.ToolReturned)] == ["read 1", "slow"]
            await stage.client.resume("@last", by="ann")
            await stage.until(lambda: stage.status() in ("completed", "waiting"), 300)
            assert stage.status() == "completed" and not stage.of(e.AttemptFailed)

        on_stage(play_it)
        assert tools.outside.calls == {"read": 2, "slow": 1}

    @pytest.mark.parametrize("after", [0.0, 2.9, 3.0, 3.1, 6.0])
    def test_a_cancel_ends_the_run_with_nothing_held(self, after: float) -> None:
        tools = Tools(after=3)
        scene = self.scene(tools)

        async def play_it(stage: Stage) -> str:
            await stage.client.start(scene, Case(), by="test")
            await stage.worker(scene)
            await asyncio.sleep(after)
            await stage.client.cancel("@last", by="ann")
            await stage.until(lambda: stage.status() in ("cancelled", "completed"), 60)
            return stage.status()

        said = on_stage(play_it)
        assert said == "cancelled" or after == 6.0, "an accepted cancel wins over what ends later"
        assert len(tools.outside.lines) <= 2

    def test_said_all_at_once_from_all_sides_each_is_taken_once(self, chance: Random) -> None:
        """Pauses, resumes and, in the end, a cancel rain on a run; every item is consumed exactly once, in order."""
        tools = Tools(after=0.4)

        @state(tools=tools.all, within=6000, calls=100)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            for n in range(100):
                await turn.call(tools.once, n)
            return "done"

        scene = machine(work)

        async def play_it(stage: Stage) -> None:
            await stage.client.start(scene, Case(), by="test")
            for _ in range(2):
                await stage.worker(scene)
            said = []
            for _ in range(25):
                verb = chance.choice(["pause", "resume", "resume"])
                said.append((await getattr(stage.client, verb)("@last", by="ann"), verb)[1])
                await asyncio.sleep(chance.choice([0, 0.01, 0.3, 1.0]))
            await stage.client.cancel("@last", by="ann")
            await stage.until(lambda: stage.status() == "cancelled", 60)
            taken = [event.TYPE for event in stage.log() if isinstance(event, e.Paused | e.Resumed)]
            assert taken == [{"pause": "paused", "resume": "resumed"}[verb] for verb in said]

        on_stage(play_it)
        assert len({n for _, _, n in tools.outside.lines}) == len(tools.outside.lines)


def _slowly(tools: Tools) -> Any:
    async def slow(call: Call[None], n: int) -> str:
        tools.outside.calls["slow"] += 1
        await asyncio.sleep(8)
        return "slow"

    return slow


class TestCrashAnywhere:
    """A worker dies before or after each of its commits, again and again; the world sees each effect once."""

    def scene(self, tools: Tools) -> Any:
        ask = model_state("go {n}", model=MODEL, tools=[tools.read, tools.keyed], writes={"done": ["n"]}, within=600)

        @state(tools=tools.all, models=[MODEL], writes=["text", "items"], within=600, calls=20)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            said = await asyncio.gather(
                turn.call(tools.keyed, 10),
                turn.call(tools.probed, 10),
                turn.call(tools.read, 10),
                turn.model(MODEL, "x"),
            )
            await turn.sleep(30)
            turn.record.items.append(str(said[0]))
            turn.record.text = f"{await turn.random():.3f} " + await turn.call(tools.probed, 11)
            return "done"

        return Machine("crashing", Case, limits=Limits(turns=20, warn_at=1.0), table={
            "ask": ask.then({"called": "ask", "done": "work"}),
            "work": work.then({"done": "end"}),
            "end": final("completed"),
        })  # fmt: skip

    @staticmethod
    def brain(request: Any) -> Any:
        done = sum(message.role == "tool" for message in request.messages)
        if not request.offers:
            return "text"
        return [call("read", n=1), [call("read", n=2), call("keyed", n=2)], choose("done", n=3)][min(2, done)]

    @pytest.mark.parametrize("how", ["lose", "die"])
    @pytest.mark.parametrize("number", range(1, 16))
    def test_at_this_commit(self, number: int, how: str, seed: int) -> None:
        tools = Tools(before=0.2, after=0.2)
        scene = self.scene(tools)

        async def play_it(stage: Stage) -> bool:
            await stage.client.start(scene, Case(), by="test")
            fatal = await stage.worker(scene, fail=dies_at(number, how))
            died = asyncio.ensure_future(fatal.world.committer.died.wait())  # type: ignore[attr-defined]
            ended = asyncio.ensure_future(stage.until(lambda: stage.status() == "completed", 600))
            await asyncio.wait({died, ended}, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                await stage.kill(fatal)
                await stage.worker(scene)
            await ended
            died.cancel()
            assert stage.client.show("@last").record["items"] == ["keyed 10"]
            return died.done()

        assert on_stage(play_it, ScriptedModel(self.brain), seed=seed) or number > 9
        for name, n in [("keyed", 2), ("keyed", 10), ("probed", 10), ("probed", 11)]:
            assert tools.outside.times(name, n) == 1, (name, n)


def test_play_says_the_same_as_the_stage() -> None:
    """The store fixture that users get runs the same engine."""
    tools = Tools()

    @state(tools=tools.all, writes=["text"])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.text = await turn.call(tools.once, 4)
        return "done"

    assert play(machine(work), Case()).record.text == "once 4"
