"""Law 14, approvals under everything at once: people who agree, change, deny and dither, copied and borrowed answers,
pauses, workers that die. Whatever comes of a run, what was paid was approved as it was paid, once."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any, Literal

from interlock import Turn, state
from interlock.errors import EffectFailed, WaitClosed
from interlock.history import events as e
from interlock.store.protocol import InboxItem, Leave
from tests.laws.approving import Order, Till, in_code
from tests.laws.stage import Stage, dies_at, on_stage

SCENES = 25
MOVES = 40


def payer(shape: list[list[int]]) -> Any:
    """A handler that pays these sums: each inner list side by side; a denial is borne."""

    def handler(refund: Any) -> Any:
        async def one(turn: Turn[Order], cents: int) -> str:
            try:
                receipt: str = await turn.call(refund, "A-17", cents)
                return receipt
            except EffectFailed as failed:
                if failed.outcome != "denied":
                    raise
                return "denied"

        @state(tools=[refund], writes=["receipts"], calls=20, within=600)
        async def work(turn: Turn[Order]) -> Literal["done"]:
            for together in shape:
                turn.record.receipts.extend(await asyncio.gather(*(one(turn, cents) for cents in together)))
            return "done"

        return work

    return handler


class Chaos:
    """Whoever does something to the runs, at random."""

    def __init__(self, stage: Stage, machine: Any, till: Till, chance: Random) -> None:
        self.stage, self.machine, self.till, self.chance = stage, machine, till, chance
        self.bodies: list[dict[str, Any]] = []
        self.worker: Any = None
        self.number = 0

    async def move(self) -> None:
        moves = [self.answer] * 6 + [self.copy, self.borrow, self.pause, self.die, self.wait, self.wait]
        with contextlib.suppress(WaitClosed):
            await self.chance.choice(moves)()

    async def staff(self) -> None:
        """A worker that will die at some commit."""
        if self.worker is not None and self.worker.world.committer.died.is_set():
            await self.stage.kill(self.worker)
            self.worker = None
        if self.worker is None:
            how = self.chance.choice(["lose", "die"])
            fail = dies_at(self.chance.randint(2, 25), how)
            self.worker = await self.stage.worker(self.machine, fail=fail)

    async def answer(self) -> None:
        waits = [wait for wait in self.stage.client.waiting() if wait.why == "approve"]
        if not waits:
            return
        wait = self.chance.choice(waits)
        said = self.chance.choice(["approve", "approve", "edit", "deny"])
        fields = {"cents": self.chance.randint(1, 9)} if said == "edit" else {}
        body = {"wait": wait.number, "outcome": said, "fields": fields, "approval": wait.binding, "by": "x"}
        self.bodies.append({"run": wait.run, **body})
        await self.stage.client.resolve(wait.run, said, fields, wait=wait.number)

    async def leave(self, run: str, body: dict[str, Any], closes: bool) -> None:
        self.number += 1
        now = self.stage.clock.now_ms()
        item = InboxItem(f"forged {self.number}", "decision", body, now)
        wait, how = (body["wait"], "decision") if closes else (None, "")
        await self.stage.client.world.committer.submit(Leave(run, item, now, wait, how))

    async def copy(self) -> None:
        """An answer that was given before, once more; perhaps to another run."""
        if self.bodies:
            run, body = self.chance.choice([row.id for row in self.stage.store.runs()]), self.chance.choice(self.bodies)
            await self.leave(run, {name: value for name, value in body.items() if name != "run"}, False)

    async def borrow(self) -> None:
        """An answer that was given to one wait, for another that is open."""
        waits = [wait for wait in self.stage.client.waiting() if wait.why == "approve"]
        if self.bodies and waits:
            wait, body = self.chance.choice(waits), dict(self.chance.choice(self.bodies))
            del body["run"]
            if body["approval"] != wait.binding:
                await self.leave(wait.run, {**body, "wait": wait.number}, self.chance.random() < 0.5)

    async def pause(self) -> None:
        run = self.chance.choice(self.stage.store.runs())
        await self.stage.client.pause(run.id)
        await asyncio.sleep(self.chance.random() * 5)
        await self.stage.client.resume(run.id)

    async def die(self) -> None:
        if self.worker is not None:
            await self.stage.kill(self.worker)
            self.worker = None

    async def wait(self) -> None:
        await asyncio.sleep(self.chance.choice([0.1, 1, 30, 120]))

    async def end(self) -> None:
        """In the end somebody works, and people say yes to all that is asked."""
        await self.die()
        await self.stage.worker(self.machine)
        for _ in range(400):
            for row in self.stage.store.runs():
                if row.status == "paused":
                    await self.stage.client.resume(row.id)
                elif row.status == "waiting":
                    with contextlib.suppress(WaitClosed):  # its time was over meanwhile
                        await self.settle(row.id)
            if all(row.status in ("completed", "failed", "cancelled") for row in self.stage.store.runs()):
                return
            await asyncio.sleep(2)
        raise AssertionError([self.stage.log(row.id) for row in self.stage.store.runs()])

    async def settle(self, run: str) -> None:
        for wait in self.stage.client.run(run).show().waits:
            if wait.why == "doubt" and wait.kind == "person":
                paid = any(key == f"{run}-{wait.effect}" for key, _, _ in self.till.paid)
                await self.stage.client.clear(run, wait.effect or 0, happened=paid, result="paid" if paid else None)
            elif wait.kind == "person":
                outcome = (
                    "approve" if wait.why == "approve" else "stop" if "stop" in wait.form else next(iter(wait.form))
                )
                await self.stage.client.resolve(run, outcome, wait=wait.number)


def test_whatever_happens_what_is_paid_was_approved_as_it_was_paid(chance: Random) -> None:
    paid = refused = 0
    for seed in (chance.getrandbits(32) for _ in range(SCENES)):
        dice = Random(seed)
        shape = [[dice.randint(1, 3) for _ in range(dice.randint(1, 3))] for _ in range(dice.randint(1, 3))]
        till = Till(fails=dice.choice([0, 0, 1, 3]))
        machine = in_code(till, payer(shape), keyed=dice.random() < 0.8, approve_within=dice.choice([60, 300]))

        async def scene(
            stage: Stage, machine: Any = machine, dice: Random = dice, till: Till = till
        ) -> tuple[int, int]:
            chaos = Chaos(stage, machine, till, dice)
            for _ in range(2):
                await stage.client.start(machine, Order())
            for _ in range(MOVES):
                await chaos.staff()
                await chaos.move()
                await asyncio.sleep(dice.random() * 3)
            await chaos.end()
            return compare(stage, till)

        try:
            more, less = on_stage(scene, seed=seed)
        except BaseException:
            print(f"seed {seed}, shape {shape}")
            raise
        paid, refused = paid + more, refused + less
    print(f"{paid} paid, {refused} answers refused")
    assert paid > 10 and refused > 10, "the scenes are about something"


def compare(stage: Stage, till: Till) -> tuple[int, int]:
    """Each payment against the log. How many there were, and how many answers were refused."""
    allowed: dict[str, int] = {}
    refused = 0
    for row in stage.store.runs():
        asked: dict[int, e.WaitOpened] = {}
        for event in stage.log(row.id):
            if isinstance(event, e.WaitOpened) and event.why == "approve":
                asked[event.wait] = event
            elif isinstance(event, e.Approved):
                args = asked[event.wait].call["args"] if event.args is None else event.args
                allowed.setdefault(f"{row.id}-{event.effect}", args["cents"])
                allowed[f"{row.id}-{event.effect}"] = args["cents"]
            refused += isinstance(event, e.ApprovalRefused)
    till.assert_nothing_twice()
    for key, _, cents in till.paid:
        assert allowed.get(key) == cents, (key, cents, allowed)
    return len({key for key, _, _ in till.paid}), refused
