"""interlock.testing: a user's machine is tested in ten lines, without network or waiting, and a wrong claim fails."""

from __future__ import annotations

import time
from typing import Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Machine, Turn, ask, final, model_state, state, tool, use, wait
from interlock.errors import BadInput, Stuck
from interlock.testing import Played, ScriptedModel, assert_log, call, choose, memory_store, play


class Case(BaseModel):
    order_id: str
    facts: list[str] = []
    cents: int = 0


@tool(does="read")
def order_lines(call: Call[None], order_id: str) -> list[str]:
    return [f"line of {order_id}"]


@tool(does="write", keyed=True)
def refund(call: Call[None], order_id: str, cents: int) -> str:
    return f"refunded {cents}"


look_up = model_state(
    "What is owed on {order_id}?",
    model="openai:gpt-5-mini",
    tools=[order_lines],
    writes={"owed": ["facts", "cents"], "nothing": []},
)

support = Machine(
    "support",
    Case,
    table={
        "look_up": look_up.then({"owed": "nap", "nothing": "closed", "stalled": "person"}),
        "nap": wait(seconds=86_400).then({"elapsed": "pay"}),
        "pay": use(refund, args={"order_id": "order_id", "cents": "cents"}).then({"done": "closed"}),
        "person": ask("Take over {order_id}", of="desk", writes={"handled": ["facts"]}).then(
            {"handled": "closed", "timeout": "lost"}
        ),
        "closed": final(),
        "lost": final("failed"),
    },
)


def played() -> Played[Case]:
    return play(
        support,
        Case(order_id="A-17"),
        model=[call("order_lines", order_id="A-17"), choose("owed", facts=["late"], cents=500)],
    )


def test_a_refund_is_paid() -> None:
    """The ten lines of a user's own test."""
    model = ScriptedModel([call("order_lines", order_id="A-17"), choose("owed", facts=["late"], cents=500)])
    run = play(support, Case(order_id="A-17"), model=model)
    assert run.status == "completed"
    assert run.record.facts == ["late"]
    assert_log(run, "look_up > nap > pay > closed", tool_called=2, model_called=2, overrun=0)
    assert [offer.name for offer in model.requests[0].offers] == ["order_lines", "owed", "nothing"]


def test_a_day_passes_in_no_time() -> None:
    began = time.monotonic()
    assert played().seconds >= 86_400
    assert time.monotonic() - began < 5


def test_people_are_played_too() -> None:
    model = ScriptedModel(lambda request: call("order_lines", order_id="A-17"))
    run = play(support, Case(order_id="A-17"), model=model, answers=[("handled", {"facts": ["by hand"]})])
    assert_log(run, "look_up > person > closed")
    assert run.record.facts == ["by hand"]


def test_without_an_answer_it_waits() -> None:
    model = ScriptedModel(lambda request: call("order_lines", order_id="A-17"))
    run = play(support, Case(order_id="A-17"), model=model)
    assert (run.status, run.result.waits[0].of) == ("waiting", "desk")


@pytest.mark.parametrize(
    "claim",
    [
        lambda run: assert_log(run, "look_up > closed"),
        lambda run: assert_log(run, model_called=3),
        lambda run: assert_log(run, refund_paid=1),
        lambda run: assert_log(run, types=["run_started"]),
        lambda run: assert_log(run, "look_up > nap > pay > closed", transitioned=0),
    ],
)
def test_a_wrong_claim_fails(claim: object) -> None:
    with pytest.raises(AssertionError):
        claim(played())  # type: ignore[operator]


def test_the_exact_sequence_can_be_claimed() -> None:
    run = play(support, Case(order_id="x"), model=[choose("nothing")])
    assert_log(run, types=["run_started", "model_called", "model_replied", "transitioned"])


def test_the_same_seed_plays_the_same_run() -> None:
    assert played() == played()


def test_a_wrong_answer_of_a_test_is_an_error_not_a_wait() -> None:
    model = ScriptedModel(lambda request: call("order_lines", order_id="A-17"))
    with pytest.raises(BadInput):
        play(support, Case(order_id="A-17"), model=model, answers=[("shrug",)])


def test_waiting_for_what_nobody_does_is_stuck_not_hanging() -> None:
    @state()
    async def work(turn: Turn[Case]) -> Literal["ok"]:
        return "ok"

    row = wait("never", within=10**9)
    machine = Machine(
        "m", Case, table={"s": work.then({"ok": "w"}), "w": row.then({"arrived": "e", "timeout": "e"}), "e": final()}
    )
    try:
        run = play(machine, Case(order_id="x"))
    except Stuck:
        return
    assert run.status in ("waiting", "completed")


def test_several_runs_share_a_store() -> None:
    with memory_store() as store:
        runs = [play(support, Case(order_id="x"), model=[choose("nothing")], store=store) for _ in range(3)]
        assert len({run.result.id for run in runs}) == 3
        assert len(store.runs()) == 3


def test_a_script_per_model_name() -> None:
    run = play(support, Case(order_id="x"), model={"openai:gpt-5-mini": [choose("nothing")]})
    assert run.status == "completed"


def test_a_script_that_runs_out_says_so() -> None:
    run = play(support, Case(order_id="x"), model=[])
    assert run.status == "waiting"
    assert "used up" in run.result.waits[0].prompt
