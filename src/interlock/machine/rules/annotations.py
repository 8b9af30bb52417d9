"""What annotations say, read without trusting them: resolved hints, and whether one type can stand for another.

Only a clear contradiction counts. Types that this file doesn't know fit everything: pydantic and mypy say more.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence)
_BASIC: tuple[tuple[type, ...], ...] = ((bool,), (int,), (float,), (str,), _LISTS, (dict, BaseModel), (type(None),))
_WIDENS = {(bool, int), (bool, float), (int, float)}  # what pydantic takes for the other without losing anything


class Unresolved(Exception):
    """An annotation names what can't be found. The message says what."""


def resolved(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a function, evaluated. Raises `Unresolved`."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as wrong:  # evaluating an annotation may raise anything
        raise Unresolved(f"{type(wrong).__name__}: {wrong}") from None


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value of type `given` may stand where `wanted` is declared. False only for a clear mismatch."""
    given_types, wanted_types = _members(given), _members(wanted)
    return any(_one_fits(one, other) for one in given_types for other in wanted_types)


def serves(opened: Any, needed: Any) -> bool:
    """Whether dependencies of type `opened` are what `needed` asks for. Unknown on either side: yes."""
    members = _members(needed)
    if opened in (Any, None) or any(each in (Any, type(None)) or isinstance(each, TypeVar) for each in members):
        return True
    return any(_is_kind(opened, each) for each in members)


def shown(annotation: Any) -> str:
    """An annotation as its author wrote it, near enough."""
    if annotation is type(None) or annotation is None:
        return "None"
    plain = isinstance(annotation, type) and not get_args(annotation)
    return str(annotation.__qualname__ if plain else annotation).replace("typing.", "")


def _members(annotation: Any) -> list[Any]:
    """The types a value of this annotation may have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    if origin is Literal:
        return list(dict.fromkeys(type(value) for value in get_args(annotation)))
    return [type(None) if annotation is None else annotation]


def _one_fits(given: Any, wanted: Any) -> bool:
    one, other = _family(given), _family(wanted)
    if one is None or other is None:
        return True
    if one is not other:
        return (one, other) in _WIDENS
    inner = [get_args(given), get_args(wanted)]
    if one is list and all(
        args and (get_origin(t) is not tuple) for args, t in zip(inner, (given, wanted), strict=True)
    ):
        return fits(inner[0][0], inner[1][0])
    return True


def _family(annotation: Any) -> type | None:
    """The kind of JSON a type becomes, named by one type; None when that isn't plain to see."""
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type) or issubclass(kind, Enum):
        return None
    if kind is collections.abc.Sequence:
        return list
    return next((family[0] for family in _BASIC if issubclass(kind, family)), None)


def _is_kind(opened: Any, needed: Any) -> bool:
    one, other = (get_origin(opened) or opened), (get_origin(needed) or needed)
    if not isinstance(one, type) or not isinstance(other, type):
        return True
    try:
        return issubclass(one, other)
    except TypeError:  # a protocol that can't be checked at run time
        return True
