"""Law 10: breakers are shared by all workers, have rows and a log of their own, and one leased owner of each probe.
Open means the next model, then `unavailable`, without using attempts; and why is in the run's event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import Any, Literal

import pytest

from interlock import Call, Limits, Machine, Turn, final, model_state, state, tool, wait
from interlock.agent.model import ModelFailed, ModelRequest
from interlock.agent.scripted import ScriptedModel, ScriptedModels
from interlock.errors import EffectFailed, NotDone
from interlock.history import events as e
from interlock.policy.breaker import Terms
from interlock.store.protocol import Answer, Refused, Store, Write
from interlock.worker import Worker
from tests.laws.machines import Case, Tools, machine
from tests.laws.several_models import DOWN, FIRST, MOVES, OK, SECOND, THIRD, asks, brains, calls
from tests.laws.stage import Stage, dies_at, on_stage
from tests.stage import Stage as Stages
from tests.stage import play

# -- fallbacks --------------------------------------------------------------------------------------------------------


def test_the_first_choice_is_asked_and_nobody_else() -> None:
    run = play(asks(FIRST, SECOND), Case(), model=brains(first=OK, second=OK))
    assert run.record.text == f"{FIRST}: ok" and calls(run.events) == [(FIRST, 1)]


def test_fallbacks_are_asked_in_the_order_declared_each_with_attempts_of_its_own() -> None:
    run = play(asks(FIRST, SECOND, THIRD, attempts=2), Case(), model=brains(first=DOWN, second=DOWN, third=OK))
    assert run.record.text == f"{THIRD}: ok"
    assert calls(run.events) == [(FIRST, 1), (FIRST, 2), (SECOND, 3), (SECOND, 4), (THIRD, 5)]
    last = [event for event in run.events if isinstance(event, e.ModelCalled)][-1]
    assert [(passed["name"], passed["why"]) for passed in last.passed] == [
        (FIRST, "retries_spent"),
        (SECOND, "retries_spent"),
    ]


@pytest.mark.parametrize("kind", ["quota", "auth"])
def test_a_refusing_model_is_asked_once_and_the_next_takes_over(kind: Any) -> None:
    run = play(asks(FIRST, SECOND), Case(), model=brains(first=ModelFailed(kind, "no", billed=False), second=OK))
    assert run.record.text == f"{SECOND}: ok" and calls(run.events) == [(FIRST, 1), (SECOND, 2)]
    last = [event for event in run.events if isinstance(event, e.ModelCalled)][-1]
    assert last.passed == ({"name": FIRST, "why": kind, "reason": "no"},)


def test_a_model_that_asks_to_be_left_alone_for_long_is_passed_over_rather_than_waited_for() -> None:
    limited = ModelFailed("rate_limited", "429", retry_after=3600, billed=False)
    run = play(asks(FIRST, SECOND), Case(), model=brains(first=limited, second=OK))
    assert run.record.text == f"{SECOND}: ok" and calls(run.events) == [(FIRST, 1), (SECOND, 2)]
    assert run.seconds < 60, "nobody waited an hour"
    last = [event for event in run.events if isinstance(event, e.ModelCalled)][-1]
    assert last.passed == ({"name": FIRST, "why": "rate_limited", "reason": "429"},)


def test_the_last_model_left_is_waited_for() -> None:
    limited = ModelFailed("rate_limited", "429", retry_after=3600, billed=False)
    run = play(asks(FIRST, SECOND), Case(), model=brains(first=limited, second=[limited, OK]))
    assert run.record.text == f"{SECOND}: ok" and run.seconds >= 3600


@pytest.mark.parametrize(("kind", "outcome"), [("overflow", "overflow"), ("rejected", "error")])
def test_what_every_model_would_refuse_is_asked_of_no_other(kind: Any, outcome: str) -> None:
    run = play(asks(FIRST, SECOND), Case(), model=brains(first=ModelFailed(kind, "no", billed=False), second=OK))
    assert calls(run.events) == [(FIRST, 1)]
    assert next(event.outcome for event in run.events if isinstance(event, e.Transitioned)) == outcome


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [("outage", "outage", "retries_spent"), ("quota", "outage", "unavailable"), ("outage", "auth", "unavailable")],
)
def test_when_none_is_left_the_outcome_says_whether_any_took_calls(first: Any, second: Any, outcome: str) -> None:
    said = {"first": ModelFailed(first, "a", billed=False), "second": ModelFailed(second, "b", billed=False)}
    run = play(asks(FIRST, SECOND, attempts=2), Case(), model=brains(**said))
    assert next(event.outcome for event in run.events if isinstance(event, e.Transitioned)) == outcome


# -- an outage --------------------------------------------------------------------------------------------------------

OUTAGE_SECONDS = 60.0
RUNS = 50


class Provider:
    """A provider that doesn't work for a minute. `decides`: whether a call's fate is decided when it is sent or when it
    is answered. `fails_after`: seconds until a call that is lost when sent fails; None: as long as an answer takes."""

    def __init__(self, chance: Random, latency: tuple[float, float], decides: str, fails_after: float | None) -> None:
        self.chance, self.latency, self.decides, self.fails_after = chance, latency, decides, fails_after
        self.onset = 3 * latency[1] + 1
        self.sent: list[float] = []
        self.in_flight: set[int] = set()
        self.at_onset: int | None = None

    @property
    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def down(self, at: float) -> bool:
        return self.onset <= at < self.onset + OUTAGE_SECONDS

    async def __call__(self, request: ModelRequest) -> Any:
        number, began = len(self.sent), self.time
        self._look()
        self.sent.append(began)
        self.in_flight.add(number)
        doomed = self.decides == "send" and self.down(began)
        takes = self.chance.uniform(*self.latency)
        await asyncio.sleep(self.fails_after if doomed and self.fails_after is not None else takes)
        self._look()
        self.in_flight.discard(number)
        return DOWN if doomed or (self.decides == "reply" and self.down(self.time)) else OK

    def _look(self) -> None:
        """How many calls were in flight when the outage began: the first who comes after it knows."""
        if self.at_onset is None and self.time >= self.onset:
            self.at_onset = len(self.in_flight)

    @property
    def sent_while_down(self) -> int:
        return sum(map(self.down, self.sent))


def busy(calls: int) -> Any:
    """A machine that asks the first model again and again; when it is unavailable, it comes back later."""

    @state(models=[FIRST], writes=["n"], within=300)
    async def work(turn: Turn[Case]) -> Literal["again", "done"]:
        await turn.model(FIRST, f"{turn.number}", within=60)
        turn.record.n = turn.record.n + 1
        return "done" if turn.record.n >= calls else "again"

    return Machine(
        "busy",
        Case,
        limits=Limits(turns=10_000, warn_at=1.0, seconds=1e6, repeats=None),
        table={
            "work": work.then({"again": "work", "done": "closed", "unavailable": "later", "retries_spent": "later"}),
            "later": wait(seconds=7).then({"elapsed": "work"}),
            "closed": final("completed"),
        },
    )


LATENCIES = {"quick": (0.05, 0.1), "slow": (2.0, 4.0), "mixed": (0.05, 8.0)}


FATES = {
    "decided when sent": ("send", None),
    "refused at once": ("send", 0.01),
    "decided when answered": ("reply", None),
}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(("decides", "fails_after"), FATES.values(), ids=FATES)
@pytest.mark.parametrize("latency", LATENCIES)
def test_a_provider_that_is_down_for_a_minute_is_left_alone(
    latency: str, decides: str, fails_after: float | None, workers: int, chance: Random
) -> None:
    """50 runs at once: during the outage no more calls are sent than were in flight at its onset, than it takes to open
    the breaker, and than there are probes. Then it recovers, and every run ends."""
    provider = Provider(chance, LATENCIES[latency], decides, fails_after)
    scene = busy(calls=int(3 * provider.onset / sum(LATENCIES[latency])) + 3)  # they outlast its onset
    terms = Terms()

    async def act(stage: Stage) -> None:
        for _ in range(RUNS):
            await stage.client.start(scene, Case(), by="test")
        for _ in range(workers):
            await stage.worker(scene, concurrency=-(-RUNS // workers))
        await stage.until(lambda: all(row.status == "completed" for row in stage.store.runs()), 400, step=1)
        log = stage.store.breaker_log()
        probes = [change for change in log if change.what == "probed"]
        assert provider.at_onset is not None
        bound = provider.at_onset + terms.failures + len(probes)
        assert provider.sent_while_down <= bound, f"{provider.sent_while_down} > {provider.at_onset}+5+{len(probes)}"
        assert log[0].what == "opened" and log[-1].what == "closed" and not stage.store.breakers()
        assert all(later.at - earlier.at >= 1000 * terms.open_for for earlier, later in pairwise(probes))

    on_stage(act, ScriptedModel(provider), seed=chance.getrandbits(32))


# -- open -------------------------------------------------------------------------------------------------------------

TRIPPED = {"by": "ann", "reason": "their status page is red"}


def outcome_of(events: Any) -> str:
    return next(event.outcome for event in events if isinstance(event, e.Transitioned))


def test_open_means_the_next_model_and_no_attempt_at_this_one(stage: Stages) -> None:
    stage.perform(lambda: stage.client().trip(f"model:{FIRST}", **TRIPPED))
    run = stage.play(asks(FIRST, SECOND), Case(), model=brains(first=OK, second=OK))
    [call] = [event for event in run.events if isinstance(event, e.ModelCalled)]
    assert (call.model, call.attempt, run.record.text) == (SECOND, 1, f"{SECOND}: ok")
    assert call.passed == ({"name": FIRST, "why": "open", "reason": TRIPPED["reason"]},)


def test_all_open_is_unavailable_without_an_attempt_and_says_why(stage: Stages) -> None:
    client = stage.client()
    stage.perform(lambda: client.trip(f"model:{FIRST}", **TRIPPED))
    stage.perform(lambda: client.trip(f"model:{SECOND}", seconds=90, by="ben", reason="too dear"))
    run = stage.play(asks(FIRST, SECOND), Case(), model=brains(first=OK, second=OK))
    assert outcome_of(run.events) == "unavailable" and run.path == "work > person"
    [prevented] = [event for event in run.events if isinstance(event, e.CallPrevented)]
    assert [(each["name"], each["why"], each["reason"]) for each in prevented.passed] == [
        (FIRST, "open", TRIPPED["reason"]),
        (SECOND, "open", "too dear"),
    ]
    assert run.result.spent.calls == 0 and not calls(run.events)


def test_an_open_breaker_uses_none_of_the_attempts(stage: Stages) -> None:
    """Two attempts fail, then the breaker is open: the effect ends with two of its four. Once it is closed, a new turn
    counts anew."""
    client = stage.client(brains(first=[DOWN, DOWN]))
    client.world.breakers.terms = Terms(failures=2)
    scene = busy(1)

    async def act() -> list[tuple[str, int]]:
        run = await client.start(scene, Case(), by="test")
        async with Worker(client, [scene], watch=False):
            await run.result()
        return calls(stage.events(run.id))

    assert stage.perform(act) == [(FIRST, 1), (FIRST, 2), (FIRST, 1)]


def test_trip_and_reset_are_lines_of_the_breakers_log_with_who_and_why(stage: Stages) -> None:
    client = stage.client()
    stage.perform(lambda: client.trip("tool:refund", seconds=60, by="ann", reason="double payments"))
    stage.perform(lambda: client.reset("tool:refund", by="ben", reason="mended"))
    assert [(line.what, line.state, line.by, line.reason) for line in stage.store.breaker_log("tool:refund")] == [
        ("tripped", "open", "ann", "double payments"),
        ("reset", "closed", "ben", "mended"),
    ]
    assert [row.state for row in client.breakers()] == ["closed"]


def test_verify_finds_a_breaker_that_its_log_does_not_know_of(file_stage: Stages) -> None:
    client = file_stage.client()
    file_stage.perform(lambda: client.trip("tool:refund", by="ann", reason="double payments"))
    assert client.verify() == []
    file_stage.edit("UPDATE breaker SET state = 'closed', until = NULL")
    [found] = file_stage.client().verify()
    assert found.why == "breaker tool:refund: is closed, its log says open"


def test_what_a_person_opened_stays_open_until_a_person_closes_it(stage: Stages) -> None:
    """A year passes: no probe goes out."""
    client = stage.client()
    stage.perform(lambda: client.trip(f"model:{FIRST}", **TRIPPED))
    stage.clock.advance(365 * 86_400)
    assert outcome_of(stage.play(asks(FIRST), Case(), model=brains(first=OK)).events) == "unavailable"
    stage.perform(lambda: client.reset(f"model:{FIRST}", by="ann"))
    assert stage.play(asks(FIRST), Case(), model=brains(first=OK)).status == "completed"


# -- tools ------------------------------------------------------------------------------------------------------------


def lookup(answers: Callable[[int], Any], within: float = 5) -> Any:
    """A machine that calls a reading tool again and again until it is unavailable, and how often it was called."""
    made: list[int] = []

    @tool(does="read", within=within)
    async def look(call: Call[None], n: int) -> str:
        made.append(n)
        said = answers(len(made))
        if isinstance(said, BaseException):
            raise said
        return str(said)

    @state(tools=[look], calls=40)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        for n in range(20):
            with suppress(EffectFailed):
                await turn.call(look, n)
        return "done"

    return machine(work, attempts=1), made


def test_a_tools_breaker_opens_too() -> None:
    scene, made = lookup(lambda n: OSError("connection refused"))
    run = play(scene, Case())
    prevented = [event for event in run.events if isinstance(event, e.CallPrevented)]
    assert run.status == "completed" and len(made) == Terms().failures
    assert len(prevented) == 20 - len(made)
    assert all("connection refused" in str(event.passed[0]["reason"]) for event in prevented)


def test_a_doubt_is_not_cleared_through_an_open_breaker_and_is_cleared_by_its_probe() -> None:
    """The tool fails twice, nobody knows whether it happened: its breaker opens on a doubt. The turn ends
    `unavailable` and the doubt stays; when the run comes back, the repeat under the same key is the probe."""
    keys: list[str] = []

    @tool(does="write", keyed=True, within=5)
    async def pay(call: Call[None], n: int) -> str:
        keys.append(call.key)
        if len(keys) <= 2:
            raise OSError("connection reset")
        return f"paid {n}"

    @state(tools=[pay], writes=["text"], within=100)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        turn.record.text = await turn.call(pay, 1)
        return "done"

    table = {
        "work": work.then({"done": "closed", "unavailable": "later"}),
        "later": wait(seconds=40).then({"elapsed": "work"}),
        "closed": final("completed"),
    }
    scene = Machine("pays", Case, limits=Limits(turns=9, warn_at=1.0), table=table)

    async def act(stage: Stage) -> None:
        run = await stage.client.start(scene, Case(), by="test")
        worker = await stage.worker(scene)
        worker.world.breakers.terms = Terms(failures=2)
        await stage.until(lambda: stage.status(run.id) == "completed", 300)
        assert keys == [f"{run.id}-1"] * 3 + [f"{run.id}-2"]
        assert [call.probe for call in stage.of(e.ToolCalled)] == [0, 0, 1, 0]
        assert [line.what for line in stage.store.breaker_log()] == ["opened", "probed", "closed"]

    on_stage(act)


@pytest.mark.parametrize("said", [NotDone("no such order"), "found"], ids=["a business refusal", "an answer"])
def test_an_answer_opens_no_breaker(said: Any) -> None:
    scene, made = lookup(lambda n: said)
    run = play(scene, Case())
    assert len(made) == 20 and not [event for event in run.events if isinstance(event, e.CallPrevented)]


@pytest.mark.parametrize("kind", ["rate_limited", "quota", "auth", "overflow", "rejected"])
def test_a_model_that_refuses_is_no_outage(kind: Any, stage: Stages) -> None:
    refusing = ScriptedModels(ScriptedModel(lambda request: ModelFailed(kind, "no", billed=False)))
    for _ in range(3):
        stage.play(asks(FIRST), Case(), model=refusing)
    assert stage.store.breakers(all=True) == []


@pytest.mark.parametrize("kind", ["outage", "timeout", "cut", "malformed"])
def test_a_model_that_does_not_answer_is_an_outage_for_all_runs(kind: Any, stage: Stages) -> None:
    model = ScriptedModel(lambda request: ModelFailed(kind, "down", billed=False))
    for _ in range(3):
        stage.play(asks(FIRST), Case(), model=model)
    assert len(model.requests) == Terms().failures
    [row] = stage.store.breakers()
    assert row.state == "open" and row.reason == "5 failures in a row, the last: down"


def test_a_provider_that_hangs_until_its_turn_is_over_is_an_outage() -> None:
    """A model state gives its call the whole turn: the turn's end cuts it off, and nothing is recorded but that."""

    async def hang(request: ModelRequest) -> Any:
        await asyncio.sleep(1e5)

    scene = Machine(
        "hung",
        Case,
        limits=Limits(turns=50, warn_at=1.0, repeats=None),
        table={
            "work": model_state("x", model=FIRST, writes={"done": ["text"]}, within=10).then(
                {"done": "closed", "timeout": "work", "unavailable": "lost"}
            ),
            "closed": final("completed"),
            "lost": final("failed"),
        },
    )
    model = ScriptedModel(hang)
    run = play(scene, Case(), model=model)
    assert run.status == "failed" and outcome_of(reversed(run.events)) == "unavailable"
    assert len(model.requests) == Terms().failures


