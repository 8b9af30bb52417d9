"""Law 4, everybody at once: timer, two deciders, a cancel, in every order, with and without a worker that looks: one of
them closes the wait, and each of the others is told who did.

Every wait for a person: a question, an escalation, a doubt, a warning, a call to be approved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Literal

import pytest

from interlock import Call, Limits, Machine, Turn, ask, final, state, tool
from interlock.errors import WaitClosed
from interlock.history import events as e
from interlock.reading import OpenWait
from interlock.testing import ModelReply, ScriptedModel
from tests.laws.approving import Order, Till, in_use
from tests.laws.machines import MODEL, Case
from tests.laws.stage import Stage, on_stage

SOON = 60.0


@dataclass
class Question:
    """A machine that comes to wait for a person, and the two things that two people say."""

    machine: Any
    record: Any
    yes: tuple[str, dict[str, Any]]
    no: tuple[str, dict[str, Any]]
    happened: list[str] = field(default_factory=list)  # outside, by the yes alone


def an_ask() -> Question:
    row = ask("Well?", of="desk", writes={"yes": ["text"], "no": []}, within=SOON)
    table = {"p": row.then({"yes": "end", "no": "end", "timeout": "late"}), "end": final(), "late": final("failed")}
    return Question(Machine("asking", Case, table=table), Case(), ("yes", {"text": "x"}), ("no", {}))


def an_escalation() -> Question:
    @state()
    def work(turn: Turn[Case]) -> Literal["yes", "no"]:
        raise RuntimeError("a bug")

    table = {"w": work.then({"yes": "end", "no": "lost"}), "end": final(), "lost": final("failed")}
    return Question(Machine("failing", Case, table=table), Case(), ("yes", {}), ("no", {}))


def a_doubt() -> Question:
    happened: list[str] = []
    slow = [True]

    @tool(does="send", within=1)
    async def send(call: Call[None]) -> str:
        if slow.pop() if slow else False:
            await asyncio.sleep(1e5)
        happened.append(call.key)
        return "sent"

    @state(tools=[send], within=1000)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        await turn.call(send)
        return "done"

    table = {"w": work.then({"done": "end"}), "end": final()}
    made = Machine("sending", Case, table=table)
    return Question(made, Case(), ("did_not", {}), ("happened", {"result": "sent"}), happened)


def a_warning() -> Question:
    @state(models=[MODEL], calls=9, max_tokens=20, within=1000)
    async def spend(turn: Turn[Case]) -> Literal["done"]:
        for number in range(3):
            await turn.model(MODEL, str(number))
        return "done"

    table = {"s": spend.then({"done": "end", "budget_spent": "lost"}), "end": final(), "lost": final("failed")}
    made = Machine("spending", Case, limits=Limits(tokens=1_000, warn_at=0.1), table=table)
    return Question(made, Case(), ("go_on", {}), ("end", {}))


def an_approval() -> Question:
    till, happened = Till(), []
    machine = in_use(till, within=SOON)
    till.paid = happened  # type: ignore[assignment]
    return Question(machine, Order(), ("approve", {}), ("deny", {}), happened)


QUESTIONS: list[Callable[[], Question]] = [an_ask, an_escalation, a_doubt, a_warning, an_approval]


def model() -> ScriptedModel:
    return ScriptedModel(lambda request: ModelReply(text="k", tokens_in=90, tokens_out=10))


class Quarrel:
    """One scene: who said what, who was told what, and which event closed the wait."""

    def __init__(self, stage: Stage, question: Question) -> None:
        self.stage = stage
        self.question = question
        self.accepted: list[str] = []
        self.told: dict[str, str] = {}

    async def begin(self) -> None:
        self.worker = await self.stage.worker(self.question.machine)
        self.run = (await self.stage.client.start(self.question.machine, self.question.record)).id
        await self.stage.until(lambda: self.stage.status() == "waiting" and bool(self.asked()))
        (self.wait,) = self.asked()

    def asked(self) -> list[OpenWait]:
        return [wait for wait in self.stage.client.waiting() if wait.kind == "person"]

    async def leave_alone(self) -> None:
        await self.worker.stop()
        self.stage._workers.remove(self.worker)

    async def act(self, who: str) -> None:
        client, wait = self.stage.client, self.wait.number
        if who == "due":
            assert self.wait.due is not None
            await asyncio.sleep(max(0.0, self.wait.due - self.stage.clock.now_ms()) / 1000 + 0.001)
            return
        yes, no = self.question.yes, self.question.no
        saying: dict[str, Callable[[], Awaitable[Any]]] = {
            "ann": lambda: client.resolve(self.run, *yes, wait=wait, by="ann"),
            "bob": lambda: client.resolve(self.run, *no, wait=wait, by="bob"),
            "cancel": lambda: client.cancel(self.run, by="eve"),
        }
        try:
            await saying[who]()
            self.accepted.append(who)
        except WaitClosed as closed:
            self.told[who] = str(closed)

    async def end(self) -> None:
        """A worker sees to what is left; whatever else the run waits for then is nobody's business here."""
        await self.stage.worker(self.question.machine)
        await self.stage.until(lambda: self.closings() != [] and self.stage.status() in (*ENDS, "waiting"))
        if self.stage.status() not in ENDS:
            await self.stage.client.cancel(self.run)
            await self.stage.until(lambda: self.stage.status() in ENDS)

    def closings(self) -> list[e.WaitEnded]:
        return [ended for ended in self.stage.of(e.WaitEnded) if ended.wait == self.wait.number]


