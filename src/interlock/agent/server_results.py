"""What a server answers to a call, as the JSON value that is logged: bounded, without the secrets it was given. Pure.

structured content                       as it is
text and nothing else                    one text, as a model reads it
anything else                            {"content": [block, ...]}, with "structured" where there is such
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interlock.canonical import Json

SECRET_CHARS_MIN = 6
"""Anything shorter is found in too much that isn't it."""

_DATA = {"image": "data", "audio": "data", "resource": "blob"}


def value_of(blocks: Sequence[Mapping[str, Any]], structured: Json, binary_bytes_max: int) -> Json:
    """The value of a result, from its content blocks and structured content as JSON."""
    texts = [block["text"] for block in blocks if block.get("type") == "text"]
    if len(texts) == len(blocks):
        return structured if structured is not None else "\n".join(texts)
    content = [_bounded(block, binary_bytes_max) for block in blocks]
    return {"content": content} if structured is None else {"structured": structured, "content": content}


def text_of(blocks: Sequence[Mapping[str, Any]]) -> str:
    """What a result says in words."""
    return "\n".join(str(block["text"]) for block in blocks if block.get("type") == "text")


def _bounded(block: Mapping[str, Any], binary_bytes_max: int) -> dict[str, Json]:
    """A content block, with binary data (base64) only up to so many bytes."""
    kept = {name: value for name, value in block.items() if name not in ("_meta", "annotations", "icons")}
    kind = str(block.get("type"))
    holder = dict(kept["resource"]) if kind == "resource" and isinstance(kept.get("resource"), Mapping) else kept
    data = holder.get(_DATA.get(kind, ""))
    if isinstance(data, str) and (size := len(data) * 3 // 4 - data[-2:].count("=")) > binary_bytes_max:
        holder = {name: value for name, value in holder.items() if value is not data} | {"bytes": size}
    return {**kept, "resource": holder} if kind == "resource" else dict(holder)


def masked(value: Json, secrets: Iterable[tuple[str, str]]) -> Json:
    """The value with every secret replaced by its variable's name, wherever it stands in a text or name."""
    known = [(secret, name) for secret, name in secrets if len(secret) >= SECRET_CHARS_MIN]
    return _masked(value, known) if known else value


def _masked(value: Json, known: list[tuple[str, str]]) -> Json:
    if isinstance(value, str):
        for secret, name in known:
            value = value.replace(secret, f"[{name}]")
        return value
    if isinstance(value, Mapping):
        return {_masked(name, known): _masked(part, known) for name, part in value.items()}
    return [_masked(part, known) for part in value] if isinstance(value, list) else value
