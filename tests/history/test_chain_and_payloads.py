"""The chain and the payloads by themselves: what was stored comes back, and an edit is found at its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from interlock.canonical import decode, encode, sha256
from interlock.history import chain, payloads
from interlock.history.events import TYPES, ToolReturned, Transitioned, from_json, to_json
from interlock.store.protocol import StoredEvent

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.just("$payload"), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_any_json_survives_being_stored(value: Any) -> None:
    """U+0000, lone surrogates, emoji, huge integers included."""
    assert decode(encode(value)) == value


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES), st.integers(0, 3))
def test_payloads_come_back_whatever_they_look_like(body: dict[str, Any], large: int) -> None:
    if large:
        body = {**body, "large": ["x" * (payloads.INLINE_BYTES_MAX // large)] * large, "look": {"$payload": "00" * 32}}
    event = ToolReturned(effect=1, value=body)
    stored, taken = payloads.split(event)
    kept = dict(taken)
    assert all(sha256(content) == digest for digest, content in taken)
    assert payloads.event_in(stored, kept.__getitem__) == event
    assert payloads.join(stored, kept.__getitem__)["value"] == body
    assert not large or len(stored) <= payloads.INLINE_BYTES_MAX


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=8), st.data())
def test_a_changed_byte_is_found_at_its_event(bodies: list[bytes], data: st.DataObject) -> None:
    head, events = chain.seed("run"), []
    for seq, body in enumerate(bodies, start=1):
        head = chain.link(head, body)
        events.append(StoredEvent(seq, body, head))
    assert chain.first_break("run", events, len(events), head) is None
    at = data.draw(st.integers(0, len(events) - 1))
    edited = replace(events[at], body=events[at].body + b"!")
    broken = chain.first_break("run", [*events[:at], edited, *events[at + 1 :]], len(events), head)
    assert broken is not None and broken.seq == edited.seq
    missing = chain.first_break("run", [*events[:at], *events[at + 1 :]], len(events), head)
    assert missing is not None and missing.seq == edited.seq
    other_run = chain.first_break("other", events, len(events), head)
    assert other_run is not None and other_run.seq == 1


def test_a_log_of_one_run_is_none_of_another() -> None:
    assert chain.seed("a") != chain.seed("b")


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_every_type_of_event_is_stored_under_one_name(kind: Any) -> None:
    assert TYPES[kind.TYPE] is kind
    assert kind.__struct_config__.tag == kind.TYPE


def test_defaults_are_left_out_and_come_back() -> None:
    event = Transitioned(at=5, turn=2, state="a", outcome="b", to="c", changes=(("set", "x", [1]),))
    stored = to_json(event)
    assert "why" not in stored and "status" not in stored
    assert from_json(decode(encode(stored))) == event
    assert payloads.event_in(encode(event), lambda digest: b"") == event and decode(encode(event)) == stored


def test_an_event_is_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Transitioned(state="a", outcome="b", to="c").to = "d"  # type: ignore[misc]


@pytest.mark.parametrize("body", [{"type": "invented"}, {"type": "paused", "by": "x", "mood": "grim"}])
def test_an_event_of_a_newer_interlock_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="newer"):
        from_json(body)
