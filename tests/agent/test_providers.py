"""The real OpenAI and Anthropic clients against a loopback provider: what goes over the wire, and what comes back."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from interlock.agent.model import RETRYABLE, FailureKind, Message, ModelCall, ModelFailed, ModelReply, ModelRequest
from interlock.agent.prices import input_bound
from interlock.agent.providers import ProviderModels
from interlock.agent.scripted import call, choose, say
from interlock.errors import UnknownModel
from interlock.redteam import faults
from interlock.redteam.faults import Fault
from interlock.redteam.provider import LoopbackProvider
from tests.agent.support_exchange import (
    ANTHROPIC_KEY,
    KEYS,
    LOOK,
    NAMES,
    OPENAI_KEY,
    after_a_call,
    ask,
    asked,
    failure_of,
    models_at,
    reply_of,
    run,
)

each_provider = pytest.mark.parametrize("name", NAMES)


# -- the wire --


@each_provider
def test_offers_and_outcomes_travel_as_tools_and_come_back_as_calls(name: str) -> None:
    with LoopbackProvider([[call("look", id="A-17"), choose("owed", facts=["late", "ü"])]]) as provider:
        reply = reply_of(provider, name, asked())
    assert [(c.name, c.args) for c in reply.calls] == [("look", {"id": "A-17"}), ("owed", {"facts": ["late", "ü"]})]
    assert len({c.id for c in reply.calls}) == 2
    seen = provider.requests[0].request
    assert [(offer.name, offer.description) for offer in seen.offers] == [("look", "Looks at an order.")]
    assert seen.offers[0].schema["properties"] == LOOK.schema["properties"]
    assert seen.instructions == "Be brief." and seen.messages == (Message("user", "What is owed?"),)


@each_provider
def test_a_conversation_arrives_as_it_was(name: str) -> None:
    with LoopbackProvider([say("thanks")]) as provider:
        reply_of(provider, name, asked(messages=after_a_call()))
    assert provider.requests[0].request.messages == after_a_call()


@each_provider
def test_arguments_that_were_no_json_can_be_sent_back_in_the_conversation(name: str) -> None:
    """A model that wrote nonsense is told so, and its nonsense stays in the conversation."""
    with LoopbackProvider([say("sorry")]) as provider:
        assert reply_of(provider, name, asked(messages=after_a_call(args="{nonsense"))).text == "sorry"


def test_the_output_cap_is_always_sent() -> None:
    """Under the field that each server reads: OpenAI's own API refuses what all others understand."""
    with LoopbackProvider(lambda _: "x") as provider:
        for name in (*NAMES, provider.model_name("qwen3")):
            reply_of(provider, name, asked(offers=(), must_choose=False))
    openai, anthropic, other = (received.body for received in provider.requests)
    assert openai["max_completion_tokens"] == 77
    assert anthropic["max_tokens"] == 77
    assert other["max_tokens"] == 77 and "max_completion_tokens" not in other


def test_a_choice_is_required_only_when_the_request_says_so() -> None:
    with LoopbackProvider(lambda _: "x") as provider:
        for name in NAMES:
            for must_choose in (True, False):
                reply_of(provider, name, asked(must_choose=must_choose))
    sent = [received.body["tool_choice"] for received in provider.requests]
    assert sent[:2] == ["required", "auto"]
    assert [choice["type"] for choice in sent[2:]] == ["any", "auto"]
    assert not any(choice["disable_parallel_tool_use"] for choice in sent[2:])
    assert all(received.body["parallel_tool_calls"] for received in provider.requests[:2])


def test_a_choice_is_required_of_a_model_that_thinks_by_default() -> None:
    with LoopbackProvider(lambda _: "x") as provider:
        reply_of(provider, "anthropic:claude-opus-5", asked())
    assert provider.requests[0].body["tool_choice"]["type"] == "any"


# -- what comes back --


