"""Machines whose calls need a person's yes, one of each kind of state, and the outside world that they touch."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, use
from interlock.errors import EffectFailed, NotDone

MODEL = "test:model"
MINUTES = 300.0


class Order(BaseModel):
    """What is paid back, and what came of it."""

    order_id: str = "A-17"
    cents: int = 500
    receipts: list[str] = []


@dataclass
class Till:
    """What was really paid, by key. `fails`: how many attempts say that nothing happened before one goes through."""

    paid: list[tuple[str, str, int]] = field(default_factory=list)
    fails: int = 0

    def pay(self, key: str, order_id: str, cents: int) -> str:
        if self.fails:
            self.fails -= 1
            raise NotDone("the till is shut", retry=True)
        self.paid.append((key, order_id, cents))
        return f"{order_id} {cents}"

    @property
    def sums(self) -> list[int]:
        return sorted(cents for _, _, cents in set(self.paid))

    def assert_nothing_twice(self) -> None:
        keys = Counter(key for key, _, _ in set(self.paid))
        assert all(times == 1 for times in keys.values()), keys


def refund_of(till: Till, **terms: Any) -> Any:
    """The tool that pays. It asks for an approval unless `approve=None`."""

    @tool(**{"does": "write", "keyed": True, "within": 5, "approve": "finance", "approve_within": MINUTES, **terms})
    async def refund(call: Call[None], order_id: str, cents: int) -> str:
        """Pay money back."""
        return till.pay(call.key, order_id, cents)

    return refund


def in_use(till: Till, within: float = MINUTES, **terms: Any) -> Machine[Order, None]:
    refund = refund_of(till, approve=None, **terms)
    args = {"order_id": "order_id", "cents": "cents"}
    return _around(use(refund, args=args, approve="finance", within=within), "done")


def in_code(till: Till, handler: Any = None, **terms: Any) -> Machine[Order, None]:
    """A handler that pays twice at once, in equal parts, then once more; or the one that is given."""
    refund = refund_of(till, **terms)

    @state(tools=[refund], writes=["receipts"], calls=9, within=MINUTES)
    async def halves(turn: Turn[Order]) -> Literal["done"]:
        half = turn.record.cents // 2
        both = [turn.call(refund, turn.record.order_id, half) for _ in range(2)]
        turn.record.receipts = list(await asyncio.gather(*both))
        turn.record.receipts.append(await turn.call(refund, turn.record.order_id, 1))
        return "done"

    return _around(halves if handler is None else handler(refund), "done")


def in_model(till: Till, **terms: Any) -> Machine[Order, None]:
    refund = refund_of(till, **terms)
    return _around(model_state("Pay {cents} for {order_id}", model=MODEL, tools=[refund], writes={"done": []}), "done")


def _around(acts: Any, outcome: str) -> Machine[Order, None]:
    person = ask("What now?", of="support", writes={"again": ["cents"], "stop": []}, within=1e6)
    return Machine(
        "refunds",
        Order,
        limits=Limits(turns=20, usd=1000, tokens=10**9, warn_at=1.0),
        table={
            "pay": acts.then({outcome: "closed", "denied": "person", "timeout": "late", "error": "person"}),
            "person": person.then({"again": "pay", "stop": "refused", "timeout": "refused"}),
            "closed": final("completed"),
            "refused": final("failed"),
            "late": final("failed"),
        },
    )


async def denied_goes_another_way(turn: Turn[Order], refund: Any) -> Literal["done"]:
    """Asks for all of it; when that is denied, for half."""
    try:
        turn.record.receipts = [await turn.call(refund, turn.record.order_id, turn.record.cents)]
    except EffectFailed as failed:
        assert failed.outcome == "denied"
        turn.record.receipts = [await turn.call(refund, turn.record.order_id, turn.record.cents // 2)]
    return "done"
