"""The judgement of an independent fault server (llmock) on the real provider client with the engine's retries.

It sees every request and its timing, and says what is wrong with how a client took its faults. All of its faults are
played at once, each on a model of its own, through the engine, in real time; then each is judged. That its judge would
say so is shown by clients that are wrong on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from random import Random
from typing import Any, Literal, TypeVar

import pytest
from llmock.journal import RequestRecord
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Behavior, Delay, Fail, Match, SlowFirstToken, StreamFault
from llmock.verdict import judge
from pydantic import BaseModel

from interlock import Client, Machine, Turn, Worker, final, state
from interlock.agent.model import Message, ModelFailed, ModelRequest
from interlock.bootstrap import open_world
from interlock.client import RunHandle
from interlock.history import events as e
from interlock.machine.limits import Price
from tests.agent.fault_server import FORBIDDEN, PROVIDERS, fault_server, models_at
from tests.conftest import SEED

T = TypeVar("T")

ATTEMPTS = 4  # what `Limits` gives by default

Faults = Callable[[Match], list[Behavior]]


def fails(status: int, times: int | None, **more: Any) -> Faults:
    return lambda match: [Fail(status, times=times, match=match, **more)]


def breaks(kind: Any, times: int, **more: Any) -> Faults:
    return lambda match: [StreamFault(kind, times=times, match=match, **more)]


@dataclass(frozen=True)
class Scenario:
    """What goes wrong, how many requests that must take, and how the run stands then.

    within, silence  what an attempt and a silent stream get: short where that is the fault, and then a slow machine may
                     make one attempt more of it; else longer than any machine is slow
    judged           what the judge says all the same
    seen             by the server: one that prepares an answer doesn't notice that its client has left
    """

    name: str
    faults: Faults
    requests: int
    status: str = "completed"
    providers: tuple[str, ...] = PROVIDERS
    judged: tuple[str, ...] = ()
    seen: bool = True
    within: float = 30.0
    silence: float = 30.0

    @property
    def takes_its_time(self) -> bool:
        return min(self.within, self.silence) < 30


@dataclass(frozen=True)
class Case:
    """One scenario at one provider, with replies whole or streamed, on a model of its own."""

    scenario: Scenario
    provider: str
    stream: bool

    def __str__(self) -> str:
        return f"{self.provider}_{'streamed' if self.stream else 'whole'}_{self.scenario.name}"

    @property
    def model(self) -> str:
        return f"{self.provider}:{self}"

    @property
    def behaviors(self) -> list[Behavior]:
        return self.scenario.faults(Match(model=str(self), stream=self.stream))


# Where nothing says how long to wait, three faults in a row: that waits grow shows in three of them also on a machine
# that is so busy that one came late.
ERRORS = [
    Scenario("429_briefly", fails(429, 2, retry_after=0.4), 3),
    Scenario("429_fraction", fails(429, 1, retry_after=1.3), 2),
    Scenario("429_as_long_as_it_lasts", fails(429, None, retry_after=0.2), ATTEMPTS, "waiting"),
    Scenario("429_quota", fails(429, None, code="insufficient_quota"), 1, "waiting", ("openai",), ("gave_up",)),
    Scenario("400_quota", fails(400, None, message="Your credit balance is too low"), 1, "waiting", ("anthropic",)),
    Scenario("408", fails(408, 3), 4),
    Scenario("500", fails(500, 3), 4),
    Scenario("500_as_long_as_it_lasts", fails(500, None), ATTEMPTS, "waiting"),
    Scenario("502", fails(502, 3), 4),
    Scenario("503_with_its_own_wait", fails(503, 2), 3),
    Scenario("504", fails(504, 1, retry_after=0.5), 2),
    Scenario("529", fails(529, 2, retry_after=0.5), 3),
    *(Scenario(f"{status}", fails(status, None), 1, "waiting") for status in (400, 401, 403, 404, 422)),
    Scenario("overflow", fails(400, None, code="context_length_exceeded", message="prompt is too long"), 1, "waiting"),
]
WHOLE = [*ERRORS, Scenario("late", lambda match: [Delay(6, match=match)], 2, seen=False, within=2.5)]
STREAMED = [
    *ERRORS,
    Scenario("late", lambda match: [SlowFirstToken(6, match=match)], 2, within=2.5),
    Scenario("slow_to_begin", lambda match: [SlowFirstToken(1.5, match=match)], 1),
    Scenario("truncated", breaks("truncate", 3, after_chunks=4), 4),
    Scenario("truncated_at_once", breaks("truncate", 3, after_chunks=0), 4),
    Scenario("cut", breaks("disconnect", 3, after_chunks=4), 4),
    Scenario("malformed", breaks("malformed", 3, after_chunks=3), 4),
    Scenario("hung", breaks("stall", 3, after_chunks=4, stall_seconds=12), 4, silence=3.0),
]
CASES = [
    *(Case(scenario, provider, False) for scenario in WHOLE for provider in scenario.providers),
    *(Case(scenario, provider, True) for scenario in STREAMED for provider in scenario.providers),
]


@dataclass(frozen=True)
class Played:
    """What came of a case: the requests that the server saw, how the run stands, and its log."""

    requests: list[RequestRecord]
    status: str
    log: list[e.Event]

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.log if isinstance(event, kind)]


@pytest.fixture(scope="module")
def played() -> dict[str, Played]:
    """Every case, all side by side."""
    print(f"INTERLOCK_TEST_SEED={SEED}")
    with fault_server() as server:
        server.pace(30)  # between pieces: who hangs up at a bad one must be gone before the last
        for case in CASES:
            server.add(*case.behaviors)
        ended = asyncio.run(_all_of(server))
        seen = server.requests
    return {case: Played([one for one in seen if one.model == case], *how) for case, how in ended.items()}


async def _all_of(server: LLMock) -> dict[str, tuple[str, list[e.Event]]]:
    async with asyncio.timeout(120):
        alike = sorted(CASES, key=_way)
        parts = await asyncio.gather(*[_some_of(server, *way, list(some)) for way, some in groupby(alike, _way)])
    return {name: how for part in parts for name, how in part.items()}


def _way(case: Case) -> tuple[bool, float]:
    return case.stream, case.scenario.silence


async def _some_of(
    server: LLMock, stream: bool, silence: float, cases: list[Case]
) -> dict[str, tuple[str, list[e.Event]]]:
    models = models_at(server, stream=stream, silence=silence)
    prices = {case.model: Price.per_million(1, 4) for case in cases}
    client = Client(world=replace(open_world("sqlite:///:memory:", models=models, prices=prices), chance=Random(SEED)))
    machines = {case: asks(case) for case in cases}
    for case in cases:
        models.find(case.model)  # which takes its time, and none of theirs
    try:
        async with Worker(client, list(machines.values()), concurrency=16, watch=False):
            runs = {str(case): await client.start(machine, Nothing()) for case, machine in machines.items()}
            return {name: await _to_its_end(client, run) for name, run in runs.items()}
    finally:
        await models.aclose()
        client.world.committer.close()
        client.store.close()


async def _to_its_end(client: Client, run: RunHandle[Any]) -> tuple[str, list[e.Event]]:
    status = (await run.result(until_waiting=True)).status
    return status, [event for _, event in [one async for one in run.events()]]


class Nothing(BaseModel):
    text: str = ""


def asks(case: Case) -> Machine[Nothing, None]:
    """A machine that asks the case's model once."""

    @state(models=[case.model], writes=["text"], within=100)
    async def work(turn: Turn[Nothing]) -> Literal["done"]:
        turn.record.text = (
            await turn.model(case.model, "Say something of some length.", within=case.scenario.within)
        ).text
        return "done"

    return Machine(str(case), Nothing, table={"work": work.then({"done": "closed"}), "closed": final("completed")})