@each_provider
def test_usage_counts_cached_tokens_as_part_of_the_input(name: str) -> None:
    with LoopbackProvider([ModelReply("hi", tokens_in=100, tokens_out=7, cached_in=60)]) as provider:
        reply = reply_of(provider, name, asked())
    assert (reply.tokens_in, reply.tokens_out, reply.cached_in) == (100, 7, 60)


class Silent:
    """A model whose server says nothing of usage."""

    async def reply(self, request: ModelRequest) -> ModelReply:
        return ModelReply("hi", tokens_in=0, tokens_out=0)


@each_provider
def test_a_server_that_states_no_usage_is_taken_to_have_used_the_bound(name: str) -> None:
    """Else a run at such a server would look free and never meet its limits."""
    with LoopbackProvider(Silent()) as provider:
        reply = reply_of(provider, name, asked())
    assert (reply.tokens_in, reply.tokens_out) == (input_bound(asked()), asked().max_tokens)


@each_provider
@pytest.mark.parametrize("finish", ["length", "stop", "content_filter"])
def test_the_reason_for_stopping_is_passed_on(name: str, finish: str) -> None:
    with LoopbackProvider([ModelReply("hi", finish=finish)]) as provider:
        assert reply_of(provider, name, asked()).finish == finish


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ('{"id": "A"}', {"id": "A"}),
        ('{"id": ', '{"id": '),
        ("[1]", "[1]"),
        ("", {}),
        ("null", "null"),
        ('{"id": NaN}', {"id": "NaN"}),
        *((text, text) for text in [f'{{"id": {"[" * depth}{"]" * depth}}}' for depth in (150, 500, 5_000)]),
    ],
)
def test_arguments_are_a_dict_or_stay_the_text_they_were(written: str, understood: Any) -> None:
    with LoopbackProvider([ModelReply(calls=(ModelCall("c1", "look", written),))]) as provider:
        reply = reply_of(provider, NAMES[0], asked())
    assert reply.calls[0].args == understood


# -- failures --

FAILURES: list[tuple[Fault, FailureKind, bool]] = [
    (faults.storm(), "outage", False),
    (faults.status(500), "outage", False),
    (faults.overloaded(), "outage", False),
    (faults.status(504), "outage", True),
    (faults.status(408), "outage", True),
    (faults.rate_limited(), "rate_limited", False),
    (faults.quota(), "quota", False),
    (faults.auth(), "auth", False),
    (faults.status(403), "auth", False),
    (faults.overflow(), "overflow", False),
    (faults.status(400, message="input length and `max_tokens` exceed context limit: 1 > 0"), "overflow", False),
    (faults.status(413), "overflow", False),
    (faults.status(400), "rejected", False),
    (faults.status(404), "rejected", False),
    (faults.status(422), "rejected", False),
    (faults.cut(), "cut", True),
    (faults.drop(), "cut", True),
    (faults.malformed(), "malformed", True),
]


@each_provider
@pytest.mark.parametrize(("fault", "kind", "billed"), FAILURES, ids=lambda value: getattr(value, "name", str(value)))
def test_every_failure_has_its_kind_and_is_sent_once(name: str, fault: Fault, kind: FailureKind, billed: bool) -> None:
    """The clients' own retries are off: one request per reply, whatever comes."""
    with LoopbackProvider(lambda _: "fine", faults=[fault]) as provider:
        failed = failure_of(provider, name, asked())
        assert (failed.kind, failed.billed, provider.count) == (kind, billed, 1)


@each_provider
def test_an_overflow_is_told_by_the_providers_own_sign(name: str) -> None:
    """OpenAI gives a code, Anthropic only words."""
    told = {
        NAMES[0]: faults.status(400, code="context_length_exceeded", message="Too much"),
        NAMES[1]: faults.status(400, message="prompt is too long: 210000 tokens > 200000 maximum"),
    }
    with LoopbackProvider(lambda _: "fine", faults=[told[name]]) as provider:
        assert failure_of(provider, name, asked()).kind == "overflow"


