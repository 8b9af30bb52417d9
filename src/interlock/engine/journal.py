"""The journal of one turn: what its effects came to, found again by (request digest, ordinal among equals).

Made of the events after the turn's first; entered anew, a turn is answered from it. Pure: knows no store and no loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from interlock.history.events import (
    AttemptFailed,
    CallPrevented,
    CallRedone,
    DoubtCleared,
    Event,
    ModelCalled,
    ModelReplied,
    MoveRefused,
    ToolCalled,
    ToolPinned,
    ToolRefused,
    ToolReturned,
    ValueNoted,
    WaitEnded,
    WaitOpened,
)
from interlock.machine.tools import Way
from interlock.policy.grants import tool_origin

Intent = ModelCalled | ToolCalled
Result = ModelReplied | ToolReturned


class Tried(Struct, frozen=True):
    """One failed attempt at a model. `over`: that one isn't asked again by this effect."""

    model: str
    kind: str
    message: str
    over: bool


class Entry(Struct):
    """What is known of one effect: its last intent (or why it has none), its result if it has one, its last failure."""

    effect: int
    intent: Intent | CallPrevented
    seq: int = 0
    first_at: int = 0
    result: Result | None = None
    result_seq: int = 0
    failure: AttemptFailed | None = None  # of the last attempt
    cleared: DoubtCleared | None = None  # of the last attempt
    refused: bool = False  # its reply was no legal move, and the model was told
    repeats_doubt: bool = False  # its last intent repeats, under the same key, what may have happened
    left_behind: bool = False  # it belongs to an earlier turn, which left it in doubt
    asked_seq: int = 0  # the event by which it was first asked for
    tried: tuple[Tried, ...] = ()  # failed attempts at models, oldest first
    prevented: CallPrevented | None = None  # no further attempt, because nothing was available

    @property
    def begun(self) -> bool:
        """It has an intent. Else a person is, or was, asked to approve it: the intent here is what it would be."""
        return self.intent.attempt > 0

    @property
    def under_way(self) -> bool:
        """Its last attempt has an intent and nothing after it."""
        return self.result is None and self.failure is None and self.prevented is None and self.begun

    @property
    def tries(self) -> int:
        """How many attempts were made at the model or tool of the last one, it included."""
        if isinstance(self.intent, ModelCalled):
            return self.under_way + sum(tried.model == self.intent.model for tried in self.tried)
        return self.intent.attempt


