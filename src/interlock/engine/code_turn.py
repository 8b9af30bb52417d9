"""Code states: run the handler with a `Turn`, and make its return value the outcome. Commits nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError

from interlock.agent.model import Message, ModelRequest, Offer
from interlock.agent.prices import Bulk, bulk_of
from interlock.canonical import Json, copied, fingerprint
from interlock.engine import server_tools
from interlock.engine.attempts import ModelEffect, ToolEffect
from interlock.engine.desk import Desk
from interlock.engine.effects import Effects
from interlock.engine.ending import Ended
from interlock.engine.raised import RAISED, told
from interlock.engine.record import RecordDraft, changes_of, fields_read
from interlock.errors import BadInput, EffectFailed, FrozenValue, NotGranted
from interlock.history.events import ModelCalled, ModelReplied, ToolReturned
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.servers import ServerTool
from interlock.machine.states import CodeState, model_names
from interlock.machine.tools import Tool, explain
from interlock.machine.turn import Reply, Turn
from interlock.machine.window import WINDOW_BYTES
from interlock.policy.grants import Grant, union

_ANSWER = "answer"

SLEEP_MAX = 10**9
"""Thirty years: whoever asks for more has mistaken the unit, and the store could not hold it."""


class CodeTurn(Turn[Any, Any]):
    """The engine's `Turn`."""

    def __init__(self, desk: Desk, state: CodeState[Any, Any, Any]) -> None:
        self._desk = desk
        self._state = state
        self._effects = Effects(desk, state.calls)
        run = desk.run
        reads = None if state.reads is None else frozenset(state.reads)
        grant = Grant(run.state.state, reads, frozenset(state.writes))
        self.draft = RecordDraft(run.machine.record, run.values, grant)
        self.origins: set[str] = set()
        self._number = run.state.turn

    @property
    def record(self) -> Any:
        return self.draft

    @property
    def deps(self) -> Any:
        return self._desk.deps

    @property
    def run(self) -> str:
        return self._desk.run.id

    @property
    def number(self) -> int:
        return self._number

    async def model(
        self,
        model: str | Sequence[str],
        prompt: str,
        *,
        returns: Any = None,
        max_tokens: int | None = None,
        within: float | None = None,
    ) -> Any:
        models = self._granted(model_names(model))
        whole = max_tokens is None or (type(max_tokens) is int and max_tokens >= 1)
        if not whole or (within is not None and not within > 0):
            takes = "max_tokens= in whole numbers from 1 up and within= above 0"
            raise BadInput(f"a model call takes {takes}, not {max_tokens}, {within}")
        tokens = self._state.max_tokens if max_tokens is None else min(max_tokens, self._state.max_tokens)
        request = _request(models[0], prompt, returns, tokens, within or self._state.within)
        entry = await self._effects.carry_out(self._model_effect(models, request, prompt))
        reply, call = entry.result, entry.intent
        assert isinstance(reply, ModelReplied) and isinstance(call, ModelCalled)
        self.origins.add("model")
        value = None if returns is None else _structured(reply, returns)
        return Reply(reply.text, value, call.model, reply.tokens_in, reply.tokens_out, reply.nanousd)

    def _granted(self, models: tuple[str, ...]) -> tuple[str, ...]:
        for model in models:
            if model not in self._state.models:
                state = self._desk.run.state.state
                raise NotGranted(f"state `{state}` may not use model {model!r}: add it to its models=")
        if not models or len(set(models)) < len(models):
            raise BadInput(f"a model call takes a model, or several different ones, not {list(models)!r}")
        return models

    def _model_effect(self, models: tuple[str, ...], request: ModelRequest, prompt: str) -> ModelEffect:
        desk = self._desk
        digest = fingerprint(["model", asked(models), prompt, [offer.schema for offer in request.offers]])
        return model_effect(desk, request, models, bulk_of(request), digest, prompt=prompt)

    async def call(self, tool: Tool[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        if not any(granted.name == tool.name for granted in self._state.tools):
            raise NotGranted(f"state `{self._desk.run.state.state}` may not call {tool.name}: add it to its tools=")
        if isinstance(tool, ServerTool):
            tool = await server_tools.pinned(self._desk, tool)
        effect = ToolEffect(tool, tool.bind(args, kwargs), self._desk.deps, self._desk.world.offload)
        entry = await self._effects.carry_out(effect)
        assert isinstance(entry.result, ToolReturned)
        self.origins.add(entry.result.origin)
        return tool.load(copied(entry.result.value))  # a handler may change what it was given

    async def sleep(self, seconds: float) -> None:
        if not seconds <= SLEEP_MAX:
            raise BadInput(f"a turn may sleep for up to {SLEEP_MAX} seconds, not {seconds}")
        await self._desk.sleep(seconds, fingerprint(["sleep", seconds]))

    async def now(self) -> datetime:
        ms = await self._desk.note("now", "now", self._desk.run.now)
        return datetime.fromtimestamp(ms / 1000, UTC)

    async def random(self) -> float:
        value: float = await self._desk.note("random", "random", self._desk.world.chance.random())
        return value


def asked(models: tuple[str, ...]) -> Json:
    """Whom an effect asks, as a part of what it is."""
    return models[0] if len(models) == 1 else list(models)


def model_effect(
    desk: Desk,
    request: ModelRequest,
    models: tuple[str, ...],
    bulk: Bulk,
    digest: str,
    *,
    window: int = WINDOW_BYTES,
    **more: Any,
) -> ModelEffect:
    """An effect that asks the first of `models` that is available (or the one that replaces them all), at its price.
    `request`: to the first of them; `bulk`: the request's; `window`: the most that it may be.

    Raises `EffectFailed` for a request over the window, `UnknownPrice`, `UnknownModel`.
    """
    world, machine = desk.world, desk.run.machine
    if world.model is not None:
        models, request = (world.model,), replace(request, model=world.model)
    name = models[0]
    price = world.price_of(name, machine.prices)
    if bulk.tokens_max > window:
        why = f"{bulk.tokens_max} bytes would be sent, the window holds {window}"
        raise EffectFailed(EngineOutcome.OVERFLOW, why)
    return ModelEffect(world.models.find(name), request, price, digest, bulk, models, **more)


def _request(model: str, prompt: str, returns: Any, max_tokens: int, within: float) -> ModelRequest:
    offers: tuple[Offer, ...] = ()
    if returns is not None:
        offers = (Offer(_ANSWER, "Give the answer in this form.", returns.model_json_schema()),)
    return ModelRequest(
        model=model,
        messages=(Message("user", prompt),),
        offers=offers,
        must_choose=bool(offers),
        max_tokens=max_tokens,
        timeout=within,
    )


def _structured(reply: ModelReplied, returns: Any) -> Any:
    answers = [call["args"] for call in reply.calls if call["name"] == _ANSWER]
    if len(answers) != 1 or not isinstance(answers[0], Mapping):
        raise EffectFailed(EngineOutcome.INVALID, f"the model gave no {returns.__name__}")
    try:
        return returns.model_validate(answers[0])
    except ValidationError as wrong:
        raise EffectFailed(EngineOutcome.INVALID, f"{returns.__name__}: {explain(wrong)}") from None


async def code_turn(desk: Desk, state: CodeState[Any, Any, Any]) -> Ended:
    """Run the handler once; engine outcomes for whatever it raises."""
    turn = CodeTurn(desk, state)
    try:
        if state.is_async:
            outcome: Any = await state.handler(turn)
        else:
            outcome = await desk.world.offload(lambda: state.handler(turn))
        return _ended(desk, state, turn, outcome)
    except EffectFailed as failed:
        return Ended(failed.outcome, why=str(failed))
    except (NotGranted, BadInput, FrozenValue) as refused:
        return Ended(EngineOutcome.ERROR, why=str(refused))
    except RAISED as raised:  # a handler's bug has a destination like any other failure
        return Ended(EngineOutcome.ERROR, why=told(raised))


def _ended(desk: Desk, state: CodeState[Any, Any, Any], turn: CodeTurn, outcome: Any) -> Ended:
    if outcome not in state.outcomes:
        return Ended(EngineOutcome.ERROR, why=f"the handler returned {outcome!r}, which it doesn't declare")
    reads = desk.run.origin_of(sorted(fields_read(turn.draft)))
    return Ended(outcome, tuple(changes_of(turn.draft)), origin=union([reads, *turn.origins, "code"]))
