"""An independent fault server (llmock) against the real provider client, one request at a time: no engine, no retry.

What its judge says of client and engine together: tests/laws/test_fault_server_verdicts.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Delay, SlowFirstToken

from interlock.agent.model import RETRYABLE, FailureKind, Message, ModelFailed, ModelReply, ModelRequest
from interlock.agent.providers import ProviderModels
from tests.agent.fault_server import KEYS, PROVIDERS, fault_server, models_at
from tests.agent.support_exchange import LOOK

MODEL = {"openai": "openai:gpt-5-mini", "anthropic": "anthropic:claude-haiku-4-5"}
TEXT = "What is owed is forty two dollars and some cents."

each_provider = pytest.mark.parametrize("provider", PROVIDERS)
each_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def running() -> Iterator[LLMock]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(running: LLMock) -> LLMock:
    return running.reset()


async def _ask(server: LLMock, name: str, stream: bool, timeout: float, silence: float, tools: bool) -> ModelReply:
    models = models_at(server, stream=stream, silence=silence)
    asked = ModelRequest("any", (Message("user", "What is owed?"),), offers=(LOOK,) if tools else (), timeout=timeout)
    try:
        return await models.find(name).reply(asked)
    finally:
        await models.aclose()


def ask(
    server: LLMock,
    provider: str,
    *,
    stream: bool,
    timeout: float = 30.0,
    silence: float = 30.0,
    tools: bool = False,
) -> ModelReply:
    return asyncio.run(_ask(server, MODEL[provider], stream, timeout, silence, tools))


def failure(server: LLMock, provider: str, **how: Any) -> ModelFailed:
    with pytest.raises(ModelFailed) as failed:
        ask(server, provider, **how)
    return failed.value


@each_provider
@each_way
def test_a_reply_is_the_same_whole_or_in_pieces(server: LLMock, provider: str, stream: bool) -> None:
    server.reply(TEXT)
    reply = ask(server, provider, stream=stream)
    assert (reply.text, reply.finish, reply.calls) == (TEXT, "stop", ())
    assert 0 < reply.tokens_out < 100, "the provider's own count, not the bound for those who don't say"
    assert server.last_request.stream == stream
    server.call_tool("look", {"id": "A-17"}).reset().call_tool("look", {"id": "A-17"})
    (call,) = ask(server, provider, stream=stream, tools=True).calls
    assert (call.name, call.args) == ("look", {"id": "A-17"})


def test_the_environment_may_ask_for_streams(server: LLMock) -> None:
    async def ask_in(environ: dict[str, str]) -> None:
        models = ProviderModels({"openai": server.base_url("openai")}, environ={**KEYS, **environ})
        await models.find(MODEL["openai"]).reply(ModelRequest("any", (Message("user", "What is owed?"),)))
        await models.aclose()

    for environ, stream in (({}, False), ({"INTERLOCK_STREAM": "0"}, False), ({"INTERLOCK_STREAM": "1"}, True)):
        asyncio.run(ask_in(environ))
        assert server.last_request.stream == stream


Broken = Callable[[LLMock], object]

STREAMS: list[tuple[str, Broken, FailureKind]] = [
    *((f"truncated after {n}", lambda server, n=n: server.truncate(after_chunks=n), "cut") for n in (1, 3, 8)),
    *((f"dropped after {n}", lambda server, n=n: server.disconnect(after_chunks=n), "cut") for n in (1, 3, 8)),
    *((f"corrupt at {n}", lambda server, n=n: server.corrupt(after_chunks=n), "malformed") for n in (1, 3)),
    ("stands still", lambda server: server.stall(after_chunks=5, seconds=15), "timeout"),
]


@each_provider
@pytest.mark.parametrize(("break_it", "kind"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS])
def test_a_stream_that_breaks_is_no_answer_wherever_it_breaks(
    server: LLMock, provider: str, break_it: Broken, kind: FailureKind
) -> None:
    """Half an answer looks like a whole one: the client libraries raise nothing when a stream just ends."""
    break_it(server.reply(TEXT))
    failed = failure(server, provider, stream=True, silence=1.0 if kind == "timeout" else 30.0)
    assert (failed.kind, failed.billed) == (kind, True) and failed.kind in RETRYABLE
    record = server.last_request
    assert record.fault is not None and record.fault.startswith("stream:"), "the fault did strike"
    assert kind != "timeout" or not record.completed, "it left before the server went on"


@each_provider
def test_every_end_that_is_missing_is_noticed(server: LLMock, provider: str) -> None:
    """Cut after each piece in turn, up to the last: none but the whole text ever passes for an answer."""
    ask(server.reply(TEXT), provider, stream=True)
    pieces = server.last_request.chunks_sent
    assert pieces > 10
    whole = 0
    for after in range(pieces):
        server.reset().reply(TEXT).truncate(after_chunks=after)
        try:
            assert ask(server, provider, stream=True).text == TEXT
            whole += 1  # only the terminator was missing: the provider had said that it was at its end
        except ModelFailed as failed:
            assert failed.kind in ("cut", "malformed")
    assert whole <= 2


@each_provider
@each_way
def test_an_answer_that_does_not_begin_is_a_timeout(server: LLMock, provider: str, stream: bool) -> None:
    server.add(SlowFirstToken(20) if stream else Delay(3))
    failed = failure(server, provider, stream=stream, timeout=1)
    assert (failed.kind, failed.billed) == ("timeout", True)


@each_provider
def test_a_stream_may_think_for_long_before_its_first_piece(server: LLMock, provider: str) -> None:
    """Only one that has begun and then stands still is taken to hang."""
    server.reply(TEXT).slow_first_token(3)
    assert ask(server, provider, stream=True, silence=2.0).text == TEXT


STATUSES: list[tuple[int, FailureKind]] = [
    (400, "rejected"),
    (401, "auth"),
    (403, "auth"),
    (404, "rejected"),
    (408, "outage"),
    (409, "outage"),
    (422, "rejected"),
    (429, "rate_limited"),
    (500, "outage"),
    (502, "outage"),
    (503, "outage"),
    (504, "outage"),
    (529, "outage"),
]


@each_provider
@each_way
def test_every_status_has_its_kind_and_is_sent_once(server: LLMock, provider: str, stream: bool) -> None:
    for status, kind in STATUSES:
        server.reset().fail(status, times=None)
        assert failure(server, provider, stream=stream).kind == kind, status
        assert len(server.requests) == 1, status


@each_provider
@each_way
def test_the_wait_that_is_asked_for_is_read(server: LLMock, provider: str, stream: bool) -> None:
    for status in (429, 503, 529):
        server.reset().fail(status, retry_after=7.0)
        assert failure(server, provider, stream=stream).retry_after == pytest.approx(7.0), status


@each_provider
@each_way
def test_a_prompt_that_is_too_long_is_an_overflow(server: LLMock, provider: str, stream: bool) -> None:
    server.limits(context_window=1)
    assert failure(server, provider, stream=stream).kind == "overflow"


@each_way
def test_a_used_up_quota_is_told_from_a_rate_limit(server: LLMock, stream: bool) -> None:
    """In each provider's own words."""
    server.fail(429, code="insufficient_quota", provider="openai")
    server.fail(400, message="Your credit balance is too low to access the API.", provider="anthropic")
    for provider in PROVIDERS:
        assert failure(server, provider, stream=stream).kind == "quota", provider