class Journal:
    """The effects of one turn, in the order of their first intents, handed out to the handler that asks again."""

    def __init__(self, events: Iterable[tuple[int, Event]]) -> None:
        self.entries: dict[int, Entry] = {}
        self._by_digest: dict[str, list[Entry]] = {}
        self._replaying = True
        self._notes: dict[str, list[tuple[int, ValueNoted]]] = {}
        self.to_come: set[int] = set()  # recorded requests and results that this entry hasn't come to yet
        self._asked: dict[str, int] = {}
        self._unasked = 0
        self._redone: set[int] = set()  # dead calls done again beside the turn
        self.waits: dict[int, tuple[WaitOpened, int, WaitEnded | None]] = {}
        self.pins: dict[str, ToolPinned] = {}  # of this turn
        self.refusals: dict[str, ToolRefused] = {}
        for seq, event in events:
            self.take_in(seq, event)
        self._replaying = False

    def take_in(self, seq: int, event: Event) -> None:
        match event:
            case ModelCalled() | ToolCalled():
                self._intent(seq, event)
            case ModelReplied() | ToolReturned() if event.effect in self.entries:
                entry = self.entries[event.effect]
                entry.result, entry.result_seq = event, seq
                self._comes(seq, entry)
            case AttemptFailed() if event.effect in self.entries:
                self._failed(self.entries[event.effect], event)
            case DoubtCleared() if event.effect in self.entries:
                self._cleared(seq, self.entries[event.effect], event)
            case CallRedone():
                self._redone.add(event.again)
            case CallPrevented():
                self._prevented(seq, event)
            case MoveRefused() if event.effect in self.entries:
                self.entries[event.effect].refused = True
            case ValueNoted():
                self._notes.setdefault(event.digest, []).append((seq, event))
                self._unasked += self._replaying
                self._comes(seq)
            case ToolPinned():
                self.pins[event.tool] = event
            case ToolRefused():
                self.refusals[event.tool] = event
            case WaitOpened():
                self.waits[event.wait] = (event, seq, None)
                if event.why == "approve" and event.effect not in self.entries:
                    self._awaits_approval(event)
            case WaitEnded() if event.wait in self.waits:
                opened, at, _ = self.waits[event.wait]
                self.waits[event.wait] = (opened, at, event)

    def _failed(self, entry: Entry, event: AttemptFailed) -> None:
        entry.failure = event
        if isinstance(entry.intent, ModelCalled):
            tried = Tried(entry.intent.model, event.kind, event.message, over=event.retry_at is None)
            entry.tried = (*entry.tried, tried)

    def _prevented(self, seq: int, event: CallPrevented) -> None:
        entry = self.entries.get(event.effect)
        if entry is not None:
            entry.prevented = event
        elif (
            event.attempt == 1 and event.effect not in self._redone
        ):  # else it says why an earlier turn's effect wasn't done again: no handler asks for it
            self._enter(Entry(event.effect, event, seq, event.at, prevented=event))

    def _comes(self, seq: int, entry: Entry | None = None) -> None:
        if self._replaying and not (entry is not None and entry.left_behind):
            self.to_come.add(seq)

    def _enter(self, entry: Entry) -> Entry:
        self.entries[entry.effect] = entry
        entry.asked_seq = entry.seq
        if entry.seq:
            self._comes(entry.seq)
        self._by_digest.setdefault(entry.intent.digest, []).append(entry)
        self._unasked += self._replaying  # what is added later was asked for when it was added
        return entry

    def _cleared(self, seq: int, entry: Entry, event: DoubtCleared) -> None:
        entry.cleared = event
        if event.happened:  # what it returned stands in this event, under the same name as in a result
            origin = tool_origin(entry.intent.tool) if isinstance(entry.intent, ToolCalled) else "model"
            entry.result, entry.result_seq = ToolReturned(effect=event.effect, value=event.value, origin=origin), seq
            self._comes(seq, entry)

    def _intent(self, seq: int, event: Intent) -> None:
        entry = self.entries.get(event.effect)
        if entry is None and (
            event.attempt > 1 or event.effect in self._redone
        ):  # not this turn's: no handler asks for it
            entry = self.entries[event.effect] = Entry(event.effect, event, seq, event.at, left_behind=True)
        elif entry is None:
            entry = self._enter(Entry(event.effect, event, seq, event.at))
        entry.first_at = entry.first_at or event.at
        cleared = entry.cleared
        entry.repeats_doubt = entry.left_behind or (cleared is not None and cleared.way == Way.KEY)
        entry.intent, entry.seq, entry.failure, entry.cleared = event, seq, None, None

    def _awaits_approval(self, event: WaitOpened) -> None:
        """The effect has its number, and its place among equals, from here on."""
        assert event.effect is not None and event.digest is not None  # of every wait for an approval
        tool, args = str(event.call["tool"]), event.call["args"]
        intent = ToolCalled(effect=event.effect, digest=event.digest, attempt=0, tool=tool, way="", args=args)
        self._enter(Entry(event.effect, intent))

    def ask(self, digest: str) -> Entry | None:
        """The recorded effect that answers this request, if the turn asked for it before."""
        ordinal = self._asked.get(digest, 0)
        self._asked[digest] = ordinal + 1
        recorded = self._by_digest.get(digest, [])
        if ordinal >= len(recorded):
            return None
        self._unasked -= 1
        self.to_come.discard(recorded[ordinal].asked_seq)
        return recorded[ordinal]

    def pass_over(self, digest: str) -> None:
        """What is asked for next under this digest was asked for, and its result isn't needed any more."""
        entry = self.ask(digest)
        if entry is not None:
            self.to_come.discard(entry.result_seq)

    def is_early(self, seq: int) -> bool:
        """Whether this entry has yet to come to something that was recorded before event `seq`."""
        return any(other < seq for other in self.to_come)

    def answers(self, digest: str) -> bool:
        """Whether the effect that is asked for next under this digest has its result."""
        recorded, ordinal = self._by_digest.get(digest, []), self._asked.get(digest, 0)
        return ordinal < len(recorded) and recorded[ordinal].result is not None

    def note(self, digest: str) -> tuple[int, ValueNoted] | None:
        """The recorded value (time, chance, a finished sleep) that answers this request, with its event's number."""
        ordinal = self._asked.get(digest, 0)
        self._asked[digest] = ordinal + 1
        recorded = self._notes.get(digest, [])
        if ordinal >= len(recorded):
            return None
        self._unasked -= 1
        return recorded[ordinal]

    @property
    def unasked(self) -> tuple[int, ...]:
        """Numbers of recorded effects that the handler hasn't asked for (yet). Notes count as 0."""
        return tuple([getattr(event, "effect", 0) for event in self.left()])

    def left(self) -> list[Intent | CallPrevented | ValueNoted]:
        """What the handler hasn't asked for (yet): intents and notes as they were recorded."""
        if self._unasked == 0:
            return []
        found: list[Intent | CallPrevented | ValueNoted] = []
        for digest, recorded in self._by_digest.items():
            found.extend(entry.intent for entry in recorded[self._asked.get(digest, 0) :])
        for digest, notes in self._notes.items():
            found.extend(note for _, note in notes[self._asked.get(digest, 0) :])
        return found
