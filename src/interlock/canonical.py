"""One value, one sequence of bytes: the JSON that is stored, hashed and compared. Knows no store and no event.

Keys keep the order they were given, so a digest is taken of values whose builder fixes that order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

Json = Any  # None, bool, int, float, str, list or dict of these


def encode(value: Json) -> bytes:
    """UTF-8 JSON without spaces. NaN and infinities become strings, which float fields read back.

    Raises TypeError for what is not JSON.
    """
    try:
        return to_json(value, inf_nan_mode="strings")
    except PydanticSerializationError as wrong:
        # A lone surrogate (a model may write "\ud800") has no UTF-8 form; escaped, it survives.
        try:
            return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        except (TypeError, ValueError):
            raise TypeError(str(wrong)) from wrong


def decode(body: bytes | str) -> Json:
    """The value of JSON text. Raises ValueError for what isn't JSON."""
    try:
        return from_json(body)
    except ValueError:
        return json.loads(body)  # lone surrogates: pydantic_core refuses, the standard library reads them


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