RETRY_AFTER: list[tuple[str, Callable[[], Fault], float]] = [
    ("seconds", lambda: faults.rate_limited(retry_after=7), 7.0),
    ("milliseconds", lambda: faults.rate_limited(retry_after=1.5), 1.5),
    ("fraction", lambda: faults.rate_limited(retry_after="2.5"), 2.5),
    ("date", lambda: faults.rate_limited(retry_after=_in_seconds(30)), 30.0),
    ("outage", lambda: faults.storm(retry_after=4), 4.0),
    (
        "reset",
        lambda: faults.status(
            429,
            headers=(
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-tokens", "100"),
                ("x-ratelimit-reset-tokens", "1h"),
            ),
        ),
        360.0,
    ),
]


def _in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@each_provider
@pytest.mark.parametrize(("form", "fault", "seconds"), RETRY_AFTER, ids=[form for form, _, _ in RETRY_AFTER])
def test_the_wait_that_a_provider_asks_for_is_read_in_every_form(
    name: str, form: str, fault: Callable[[], Fault], seconds: float
) -> None:
    with LoopbackProvider(lambda _: "fine", faults=[fault()]) as provider:
        failed = failure_of(provider, name, asked())
    assert failed.retry_after == pytest.approx(seconds, abs=2.0 if form == "date" else 0.001)


@each_provider
def test_a_refused_connection_is_an_outage_that_cost_nothing(name: str) -> None:
    provider = LoopbackProvider(lambda _: "fine")
    provider.start()
    provider.close()
    failed = failure_of(provider, name, asked())
    assert (failed.kind, failed.billed) == ("outage", False)


@each_provider
def test_a_text_that_cannot_be_written_down_is_rejected_unbilled_and_never_sent(name: str) -> None:
    """Half of a surrogate pair: trying again would fail alike, and nothing left."""
    with LoopbackProvider(lambda _: "fine") as provider:
        failed = failure_of(provider, name, asked("half a pair: \ud83d"))
        assert (failed.kind, failed.billed, provider.count) == ("rejected", False, 0)
    assert failed.kind not in RETRYABLE


@each_provider
def test_no_answer_in_time_is_a_timeout_that_may_be_billed_and_closes_the_request(name: str) -> None:
    with LoopbackProvider(lambda _: "fine", faults=[faults.hang()]) as provider:
        before = time.monotonic()
        failed = failure_of(provider, name, asked(timeout=0.2))
        assert time.monotonic() - before < 5
        assert (failed.kind, failed.billed, provider.count) == ("timeout", True, 1)
        _until(lambda: provider.requests[0].ended == "gone")


@each_provider
def test_cancelling_a_reply_closes_its_request(name: str) -> None:
    """The engine ends attempts by its own deadlines; the provider must notice."""

    async def cancelled(provider: LoopbackProvider) -> None:
        models = models_at(provider)
        reply = asyncio.create_task(models.find(name).reply(asked(timeout=60)))
        while not provider.requests:
            await asyncio.sleep(0.005)
        reply.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reply
        await models.aclose()

    with LoopbackProvider(lambda _: "fine", faults=[faults.hang()]) as provider:
        run(cancelled(provider))
        _until(lambda: provider.requests[0].ended == "gone")


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.005)


@each_provider
def test_a_long_error_page_is_told_in_short(name: str) -> None:
    with LoopbackProvider(lambda _: "fine", faults=[faults.status(503, message="down " * 10_000)]) as provider:
        assert len(failure_of(provider, name, asked()).message) <= 400


def test_every_retryable_kind_is_produced() -> None:
    assert {kind for _, kind, _ in FAILURES} | {"timeout"} >= RETRYABLE


# -- names, addresses, keys --


