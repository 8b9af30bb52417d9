"""Real models: OpenAI, Anthropic, and every server that speaks OpenAI's chat completions, behind `Models`.

Sends each request once, through pydantic-ai's direct call with the client's own retries off, and turns whatever goes
wrong into `ModelFailed`. Knows no budget, no log and no machine.

    "openai:gpt-5-mini"                              key: OPENAI_API_KEY
    "anthropic:claude-haiku-4-5"                     key: ANTHROPIC_API_KEY
    "local:qwen3"  with base_urls={"local": "..."}   key: LOCAL_API_KEY, if it wants one
    "openai:qwen3@http://127.0.0.1:8000/v1"          no key: a machine's table must not send yours elsewhere

`base_urls` may also name "openai" or "anthropic": a gateway of yours for that provider, which gets its key.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from interlock.agent.model import Message, Model, ModelCall, ModelReply, ModelRequest
from interlock.agent.prices import input_bound
from interlock.agent.provider_failures import failure_of
from interlock.agent.streaming import SILENCE_SECONDS, streamed
from interlock.canonical import Json, as_stored, decode
from interlock.errors import BadInput, UnknownModel

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai import messages as wire
    from pydantic_ai.models import Model as PydanticModel
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.settings import ModelSettings

NAME = re.compile(r"(?P<provider>[A-Za-z][\w-]*):(?P<model>.+?)(?:@(?P<url>https?://.*))?")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send, as whom. `dialect` is the protocol spoken there; the key shows in no repr."""

    dialect: str
    provider: str
    base_url: str | None
    key: str = field(repr=False, default="")


