"""A moment: a run as it stood after one of its events, folded from its log. Runs no code and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from interlock.agent.model import Message
from interlock.canonical import Json
from interlock.engine import threads
from interlock.errors import BadInput
from interlock.history import fold, payloads
from interlock.history.events import Event, to_json
from interlock.history.fold import RunState
from interlock.store.protocol import RunRow, Store


@dataclass(frozen=True, slots=True)
class Moment:
    """A run after event `seq`: its folded state, its record, and what each conversation under way held."""

    run: str
    seq: int
    at: int
    state: RunState
    record: Mapping[str, Json]
    conversations: Mapping[str, Sequence[Message]]

    def as_json(self) -> dict[str, Json]:
        return {
            "run": self.run,
            "seq": self.seq,
            "at": self.at,
            "status": self.state.status,
            "state": self.state.state,
            "turn": self.state.turn,
            "record": dict(self.record),
            "conversations": {
                name: [_message_json(message) for message in messages] for name, messages in self.conversations.items()
            },
        }


def _message_json(message: Message) -> dict[str, Json]:
    calls = [{"id": call.id, "name": call.name, "args": call.args} for call in message.calls]
    said: dict[str, Json] = {"role": message.role, "text": message.text}
    if message.role == "tool":
        return {**said, "name": message.name, "call": message.call_id}
    return {**said, "calls": calls} if calls else said


def moment(store: Store, row: RunRow, seq: int) -> Moment:
    """The run after event `seq`. Raises `BadInput` for a number that none of its events has."""
    if not 1 <= seq <= row.seq:
        raise BadInput(f"run {row.id} has events 1 to {row.seq}, none with number {seq}")
    log = [payloads.event_in(stored.body, store.payload) for stored in store.events(row.number, 1, seq)]
    state = fold.fold(log)
    record = fold.record_of(state.cells, lambda at, path: fold.walk(to_json(log[at - 1]), path))
    order = [name for name in to_json(log[0])["record"] if name in record]
    return Moment(
        run=row.id,
        seq=seq,
        at=log[-1].at,
        state=state,
        record={name: record[name] for name in [*order, *record]},
        conversations={
            name: threads.read(name, known, seq, _Log(log)).messages for name, known in state.threads.items()
        },
    )


class _Log:
    """A log that has been read."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events

    def event_at(self, seq: int) -> Event:
        return self._events[seq - 1]

    def stretch(self, first: int, last: int) -> Iterator[tuple[int, Event]]:
        yield from enumerate(self._events[first - 1 : last], start=first)
