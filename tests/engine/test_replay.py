"""Replay: exact for code that is as it was, and the first divergence, named, for code that isn't; never a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Machine, Turn, ask, final, model_state, state, tool, use, wait
from interlock.engine.replay import Replayed, replay
from interlock.errors import ShapeChanged
from interlock.history.events import ToolCalled, Transitioned
from interlock.machine.limits import Limits
from interlock.testing import call, choose, say
from tests.stage import Stage

M = "acme:small"


class Case(BaseModel):
    name: str = "A-17"
    n: int = 0
    said: str = ""
    items: list[str] = []


CALLS: list[str] = []


@tool(does="read", within=5)
async def look(call: Call[None], name: str) -> int:
    CALLS.append(name)
    return len(name)


@tool(does="write", keyed=True, within=5)
def pay(call: Call[None], n: int) -> str:
    CALLS.append(f"pay {n}")
    return call.key


def coded(handler: Any, **limits: Any) -> Machine[Case, Any]:
    return Machine(
        "coded",
        Case,
        limits=Limits(**{"turns": 9, **limits}),
        table={"work": handler.then({"done": "end", "again": "work"}), "end": final("completed")},
    )


def replayed(stage: Stage, machine: Any, **how: Any) -> Replayed:
    return replay(stage.client().world, machine, stage.store.find("@last"), **how)


def why(stage: Stage, machine: Any) -> str:
    found = replayed(stage, machine).divergence
    assert found is not None, "exact"
    return str(found)


@state(tools=[look, pay], models=[M], calls=9, writes=["n", "said", "items"], max_tokens=50)
async def work(turn: Turn[Case]) -> Literal["done", "again"]:
    turn.record.n = await turn.call(look, name=turn.record.name)
    await turn.now()
    turn.record.said = (await turn.model(M, f"Say {turn.record.n}")).text
    await turn.sleep(100)
    await turn.call(pay, n=turn.record.n)
    turn.record.items.append("x")
    return "again" if len(turn.record.items) < 2 else "done"


def test_a_replay_calls_nothing_and_writes_nothing(stage: Stage) -> None:
    CALLS.clear()
    stage.play(coded(work), Case(), model=[say("hm")] * 2)
    calls, before = list(CALLS), stage.store.identity()
    again = replayed(stage, coded(work))
    assert again == Replayed(again.run, 2, len(stage.events()))
    assert calls == ["A-17", "pay 4"] * 2 == CALLS and stage.store.identity() == before


def test_a_replay_is_made_from_inside_a_loop_too(stage: Stage) -> None:
    async def scenario() -> Replayed:
        return stage.client().replay("@last", coded(work))

    stage.play(coded(work), Case(), model=[say("hm")] * 2)
    assert stage.perform(scenario).ok


def test_a_machine_of_another_shape_is_refused(stage: Stage) -> None:
    stage.play(coded(work), Case(), model=[say("hm")] * 2)
    other = Machine("coded", Case, table={"work": work.then({"done": "fin", "again": "work"}), "fin": final("failed")})
    with pytest.raises(ShapeChanged, match="shape"):
        replayed(stage, other)


def test_until_replays_up_to_an_event(stage: Stage) -> None:
    stage.play(coded(work), Case(), model=[say("hm")] * 2)

    @state(tools=[look, pay], models=[M], calls=9, writes=["n", "said", "items"], max_tokens=50)
    async def changed(turn: Turn[Case]) -> Literal["done", "again"]:
        turn.record.n = await turn.call(look, name=turn.record.name)
        if turn.record.items:
            await turn.call(pay, n=77)
        await turn.now()
        turn.record.said = (await turn.model(M, f"Say {turn.record.n}")).text
        await turn.sleep(100)
        await turn.call(pay, n=turn.record.n)
        turn.record.items.append("x")
        return "again" if len(turn.record.items) < 2 else "done"

    first_end = next(at for at, event in enumerate(stage.events(), 1) if isinstance(event, Transitioned))
    assert replayed(stage, coded(changed), until=first_end).ok
    found = replayed(stage, coded(changed)).divergence
    assert found is not None and found.turn == 2 and found.seq > first_end and "pay(n=77)" in found.why


def simple(argument: str = "A-17", outcome: str = "done", value: int = 1, extra: str = "") -> Any:
    """A handler whose parts can be told to differ."""

    @state(tools=[look, pay], models=[M], calls=9, writes=["n", "said", "items"], max_tokens=50)
    async def work(turn: Turn[Case]) -> Literal["done", "again"]:
        if argument:
            await turn.call(look, name=argument)
        turn.record.n = value
        match extra:
            case "a call":
                await turn.call(pay, n=3)
            case "the time":
                await turn.now()
            case "chance":
                await turn.random()
            case "a sleep":
                await turn.sleep(5)
            case "a model":
                await turn.model(M, "Really?")
            case "a bug":
                raise ValueError("bug")
            case "a grant":
                turn.record.name = "x"
        return "again" if outcome == "again" and turn.number == 1 else "done"

    return coded(work)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (dict(argument="B"), "event 2: the code now asks for look(name='B'); recorded is look(name='A-17')"),
        (dict(argument=""), "event 2: the code no longer asks for look(name='A-17')"),
        (dict(outcome="again"), "event 4: the code now ends `again`; recorded is `done`"),
        (dict(value=2), "event 4: the code now writes n = 2; recorded is n = 1"),
        (dict(extra="a call"), "event 4: the code now asks for pay(n=3); recorded is `done`"),
        (dict(extra="the time"), "event 4: the code now asks for the time; recorded is `done`"),
        (dict(extra="chance"), "event 4: the code now asks for a random number; recorded is `done`"),
        (dict(extra="a sleep"), "event 4: the code now asks for a sleep of 5 s; recorded is `done`"),
        (dict(extra="a model"), "event 4: the code now asks for model acme:small, 'Really?'; recorded is `done`"),
        (dict(extra="a bug"), "event 4: the code now ends `error` (ValueError: bug); recorded is `done`"),
        (dict(extra="a grant"), "event 4: the code now ends `error` (state `work` does not write `name`"),
    ],
)
def test_the_first_divergence_is_named_in_words(stage: Stage, changed: dict[str, Any], said: str) -> None:
    CALLS.clear()
    stage.play(simple(), Case())
    assert replayed(stage, simple()).ok
    assert why(stage, simple(**changed)).startswith(f"turn 1 in work, {said}")
    assert CALLS == ["A-17"]


def told(prompt: str = "How long is {name}?", tools: Any = (look,)) -> Any:
    looking = model_state(prompt, model=M, tools=list(tools), writes={"known": ["n"], "no": []}, max_tokens=50)
    return Machine(
        "told",
        Case,
        limits=Limits(turns=9),
        table={
            "look": looking.then({"called": "look", "known": "pay", "no": "person"}),
            "pay": use(pay, args={"n": "n"}, into="said").then({"done": "person"}),
            "person": ask("Ok, {name}?", of="ops", writes={"fine": ["said"], "bad": []}, within=100).then(
                {"fine": "rest", "bad": "rest", "timeout": "rest"}
            ),
            "rest": wait(signal="bell", within=50, writes=["said"]).then({"arrived": "end", "timeout": "end"}),
            "end": final("completed"),
        },
    )


def test_models_tools_people_and_time_replay_exactly(stage: Stage) -> None:
    model = [call("look", name="A-17"), choose("nonsense"), choose("known", n=4)]
    stage.play(told(), Case(), model=model, answers=[("fine", {"said": "ok"})])
    assert replayed(stage, told()) == Replayed(stage.store.find("@last").id, 5, len(stage.events()))


def test_a_prompt_that_was_changed_is_a_divergence(stage: Stage) -> None:
    stage.play(told(), Case(), model=[choose("no")], answers=[("bad",)])
    assert "now asks for model acme:small, 'A-17?'; recorded is model acme:small, 'How long is A-17?'" in why(
        stage, told("{name}?")
    )


def test_a_reply_that_now_means_something_else_is_a_divergence(stage: Stage) -> None:
    stage.play(told(), Case(), model=[call("look", name="x"), choose("no")], answers=[("bad",)])
    found = why(stage, told(tools=[pay]))  # what was a call is now no legal move, and the model would be told
    assert found.startswith("turn 1 in look, event 4: the code now asks for model acme:small, the conversation so far")


def test_a_prompt_made_by_a_function_is_made_again(stage: Stage) -> None:
    def machine(words: str) -> Any:
        def prompt(record: Case) -> str:
            return f"{words} {record.name}"

        asked = model_state(prompt, model=M, writes={"ok": []}, reads=["name"], max_tokens=50)
        return Machine("fn", Case, table={"s": asked.then({"ok": "end"}), "end": final("completed")})

    stage.play(machine("Tell me"), Case(), model=[choose("ok")])
    assert replayed(stage, machine("Tell me")).ok
    assert "'Ask A-17'; recorded is model acme:small, 'Tell me A-17'" in why(stage, machine("Ask"))


def test_a_plain_handler_runs_again(stage: Stage) -> None:
    def machine(n: int) -> Any:
        @state(writes=["n"])
        def work(turn: Turn[Case]) -> Literal["done"]:
            turn.record.n = n
            return "done"

        return Machine("plain", Case, table={"s": work.then({"done": "end"}), "end": final("completed")})

    stage.play(machine(1), Case())
    assert replayed(stage, machine(1)).ok
    assert "now writes n = 2; recorded is n = 1" in why(stage, machine(2))


def test_a_divergence_in_an_open_turn_is_found(stage: Stage) -> None:
    """The run waits for a person about a doubt; the turn has no end yet."""

    def machine(first: str) -> Any:
        @tool(does="send", within=1)
        async def page(call: Call[None], name: str) -> str:
            raise RuntimeError("who knows")

        @state(tools=[look, page], calls=9, within=60)
        async def work(turn: Turn[Case]) -> Literal["done"]:
            await turn.call(look, name=first)
            await turn.call(page, name="ops")
            return "done"

        return Machine("open", Case, table={"s": work.then({"done": "end"}), "end": final("completed")})

    stage.play(machine("a"), Case())
    assert [type(event) for event in stage.events() if isinstance(event, ToolCalled)]
    assert stage.store.find("@last").status == "waiting"
    assert replayed(stage, machine("a")).ok
    assert "now asks for look(name='b'); recorded is look(name='a')" in why(stage, machine("b"))


@pytest.mark.replay_differs("its handler reads its dependencies, which no replay opens")
def test_dependencies_are_not_opened_and_reaching_for_them_is_named(stage: Stage) -> None:
    opened: list[int] = []

    @asynccontextmanager
    async def shop() -> AsyncIterator[Case]:
        opened.append(1)
        yield Case()

    @state()
    async def work(turn: Turn[Case, Case]) -> Literal["done"]:
        assert turn.deps.name
        return "done"

    machine = Machine("deps", Case, deps=shop, table={"s": work.then({"done": "end"}), "end": final("completed")})
    stage.play(machine, Case())
    assert opened == [1]
    assert "turn.deps.name: a replay opens no dependencies" in why(stage, machine)
    assert opened == [1]


def asking(
    prompt: Any = "Ok, {name}?", of: str = "ops", fields: tuple[str, ...] = ("said",), signal: str = "bell"
) -> Any:
    asked = ask(prompt, of=of, writes={"fine": list(fields), "bad": []}, within=100)
    return Machine(
        "asking",
        Case,
        table={
            "person": asked.then({"fine": "rest", "bad": "rest", "timeout": "rest"}),
            "rest": wait(signal=signal, within=50, writes=["said"]).then({"arrived": "end", "timeout": "end"}),
            "end": final("completed"),
        },
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            dict(prompt="{name}!"),
            "turn 1 in person, event 2: the code now asks `ops` 'A-17!'; recorded is `ops` 'Ok, A-17?'",
        ),
        (
            dict(of="boss"),
            "turn 1 in person, event 2: the code now asks `boss` 'Ok, A-17?'; recorded is `ops` 'Ok, A-17?'",
        ),
        (dict(prompt=lambda record: f"{record.n}?"), "turn 1 in person, event 2: the code now asks `ops` '0?'"),
        (dict(fields=("said", "n")), "turn 1 in person, event 2: the code now takes other answers"),
        (
            dict(signal="gong"),
            "turn 2 in rest, event 5: the code now asks for the signal `gong`; recorded is for the signal",
        ),
    ],
)
def test_a_question_that_was_changed_is_a_divergence(stage: Stage, changed: dict[str, Any], said: str) -> None:
    stage.play(asking(), Case(), answers=[("fine", {"said": "yes"})])
    assert replayed(stage, asking()).ok
    assert why(stage, asking(**changed)).startswith(said)
