"""Payloads: values over 32 KiB leave the event and are stored once, by content. In their place stands a reference.

A reference is the object {"$payload": "<sha256 hex>"}, and an event that has any counts them in `payloads`: elsewhere
such an object is what somebody said. In an event with references, a value that happens to look like one is stored as a
payload itself, so a reference there is always ours. Knows no store.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import DecodeError

from interlock.canonical import Json, decode, encode, encode_stored, sha256
from interlock.errors import BadInput
from interlock.history.events import Event, from_bytes, from_json, to_json

INLINE_BYTES_MAX = 32 * 1024
_KEY = "$payload"
_COUNT = "payloads"


def split(event: Event) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """The bytes of an event, and the payloads (digest, bytes) that were taken out of it.

    They have been read back: structs look at the types of their fields when they are read, not when they are made, and
    an event that nobody can read would be in the log for good. Raises `BadInput` for one.
    """
    whole = encode_stored(event)
    _read_back(event, whole)
    if len(whole) <= INLINE_BYTES_MAX:
        return whole, ()
    taken: dict[bytes, bytes] = {}
    body = {name: _shrink(value, taken) for name, value in to_json(event).items()}
    if not any(len(large) > INLINE_BYTES_MAX for large in taken.values()):
        return whole, ()  # many small values; what was taken only looks like a reference
    return encode({**body, _COUNT: len(taken)}), tuple(taken.items())


def _read_back(event: Event, stored: bytes) -> None:
    try:
        from_bytes(stored)
    except (DecodeError, RecursionError):
        try:
            from_json(decode(stored))
        except ValueError as wrong:
            raise BadInput(f"{event.TYPE} can't be recorded: {wrong}") from None


def event_in(stored: bytes, fetch: Callable[[bytes], bytes]) -> Event:
    """The event of stored bytes, with every reference replaced by what `fetch` returns for its digest.

    Raises ValueError for what isn't an event that this code knows.
    """
    try:
        event = from_bytes(stored)
        if not event.payloads:
            return event
    except (DecodeError, RecursionError):  # a reference where its class wants a list; half a surrogate pair
        pass
    return from_json(join(stored, fetch))


def join(stored: bytes, fetch: Callable[[bytes], bytes]) -> dict[str, Json]:
    """The object of a stored event with every reference replaced by what `fetch` returns for its digest."""
    body: dict[str, Json] = decode(stored)
    return _grow(body, fetch) if body.pop(_COUNT, 0) else body


def _shrink(value: Json, taken: dict[bytes, bytes]) -> Json:
    """Replace the outermost values that are too large on their own, deepest first so that small neighbours stay."""
    if isinstance(value, dict):
        if set(value) == {_KEY}:
            return _reference(encode(value), taken)
        value = {name: _shrink(part, taken) for name, part in value.items()}
    elif isinstance(value, list | tuple):
        value = [_shrink(part, taken) for part in value]
    elif not isinstance(value, str) or len(value) * 6 <= INLINE_BYTES_MAX:
        return value  # even if every character needs an escape, it is small
    body = encode(value)
    return _reference(body, taken) if len(body) > INLINE_BYTES_MAX else value


def _reference(body: bytes, taken: dict[bytes, bytes]) -> Json:
    digest = sha256(body)
    taken[digest] = body
    return {_KEY: digest.hex()}


def _grow(value: Json, fetch: Callable[[bytes], bytes]) -> Json:
    if isinstance(value, dict):
        if set(value) == {_KEY}:
            stored = fetch(bytes.fromhex(value[_KEY]))
            inner = decode(stored)
            return inner if isinstance(inner, dict) and set(inner) == {_KEY} else _grow(inner, fetch)
        return {name: _grow(part, fetch) for name, part in value.items()}
    if isinstance(value, list):
        return [_grow(part, fetch) for part in value]
    return value
