"""What the tests with the independent fault server share: the server, its judge, and our client pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmock.pytest_plugin import LLMock
from llmock.testing import LLMockServer

from interlock.agent.providers import ProviderModels

KEYS = {"OPENAI_API_KEY": "sk-openai-0123456789", "ANTHROPIC_API_KEY": "sk-ant-0123456789"}
PROVIDERS = ("openai", "anthropic")

FORBIDDEN = (
    "retry_after_ignored",
    "retried_non_retryable",
    "retry_storm",
    "truncated_stream_accepted",
    "no_backoff",
    "no_read_timeout",
)
"""What the judge must never say of us. It knows two more, `gave_up` and `malformed_chunk_ignored`: neither of them."""


@contextmanager
def fault_server() -> Iterator[LLMock]:
    """A server of its own: its faults and its judgement belong to one test."""
    with LLMockServer() as server:
        yield LLMock(server)


def models_at(server: LLMock, *, stream: bool, silence: float) -> ProviderModels:
    addresses = {provider: server.base_url(provider) for provider in PROVIDERS}
    return ProviderModels(addresses, environ=KEYS, stream=stream, silence=silence)
