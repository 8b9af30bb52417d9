"""Streaming: a reply that arrives piece by piece, put together and taken for whole only if its provider ended it.

A stream that ends too soon looks like one that has ended: HTTP says nothing, and client libraries take what came for
the answer. Here it is `cut`, as is one that breaks off; one that begins and then stands still is a `timeout`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from interlock.agent.model import ModelFailed

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model as PydanticModel
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.settings import ModelSettings

SILENCE_SECONDS = 25.0
"""A stream that has begun and then brings nothing for so long is taken to hang. Before its first piece a model may
think for as long as the attempt may take."""


async def streamed(
    model: PydanticModel,
    messages: list[ModelMessage],
    settings: ModelSettings,
    parameters: ModelRequestParameters,
    silence: float = SILENCE_SECONDS,
) -> ModelResponse:
    """One request, answered as a stream. Raises what the client raises, `TimeoutError`, and `ModelFailed` ("cut")."""
    from pydantic_ai.direct import model_request_stream  # loaded by `ProviderModels.find`

    loop = asyncio.get_running_loop()
    asked = model_request_stream(model, messages, model_settings=settings, model_request_parameters=parameters)
    async with asyncio.timeout(None) as patience, asked as stream:
        async for _ in stream:
            patience.reschedule(loop.time() + silence)
        response = stream.get()
    if not _has_ended(response):
        raise ModelFailed("cut", "the stream stopped before its provider said that it was at its end")
    return response


def _has_ended(response: ModelResponse) -> bool:
    """Whether the provider gave a reason for ending. Its client's own field for it doesn't tell: where a stream of
    OpenAI's dialect has none, the client fills in "stop"."""
    said = response.provider_details or {}
    return bool(said.get("finish_reason") or said.get("refusal"))
