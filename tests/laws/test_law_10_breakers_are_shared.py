"""Law 10: breakers are shared by all workers, have rows and a log of their own, and one leased owner of each probe.
Open means the next model, then `unavailable`, without using attempts; and why is in the run's event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from interlock import Turn, state
from interlock.agent.model import ModelFailed, ModelReply, ModelRequest
from interlock.agent.scripted import ScriptedModel, ScriptedModels
from interlock.history import events as e
from interlock.testing import play
from tests.laws.machines import Case, machine

FIRST, SECOND, THIRD = "test:first", "test:second", "test:third"
OK = ModelReply(text="ok", tokens_in=10, tokens_out=2)
MOVES = {
    "unavailable": "person",
    "retries_spent": "person",
    "timeout": "person",
    "overflow": "person",
    "error": "person",
}
DOWN = ModelFailed("outage", "503", billed=False)


def asks(*models: str, **limits: Any) -> Any:
    """A machine that asks once, whichever of these models."""

    @state(models=models, writes=["text"], within=600)
    async def work(turn: Turn[Case]) -> Literal["done"]:
        reply = await turn.model(models, "x", within=30)
        turn.record.text = f"{reply.model}: {reply.text}"
        return "done"

    return machine(work, MOVES, **limits)


def brains(**by_name: Any) -> ScriptedModels:
    """Models named test:..., each a failure, a list of what it says, or OK."""
    return ScriptedModels({f"test:{name}": ScriptedModel(_brain(said)) for name, said in by_name.items()})


def _brain(said: Any) -> Callable[[ModelRequest], Any]:
    left = [*said] if isinstance(said, list) else None
    return lambda request: (left.pop(0) if left else OK) if left is not None else said


def calls(events: Any) -> list[tuple[str, int]]:
    """Whom each attempt asked, and its number."""
    return [(event.model, event.attempt) for event in events if isinstance(event, e.ModelCalled)]


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
