"""Letters: what each kind of inbox item says, looked at before anything is made of it.

An item may have been left by anything that can reach the store. Read halfway and then found wanting, it would have
changed half of what it speaks of; so one that doesn't say what its kind must say is kept, and changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, convert

from interlock.canonical import Json
from interlock.errors import BadInput
from interlock.history import events as e

_Amount = Annotated[int, Meta(ge=0)]
CEILING_MAX = 2**62
"""Half of what a store counts to: there is room above it for what is spent and for calls done again."""
_COST_MAX = 10**16
_Dimension = Literal["turns", "calls", "tokens", "nanousd", "active_ms"]


class _Said(Struct):
    by: str
    reason: str = ""


class _Decision(_Said, kw_only=True):
    wait: int
    outcome: str
    fields: dict[str, Any] = {}


class _Signal(_Said, kw_only=True):
    name: str
    fields: dict[str, Any] = {}


class _Extend(_Said, kw_only=True):
    more: dict[_Dimension, _Amount]


class _Rollback(_Said, kw_only=True):
    to: int
    accept: list[int]


class _OfCall(_Said, kw_only=True):
    effect: int


class _Clear(_OfCall, kw_only=True):
    happened: bool


class _Unreadable(Struct):
    kind: str


_KINDS: dict[str, type[Struct]] = {
    "decision": _Decision,
    "signal": _Signal,
    "extend": _Extend,
    "pause": _Said,
    "resume": _Said,
    "cancel": _Said,
    "rollback": _Rollback,
    "redo": _OfCall,
    "drop": _OfCall,
    "clear": _Clear,
    "unreadable": _Unreadable,
}


def check(kind: str, body: Json) -> None:
    """Raises `BadInput` for an item that doesn't say what one of its kind says."""
    if kind == "evidence":
        _check_evidence(body)
    if kind in _KINDS:
        try:
            convert(body, _KINDS[kind])
        except ValidationError as wrong:
            raise BadInput(str(wrong)) from None


def _check_evidence(body: Json) -> None:
    late = e.from_json(body)
    if not isinstance(late, e.ModelReplied | e.ToolReturned):
        raise BadInput(f"{late.TYPE} is no late result")
    tokens = (late.tokens_in, late.tokens_out) if isinstance(late, e.ModelReplied) else ()
    if not all(0 <= cost <= _COST_MAX for cost in (late.nanousd, *tokens)):
        raise BadInput("it says a cost that nothing has")