# -- a commit that a breaker refuses ----------------------------------------------------------------------------------


def looks_then_asks(meanwhile: Callable[[], Awaitable[Any]], tools: Tools) -> Any:
    """A machine that calls a tool, in whose time something happens elsewhere, and then asks a model."""

    @tool(does="read", within=5)
    async def look(call: Call[None]) -> str:
        await meanwhile()
        return "seen"

    @state(models=[FIRST, SECOND], tools=[look, *tools.all], writes=["text", "items"], within=600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        paid, seen = await asyncio.gather(turn.call(tools.keyed, 1), turn.call(look))
        with suppress(EffectFailed):
            turn.record.items.append((await turn.model(FIRST, "only you")).model)
        turn.record.text = f"{paid}, {seen}, {(await turn.model([FIRST, SECOND], 'x')).model}"
        return "done"

    return machine(work, MOVES)


def test_what_came_with_a_refused_intent_is_kept_and_the_turn_goes_on() -> None:
    """The breaker is opened in another process while a tool is called: the commit that carries the tool's result and
    the intent of the model's call is refused. The result stays, the model isn't asked, the next one is."""
    refused: list[Answer] = []
    tools = Tools()

    async def act(stage: Stage) -> None:
        scene = looks_then_asks(lambda: stage.client.trip(f"model:{FIRST}", **TRIPPED), tools)
        run = await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene, store=Listening(stage.store, refused))
        await stage.until(lambda: stage.status(run.id) == "completed", 60)
        assert stage.client.show(run.id).record == {"n": 0, "text": f"keyed 1, seen, {SECOND}", "items": []}
        assert calls(stage.log()) == [(SECOND, 1)] and tools.outside.calls["keyed"] == 1
        assert len(stage.of(e.ToolReturned)) == 2 and len(stage.of(e.CallPrevented)) == 1

    on_stage(act, brains(first=OK, second=OK))
    assert [answer for answer in refused if isinstance(answer, Refused)] == [Refused("breaker")]