# -- the judgement --


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_judge_has_nothing_to_say(case: Case, played: dict[str, Played]) -> None:
    """Not only none of the forbidden verdicts, but none at all; except that it takes a used-up quota, which OpenAI
    tells with the status of a rate limit, for one, and wonders why nobody tried again."""
    seen = played[str(case)]
    verdict = judge(seen.requests)
    assert tuple(finding.code for finding in verdict.findings) == case.scenario.judged, verdict.render()
    assert not set(FORBIDDEN).intersection(case.scenario.judged)
    assert len(seen.requests) == case.scenario.requests or case.scenario.takes_its_time
    assert len(verdict.calls) == 1 or not case.scenario.seen, "it knew all attempts for one call's"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_run_ends_as_it_must_and_each_attempt_is_an_event(case: Case, played: dict[str, Played]) -> None:
    seen = played[str(case)]
    assert seen.status == case.scenario.status, seen.log
    assert len(seen.of(e.ModelCalled)) == len(seen.requests)
    assert len(seen.of(e.AttemptFailed)) == len(seen.requests) - (seen.status == "completed")
    assert len(seen.requests) >= case.scenario.requests
    met = sum(one.status >= 400 or not one.completed for one in seen.requests)
    assert met == len(seen.of(e.AttemptFailed)) or not case.scenario.seen, "each fault failed an attempt"