class ProviderModels:
    """Finds models by name; see the head of this file for the names.

    base_urls  addresses by provider name
    environ    where keys (and OPENAI_BASE_URL, ANTHROPIC_BASE_URL) are read from; default: the process's
    stream     have replies streamed; default: whether INTERLOCK_STREAM=1 is set
    silence    seconds without a piece after which a stream that has begun is taken to hang

    One HTTP client per address serves every model there; `aclose()` closes them, from the loop that used them.
    """

    def __init__(
        self,
        base_urls: Mapping[str, str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        stream: bool | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._base_urls = dict(base_urls or {})
        self._environ = os.environ if environ is None else environ
        streamed_by_default = self._environ.get("INTERLOCK_STREAM") == "1"
        self._silence = silence if stream or (stream is None and streamed_by_default) else None
        self._servers: dict[Address, Server] = {}

    def find(self, name: str) -> Model:
        """Imports the provider's client and reads its key here, so that `reply` only sends."""
        address, model = self._address(name)
        try:
            import pydantic_ai.direct  # noqa: F401  here and not at the top, as importing it takes over a second

            server = self._servers.get(address) or Server(address)
            server.prepare(model)
        except ImportError as missing:
            package = "anthropic" if address.dialect == "anthropic" else "openai"
            remedy = f'pip install "pydantic-ai-slim[{package}]"'
            raise UnknownModel(f"{name!r} needs a package that is missing ({missing}): {remedy}") from missing
        self._servers[address] = server
        return ProviderModel(name, model, server, self._silence)

    async def aclose(self) -> None:
        servers, self._servers = list(self._servers.values()), {}
        for server in servers:
            await server.aclose()

    def _address(self, name: str) -> tuple[Address, str]:
        parts = NAME.fullmatch(name)
        if parts is None:
            raise UnknownModel(f'{name!r} doesn\'t name its provider: write "openai:{name}" or "anthropic:{name}"')
        provider, model, url = parts["provider"], parts["model"], parts["url"]
        if url is not None:
            dialect = "anthropic" if provider == "anthropic" else "compatible"
            return Address(dialect, provider, _checked(url, f"{provider}:{model}")), model
        if provider in KEYED:
            own_url = self._base_urls.get(provider) or self._environ.get(f"{provider.upper()}_BASE_URL")
            base_url = _checked(own_url, name) if own_url else None
            return Address(provider, provider, base_url, self._key(provider, name)), model
        if provider in self._base_urls:
            base_url = _checked(self._base_urls[provider], name)
            return Address("compatible", provider, base_url, self._environ.get(_key_name(provider), "")), model
        known = ", ".join(sorted({*KEYED, *self._base_urls}))
        raise UnknownModel(
            f"{name!r}: no provider is called {provider!r} (there are: {known}). "
            f'Say where it is: "openai:{model}@http://..." or base_urls={{"{provider}": "http://..."}}'
        )

    def _key(self, provider: str, name: str) -> str:
        key = self._environ.get(_key_name(provider), "").strip()
        if not key:
            raise UnknownModel(f"{name!r} needs a key: set {_key_name(provider)} in the environment")
        return key


class Server:
    """One address: its HTTP client, and the models behind it. Connections belong to the loop that opened them."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._reopen()

    def model(self, name: str) -> PydanticModel:
        if self._closed:
            raise RuntimeError("these models were closed")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            self._reopen()  # a program that calls asyncio.run twice; the first loop took its connections with it
        self._loop = loop
        return self.prepare(name)

    def prepare(self, name: str) -> PydanticModel:
        if name not in self._models:
            self._models[name] = DIALECTS[self.address.dialect](name, self.address, self._http)
        return self._models[name]

    async def aclose(self) -> None:
        self._closed = True
        if self._loop in (None, asyncio.get_running_loop()):
            await self._http.aclose()

    def _reopen(self) -> None:
        self._http = _http_client(self.address)
        self._models: dict[str, PydanticModel] = {}


class ProviderModel:
    """One model of one provider. `silence`: how long a streamed reply may stand still; None: it isn't streamed."""

    def __init__(self, name: str, model: str, server: Server, silence: float | None = None) -> None:
        self.name = name
        self._model = model
        self._server = server
        self._silence = silence

    def __repr__(self) -> str:
        return f"ProviderModel({self.name!r})"

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Sends one HTTP request. Cancelling closes its connection. Raises `ModelFailed`."""
        from pydantic_ai.direct import model_request  # loaded by `find`

        model = self._server.model(self._model)
        try:
            sent, settings, offered = _messages(request.messages), _settings(request, model), _parameters(request)
            if self._silence is None:
                response = await model_request(model, sent, model_settings=settings, model_request_parameters=offered)
            else:
                response = await streamed(model, sent, settings, offered, self._silence)
            return _reply(request, response)
        except Exception as error:
            failure = failure_of(error, (self._server.address.key,) if self._server.address.key else ())
        # Raised out here so that it carries no context: the client's errors hold the request, key included.
        raise failure


def _settings(request: ModelRequest, model: PydanticModel) -> ModelSettings:
    settings: ModelSettings = {
        "max_retries": 0,
        "max_tokens": request.max_tokens,
        "timeout": request.timeout,  # for each read
        "request_timeout": request.timeout,  # for the whole, if the answer trickles
    }
    if request.offers:
        settings["parallel_tool_calls"] = True
    if request.must_choose and request.offers and model.profile.get("supports_forced_tool_choice", True):
        settings["tool_choice"] = "required"
    return settings


def _parameters(request: ModelRequest) -> ModelRequestParameters:
    from pydantic_ai.messages import InstructionPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

    return ModelRequestParameters(
        function_tools=[
            ToolDefinition(name=offer.name, description=offer.description, parameters_json_schema=dict(offer.schema))
            for offer in request.offers
        ],
        instruction_parts=[InstructionPart(content=request.instructions)] if request.instructions else None,
    )


def _messages(messages: Sequence[Message]) -> list[wire.ModelMessage]:
    from pydantic_ai import messages as wire

    sent: list[wire.ModelMessage] = []
    for said, group in groupby(messages, lambda message: message.role == "assistant"):
        if said:
            sent += [wire.ModelResponse(parts=list(_said(message))) for message in group]
        else:
            sent.append(wire.ModelRequest(parts=[_heard(message) for message in group]))
    return sent


def _said(message: Message) -> Iterator[wire.ModelResponsePart]:
    from pydantic_ai import messages as wire

    if message.text:
        yield wire.TextPart(message.text)
    for call in message.calls:
        yield wire.ToolCallPart(call.name, call.args, tool_call_id=call.id)


def _heard(message: Message) -> wire.ModelRequestPart:
    from pydantic_ai import messages as wire

    if message.role == "user":
        return wire.UserPromptPart(message.text)
    return wire.ToolReturnPart(message.name, message.text, tool_call_id=message.call_id)


def _reply(request: ModelRequest, response: wire.ModelResponse) -> ModelReply:
    usage = response.usage
    tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
    if usage.unmeasured_requests or not (tokens_in or tokens_out):
        # A server that doesn't say what it used isn't free: the worst case stands.
        tokens_in, tokens_out = input_bound(request), request.max_tokens
    return ModelReply(
        text=response.text or "",
        calls=tuple(ModelCall(call.tool_call_id, call.tool_name, _args(call.args)) for call in response.tool_calls),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cached_in=min(usage.cache_read_tokens, tokens_in),
        finish=response.finish_reason or "stop",
    )


def _args(args: str | Mapping[str, Any] | None) -> Json:
    """A dict, or the text as it was written when it isn't one, or one that nobody reads: nested too deeply."""
    if args is None or args == "":
        return {}
    if not isinstance(args, str):
        return dict(args)
    try:
        value = as_stored(decode(args))
    except (ValueError, BadInput):
        return args
    return value if isinstance(value, dict) else args


class Dialect(Protocol):
    """Builds the client's model for one name at one address."""

    def __call__(self, name: str, address: Address, http: httpx2.AsyncClient) -> PydanticModel: ...


def _openai(name: str, address: Address, http: httpx2.AsyncClient) -> PydanticModel:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=address.base_url, api_key=address.key, http_client=http)
    return OpenAIChatModel(name, provider=provider)


def _compatible(name: str, address: Address, http: httpx2.AsyncClient) -> PydanticModel:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    # `max_tokens` is the field every such server knows; one that ignored the newer name would answer without a cap.
    profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
    provider = OpenAICompatibleProvider(
        address.provider,
        base_url=address.base_url or "",
        api_key=address.key or None,
        http_client=http,
        profile=profile,
    )
    return OpenAIChatModel(name, provider=provider)


def _anthropic(name: str, address: Address, http: httpx2.AsyncClient) -> PydanticModel:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    key = address.key or "none"  # an address in a model's name gets no key; the client insists on some text
    base_url = address.base_url.removesuffix("/v1") if address.base_url else None  # the client adds it
    return AnthropicModel(name, provider=AnthropicProvider(api_key=key, base_url=base_url, http_client=http))


DIALECTS: Mapping[str, Dialect] = {"openai": _openai, "anthropic": _anthropic, "compatible": _compatible}
KEYED = frozenset({"openai", "anthropic"})  # known without an address, never without a key


def _http_client(address: Address) -> httpx2.AsyncClient:
    import httpx2
    from pydantic_ai.models import create_async_httpx2_client

    if urlsplit(address.base_url or "").hostname in LOOPBACK:
        # An own transport: a proxy that the environment names can't reach this machine's loopback.
        return create_async_httpx2_client(
            transport=httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=1000))
        )
    return create_async_httpx2_client()


def _checked(url: str, name: str) -> str:
    """The message repeats no URL: it may hold what it complains of."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnknownModel(f"{name}: its address isn't a URL such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise UnknownModel(f"{name}: its address holds a secret or a query; put the key into the environment")
    return url.rstrip("/")


def _key_name(provider: str) -> str:
    return f"{provider.upper().replace('-', '_')}_API_KEY"