ENDS = ("completed", "failed", "cancelled")


def orders(question: Question) -> Iterator[tuple[str, ...]]:
    timed = question.machine.start in ("p", "pay")
    for length in (1, 2, 3, 4) if timed else (1, 2, 3):
        actors = ("ann", "bob", "cancel", "due") if timed else ("ann", "bob", "cancel")
        yield from permutations(actors, length)


async def judge(quarrel: Quarrel, order: tuple[str, ...]) -> None:
    """The first in order closed the wait, once; every decider after it is told so."""
    await quarrel.end()
    said = f"{order}: accepted {quarrel.accepted}, told {quarrel.told}, {quarrel.closings()}"
    (closing,) = quarrel.closings()
    first = order[0]
    how = {"ann": "decision", "bob": "decision", "cancel": "cancel", "due": "timer"}[first]
    # The time had come, and nobody had looked: the cancel that came then closes everything, the timer's wait too.
    unnoticed = first == "due" and "cancel" in order and closing.how == "cancel"
    assert closing.how == how or unnoticed, said
    assert (closing.by == first) if how == "decision" else True, said
    deciders = [who for who in order if who in ("ann", "bob")]
    assert [who for who in quarrel.accepted if who != "cancel"] == ([first] if how == "decision" else []), said
    winner = {"due": "due time has passed", "cancel": "cancelled by eve"}.get(first, f"answered first, by {first}")
    for loser in [who for who in deciders if who != first]:
        told = quarrel.told[loser]
        assert winner in told or (unnoticed and "cancelled by eve" in told), said
    assert len(quarrel.question.happened) <= (first == "ann"), said


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("watched", [True, False], ids=["a worker looks", "no worker looks"])
def test_one_after_the_other_the_first_wins(kind: Callable[[], Question], watched: bool) -> None:
    async def scene(stage: Stage, order: tuple[str, ...], question: Question) -> None:
        quarrel = Quarrel(stage, question)
        await quarrel.begin()
        if not watched:
            await quarrel.leave_alone()
        for who in order:
            await quarrel.act(who)
            await asyncio.sleep(1.0 if watched else 0.0)
        await judge(quarrel, order)

    for order in orders(kind()):
        on_stage(lambda stage, order=order: scene(stage, order, kind()), model())  # type: ignore[misc]


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("watched", [True, False], ids=["a worker looks", "no worker looks"])
def test_in_one_moment_the_first_that_is_written_wins(kind: Callable[[], Question], watched: bool) -> None:
    """All in one transaction, in every order."""

    async def scene(stage: Stage, order: tuple[str, ...], question: Question) -> None:
        quarrel = Quarrel(stage, question)
        await quarrel.begin()
        if not watched:
            await quarrel.leave_alone()
        await asyncio.gather(*(quarrel.act(who) for who in order))
        await judge(quarrel, order)

    for order in permutations(("ann", "bob", "cancel")):
        on_stage(lambda stage, order=order: scene(stage, order, kind()), model())  # type: ignore[misc]


@pytest.mark.parametrize("kind", [an_ask, an_approval])
@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
def test_at_the_very_moment_when_the_time_is_over(kind: Callable[[], Question], offset: int) -> None:
    """The worker's timer wakes beside two who answer: before the due time an answer wins, from then on none does."""

    async def scene(stage: Stage, order: tuple[str, ...], question: Question) -> None:
        quarrel = Quarrel(stage, question)
        await quarrel.begin()
        assert quarrel.wait.due is not None
        await asyncio.sleep((quarrel.wait.due + offset - stage.clock.now_ms()) / 1000)
        in_time = stage.clock.now_ms() < quarrel.wait.due
        await asyncio.gather(*(quarrel.act(who) for who in order))
        await judge(quarrel, order if in_time else ("due", *order))

    for order in permutations(("ann", "bob")):
        on_stage(lambda stage, order=order: scene(stage, order, kind()), model())  # type: ignore[misc]
