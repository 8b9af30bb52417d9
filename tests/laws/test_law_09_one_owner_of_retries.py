"""Law 9: the engine alone retries: jittered back-off, `Retry-After` honoured, every attempt an event with its cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any, Literal

import pytest

from interlock import Call, Turn, state, tool
from interlock.agent.model import ModelFailed, ModelReply
from interlock.agent.scripted import ScriptedModel
from interlock.engine.timing import Timing
from interlock.errors import NotDone
from interlock.history import events as e
from interlock.policy.retry import BASE_SECONDS, CAP_SECONDS, LEAST, delay_seconds
from tests.laws.machines import MODEL, Case, Tools, machine
from tests.laws.stage import PRICE, Stage, on_stage
from tests.stage import play

OK = ModelReply(text="ok", tokens_in=10, tokens_out=2)


def asks(**limits: Any) -> Any:
    """A machine that asks a model once."""

    @state(models=[MODEL], writes=["text"], within=limits.pop("within", 600))
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.text = (await turn.model(MODEL, "x", within=30)).text
        return "done"

    return machine(work, {"timeout": "person", "retries_spent": "person", "unavailable": "person"}, **limits)


def failing(*failures: ModelFailed) -> Callable[[Any], Any]:
    left = [*failures]
    return lambda request: left.pop(0) if left else OK


@pytest.mark.parametrize("attempt", range(1, 12))
def test_the_back_off_is_drawn_from_all_of_its_range(attempt: int, chance: Random) -> None:
    """Evenly from the upper part of min(cap, base * 2^n): never longer, and not bunched at one end."""
    most = min(CAP_SECONDS, BASE_SECONDS * 2 ** (attempt - 1))
    least, range_ = LEAST * most, (1 - LEAST) * most
    drawn = [delay_seconds(attempt, chance) for _ in range(4000)]
    assert least <= min(drawn) < least + range_ / 20 and most - range_ / 20 < max(drawn) <= most
    assert abs(sum(drawn) / len(drawn) - (least + most) / 2) < range_ / 20


def test_each_back_off_is_longer_than_the_one_before(chance: Random) -> None:
    """Until they reach their cap: with few attempts none is wasted on a provider that failed a moment ago."""
    for _ in range(1000):
        drawn = [delay_seconds(attempt, chance) for attempt in range(1, 7)]
        assert all(later > 1.1 * earlier for earlier, later in pairwise(drawn))


def test_who_was_told_the_same_moment_does_not_come_back_in_the_same_moment(chance: Random) -> None:
    drawn = [delay_seconds(2, chance, 4.0) - 4.0 for _ in range(4000)]
    assert 0 <= min(drawn) < 0.05 and 2 * BASE_SECONDS - 0.05 < max(drawn) <= 2 * BASE_SECONDS


def test_a_provider_may_only_lengthen_the_back_off(chance: Random) -> None:
    assert all(delay_seconds(1, chance, 7.0) >= 7.0 for _ in range(1000))
    assert all(delay_seconds(1, chance, -7.0) >= 0.0 for _ in range(1000))


def test_retry_after_is_honoured_to_the_millisecond() -> None:
    model = ScriptedModel(failing(ModelFailed("rate_limited", "slow down", retry_after=4, billed=False)))
    run = play(asks(), Case(), model=model)
    first, second = (event for event in run.events if isinstance(event, e.ModelCalled))
    assert run.status == "completed" and 4000 <= second.at - first.at <= 4000 + BASE_SECONDS * 1000 + 1


def test_each_attempt_is_an_event_and_costs_nothing_only_if_surely_unbilled() -> None:
    """Of three failures one may have been billed: its worst case stays charged."""
    model = ScriptedModel(
        failing(
            ModelFailed("outage", "503", billed=False),
            ModelFailed("cut", "broke off", billed=True),
            ModelFailed("rate_limited", "429", billed=False),
        )
    )
    run = play(asks(), Case(), model=model)
    calls = [event for event in run.events if isinstance(event, e.ModelCalled)]
    failed = [event for event in run.events if isinstance(event, e.AttemptFailed)]
    assert [call.attempt for call in calls] == [1, 2, 3, 4] and len({call.effect for call in calls}) == 1
    assert [(f.kind, f.nanousd, f.tokens) for f in failed] == [
        ("outage", 0, 0),
        ("cut", calls[1].hold_nanousd, calls[1].hold_tokens),
        ("rate_limited", 0, 0),
    ]
    assert run.result.spent.calls == 4
    assert run.result.spent.nanousd == calls[1].hold_nanousd + 10 * PRICE.input // 10**6 + 2 * PRICE.output // 10**6


def test_attempts_are_bounded_and_the_failure_has_a_destination() -> None:
    model = ScriptedModel(lambda request: ModelFailed("outage", "503", billed=False))
    run = play(asks(attempts=3), Case(), model=model)
    assert len(model.requests) == 3 and run.path == "work > person"
    assert run.result.spent.nanousd == 0
    assert [event.final for event in run.events if isinstance(event, e.AttemptFailed)] == [False, False, True]


@pytest.mark.parametrize("kind", ["quota", "auth", "overflow", "rejected"])
def test_what_cannot_help_is_not_tried_again(kind: Any) -> None:
    model = ScriptedModel(lambda request: ModelFailed(kind, "no", billed=False))
    play(asks(), Case(), model=model)
    assert len(model.requests) == 1


def test_the_states_deadline_bounds_it_all() -> None:
    """Back-offs short enough to be waited for here count as active time: the state's `within` ends them."""
    model = ScriptedModel(lambda request: ModelFailed("rate_limited", "429", retry_after=6, billed=False))
    run = play(asks(attempts=1000, within=15), Case(), model=model)
    assert run.path == "work > person" and 15 <= run.seconds <= 16
    assert next(event.outcome for event in run.events if isinstance(event, e.Transitioned)) == "timeout"
    assert len(model.requests) in (2, 3)


