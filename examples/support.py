"""A support desk: a model looks up what is owed, somebody of finance approves the refund, it is paid once, and a
person takes over what gets stuck.

    interlock check examples/support.py:support
    interlock run examples/support.py:support --input '{"question": "Where is my money?", "order_id": "A-17"}'

Here is every kind of state but `wait`: a model that chooses, a tool that is used, code, a question to a person.
Of what goes wrong: a provider that fails is left alone and the second model asked; the refund waits for a yes to
exactly its arguments, and can be taken back by `interlock rollback`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, Window, ask, final, model_state, state, tool, use

SMALL = ["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"]  # first choice, then fallbacks


class Shop:
    """Stands for a client of your shop's own system."""

    def __init__(self) -> None:
        self._paid: dict[str, str] = {}

    async def lines(self, order_id: str) -> list[str]:
        return [f"{order_id}: one teapot, 24.00 EUR, reported broken on arrival"]

    async def refund(self, order_id: str, cents: int, key: str) -> str:
        # The other side recognises a key that it has seen, so an attempt may be repeated without paying twice.
        return self._paid.setdefault(key, f"{cents} cents paid back for {order_id}")

    async def charge_again(self, order_id: str, cents: int, key: str) -> None:
        self._paid.setdefault(key, f"{cents} cents charged again for {order_id}")


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:  # opened once per worker; secrets belong here, where nothing logs them
    yield Shop()


class Case(BaseModel):  # the record: what this task knows
    question: str
    order_id: str
    facts: list[str] = []
    refund_cents: int = 0
    receipt: str = ""
    reply: str = ""


@tool(does="read", within=10)
async def order_lines(call: Call[Shop], order_id: str) -> list[str]:
    """The lines of an order, with what is known about each."""
    return await call.deps.lines(order_id)


async def charge_again(call: Call[Shop], result: str, order_id: str, cents: int) -> None:
    await call.deps.charge_again(order_id, cents, key=call.key)  # a key of its own: undoing is an effect too


@tool(does="write", keyed=True, undo=charge_again, within=20)
async def refund(call: Call[Shop], order_id: str, cents: int) -> str:
    """Pay money back."""
    return await call.deps.refund(order_id, cents, key=call.key)  # the same key on every attempt


look_up = model_state(
    "What is owed on {order_id}? {question}",
    model=SMALL,
    tools=[order_lines],
    writes={"owed": ["facts", "refund_cents"], "nothing": ["facts"]},  # the only ways out that it is offered
    window=Window(over="summarise", pin=["order_id", "facts"]),  # a long search is summed up, and never loses these
    max_tokens=800,
    within=30,
)


@state(models=SMALL, calls=1, max_tokens=800, writes=["reply"], within=60)
async def answer(turn: Turn[Case, Shop]) -> Literal["sent", "unsure"]:
    case = turn.record
    draft = await turn.model(SMALL, f"Answer {case.question!r} using {list(case.facts)} and {case.receipt!r}")
    turn.record.reply = draft.text
    return "sent" if case.facts else "unsure"


support = Machine(
    "support",
    Case,
    deps=open_shop,
    limits=Limits(turns=12, usd=0.50, seconds=120, warn_at=0.8),
    table={
        "look_up": look_up.then({"called": "look_up", "owed": "pay", "nothing": "answer", "stalled": "person"}),
        "pay": use(
            refund,
            args={"order_id": "order_id", "cents": "refund_cents"},
            into="receipt",
            approve="finance",  # what is approved is what is executed
            within=4 * 3600,
        ).then({"done": "answer", "denied": "answer", "timeout": "person"}),
        "answer": answer.then({"sent": "closed", "unsure": "person"}),
        "person": ask("Take over: {question}", of="support", writes={"handled": ["reply"]}, within=86_400).then(
            {"handled": "closed", "timeout": "lost"}
        ),
        "closed": final("completed"),
        "lost": final("failed"),
    },
)
