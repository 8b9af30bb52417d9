"""One value, one sequence of bytes: the JSON that is stored, hashed and compared. Knows no store and no event.

Keys keep the order they were given, so a digest is taken of values whose builder fixes that order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

Json = Any  # None, bool, int, float, str, list or dict of these


_plain = msgspec.json.Encoder()


def encode(value: Json) -> bytes:
    """UTF-8 JSON without spaces, of JSON values and of msgspec's structs. NaN and infinities become strings, which
    float fields read back.

    Raises TypeError for what is not JSON.
    """
    try:
        body = _plain.encode(value)
    except UnicodeEncodeError:
        return _escaped(value)
    # msgspec writes NaN as null: where there is a null, whoever tells them apart writes it.
    return _with_names_for_no_numbers(value) if b"null" in body else body


def _with_names_for_no_numbers(value: Json) -> bytes:
    try:
        return to_json(msgspec.to_builtins(value), inf_nan_mode="strings")
    except PydanticSerializationError as wrong:
        raise TypeError(str(wrong)) from None


def _escaped(value: Json) -> bytes:
    """Half a surrogate pair (a model may write "\\ud800") has no UTF-8 form; escaped, it survives."""
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=True, separators=(",", ":")).encode("ascii")


def decode(body: bytes | str) -> Json:
    """The value of JSON text. Raises ValueError for what isn't JSON."""
    try:
        return from_json(body)
    except ValueError:
        return json.loads(body)  # lone surrogates: pydantic_core refuses, the standard library reads them


def copied(value: Json) -> Json:
    """The same value, sharing no list or dict with it."""
    return msgspec.to_builtins(value)


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def fingerprint(value: Json) -> str:
    """16 hex digits (64 bits) of a value's SHA-256: names a version or a request inside one machine or run."""
    return hashlib.sha256(encode(value)).hexdigest()[:16]


def in_order(value: Any, dumped: Json) -> Json:
    """`dumped`, the JSON of `value`, with what came from sets sorted: a set's own order is another in each process."""
    if isinstance(dumped, list) and isinstance(value, set | frozenset | list | tuple) and len(value) == len(dumped):
        items = [in_order(inner, json_) for inner, json_ in zip(value, dumped, strict=True)]
        return sorted(items, key=encode) if isinstance(value, set | frozenset) else items
    if isinstance(dumped, dict) and isinstance(value, Mapping) and len(value) == len(dumped):
        pairs = zip(dumped.items(), value.values(), strict=True)
        return {key: in_order(inner, json_) for (key, json_), inner in pairs}
    if isinstance(dumped, dict) and isinstance(value, BaseModel):
        return {name: in_order(getattr(value, name, None), json_) for name, json_ in dumped.items()}
    return dumped
