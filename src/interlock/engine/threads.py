"""Threads: a conversation's messages, read off a log: its stretches of the run's own events and, in a forked run, what
the first event carries over from the run that it was forked from. Knows no store: it is given a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import convert, to_builtins

from interlock.agent.model import Message
from interlock.canonical import Json, decode, encode
from interlock.engine.conversation import Conversation
from interlock.history.events import Event, RunStarted
from interlock.history.fold import Conversation as Stretches


class Log(Protocol):
    """A run's events."""

    def event_at(self, seq: int) -> Event: ...
    def stretch(self, first: int, last: int) -> Iterator[tuple[int, Event]]:
        """Events `first` to `last`, with their numbers."""
        ...


def read(name: str, known: Stretches, upto: int, log: Log) -> Conversation:
    """A thread's messages as they were after event `upto`."""
    talk = Conversation()
    if known.head < 0:
        start = log.event_at(1)
        assert isinstance(start, RunStarted)
        _carry(talk, known, start.threads[name])
    talk.extend(_events(known, upto, log))
    return talk


def _events(known: Stretches, upto: int, log: Log) -> Iterator[tuple[int, Event]]:
    if known.head > 0 and not any(first <= known.head for first, _ in known.ranges):
        yield known.head, log.event_at(known.head)
    if 0 < known.trimmed <= upto:
        yield known.trimmed, log.event_at(known.trimmed)
    for first, last in known.ranges:
        yield from log.stretch(first, min(last or upto, upto))


# -- carried over ----------------------------------------------------------------------------------------------------
#
# Messages that were said in another run stand in no event of this one. So that a window can begin at one of them, they
# are numbered back from the first event: the last is -1.


def carried(talk: Conversation, known: Stretches) -> dict[str, Json]:
    """A conversation as a forked run's first event holds it; `fold` reads it too."""
    return {
        "messages": decode(encode(to_builtins(talk.messages))),
        "goes_on": any(not last for _, last in known.ranges),
        "noted": talk.noted,
        "origins": list(known.origins),
    }


def _carry(talk: Conversation, known: Stretches, over: Json) -> None:
    messages = convert(over["messages"], list[Message])
    first = known.ranges[0][0] if known.ranges else 0
    for seq, message in enumerate(messages, start=-len(messages)):
        if seq == known.head or first <= seq:
            talk.carry(seq, message, over["noted"])
