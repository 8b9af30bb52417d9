"""Conversation: the messages of a model state's thread, read off the log's own events, and the bound on what is sent.

What a turn sees is what came before it; what happens during a turn is added by the turn itself as it goes, to a copy,
so that a turn entered again doesn't see its own future. Knows no store: it is given events.
"""

from __future__ import annotations

from collections.abc import Iterable

from interlock.agent.model import Message, ModelCall
from interlock.agent.prices import Bulk, bulk_of_message
from interlock.canonical import Json, encode
from interlock.history.events import (
    Approved,
    AttemptFailed,
    ContextTrimmed,
    DoubtCleared,
    Event,
    ModelCalled,
    ModelReplied,
    MoveRefused,
    ToolCalled,
    ToolReturned,
    Transitioned,
)

ACCEPTED = "accepted"


def as_text(value: Json) -> str:
    """A tool's result as a model reads it."""
    return value if isinstance(value, str) else encode(value).decode()


class Conversation:
    """Messages, oldest first, each beside the number of the event it stands in. The first prompt stays for good.

    `bulk` is that of all messages. Each is weighed once, when it comes: anew each turn would cost the whole window.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seqs: list[int] = []
        self.bulk = Bulk()
        self._bulks: list[Bulk] = []
        self._answers: dict[int, str] = {}  # effect of this turn -> the model's call it carries out
        self._changed: dict[int, str] = {}  # effect of this turn -> what a person made of its arguments
        self._open: dict[str, str] = {}  # calls of the last reply that nobody has answered: id -> name
        self._trimmed = 0  # the last event that left something out
        self._noted = False  # the second message is told in place of what is left out

    def extend(self, events: Iterable[tuple[int, Event]]) -> None:
        """Read further events of this conversation."""
        for seq, event in events:
            match event:
                case ModelCalled() if event.prompt is not None:
                    self.said_to_model(seq, event.prompt)
                case ContextTrimmed():
                    self.trim(seq, event)
                case ModelReplied():
                    self.replied(seq, event)
                case MoveRefused():
                    self.refused(seq, event.told)
                case ToolCalled() if event.answers is not None:
                    self._answers[event.effect] = event.answers
                case Approved() if event.args is not None:
                    self._changed[event.effect] = (
                        f"(called with other arguments, as a person said: {as_text(event.args)}) "
                    )
                case ToolReturned() if event.effect in self._answers:
                    self._answer(seq, self._answers[event.effect], self._result(event.effect, event.value))
                case DoubtCleared() if event.happened and event.effect in self._answers:
                    self._answer(seq, self._answers[event.effect], self._result(event.effect, event.value))
                case AttemptFailed() if event.final and not event.doubt and event.effect in self._answers:
                    self._answer(seq, self._answers[event.effect], f"error: {event.message}")
                case Transitioned():
                    self._turn_ended(seq, event.outcome)

    def _turn_ended(self, seq: int, outcome: str) -> None:
        """Providers want an answer to every call: what was chosen is accepted, and whatever else comes of a call is no
        longer its answer."""
        for call_id, name in list(self._open.items()):
            told = ACCEPTED if name == outcome else f"error: no result, the turn ended `{outcome}`"
            self._answer(seq, call_id, told)
        self._answers.clear()
        self._changed.clear()

    def _result(self, effect: int, value: Json) -> str:
        """A result as the model is told it: also that it isn't the result of what it asked for, if so."""
        return self._changed.get(effect, "") + as_text(value)

    @property
    def noted(self) -> bool:
        """Whether the second message is told in place of what is left out."""
        return self._noted

    def carry(self, seq: int, message: Message, noted: bool) -> None:
        """A message from before this run, answered there if it was a call. `noted`: as of where it comes from."""
        self._add(seq, message)
        self._noted = self._noted or (noted and len(self.messages) == 2 and message.role == "user")

    def said_to_model(self, seq: int, text: str) -> None:
        self._close_calls(seq)
        self._add(seq, Message("user", text))

    def replied(self, seq: int, reply: ModelReplied) -> None:
        self._close_calls(seq)
        calls = tuple([ModelCall(str(c["id"]), str(c["name"]), c["args"]) for c in reply.calls])
        self._open = {call.id: call.name for call in calls}
        self._add(seq, Message("assistant", reply.text, calls))

    def refused(self, seq: int, told: str) -> None:
        """The last reply was no legal move: each of its calls is answered with what it was told."""
        if not self._open:
            self._add(seq, Message("user", told))
        for call_id in list(self._open):
            self._answer(seq, call_id, told)

    def _answer(self, seq: int, call_id: str, text: str) -> None:
        name = self._open.pop(call_id, None)
        if name is None:  # providers take one answer to a call
            return
        self._add(seq, Message("tool", text, call_id=call_id, name=name))

    def _close_calls(self, seq: int) -> None:
        """Providers want an answer to every call: a chosen outcome was accepted."""
        for call_id in list(self._open):
            self._answer(seq, call_id, ACCEPTED)

    def _add(self, seq: int, message: Message) -> None:
        self.messages.append(message)
        self.seqs.append(seq)
        self._bulks.append(bulk_of_message(message))
        self.bulk += self._bulks[-1]

    def copy(self) -> Conversation:
        """The same messages, to go on with in one turn."""
        twin = Conversation()
        twin.messages, twin.seqs = list(self.messages), list(self.seqs)
        twin.bulk, twin._bulks = self.bulk, list(self._bulks)
        twin._answers, twin._open = dict(self._answers), dict(self._open)
        twin._changed = dict(self._changed)
        twin._trimmed, twin._noted = self._trimmed, self._noted
        return twin

    def where_to_start(self, tokens_max: int) -> int | None:
        """Over the bound, which message to go on from: the oldest replies go with all that belongs to them, down to
        half of it, so that the prefix stays the same for many turns; else down to the last reply that fits. The first
        prompt stays."""
        size, fits = self.bulk.tokens_max, None
        for at in range(1, len(self.messages)):
            if self.messages[at].role == "assistant" and size <= tokens_max:
                fits = at
                if size <= tokens_max // 2:
                    return at
            size -= self._bulks[at].tokens_max
        return fits

    def trim(self, seq: int, event: ContextTrimmed) -> None:
        """Leave out what stands before a reply, but for the first prompt, and tell what is told instead. Read off the
        log, an older trimming may come after a later one: it has been overtaken."""
        if seq < self._trimmed:
            return
        self._trimmed = seq
        replies = (at for at in range(1, len(self.seqs)) if self.messages[at].role == "assistant")
        first = next((at for at in replies if self.seqs[at] >= event.start), len(self.seqs))
        if not self._noted and first == 1 and not event.note:
            return
        self._remove(1, first if not self._noted else max(first, 2))
        self._noted = bool(event.note)
        if self._noted:
            self._insert(1, seq, Message("user", event.note))

    def _remove(self, start: int, end: int) -> None:
        self.bulk -= sum(self._bulks[start:end], Bulk())
        del self.messages[start:end], self.seqs[start:end], self._bulks[start:end]

    def _insert(self, at: int, seq: int, message: Message) -> None:
        self.messages.insert(at, message)
        self.seqs.insert(at, seq)
        self._bulks.insert(at, bulk_of_message(message))
        self.bulk += self._bulks[at]
