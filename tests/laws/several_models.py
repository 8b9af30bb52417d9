"""Several models that one machine may ask, and what each of them says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from interlock import Turn, state
from interlock.agent.model import ModelFailed, ModelReply, ModelRequest
from interlock.agent.scripted import ScriptedModel, ScriptedModels
from interlock.history import events as e
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
