"""Scripted models: a `Model` that says what a test or a drill tells it to. Knows no provider and no engine.

    model = ScriptedModel([call("order_lines", order_id="A-17"), choose("owed", facts=["late"], refund_cents=500)])

A script is a list, used up in order, or a function of the request. Each entry is
    text                            said, chosen nothing
    a `Choice`, or a list of them   tools called or outcomes chosen (both go over the wire alike)
    a dict {name: {arguments}}      the same, written short
    a `ModelReply`                  exactly that, token counts included
    an exception                    raised, e.g. `ModelFailed("outage", "503")`

Tokens are counted by one rule, so that runs are repeatable and costs comparable: 1 token for every 4 UTF-8 bytes
(rounded up, at least 1) of what is sent and of what is answered. `tokens=(in, out)` states other figures.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec.structs import replace

from interlock.agent.model import Model, ModelCall, ModelFailed, ModelReply, ModelRequest, readable, utf8_bytes
from interlock.canonical import Json
from interlock.errors import UnknownModel

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """One tool or outcome that the scripted model chooses. `args` may be text, to play a model that writes no JSON."""

    name: str
    args: Json


Reply: TypeAlias = str | Choice | Sequence[Choice] | Mapping[str, Json] | ModelReply | BaseException
Brain: TypeAlias = Callable[[ModelRequest], Reply | Awaitable[Reply]]
Script: TypeAlias = Sequence[Reply] | Brain


def choose(outcome: str, /, **fields: Json) -> Choice:
    """End the turn: `choose("owed", facts=["late"], refund_cents=500)`."""
    return Choice(outcome, fields)


def call(tool: str, /, **args: Json) -> Choice:
    """Call a tool: `call("order_lines", order_id="A-17")`. Several at once: a list of these."""
    return Choice(tool, args)


def say(text: str, *choices: Choice) -> ModelReply:
    """Text, and perhaps choices beside it."""
    return ModelReply(text=text, calls=_calls(choices))


class ScriptedModel:
    """A model that follows a script. Deterministic; keeps every request in `.requests`.

    script   a list of replies or a function `(ModelRequest) -> reply`, plain or async (see the head of this file)
    tokens   (in, out) for replies that don't state their own; default: by size
    delay    seconds slept before each answer; asyncio's time, so a virtual loop doesn't wait

    When a list runs out, `ModelFailed` of kind "rejected" says after how many replies; nothing is billed.
    """

    def __init__(self, script: Script, *, tokens: tuple[int, int] | None = None, delay: float = 0.0) -> None:
        self.requests: list[ModelRequest] = []
        self._brain: Brain = script if callable(script) else _in_order(script)
        self._tokens = tokens
        self._delay = delay

    async def reply(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        number = len(self.requests)
        if self._delay:
            await asyncio.sleep(self._delay)
        said = self._brain(request)
        if inspect.isawaitable(said):
            said = await said
        if isinstance(said, BaseException):
            raise said
        return self._counted(request, as_reply(said, number))

    def _counted(self, request: ModelRequest, reply: ModelReply) -> ModelReply:
        if reply.tokens_in or reply.tokens_out:
            return reply
        tokens_in, tokens_out = self._tokens or (tokens_of(request), tokens_of(reply))
        return replace(reply, tokens_in=tokens_in, tokens_out=tokens_out)


class ScriptedModels:
    """`Models` for tests: one scripted model for every name, or a dict of them by name."""

    def __init__(self, models: Model | Script | Mapping[str, Model | Script]) -> None:
        if isinstance(models, Mapping):
            self._by_name: dict[str, Model] = {name: _model(model) for name, model in models.items()}
            self._for_all: Model | None = None
        else:
            self._by_name, self._for_all = {}, _model(models)

    def find(self, name: str) -> Model:
        found = self._by_name.get(name, self._for_all)
        if found is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise UnknownModel(f"no scripted model is named {name!r} (there are: {known}); add it to ScriptedModels")
        return found


def as_reply(said: Reply, number: int = 1) -> ModelReply:
    """What a script's entry means. `number` tells the calls of different replies apart."""
    if isinstance(said, ModelReply):
        return replace(said, calls=_named(said.calls, number)) if any(not c.id for c in said.calls) else said
    if isinstance(said, str):
        return ModelReply(text=said)
    if isinstance(said, Choice):
        return ModelReply(calls=_named(_calls([said]), number), finish="tool_call")
    if isinstance(said, Mapping):
        return ModelReply(calls=_named(_calls([Choice(*pair) for pair in said.items()]), number), finish="tool_call")
    if isinstance(said, list | tuple) and all(isinstance(one, Choice) for one in said):
        return ModelReply(calls=_named(_calls(said), number), finish="tool_call")
    raise TypeError(f"a script says text, choices, a dict, a ModelReply or an exception, not {said!r}")


def tokens_of(said: ModelRequest | ModelReply) -> int:
    """The head's rule: a quarter of the bytes, rounded up, at least 1."""
    size = said.size_bytes() if isinstance(said, ModelRequest) else _reply_bytes(said)
    return max(1, -(-size // BYTES_PER_TOKEN))


def _reply_bytes(reply: ModelReply) -> int:
    calls = [replace(call, args=readable(call.args)) for call in reply.calls]
    return utf8_bytes(reply.text) + sum(call.size_bytes() for call in calls)


def _calls(choices: Sequence[Choice]) -> tuple[ModelCall, ...]:
    return tuple(ModelCall("", choice.name, choice.args) for choice in choices)


def _named(calls: Sequence[ModelCall], number: int) -> tuple[ModelCall, ...]:
    """Ids are unique within a model's life and the same in every repetition."""
    return tuple(replace(call, id=call.id or f"call_{number}_{at}") for at, call in enumerate(calls, 1))


def _model(given: Model | Script) -> Model:
    return ScriptedModel(given) if callable(given) or isinstance(given, Sequence) else given


def _in_order(script: Sequence[Reply]) -> Brain:
    left = iter(script)

    def following(request: ModelRequest) -> Reply:
        for reply in left:
            return reply
        return ModelFailed("rejected", f"the script of {len(script)} replies is used up", billed=False)

    return following
