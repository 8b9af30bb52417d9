"""The support desk that the tests read: code, model, tool and person in one table. mypy and pyright check it too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from interlock.machine.limits import Limits, Price
from interlock.machine.states import ask, final, model_state, state, use
from interlock.machine.table import Machine
from interlock.machine.tools import Call, tool
from interlock.machine.turn import Turn

SMALL = ["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"]  # first choice, then fallbacks


class Shop:
    """What the tools reach: a client of the shop's own system."""

    async def lines(self, order_id: str) -> list[str]:
        return [f"{order_id}: one teapot, broken"]

    async def refund(self, order_id: str, cents: int, key: str) -> str:
        return f"{order_id} {cents} {key}"


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    yield Shop()


class Case(BaseModel):
    """What one task knows."""

    question: str
    order_id: str
    facts: list[str] = []
    refund_cents: int = 0
    reply: str = ""


@tool(does="read", within=10)
async def order_lines(call: Call[Shop], order_id: str) -> list[str]:
    return await call.deps.lines(order_id)


@tool(does="write", keyed=True, within=20)
async def refund(call: Call[Shop], order_id: str, cents: int) -> str:
    return await call.deps.refund(order_id, cents, key=call.key)


look_up = model_state(
    "What is owed on {order_id}? {question}",
    model=SMALL,
    tools=[order_lines],
    within=30,
    writes={"owed": ["facts", "refund_cents"], "nothing": ["facts"]},
    max_tokens=800,
)


@state(models=SMALL, writes=["reply"], within=60)
async def answer(turn: Turn[Case, Shop]) -> Literal["sent", "unsure"]:
    draft = await turn.model(SMALL, f"Answer {turn.record.question!r} using {turn.record.facts}")
    turn.record.reply = draft.text
    return "sent" if turn.record.facts else "unsure"


support = Machine(
    "support",
    Case,
    deps=open_shop,
    limits=Limits(turns=12, usd=0.50, seconds=120, warn_at=0.8),
    prices=dict.fromkeys(SMALL, Price.per_million(0.25, 2.0, 0.025)),
    table={
        "look_up": look_up.then({"called": "look_up", "owed": "pay", "nothing": "answer", "stalled": "person"}),
        "pay": use(refund, args={"order_id": "order_id", "cents": "refund_cents"}, within=20).then(
            {"done": "answer", "denied": "answer", "timeout": "person"}
        ),
        "answer": answer.then({"sent": "closed", "unsure": "person"}),
        "person": ask("Take over: {question}", of="support", writes={"handled": ["reply"]}, within=86_400).then(
            {"handled": "closed", "timeout": "lost"}
        ),
        "closed": final("completed"),
        "lost": final("failed"),
    },
)

if TYPE_CHECKING:
    # What types find before `check` does. A checker that finds nothing here says that the `ignore` is needless.
    answer.then({"snet": "closed"})  # type: ignore[dict-item]

    async def mistakes(turn: Turn[Case, Shop]) -> None:
        turn.record.replay = ""  # type: ignore[attr-defined]
        await turn.call(refund, "A-17", cents="5")  # type: ignore[arg-type]
        await turn.call(refund, "A-17")  # type: ignore[call-arg]
        turn.deps.refunds  # type: ignore[attr-defined]  # noqa: B018 - only its type is asked
