"""Random machines, models, tools and people: a run always ends or waits, within its limits, with a log that holds.

Hypothesis draws the machine and a seed; all that the run then meets (moves legal and not, failures, delays, people)
is drawn from that seed, so that an example can be replayed by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, use, wait
from interlock.agent.model import RETRYABLE, ModelRequest
from interlock.agent.prices import input_bound
from interlock.agent.scripted import Choice, as_reply
from interlock.client import Client
from interlock.clock import ManualClock, run_virtually
from interlock.errors import EffectFailed, InterlockError, InvalidMachine, NotDone
from interlock.history.calls import DEAD, IN_DOUBT, pending
from interlock.history.events import CallRedone, Transitioned
from interlock.history.fold import FINAL
from interlock.machine.graph import engine_outcomes
from interlock.machine.outcomes import EXHAUSTED, EngineOutcome
from interlock.reading import read_events
from interlock.store.sqlite import SqliteStore
from interlock.testing import ModelFailed, ModelReply, ScriptedModel
from interlock.worker import Worker
from tests.replaying import assert_replays
from tests.stage import Stage, assert_within_ceiling, folds

M = "acme:small"
STATES = ("s0", "s1", "s2", "s3", "s4")
ENDS = ("won", "lost")
KINDS = ("code", "plain", "model", "use", "ask", "wait", "signal")
FAILURES = ("outage", "rate_limited", "timeout", "cut", "quota", "auth", "overflow", "rejected", "malformed")


class Rec(BaseModel):
    text: str = ""
    number: int = 0
    items: list[str] = []


class Chance:
    """The one source of chance of an example."""

    def __init__(self) -> None:
        self.random = random.Random(0)


CHANCE = Chance()


async def misbehave(name: str) -> None:
    """What a tool or its world may do instead of returning."""
    chance = CHANCE.random
    what = chance.random()
    if what < 0.08:
        raise NotDone(f"{name}: not now", retry=chance.random() < 0.5)
    if what < 0.14:
        raise RuntimeError(f"{name} broke")
    if what < 0.22:
        await asyncio.sleep(chance.choice([0.5, 5, 400]))


@tool(does="read", within=3)
async def read(call: Call[None], number: int) -> int:
    await misbehave("read")
    return number + CHANCE.random.randrange(3)


@tool(does="write", keyed=True, within=3, usd_max=0.000_05)
async def keyed(call: Call[None], number: int) -> str:
    await misbehave("keyed")
    return f"did {number}"


@tool(does="send", within=3)
async def once(call: Call[None], number: int) -> str:
    await misbehave("once")
    return f"sent {number}"


TOOLS = (read, keyed, once)


async def effects(turn: Turn[Rec], chance: random.Random) -> None:
    """A few effects of any kind, one by one or side by side; failures are sometimes caught."""
    asked: list[Callable[[], Any]] = []
    for _ in range(chance.randrange(4)):
        kind = chance.randrange(6)
        if kind == 0:
            asked.append(partial(turn.sleep, chance.choice([0.1, 3, 100])))
        elif kind == 1:
            asked.append(partial(turn.model, M, f"say {chance.randrange(3)}", max_tokens=chance.choice([16, 64])))
        else:
            asked.append(partial(turn.call, chance.choice(TOOLS), chance.randrange(3)))
    if chance.random() < 0.5:
        await asyncio.gather(*(each() for each in asked), return_exceptions=chance.random() < 0.5)
        return
    for each in asked:
        try:
            await each()
        except EffectFailed:
            if chance.random() < 0.5:
                raise


@state(models=[M], tools=TOOLS, writes=["text", "number", "items"], max_tokens=64, calls=6, within=50)
async def code(turn: Turn[Rec]) -> Literal["a", "b"]:
    # A handler must ask the same when it is entered again, so its chance comes from the turn.
    chance = random.Random(f"{await turn.random()}")
    await effects(turn, chance)
    turn.record.number += 1
    turn.record.items.append(f"item {turn.number}")
    if chance.random() < 0.1:
        raise RuntimeError("handler broke")
    return "a" if chance.random() < 0.6 else "b"


@state(writes=["text"])
def plain(turn: Turn[Rec]) -> Literal["a", "b"]:
    turn.record.text = f"turn {turn.number}"
    if turn.number % 7 == 0:
        raise ValueError("seven")
    return "a" if turn.number % 2 else "b"


def declared(kind: str, thread: str | None) -> Any:
    match kind:
        case "code":
            return code
        case "plain":
            return plain
        case "model":
            writes = {"a": ["text"], "b": ["number", "items"]}
            return model_state("Go on with {text}", model=M, tools=[read, once], writes=writes, max_tokens=64,
                               within=40, thread=thread)  # fmt: skip
        case "use":
            return use(keyed, args={"number": "number"}, into="text", within=30)
        case "ask":
            return ask("Say {number}", of="desk", writes={"a": ["text"], "b": []}, within=500)
        case "wait":
            return wait(seconds=60)
        case _:
            return wait("ping", writes=["text"], within=120)


@dataclass(frozen=True)
class Draft:
    """A machine as drawn: it may not be valid."""

    kinds: tuple[str, ...]
    moves: tuple[Mapping[str, str], ...]
    visits: tuple[int | None, ...]
    threads: tuple[str | None, ...]
    otherwise: str | None
    limits: Limits

    def machine(self) -> Machine[Rec, Any]:
        table = {name: self._row(at) for at, name in enumerate(STATES[: len(self.kinds)])}
        seen = {"s0"}
        for _ in table:  # far enough for every way through
            seen |= {to for name in seen & table.keys() for to in table[name].moves.values()}
            seen |= {self.otherwise} if self.otherwise else set()
        ends = {"won": final("completed"), "lost": final("failed")}
        rows = {name: row for name, row in {**table, **ends}.items() if name in seen}
        return Machine("random", Rec, table=rows, otherwise=self.otherwise, limits=self.limits)

    def _row(self, at: int) -> Any:
        """The last outcome leads onwards, so that every state can reach an end."""
        declaration, moves = declared(self.kinds[at], self.threads[at]), self.moves[at]
        outcomes = [outcome for outcome in declaration.outcomes if outcome != "called"]
        own = {outcome: moves["b" if outcome == outcomes[-1] else "a"] for outcome in outcomes}
        bare = declaration.then(own)
        engine = {name: to for name, to in moves.items() if name in engine_outcomes(bare)}
        return declaration.then({**own, **engine}, visits=self.visits[at])


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    count = draw(st.integers(1, len(STATES)))
    places = st.sampled_from([*STATES[:count], *ENDS])
    moves = [_moves(draw, at, count) for at in range(count)]
    limits = Limits(
        turns=draw(st.integers(1, 12)),
        calls=draw(st.none() | st.integers(0, 20)),
        tokens=draw(st.none() | st.integers(0, 20_000)),
        usd=draw(st.none() | st.sampled_from([0, 0.0002, 0.01])),
        seconds=draw(st.sampled_from([20.0, 200.0])),
        visits=draw(st.none() | st.integers(1, 4)),
        warn_at=draw(st.sampled_from([0.5, 1.0])),
        on_warn=draw(st.sampled_from(["person", "end"])),
        attempts=draw(st.integers(1, 3)),
        illegal_moves=draw(st.integers(0, 2)),
        wrap_up=draw(st.sampled_from([0.0, 0.3])),
    )
    return Draft(
        tuple(draw(st.lists(st.sampled_from(KINDS), min_size=count, max_size=count))),
        tuple(moves),
        tuple(draw(st.lists(st.none() | st.integers(1, 3), min_size=count, max_size=count))),
        tuple(draw(st.lists(st.sampled_from([None, "talk"]), min_size=count, max_size=count))),
        draw(st.none() | st.sampled_from(ENDS) | places),
        limits,
    )


def _moves(draw: st.DrawFn, at: int, count: int) -> dict[str, str]:
    anywhere = st.sampled_from([*STATES[:count], *ENDS])
    engine = draw(st.dictionaries(st.sampled_from([str(each) for each in EngineOutcome]), anywhere, max_size=4))
    exhausted = {name: draw(st.sampled_from(ENDS)) for name in EXHAUSTED & engine.keys()}
    onwards = st.sampled_from([*STATES[at + 1 : count], *ENDS])
    return {**engine, **exhausted, "a": draw(anywhere), "b": draw(onwards)}


async def brain(request: ModelRequest) -> Any:
    """Any reply a model may give, legal or not, within the bounds a provider keeps; or a failure; sometimes late."""
    chance = CHANCE.random
    what = chance.random()
    if what < 0.12:
        kind: Any = chance.choice(FAILURES)
        billed = chance.random() < 0.5
        return ModelFailed(kind, "drawn", chance.choice([None, 1.0, 30.0]) if kind in RETRYABLE else None, billed)
    if what < 0.18:
        await asyncio.sleep(chance.choice([1, 300]))
    calls: list[Choice] = []
    if request.offers and chance.random() < 0.9:
        calls = [_choice(chance, chance.choice(request.offers).name) for _ in range(chance.choice([1, 1, 1, 2]))]
    tokens_in = chance.randint(0, input_bound(request, "hard"))
    tokens_out = chance.randint(0, request.max_tokens)
    reply = as_reply(calls, chance.randrange(10**9)) if calls else ModelReply()
    return ModelReply("words", reply.calls, max(tokens_in, 1), tokens_out)


def _choice(chance: random.Random, name: str) -> Choice:
    if chance.random() < 0.1:
        return Choice(chance.choice(["sudo", "", "won", "timeout"]), {})
    fields: dict[str, Any] = {"text": "t", "number": chance.randrange(4), "items": ["i"]}
    takes = {"a": ["text"], "b": ["number", "items"], "read": ["number"], "once": ["number"]}.get(name, [])
    if chance.random() < 0.1:
        return Choice(name, chance.choice([{}, "not json", {"number": "x"}, None]))
    return Choice(name, {field: fields[field] for field in takes})


async def live(machine: Machine[Rec, Any], seed: int, client: Client) -> str:
    """Start a run and be its people and systems for a while. Returns how it stands."""
    people = random.Random(f"people {seed}")
    handle = await client.start(machine, Rec())
    for _ in range(people.randrange(8)):
        result = await handle.result(until_waiting=True)
        if result.status in FINAL:
            break
        await _see_to_calls(client, handle.id, people)
        await _act(client, handle.id, people)
    for _ in range(2):
        await _see_to_calls(client, handle.id, people)
        while (view := handle.show()).ended and (view.row.mail or pending(view.state)):
            await asyncio.sleep(1)
    return (await handle.result(until_waiting=True)).status


async def _see_to_calls(client: Client, run: str, people: random.Random) -> None:
    """Some dead calls are redone, some dropped; what is in doubt after the end is cleared now and then."""
    view = client.show(run)
    for effect, call in view.state.calls.items():
        try:
            if call.status == DEAD and people.random() < 0.8:
                await people.choice([client.redo, client.drop])(run, int(effect))
            elif call.status == IN_DOUBT and view.ended and people.random() < 0.5:
                await client.clear(run, int(effect), happened=people.random() < 0.5, result="seen")
        except InterlockError:
            continue


async def _act(client: Client, run: str, people: random.Random) -> None:
    waits = client.show(run).waits
    try:
        match people.randrange(8):
            case 0:
                await client.pause(run)
                await client.resume(run)
            case 1:
                await client.extend(run, tokens=500, usd=0.01, turns=2, calls=3, seconds=10)
            case 2:
                await client.signal(run, "ping", {"text": "pong"} if people.random() < 0.7 else {"shoe": 1})
            case 3:
                await asyncio.sleep(people.choice([1, 200, 1000]))
            case _ if waits and waits[0].kind == "person":
                outcome = people.choice(sorted(waits[0].form))
                known = {"text": "by hand", "number": 5, "items": [], "result": None}
                asked = waits[0].form[outcome].get("properties", {} if outcome != "happened" else {"result": {}})
                await client.resolve(run, outcome, {name: known[name] for name in asked})
            case _:
                await client.resume(run)
    except InterlockError:
        return  # it was too late for that, or made no sense: that is theirs to say


REFUSED_FIRST = Draft(
    kinds=("code",),
    moves=({"a": "s0", "b": "won"},),
    visits=(None,),
    threads=(None,),
    otherwise=None,
    limits=Limits(turns=1, calls=1, usd=0, seconds=20.0, warn_at=0.5, illegal_moves=0, attempts=1),
)
"""It is refused for money, and then uses its one call up: entered again, it must hear of the money again."""


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(drafts(), st.integers(0, 10**9))
@example(REFUSED_FIRST, 0)
def test_a_random_run_ends_or_waits_within_its_limits_and_its_log_holds(draft: Draft, seed: int) -> None:
    try:
        machine = draft.machine()
    except InvalidMachine:
        return
    check(machine, seed)


def check(machine: Machine[Rec, Any], seed: int) -> str:
    CHANCE.random = random.Random(seed)
    clock = ManualClock()
    store = SqliteStore(":memory:", clock=clock)
    stage = Stage.__new__(Stage)
    stage.store, stage.clock, stage.machines = store, clock, [machine]
    status = ""

    async def main() -> str:
        client = stage.client(_Brain(), seed=seed)
        async with Worker(client, [machine], name="w") as worker, asyncio.TaskGroup() as group:
            looks = group.create_task(_look_now_and_then(worker))
            async with asyncio.timeout(1e7):
                status = await live(machine, seed, client)
            looks.cancel()
            return status

    try:
        status = run_virtually(main(), clock)
        assert stage.client().verify() == []
        row = store.find("@last")
        events = [event for _, event, _ in read_events(store, row.number)]
        _assert_lawful(machine, events, status)
        assert_replays(store, stage.client().world, [machine])
    finally:
        store.close()
    return status


async def _look_now_and_then(worker: Worker) -> None:
    """A late result is left without a word to the worker, which here doesn't poll."""
    while True:
        await asyncio.sleep(50)
        worker.nudge()


class _Brain:
    def find(self, name: str) -> Any:
        return ScriptedModel(brain)


def _assert_lawful(machine: Machine[Rec, Any], events: list[Any], status: str) -> None:
    assert status in FINAL | {"waiting", "paused"}
    assert_within_ceiling(events)
    for event, now in folds(events):
        assert now.spent["turns"] <= now.ceiling["turns"], f"turns passed at {event}"
        if isinstance(event, Transitioned):
            declared_to = machine.destination(event.state, event.outcome)
            assert event.to == (event.state if event.outcome == "retry" else declared_to), f"undeclared: {event}"
    *_, (_, last) = folds(events)
    if status in FINAL:
        assert not last.open and last.held == dict.fromkeys(last.held, 0)
    if status == "completed":
        redone = {str(event.again) for event in events if isinstance(event, CallRedone)}
        assert not last.doubts.keys() - redone
