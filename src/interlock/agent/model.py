"""Model: our own small protocol for asking a language model once. Retries, budget and log are the engine's.

Providers (`agent.providers`) and scripted models (`agent.scripted`) implement it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from msgspec import Struct

from interlock.canonical import Json, as_stored, encode
from interlock.errors import BadInput


class ModelCall(Struct, frozen=True, gc=False):
    """A tool or outcome that a model chose, with its arguments as it wrote them (a dict, or text that isn't JSON)."""

    id: str
    name: str
    args: Json

    def size_bytes(self) -> int:
        """UTF-8 bytes of what is sent."""
        return utf8_bytes(self.name) + len(encode(self.args))


def readable(args: Json) -> Json:
    """A model's arguments as they are stored. What can't be (nested too deeply, not JSON) becomes text saying so, which
    is no legal move: the model is told."""
    try:
        return as_stored(args)
    except BadInput as wrong:
        return f"(left out: it {wrong})"


class Message(Struct, frozen=True, gc=False):
    """One message of a conversation. role "user": `text`. "assistant": `text` and `calls`. "tool": `text` answers the
    call `call_id` of the tool `name`."""

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: tuple[ModelCall, ...] = ()
    call_id: str = ""
    name: str = ""

    def size_bytes(self) -> int:
        """UTF-8 bytes of what is sent."""
        size = utf8_bytes(self.text) + utf8_bytes(self.name)
        return size + sum([call.size_bytes() for call in self.calls]) if self.calls else size


class Offer(Struct, frozen=True, gc=False):
    """A tool or outcome that the model may choose."""

    name: str
    description: str
    schema: Mapping[str, Json]

    def size_bytes(self) -> int:
        """UTF-8 bytes of what is sent."""
        return utf8_bytes(self.name) + utf8_bytes(self.description) + len(encode(dict(self.schema)))


class ModelRequest(Struct, frozen=True, gc=False):
    """One question to one model. `must_choose`: the reply must be a choice among `offers`. `timeout` in seconds."""

    model: str
    messages: tuple[Message, ...]
    instructions: str = ""
    offers: tuple[Offer, ...] = ()
    must_choose: bool = False
    max_tokens: int = 1024
    timeout: float = 60.0

    def size_bytes(self) -> int:
        """UTF-8 bytes of everything that is sent and may be billed as input, without the provider's own framing."""
        messages = sum([message.size_bytes() for message in self.messages])
        return utf8_bytes(self.instructions) + messages + sum([offer.size_bytes() for offer in self.offers])


def utf8_bytes(text: str) -> int:
    """The length of a text in UTF-8; half a surrogate pair counts as it is escaped."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class ModelReply(Struct, frozen=True, gc=False):
    """What came back. `tokens_in` includes `cached_in`."""

    text: str = ""
    calls: tuple[ModelCall, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    cached_in: int = 0
    finish: str = "stop"


FailureKind = Literal[
    "outage",  # 5xx, 529, connection refused: try again
    "rate_limited",  # 429: try again, after `retry_after` when given
    "timeout",  # no answer in time: it may have been billed
    "cut",  # the answer broke off: it may have been billed
    "quota",  # the provider's own budget is used up: never retried
    "auth",  # key missing or refused: never retried
    "overflow",  # the request is larger than the model's window: never retried
    "rejected",  # any other 4xx: never retried
    "malformed",  # an answer that can't be read: billed, may be tried again
]

RETRYABLE: frozenset[FailureKind] = frozenset({"outage", "rate_limited", "timeout", "cut", "malformed"})


@dataclass(slots=True)
class ModelFailed(Exception):
    """A model call brought no reply. `billed` False only when the provider surely charged nothing."""

    kind: FailureKind
    message: str
    retry_after: float | None = None
    billed: bool = True
    tokens_in: int | None = field(default=None)
    tokens_out: int | None = field(default=None)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class Model(Protocol):
    """Something that answers one request. It sends at most once: retries are the engine's."""

    async def reply(self, request: ModelRequest) -> ModelReply:
        """Raises `ModelFailed`, and nothing else for a provider's fault."""
        ...


class Models(Protocol):
    """Finds the model for a name such as "openai:gpt-5-mini"."""

    def find(self, name: str) -> Model:
        """Ready to send: everything slow (imports, keys) is done here. Raises `UnknownModel`."""
        ...