class Listening:
    """A store whose answers are listened to."""

    def __init__(self, store: Store, heard: list[Answer]) -> None:
        self._store, self._heard = store, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        answers = self._store.write(batch)
        self._heard.extend(answers)
        return answers


@pytest.mark.parametrize("how", ["lose", "die"])
@pytest.mark.parametrize("point", range(1, 7))
def test_a_turn_that_found_nothing_available_is_the_same_again_after_a_crash(point: int, how: str) -> None:
    """Its worker dies at one commit after the other. The breaker that was open is closed when the next one enters the
    turn: what was prevented stays prevented, and what is recorded is what happened."""
    tools, model = Tools(), ScriptedModel(lambda request: OK)

    async def act(stage: Stage) -> None:
        async def trip() -> None:
            if not stage.store.breaker_log():  # the tool is called again after a crash
                await stage.client.trip(f"model:{FIRST}", **TRIPPED)

        scene = looks_then_asks(trip, tools)
        run = await stage.client.start(scene, Case(), by="test")
        dying = await stage.worker(scene, fail=dies_at(point, how))
        cable: Any = dying.world.committer
        await stage.until(lambda: cable.cut or stage.status(run.id) == "completed", 60)
        await stage.kill(dying)
        prevented = stage.of(e.CallPrevented)
        await stage.client.reset(f"model:{FIRST}", by="ben")
        await stage.worker(scene)
        await stage.until(lambda: stage.status(run.id) == "completed", 100)
        assert tools.outside.times("keyed") == 1
        items = stage.client.show(run.id).record["items"]
        assert items == ([] if stage.of(e.CallPrevented) else [FIRST])
        assert stage.of(e.CallPrevented)[: len(prevented)] == prevented

    on_stage(act, ScriptedModels(model))


