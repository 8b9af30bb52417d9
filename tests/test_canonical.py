"""Canonical JSON: whatever can be written can be read, from any stack; what is in memory is what the log gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from interlock.canonical import DEPTH_MAX, NESTED_MAX, as_stored, decode, encode, in_key_order, same
from interlock.errors import BadInput
from interlock.history.events import ToolReturned, from_bytes
from interlock.history.payloads import event_in, split

T = TypeVar("T")

NAN, ENDLESS = float("nan"), float("inf")


def in_lists(depth: int, inside: Any = 1) -> Any:
    for _ in range(depth):
        inside = [inside]
    return inside


def in_objects(depth: int, inside: Any = 1) -> Any:
    for _ in range(depth):
        inside = {"no [ bracket": inside, "beside": [1]}
    return inside


NESTING = {"lists": in_lists, "objects": in_objects}
INSIDE = {"a number": 1, "half a character": "\ud800 \\ud800", "nothing": None, "no number": NAN}


def down(frames: int, ask: Callable[[], T]) -> T:
    """Asked from far down the stack."""
    return down(frames - 1, ask) if frames else ask()


@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("nested", NESTING.values(), ids=NESTING)
def test_the_deepest_value_that_is_written_is_read_from_far_down_the_stack(
    nested: Callable[[int, Any], Any], inside: Any
) -> None:
    body = encode(nested(DEPTH_MAX - 1, [inside]))
    assert encode(down(500, lambda: decode(body))) == body
    with pytest.raises(BadInput, match=str(DEPTH_MAX)):
        encode(nested(DEPTH_MAX, [inside]))


@pytest.mark.parametrize("depth", [250, 600, 980, 5_000, 100_000])
def test_no_depth_gets_past_the_bound(depth: int) -> None:
    with pytest.raises(BadInput, match="deep"):
        encode(in_lists(depth))
    with pytest.raises(BadInput, match="deep"):
        encode(in_lists(depth, "\ud800"))
    with pytest.raises(BadInput, match="deep"):
        as_stored({"x": in_lists(depth)})


def test_text_that_is_too_deep_to_be_read_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="deep"):
        decode("[" * 100_000 + "]" * 100_000)


def test_an_event_around_the_deepest_value_that_may_come_in_is_stored_and_read() -> None:
    value = as_stored(in_objects(NESTED_MAX - 1, ["\ud800", "x" * 50_000]))
    event = ToolReturned(effect=1, value=value)
    stored, large = split(event)
    assert event_in(stored, dict(large).__getitem__) == event
    small = ToolReturned(effect=1, value=in_lists(NESTED_MAX))
    assert down(500, lambda: from_bytes(encode(small))) == small
    with pytest.raises(BadInput, match=str(NESTED_MAX)):
        as_stored(in_lists(NESTED_MAX + 1))


def test_no_depth_hides_behind_a_key_that_looks_like_another() -> None:
    deep = in_lists(DEPTH_MAX)
    for value in ({1: deep, "1": 1}, {"\n": deep, "\t": 1, "half": "\ud800"}, {"}:{": deep, "]": "]" * 300}):
        with pytest.raises(BadInput):
            encode(value)


def test_many_brackets_are_no_depth() -> None:
    wide = {"rows": [{"id": n, "tags": ["[[[{{{", "a"]} for n in range(500)], "text": "[{" * 5_000}
    assert decode(encode(wide)) == wide
    assert as_stored(wide) is wide
    for text in ("[" * 5_000, "\ud800" + "[" * 5_000):
        assert decode(encode(text)) == text == as_stored(text) and as_stored([text]) == [text]


def test_in_memory_is_what_the_log_gives_back() -> None:
    value = {"a": [NAN, ENDLESS, -ENDLESS, 1.5], "b": None, "c": "NaN", "d": "x" * 500}
    stored = as_stored(value)
    assert stored == {"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": None, "c": "NaN", "d": "x" * 500}
    assert stored == decode(encode(value))
    assert as_stored(NAN) == "NaN" and as_stored([NAN, "\ud800"]) == ["NaN", "\ud800"] == as_stored(["NaN", "\ud800"])


def test_what_is_no_json_is_refused_at_the_door() -> None:
    with pytest.raises(BadInput, match="not JSON"):
        as_stored({"x": object()})


def test_values_are_the_same_when_they_are_stored_alike() -> None:
    assert same({"a": [1, NAN]}, {"a": [1, NAN]})
    assert not same(1, 1.0) and not same(1, True) and not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert same(in_key_order({"b": [{"d": 1, "c": NAN}], "a": 2}), in_key_order({"a": 2, "b": [{"c": NAN, "d": 1}]}))
