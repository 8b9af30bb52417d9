"""What the provider tests share: requests, and both real clients pointed at a loopback provider."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from interlock.agent.model import Message, Model, ModelCall, ModelFailed, ModelReply, ModelRequest, Offer
from interlock.agent.providers import ProviderModels
from interlock.redteam.provider import LoopbackProvider

T = TypeVar("T")

OPENAI_KEY = "sk-openai-0123456789"
ANTHROPIC_KEY = "sk-ant-0123456789"
KEYS = {"OPENAI_API_KEY": OPENAI_KEY, "ANTHROPIC_API_KEY": ANTHROPIC_KEY}
NAMES = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")

LOOK = Offer(
    "look", "Looks at an order.", {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
)


def asked(text: str = "What is owed?", **changed: Any) -> ModelRequest:
    stated: dict[str, Any] = {
        "model": "any",
        "messages": (Message("user", text),),
        "instructions": "Be brief.",
        "offers": (LOOK,),
        "must_choose": True,
        "max_tokens": 77,
        "timeout": 5.0,
    }
    return ModelRequest(**stated | changed)


def after_a_call(args: Any = None, answer: str = "late") -> tuple[Message, ...]:
    """A conversation in which `look` was called and has answered."""
    call = ModelCall("c1", "look", {"id": "A-17"} if args is None else args)
    return (
        Message("user", "What is owed?"),
        Message("assistant", "", (call,)),
        Message("tool", answer, (), "c1", "look"),
    )


def models_at(provider: LoopbackProvider) -> ProviderModels:
    return ProviderModels({"openai": provider.base_url, "anthropic": provider.base_url}, environ=KEYS)


def reply_of(provider: LoopbackProvider, name: str, request: ModelRequest) -> ModelReply:
    """One reply through the real client, on a loop of its own."""
    return ask(models_at(provider), name, request)


def ask(models: ProviderModels, name: str, request: ModelRequest) -> ModelReply:
    return run(_reply(models, name, request))


def failure_of(provider: LoopbackProvider, name: str, request: ModelRequest) -> ModelFailed:
    with pytest.raises(ModelFailed) as failed:
        reply_of(provider, name, request)
    return failed.value


async def _reply(models: ProviderModels, name: str, request: ModelRequest) -> ModelReply:
    model: Model = models.find(name)
    try:
        return await model.reply(request)
    finally:
        await models.aclose()


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)