TURNS = 12


def test_whatever_opens_when_every_call_has_one_result(chance: Random) -> None:
    """Many calls side by side on two workers, a model that fails more often than not, breakers that open and close all
    the time: every run ends, every effect has one result or was prevented, and the audit finds nothing."""

    async def unsure(request: ModelRequest) -> Any:
        await asyncio.sleep(chance.uniform(0.01, 2))
        return DOWN if chance.random() < 0.6 else OK

    async def fine(request: ModelRequest) -> Any:
        await asyncio.sleep(0.1)
        return OK

    tools = Tools(after=0.5)

    @state(models=[FIRST, SECOND], tools=tools.all, writes=["n"], within=600, calls=20)
    async def work(turn: Turn[Case]) -> Literal["again", "done"]:
        asked = [turn.model([FIRST, SECOND] if n % 2 else FIRST, f"{n}") for n in range(6)]
        called = [turn.call(tools.read, 1), turn.call(tools.keyed, turn.number)]
        await asyncio.gather(*asked, *called, return_exceptions=True)
        await turn.sleep(1)
        turn.record.n = turn.record.n + 1
        return "done" if turn.record.n >= TURNS else "again"

    scene = machine(work, {"again": "work"}, turns=TURNS, seconds=1e6, repeats=None)

    async def act(stage: Stage) -> None:
        runs = [await stage.client.start(scene, Case(), by="test") for _ in range(6)]
        for _ in range(2):
            worker = await stage.worker(scene, concurrency=3)
            worker.world.breakers.terms = Terms(failures=3, open_for=1)
        await stage.until(lambda: all(stage.status(run.id) == "completed" for run in runs), 2000, step=1)
        assert {line.what for line in stage.store.breaker_log()} >= {"opened", "probed", "closed"}
        assert stage.client.verify() == []
        for run in runs:
            log = stage.log(run.id)
            asked = {event.effect for event in log if isinstance(event, e.ModelCalled)}
            told = [event.effect for event in log if isinstance(event, e.ModelReplied)]
            over = [event.effect for event in log if isinstance(event, e.CallPrevented)]
            over += [event.effect for event in log if isinstance(event, e.AttemptFailed) and event.final]
            assert len(set(told)) == len(told) and asked <= {*told, *over} and not set(told) & set(over)
            assert len({*told, *over}) == TURNS * 6

    on_stage(act, ScriptedModels({FIRST: ScriptedModel(unsure), SECOND: ScriptedModel(fine)}))


