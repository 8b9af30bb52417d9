"""Divergence: where code as it is now first does something else than is recorded, in words for a tired person.

Compares events, and says what was asked for, answered and written. Pure: runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlock.canonical import Json, same
from interlock.engine.attempts import ModelEffect, ToolEffect
from interlock.engine.ending import Ended
from interlock.errors import InterlockError
from interlock.history.events import (
    AttemptFailed,
    CallPrevented,
    Event,
    ModelCalled,
    ToolCalled,
    Transitioned,
    ValueNoted,
    WaitEnded,
    WaitOpened,
    to_json,
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where the code as it is now first does something else than what is recorded."""

    turn: int
    seq: int
    state: str
    why: str

    def as_json(self) -> dict[str, Json]:
        return {"turn": self.turn, "seq": self.seq, "state": self.state, "why": self.why}

    def __str__(self) -> str:
        return f"turn {self.turn} in {self.state}, event {self.seq}: {self.why}"


# -- whether two events say the same ----------------------------------------------------------------------------------


_WORDS: Mapping[type[Event], str] = {
    Transitioned: "why",
    WaitOpened: "prompt",
    WaitEnded: "reason",
    AttemptFailed: "message",
}
"""Fields that say in words what the others say already; an exception's text may be another each time."""
_STAMPS = frozenset({"at", "ms", "turn", "payloads", "inbox", "leads"})  # leads: what an answer may cost, as prices are


def alike(event: Event, recorded: Event) -> bool:
    """Whether two events say the same, but for when, and for words."""
    return type(event) is type(recorded) and not differences(event, recorded)


def differences(event: Event, recorded: Event) -> list[str]:
    """The names of the fields in which two events of one type differ."""
    ours, theirs = to_json(event), to_json(recorded)
    names = {*ours, *theirs} - _STAMPS - {_WORDS.get(type(event), "")}
    differing = {name for name in names if not same(ours.get(name), theirs.get(name))}
    if isinstance(event, Transitioned) and isinstance(recorded, Transitioned) and _covers(event, recorded):
        differing.discard("origin")
    return sorted(differing)


def _covers(event: Transitioned, recorded: Transitioned) -> bool:
    """Whether a turn's end is made of all that it was made of: what a task that the handler left behind brought counts
    if it came before the handler's end, which is no event."""
    return set(recorded.origin.split(",")) <= set(event.origin.split(","))


class Otherwise(InterlockError):
    """The engine makes another event than the one that is recorded."""

    def __init__(self, event: Event, seq: int, recorded: Event) -> None:
        super().__init__(f"{event.TYPE}, not {recorded.TYPE}")
        self.event, self.seq, self.recorded = event, seq, recorded


# -- words ------------------------------------------------------------------------------------------------------------


NOTES = {"now": "the time", "random": "a random number", "sleep": "a sleep"}


def described(asked: Any) -> str:
    """A request, made now or recorded, as a person would write it."""
    match asked:
        case ToolEffect():
            return _called(asked.name, asked.args)
        case ToolCalled():
            return _called(asked.tool, asked.args)
        case ModelEffect():
            return _model(asked.name, asked.prompt)
        case ModelCalled():
            return _model(asked.model, asked.prompt)
        case ValueNoted():
            return NOTES.get(asked.kind, asked.kind)
        case CallPrevented():
            return f"a call that was prevented ({asked.why})"
    return str(getattr(asked, "name", asked))


def _called(name: str, args: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())})"[:200]


def _model(name: str, prompt: str | None) -> str:
    return f"model {name}, the conversation so far" if prompt is None else f"model {name}, {prompt[:120]!r}"


def outcome_of(last: Event) -> str | None:
    return getattr(last, "outcome", None)


def why_of(last: Event) -> str:
    return last.prompt if isinstance(last, WaitOpened) else getattr(last, "why", "")


def ends_so(now: Ended) -> str:
    return f"ends `{now.outcome}`" + (f" ({now.why})" if now.why else "")


def said_of(last: Event) -> str:
    why = f" ({why_of(last)})" if why_of(last) else ""
    match last:
        case Transitioned():
            return f"`{last.outcome}`{why}"
        case WaitOpened(why="escalated"):
            return f"`{last.outcome}`{why}, handed to a person"
    return last.TYPE


QUESTION = ("kind", "of", "prompt", "signal", "form")


def asked_of(wait: WaitOpened) -> str:
    if wait.kind != "person":
        return f"for the signal `{wait.signal}`" if wait.signal else "for time to pass"
    return f"`{wait.of}` {wait.prompt[:120]!r}"


def contrast(other: Otherwise) -> str:
    event, recorded = other.event, other.recorded
    if type(event) is not type(recorded):
        return f"the code now comes to {said_of(event)}; recorded is {said_of(recorded)}"
    name = differences(event, recorded)[0]
    if name == "changes":
        return f"the code now writes {_written(event)}; recorded is {_written(recorded)}"
    ours, theirs = to_json(event).get(name), to_json(recorded).get(name)
    return f"the turn now ends with {name} {ours!r}; recorded is {theirs!r}"


def _written(event: Event) -> str:
    changes = to_json(event).get("changes", [])
    said = [f"{name}{' +' if how.startswith('add') else ' '}= {_short(value, how)}" for how, name, value in changes]
    return ", ".join(said) or "nothing"


def _short(value: Json, how: str) -> str:
    return f"what stands in event {value[0]}" if how.endswith("@") else repr(value)[:120]
