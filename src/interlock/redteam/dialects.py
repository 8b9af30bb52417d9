"""The two protocols a loopback provider speaks: request bodies read, reply and error bodies written. Pure.

OpenAI chat completions (`POST .../chat/completions`) and Anthropic messages (`POST .../messages`), without streaming.
Knows no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from msgspec.structs import replace

from interlock.agent.model import Message, ModelCall, ModelReply, ModelRequest, Offer
from interlock.canonical import Json, decode, encode

Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one provider writes requests, replies and errors."""

    name: str
    path: str  # what the request's path ends in
    read: Callable[[Body], ModelRequest]
    reply: Callable[[ModelRequest, ModelReply, int], Body]
    error: Callable[[int, str, str], Body]


def dialect_of(path: str) -> Dialect | None:
    """The dialect that is spoken at a request's path (its query aside)."""
    return next((one for one in DIALECTS if path.partition("?")[0].endswith(one.path)), None)


# -- OpenAI --


def _read_openai(body: Body) -> ModelRequest:
    tools = [tool["function"] for tool in body.get("tools", ())]
    system = [m for m in body["messages"] if m["role"] in ("system", "developer")]
    return ModelRequest(
        model=body["model"],
        messages=_answers_named([_message_openai(m) for m in body["messages"] if m not in system]),
        instructions="\n\n".join(_text(m["content"]) for m in system),
        offers=tuple(Offer(t["name"], t.get("description", ""), t.get("parameters", {})) for t in tools),
        must_choose=body.get("tool_choice", "auto") not in ("auto", "none"),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens") or 0,
    )


def _message_openai(message: Body) -> Message:
    text = _text(message.get("content"))
    if message["role"] == "tool":
        return Message("tool", text, call_id=message["tool_call_id"])
    if message["role"] == "user":
        return Message("user", text)
    calls = [(call["id"], call["function"]) for call in message.get("tool_calls") or ()]
    return Message("assistant", text, tuple(ModelCall(id, f["name"], _args(f["arguments"])) for id, f in calls))


def _reply_openai(request: ModelRequest, reply: ModelReply, number: int) -> Body:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _written(call.args)}}
        for call in reply.calls
    ]
    message: Body = {"role": "assistant", "content": reply.text or None}
    finish = {"tool_call": "tool_calls"}.get(reply.finish, reply.finish)
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": request.model,
        "choices": [
            {"index": 0, "message": message | ({"tool_calls": calls} if calls else {}), "finish_reason": finish}
        ],
        "usage": {
            "prompt_tokens": reply.tokens_in,
            "completion_tokens": reply.tokens_out,
            "total_tokens": reply.tokens_in + reply.tokens_out,
            "prompt_tokens_details": {"cached_tokens": reply.cached_in},
        },
    }


def _error_openai(status: int, code: str, message: str) -> Body:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}


# -- Anthropic --

ANTHROPIC_ERRORS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def _read_anthropic(body: Body) -> ModelRequest:
    return ModelRequest(
        model=body["model"],
        messages=_answers_named([m for message in body["messages"] for m in _messages_anthropic(message)]),
        instructions=_text(body.get("system")),
        offers=tuple(Offer(t["name"], t.get("description", ""), t["input_schema"]) for t in body.get("tools", ())),
        must_choose=body.get("tool_choice", {}).get("type") in ("any", "tool"),
        max_tokens=body["max_tokens"],
    )


def _messages_anthropic(message: Body) -> Iterator[Message]:
    """One message of theirs may hold several of ours: each tool result is a block there."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        if block["type"] == "tool_result":
            yield Message("tool", _text(block.get("content")), call_id=block["tool_use_id"])
    text = _text([block for block in blocks if block["type"] == "text"])
    calls = tuple(ModelCall(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use")
    if message["role"] == "assistant":
        yield Message("assistant", text, calls)
    elif text:
        yield Message("user", text)


def _reply_anthropic(request: ModelRequest, reply: ModelReply, number: int) -> Body:
    content: list[Body] = [{"type": "text", "text": reply.text}] if reply.text else []
    content += [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.args} for call in reply.calls]
    stop = {"stop": "end_turn", "tool_call": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop.get(reply.finish, reply.finish),
        "stop_sequence": None,
        "usage": {
            "input_tokens": reply.tokens_in - reply.cached_in,
            "cache_read_input_tokens": reply.cached_in,
            "cache_creation_input_tokens": 0,
            "output_tokens": reply.tokens_out,
        },
    }


def _error_anthropic(status: int, code: str, message: str) -> Body:
    if code == "insufficient_quota":
        message = "Your credit balance is too low to access the Anthropic API"
        return {"type": "error", "error": {"type": "billing_error", "message": message}}
    return {"type": "error", "error": {"type": ANTHROPIC_ERRORS.get(status, "api_error"), "message": message}}


DIALECTS = (
    Dialect("openai", "/chat/completions", _read_openai, _reply_openai, _error_openai),
    Dialect("anthropic", "/messages", _read_anthropic, _reply_anthropic, _error_anthropic),
)


def _answers_named(messages: Sequence[Message]) -> tuple[Message, ...]:
    """On the wire a tool's answer bears the call's id only; a script wants the name."""
    names = {call.id: call.name for message in messages for call in message.calls}
    return tuple(replace(m, name=names.get(m.call_id, "")) if m.role == "tool" else m for m in messages)


def _text(content: Json) -> str:
    """Text, or a list of text blocks."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n\n".join(block["text"] for block in content if block.get("type") == "text")


def _args(written: str) -> Json:
    try:
        return decode(written)
    except ValueError:
        return written


def _written(args: Json) -> str:
    """Text stays as it is: a model that writes no JSON can be played."""
    return args if isinstance(args, str) else encode(args).decode("utf-8", "surrogatepass")