# -- probes -----------------------------------------------------------------------------------------------------------


def test_a_probe_whose_worker_dies_is_given_to_another_after_its_lease() -> None:
    """The first probe is never answered: its worker is killed. Nobody else asks the model until its lease is over."""
    asked: list[float] = []

    async def model(request: ModelRequest) -> Any:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) == Terms().failures + 1:
            await asyncio.sleep(1e5)
        return DOWN if len(asked) <= Terms().failures else OK

    async def act(stage: Stage) -> None:
        scene = busy(1)
        run = await stage.client.start(scene, Case(), by="test")
        first = await stage.worker(scene)
        await stage.until(lambda: len(asked) == Terms().failures + 1, 200)
        [row] = stage.store.breakers()
        assert (row.state, row.probe, row.sent) == ("half_open", 1, True)
        await stage.kill(first)
        await stage.worker(scene)
        await stage.until(lambda: stage.status(run.id) == "completed", 400)
        one, two = (line for line in stage.store.breaker_log() if line.what == "probed")
        assert two.probe == 2 and row.until is not None and two.at >= row.until > one.at
        assert len(asked) == Terms().failures + 2

    on_stage(act, ScriptedModel(model))


def test_the_probe_is_said_in_the_events_of_its_run() -> None:
    left = [DOWN] * Terms().failures

    async def act(stage: Stage) -> None:
        scene = busy(1)
        await stage.client.start(scene, Case(), by="test")
        await stage.worker(scene)
        await stage.until(lambda: stage.status() == "completed", 200)
        assert [event.probe for event in stage.of(e.ModelCalled)] == [0] * Terms().failures + [1]
        assert [line.by for line in stage.store.breaker_log() if line.what == "probed"] == [
            f"run {stage.store.find('@last').id}"
        ]

    on_stage(act, ScriptedModel(lambda request: left.pop() if left else OK))


def test_a_worker_that_joins_knows_what_is_open_and_asks_nobody_in_vain() -> None:
    refused: list[Answer] = []

    async def act(stage: Stage) -> None:
        await stage.client.trip(f"model:{FIRST}", **TRIPPED)
        await stage.client.start(asks(FIRST, SECOND), Case(), by="test")
        await stage.worker(asks(FIRST, SECOND), store=Listening(stage.store, refused))
        await stage.until(lambda: stage.status() == "completed", 20)

    on_stage(act, brains(first=OK, second=OK))
    assert refused and not [answer for answer in refused if isinstance(answer, Refused)]