def test_a_long_wait_frees_the_worker_and_the_money() -> None:
    """An hour of Retry-After: the run is parked, holds nothing, costs no active time; its worker takes another run."""
    model = ScriptedModel(failing(ModelFailed("rate_limited", "429", retry_after=3600, billed=False)))
    scene = asks()

    async def act(stage: Stage) -> None:
        first = await stage.client.start(scene, Case(), by="test")
        worker = await stage.worker(scene, concurrency=1)
        await stage.until(lambda: stage.status(first.id) == "waiting", 10)
        row = stage.store.find(first.id)
        assert worker.busy == 0 and row.worker is None and row.account.held.nanousd == row.account.held.tokens == 0
        second = await stage.client.start(scene, Case(), by="test")
        await stage.until(lambda: stage.status(second.id) == "completed", 10)
        began = stage.clock.monotonic()
        await stage.until(lambda: stage.status(first.id) == "completed", 4000, step=5)
        assert stage.clock.monotonic() - began > 3500
        assert stage.store.find(first.id).account.spent.active_ms < 1000

    on_stage(act, model, timing=Timing(poll=5, lease=60))


def test_a_parked_retry_survives_its_worker() -> None:
    model = ScriptedModel(failing(ModelFailed("rate_limited", "429", retry_after=600, billed=False)))
    scene = asks()

    async def act(stage: Stage) -> None:
        await stage.client.start(scene, Case(), by="test")
        first = await stage.worker(scene)
        await stage.until(lambda: stage.status() == "waiting", 10)
        await stage.kill(first)
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "completed", 1000, step=5)
        assert not stage.of(e.TakenOver) and [call.attempt for call in stage.of(e.ModelCalled)] == [1, 2]

    on_stage(act, model)


def test_a_tool_that_says_not_done_is_tried_again_as_it_asks() -> None:
    """`NotDone` is the tool's word that nothing happened: no doubt, whatever the tool does."""
    said = [NotDone("busy", retry_after=3), NotDone("busy", retry=True)]
    keys: list[str] = []

    @tool(does="send")
    async def send(call: Call[None], n: int) -> str:
        keys.append(call.key)
        if said:
            raise said.pop(0)
        return "sent"

    @state(tools=[send])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(send, 1)
        return "done"

    run = play(machine(work), Case())
    assert run.status == "completed" and len(keys) == 3 and len(set(keys)) == 1 and run.seconds >= 3
    assert not any(isinstance(event, e.AttemptFailed) and event.doubt for event in run.events)


def test_a_tool_that_says_not_done_for_good_is_believed() -> None:
    calls = []

    @tool(does="send")
    async def send(call: Call[None], n: int) -> str:
        calls.append(1)
        raise NotDone("no such address")

    @state(tools=[send])
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(send, 1)
        return "done"

    run = play(machine(work, {"error": "person"}), Case())
    assert len(calls) == 1 and run.path == "work > person"


def test_side_by_side_each_call_backs_off_for_itself() -> None:
    tools = Tools()
    model = ScriptedModel(failing(ModelFailed("outage", "503", billed=False)))

    @state(models=[MODEL], tools=tools.all, within=600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await asyncio.gather(turn.model(MODEL, "a"), turn.model(MODEL, "b"), turn.call(tools.keyed, 1))
        return "done"

    run = play(machine(work), Case(), model=model)
    assert run.status == "completed" and len(model.requests) == 3 and tools.outside.calls["keyed"] == 1