@each_provider
def test_a_key_appears_in_no_error_and_no_repr(name: str) -> None:
    """Not even when the provider echoes it, and not along the chain of causes that a traceback prints."""
    echo = faults.status(401, message=f"Incorrect API key provided: {OPENAI_KEY} {ANTHROPIC_KEY}")
    key = KEYS[f"{name.split(':')[0].upper()}_API_KEY"]
    with LoopbackProvider(lambda _: "fine", faults=[echo]) as provider:
        failed = failure_of(provider, name, asked())
        models = models_at(provider)
        shown = "".join([repr(failed), *traceback.format_exception(failed), repr(models.find(name)), repr(models)])
        shown += repr(models._servers)  # its keys are addresses, which hold the provider's key
        sent = str(provider.requests[0].headers)
    assert failed.kind == "auth" and "[key]" in failed.message
    assert failed.__cause__ is None and failed.__context__ is None
    assert key not in shown and key in sent


def test_an_address_in_a_models_name_gets_no_key() -> None:
    """A machine's table must not be able to send the environment's keys elsewhere."""
    with LoopbackProvider(lambda _: "fine") as provider:
        for provider_name in ("openai", "anthropic"):
            name = provider.model_name("m", provider_name)
            assert ask(ProviderModels(environ=KEYS), name, asked()).text == "fine"
        assert not any(key in str(received.headers) for key in KEYS.values() for received in provider.requests)


def test_a_named_address_gets_its_own_key_if_there_is_one() -> None:
    with LoopbackProvider(lambda _: "fine") as provider:
        for environ in ({}, {"LAB_7_API_KEY": "lab-key"}):
            models = ProviderModels({"lab-7": provider.base_url}, environ={**KEYS, **environ})
            ask(models, "lab-7:qwen3", asked())
        without, own = (str(received.headers) for received in provider.requests)
    assert "lab-key" in own and not any(key in without + own for key in KEYS.values())
    assert [received.body["model"] for received in provider.requests] == ["qwen3", "qwen3"]


def test_the_address_may_come_from_the_environment() -> None:
    with LoopbackProvider(lambda _: "fine") as provider:
        models = ProviderModels(environ={**KEYS, "OPENAI_BASE_URL": provider.base_url})
        assert ask(models, NAMES[0], asked()).text == "fine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt-5-mini", 'write "openai:gpt-5-mini"'),
        ("openai:gpt-5-mini", "set OPENAI_API_KEY"),
        ("anthropic:claude-haiku-4-5", "set ANTHROPIC_API_KEY"),
        ("mystery:m", "no provider is called 'mystery' (there are: anthropic, openai)"),
        ("openai:m@http://", "isn't a URL"),
        ("openai:m@http://me:secret@127.0.0.1/v1", "holds a secret"),
    ],
)
def test_a_name_that_cant_be_found_says_what_to_do(name: str, says: str) -> None:
    with pytest.raises(UnknownModel) as unknown:
        ProviderModels(environ={"OPENAI_API_KEY": " "}).find(name)
    assert says in str(unknown.value) and "me:secret" not in str(unknown.value)


def test_one_client_serves_every_model_of_an_address_and_is_closed_with_the_rest() -> None:
    async def two_replies(provider: LoopbackProvider) -> None:
        models = models_at(provider)
        first, second = models.find("openai:gpt-5-mini"), models.find("openai:gpt-5")
        await first.reply(asked())
        await second.reply(asked())
        await models.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await first.reply(asked())

    with LoopbackProvider(lambda _: "fine") as provider:
        run(two_replies(provider))
        assert len({received.connection for received in provider.requests}) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_models_serve_several_loops_one_after_the_other() -> None:
    """Connections belong to a loop, and a program may call asyncio.run twice: the first one's are lost."""
    with LoopbackProvider(lambda _: "fine") as provider:
        found = models_at(provider).find(NAMES[0])
        assert [run(found.reply(asked())).text for _ in range(2)] == ["fine", "fine"]
        del found
        gc.collect()


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with LoopbackProvider(lambda _: "fine") as provider:
            assert reply_of(provider, NAMES[0], asked()).text == "fine"


def test_what_a_scripted_brain_raises_reaches_the_client_as_that_failure() -> None:
    for kind in sorted({kind for _, kind, _ in FAILURES}):
        with LoopbackProvider([ModelFailed(kind, "as scripted")]) as provider:
            assert failure_of(provider, NAMES[0], asked()).kind == kind
