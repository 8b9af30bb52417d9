"""One value, one sequence of bytes: the JSON that is stored, hashed and compared. Knows no store and no event.

Keys keep the order they were given, so a digest is taken of values whose builder fixes that order.

How deep lists and objects lie in each other is bounded here, where JSON is made: readers recurse, so a value that could
be written from a shallow stack but not read from a deeper one would be an event that stops whoever comes across it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from interlock.errors import BadInput

Json = Any  # None, bool, int, float, str, list or dict of these

DEPTH_MAX = 200
"""How deep lists and objects may lie in each other in anything that is stored: what every reader reads, however deep
its own stack."""

NESTED_MAX = 100
"""How deep they may lie in a value that comes in. The rest is for what is put around it: records, events, messages."""

_plain = msgspec.json.Encoder()
_PLAIN = frozenset({str, int, bool, type(None)})


def encode(value: Json) -> bytes:
    """UTF-8 JSON without spaces, of JSON values and of msgspec's structs. NaN and infinities become strings, which
    float fields read back.

    Raises TypeError for what is not JSON, `BadInput` for what is nested more than `DEPTH_MAX` deep.
    """
    try:
        body = _plain.encode(value)
    except UnicodeEncodeError:
        return _escaped(value)
    except RecursionError:
        raise _too_deep(DEPTH_MAX) from None
    if len(body) > 2 * DEPTH_MAX:  # mostly it's shorter than the brackets of so many levels
        _check_depth(body, DEPTH_MAX)
    # msgspec writes NaN as null: where there is a null, whoever tells them apart writes it.
    return _with_names_for_no_numbers(value) if b"null" in body else body


def encode_stored(value: Json) -> bytes:
    """`encode` for what is made of values that were taken `as_stored`, without a look for what is then not in them.

    The look costs more than the writing does, and a turn writes a dozen values.
    """
    try:
        return _plain.encode(value)
    except (UnicodeEncodeError, RecursionError):
        return encode(value)


def as_stored(value: Json) -> Json:
    """A value from outside as the log will give it back, so that nobody computes with anything else.

    Raises `BadInput` for what is not JSON, or is nested more than `NESTED_MAX` deep.
    """
    if _is_stored_as_it_is(value):  # mostly
        return value
    try:
        body = encode(value)
    except TypeError as wrong:
        raise BadInput(f"is not JSON: {wrong}") from None
    if len(body) > 2 * NESTED_MAX:
        _check_depth(body, NESTED_MAX)
    return decode(body) if b'"NaN"' in body or b'Infinity"' in body else value


def _is_stored_as_it_is(value: Json) -> bool:
    """Whether it takes no further look: too short to be deep, and nothing in it that `encode` writes in another way."""
    if type(value) in _PLAIN:
        return True
    try:
        body = _plain.encode(value)
    except (UnicodeEncodeError, RecursionError, TypeError):
        return False
    return len(body) <= 2 * NESTED_MAX and b"null" not in body


def same(one: Json, other: Json) -> bool:
    """Whether two values are stored alike. Python's `==` takes 1 for 1.0 and for True."""
    return encode(one) == encode(other)


def _with_names_for_no_numbers(value: Json) -> bytes:
    try:
        return to_json(msgspec.to_builtins(value), inf_nan_mode="strings")
    except PydanticSerializationError as wrong:
        raise TypeError(str(wrong)) from None


def _escaped(value: Json) -> bytes:
    """Half a surrogate pair (a model may write "\\ud800") has no UTF-8 form; escaped, it survives."""
    try:
        named = _naming_no_numbers(msgspec.to_builtins(value))
        body = json.dumps(named, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise _too_deep(DEPTH_MAX) from None
    _check_depth(body, DEPTH_MAX)
    return body


def _naming_no_numbers(value: Json) -> Json:
    if isinstance(value, dict):
        return {name: _naming_no_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_naming_no_numbers(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return from_json(to_json(value, inf_nan_mode="strings"))
    return value


def decode(body: bytes | str) -> Json:
    """The value of JSON text. Raises ValueError for what isn't JSON, or can't be read for its depth."""
    try:
        return from_json(body)
    except ValueError:
        pass
    try:
        return json.loads(body)  # lone surrogates: pydantic_core refuses, the standard library reads them
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


# -- depth ------------------------------------------------------------------------------------------------------------

_string = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPENING = frozenset(b"[{")


def _too_deep(levels: int) -> BadInput:
    return BadInput(f"is nested more than {levels} levels deep")


def _check_depth(body: bytes, levels: int) -> None:
    """Raises `BadInput` when lists and objects lie more than `levels` deep in each other."""
    if body.count(b"[") + body.count(b"{") <= levels:  # mostly
        return
    brackets = _string.sub(b"", body).translate(None, _NO_BRACKETS)
    depths = accumulate(1 if bracket in _OPENING else -1 for bracket in brackets)
    if max(depths, default=0) > levels:
        raise _too_deep(levels)


# -- other forms ------------------------------------------------------------------------------------------------------


def copied(value: Json) -> Json:
    """The same value, sharing no list or dict with it."""
    return msgspec.to_builtins(value)


def in_key_order(value: Json) -> Json:
    """The same value with the keys of each object sorted: equal for whoever wrote the same in another order."""
    return msgspec.to_builtins(value, order="sorted")


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def fingerprint(value: Json) -> str:
    """16 hex digits (64 bits) of a value's SHA-256: names a version or a request inside one machine or run. Of values
    `as_stored`: NaN and null have the same."""
    return hashlib.sha256(encode_stored(value)).hexdigest()[:16]


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
