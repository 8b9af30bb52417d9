"""Law 14, approvals: what a person approved is what is called; her yes is for one effect, expires, and is used up."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from interlock import Call, Limits, Machine, ask, final, tool, use
from interlock.history.events import Approved, ToolCalled, Transitioned, WaitOpened
from interlock.testing import play


class Order(BaseModel):
    order_id: str = "A-17"
    cents: int = 500
    receipt: str = ""


def desk(paid: list[tuple[str, int]], *, within: float = 4 * 3600, **limits: Any) -> Machine[Order, None]:
    """A machine that pays when somebody of finance says so."""

    @tool(does="write", keyed=True, within=20)
    async def refund(call: Call[None], order_id: str, cents: int) -> str:
        paid.append((order_id, cents))
        return f"paid {cents}"

    pay = use(refund, args={"order_id": "order_id", "cents": "cents"}, into="receipt", approve="finance", within=within)
    person = ask("Take over", of="support", writes={"again": ["cents"], "stop": []}, within=1e6)
    return Machine(
        "refunds",
        Order,
        limits=Limits(turns=9, warn_at=1.0, **limits),
        table={
            "pay": pay.then({"done": "closed", "denied": "refused", "timeout": "person"}),
            "person": person.then({"again": "pay", "stop": "refused", "timeout": "refused"}),
            "closed": final("completed"),
            "refused": final("failed"),
        },
    )


def test_nothing_is_called_before_somebody_says_yes() -> None:
    paid: list[tuple[str, int]] = []
    played = play(desk(paid), Order())
    assert (played.status, paid) == ("waiting", [])
    [wait] = played.result.waits
    assert (wait.kind, wait.why, wait.of) == ("person", "approve", "finance")
    assert wait.call["args"] == {"order_id": "A-17", "cents": 500}
    assert list(wait.form) == ["approve", "deny", "edit"]


def test_what_is_approved_is_called_once() -> None:
    paid: list[tuple[str, int]] = []
    played = play(desk(paid), Order(), answers=[("approve",)])
    assert (played.status, paid, played.record.receipt) == ("completed", [("A-17", 500)], "paid 500")
    [asked] = [e for e in played.events if isinstance(e, WaitOpened)]
    [approved] = [e for e in played.events if isinstance(e, Approved)]
    [called] = [e for e in played.events if isinstance(e, ToolCalled)]
    assert (approved.wait, approved.effect, approved.binding) == (asked.wait, asked.effect, asked.binding)
    assert (called.approval, called.effect) == (asked.wait, asked.effect)


def test_what_is_denied_is_not_called_and_the_turn_ends_denied() -> None:
    paid: list[tuple[str, int]] = []
    played = play(desk(paid), Order(), answers=[("deny",)])
    assert (played.status, paid, played.result.reason) == ("failed", [], "denied")
    [moved] = [e for e in played.events if isinstance(e, Transitioned)]
    assert moved.why == "denied by person"


def test_arguments_that_a_person_changed_are_the_ones_called() -> None:
    paid: list[tuple[str, int]] = []
    played = play(desk(paid), Order(), answers=[("edit", {"cents": 300})])
    assert (played.status, paid) == ("completed", [("A-17", 300)])
    [asked] = [e for e in played.events if isinstance(e, WaitOpened)]
    [approved] = [e for e in played.events if isinstance(e, Approved)]
    [called] = [e for e in played.events if isinstance(e, ToolCalled)]
    assert approved.args == called.args == {"order_id": "A-17", "cents": 300}
    assert approved.binding != asked.binding, "another approval, to other arguments"