# -- the judge can say it, and would --


async def _carelessly(server: LLMock, model: str, *, tries: int, pause: float = 0.0, silence: float = 60.0) -> None:
    """Our client for one request, without the engine: tries whatever comes again, without thought."""
    models = models_at(server, stream=True, silence=silence)
    asked = ModelRequest("any", (Message("user", "Say something of some length."),), timeout=30)
    for _ in range(tries):
        with suppress(ModelFailed):
            await models.find(model).reply(asked)
            break
        await asyncio.sleep(pause)
    await models.aclose()


async def _credulously(server: LLMock, model: str) -> None:
    """The library below our client, taken at its word."""
    from pydantic_ai.direct import model_request_stream
    from pydantic_ai.messages import ModelRequest as Asked

    models = models_at(server, stream=True, silence=30.0)
    found = models.find(model)._server.model("m")  # type: ignore[attr-defined]
    async with model_request_stream(found, [Asked.user_text_prompt("Say something.")]) as stream:
        async for _ in stream:
            pass
    await models.aclose()


Wrong = Callable[[LLMock], Awaitable[None]]

WRONG: dict[str, tuple[Callable[[LLMock], object], Wrong]] = {
    "retry_after_ignored": (
        lambda server: server.rate_limit(retry_after=1.0),
        lambda server: _carelessly(server, "openai:m", tries=2),
    ),
    "retried_non_retryable": (
        lambda server: server.fail(400, times=2),
        lambda server: _carelessly(server, "anthropic:m", tries=3),
    ),
    "retry_storm": (
        lambda server: server.fail(500, times=None),
        lambda server: _carelessly(server, "openai:m", tries=11),
    ),
    "truncated_stream_accepted": (
        lambda server: server.truncate(after_chunks=4),
        lambda server: _credulously(server, "openai:m"),
    ),
    "no_backoff": (
        lambda server: server.fail(500, times=3),
        lambda server: _carelessly(server, "anthropic:m", tries=4, pause=0.2),
    ),
    "no_read_timeout": (
        lambda server: server.stall(after_chunks=4, seconds=1.5),
        lambda server: _carelessly(server, "openai:m", tries=1, silence=60.0),
    ),
}


@pytest.mark.parametrize("code", FORBIDDEN)
def test_a_client_that_is_wrong_on_purpose_earns_the_verdict(code: str) -> None:
    break_it, wrong = WRONG[code]
    with fault_server() as server:
        break_it(server)
        asyncio.run(_within(20, wrong(server)))
        assert code in {finding.code for finding in server.verdict().findings}


async def _within(seconds: float, work: Awaitable[None]) -> None:
    async with asyncio.timeout(seconds):
        await work
