"""Conversation: the messages of a model state's thread, read off the log's own events, and the bound on what is sent.

What a turn sees is what came before it; what happens during a turn is added by the turn itself as it goes, so that a
turn entered again doesn't see its own future. Knows no store: it is given events.
"""

from __future__ import annotations

from collections.abc import Iterable

from interlock.agent.model import Message, ModelCall
from interlock.agent.prices import CALL_TOKENS, MESSAGE_TOKENS
from interlock.canonical import Json, encode
from interlock.history.events import (
    AttemptFailed,
    Event,
    ModelCalled,
    ModelReplied,
    MoveRefused,
    ToolCalled,
    ToolReturned,
)

ACCEPTED = "accepted"


def as_text(value: Json) -> str:
    """A tool's result as a model reads it."""
    return value if isinstance(value, str) else encode(value).decode()


class Conversation:
    """Messages with the number of the event each stands in, oldest first. The first prompt stays for good."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []
        self.bytes = 0
        self.origins: set[str] = set()
        self._answers: dict[int, str] = {}  # effect -> the model's call it carries out
        self._open: dict[str, str] = {}  # calls of the last reply that nobody has answered: id -> name

    def extend(self, events: Iterable[tuple[int, Event]]) -> None:
        """Read further events of this conversation."""
        for seq, event in events:
            match event:
                case ModelCalled() if event.prompt is not None:
                    self.said_to_model(seq, event.prompt)
                case ModelReplied():
                    self.replied(seq, event)
                case MoveRefused():
                    self.refused(seq, event.told)
                case ToolCalled() if event.answers is not None:
                    self._answers[event.effect] = event.answers
                case ToolReturned() if event.effect in self._answers:
                    self.origins.add(event.origin)
                    self._answer(seq, self._answers[event.effect], as_text(event.value))
                case AttemptFailed() if event.final and event.effect in self._answers:
                    self._answer(seq, self._answers[event.effect], f"error: {event.message}")

    def said_to_model(self, seq: int, text: str) -> None:
        self._close_calls(seq)
        self._add(seq, Message("user", text))

    def replied(self, seq: int, reply: ModelReplied) -> None:
        self._close_calls(seq)
        calls = tuple(ModelCall(str(c["id"]), str(c["name"]), c["args"]) for c in reply.calls)
        self._open = {call.id: call.name for call in calls}
        self._add(seq, Message("assistant", reply.text, calls))

    def refused(self, seq: int, told: str) -> None:
        """The last reply was no legal move: each of its calls is answered with what it was told."""
        if not self._open:
            self._add(seq, Message("user", told))
        for call_id in list(self._open):
            self._answer(seq, call_id, told)

    def _answer(self, seq: int, call_id: str, text: str) -> None:
        name = self._open.pop(call_id, "")
        self._add(seq, Message("tool", text, call_id=call_id, name=name))

    def _close_calls(self, seq: int) -> None:
        """Providers want an answer to every call: a chosen outcome was accepted."""
        for call_id in list(self._open):
            self._answer(seq, call_id, ACCEPTED)

    def _add(self, seq: int, message: Message) -> None:
        self.messages.append((seq, message))
        self.bytes += _size(message)

    def copy(self) -> Conversation:
        """The same messages, to go on with in one turn."""
        twin = Conversation()
        twin.messages, twin.bytes = list(self.messages), self.bytes
        twin.origins = set(self.origins)
        twin._answers, twin._open = dict(self._answers), dict(self._open)
        return twin

    def shrink(self, bytes_max: int) -> int | None:
        """Over the bound, drop the oldest replies with all that belongs to them, down to half of it, so that the
        prefix stays the same for many turns. The first prompt stays. Returns the event the rest starts at."""
        if self.bytes <= bytes_max:
            return None
        size, keep_from = self.bytes, None
        for index, (seq, message) in enumerate(self.messages):
            if index > 0 and message.role == "assistant" and size <= bytes_max // 2:
                keep_from = (index, seq)
                break
            size -= _size(message) if index > 0 else 0
        if keep_from is None:
            return None
        index, seq = keep_from
        self.messages = [self.messages[0], *self.messages[index:]]
        self.bytes = sum(_size(message) for _, message in self.messages)
        return seq


def _size(message: Message) -> int:
    """What a message counts against the window: its bytes and its framing, as in `input_bound`."""
    answered = CALL_TOKENS if message.call_id else 0
    return message.size_bytes + MESSAGE_TOKENS + answered + CALL_TOKENS * len(message.calls)
