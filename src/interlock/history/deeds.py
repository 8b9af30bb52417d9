"""Deeds: what a run did outside that isn't a read, and what going back to an earlier turn would have to take back.

Read off the events, for whoever asks before (a person, by command) and whoever does it (the engine). A deed belongs to
the turn that asked for it first. Knows no store and no machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from interlock.canonical import Json
from interlock.errors import BadInput
from interlock.history import events as e
from interlock.history.fold import FINAL, RunState

Log = Sequence[tuple[int, e.Event]]
"""A run's events with their numbers, from the first on."""

_REPEATABLE = "repeat"


class Deed(Struct):
    """One effect that may have changed something outside. `done`: it happened, and `value` is what it returned (None
    where nobody knows). `open`: nobody knows yet whether it happened. `undone`: the event by which it was taken
    back."""

    effect: int
    tool: str
    way: str
    args: Mapping[str, Json]
    turn: int
    seq: int
    undo: bool
    open: bool = True
    done: bool = False
    value: Json = None
    undone: int = 0
    accepted: bool = False  # a person said, in a rollback that was carried out, that it stays

    @property
    def stands(self) -> bool:
        """It happened, and nobody has taken it back or said that it stays."""
        return self.done and not self.undone and not self.accepted


def deeds_of(history: Iterable[tuple[int, e.Event]]) -> dict[int, Deed]:
    """Every deed by its effect number, oldest first."""
    deeds: dict[int, Deed] = {}
    undoing: dict[int, Deed] = {}  # the effect that takes a deed back -> that deed
    for seq, event in history:
        match event:
            case e.ToolCalled(undoes=int(target)) if target in deeds:
                undoing[event.effect] = deeds[target]
            case e.ToolCalled() if event.way != _REPEATABLE:
                deed = deeds.setdefault(event.effect, _deed(seq, event))
                deed.open = True
            case e.ToolReturned() | e.DoubtCleared(happened=True) if event.effect in undoing:
                undoing[event.effect].undone = seq
            case e.ToolReturned() | e.DoubtCleared(happened=True) | e.EvidenceRecorded() if event.effect in deeds:
                _happened(deeds[event.effect], event)
            case e.AttemptFailed() | e.DoubtCleared() if event.effect in deeds:
                _failed(deeds[event.effect], event)
            case e.RolledBack():
                for number in event.accepted:
                    deeds[number].accepted = True
    return deeds


def _deed(seq: int, event: e.ToolCalled) -> Deed:
    return Deed(event.effect, event.tool, event.way, event.args, event.turn, seq, event.undo)


def _happened(deed: Deed, event: e.ToolReturned | e.DoubtCleared | e.EvidenceRecorded) -> None:
    deed.value = deed.value if deed.done and event.value is None else event.value
    deed.open, deed.done = False, True


def _failed(deed: Deed, event: e.AttemptFailed | e.DoubtCleared) -> None:
    deed.open = isinstance(event, e.AttemptFailed) and event.doubt
    # It happened, and only what it returned was of no use.
    deed.done = deed.done or (isinstance(event, e.AttemptFailed) and event.kind == "malformed")


class Plan(Struct, frozen=True):
    """What going back to where turn `to` began comes to. `then` is the run as it stood there."""

    to: int
    then: RunState
    undo: tuple[Deed, ...]  # in the order in which they are taken back
    stays: tuple[Deed, ...]  # happened, and can't be taken back: a person must accept each
    doubts: tuple[Deed, ...]  # cleared first; what happened is then taken back, or must be accepted

    def check_accepted(self, accept: Iterable[int]) -> None:
        """Raises `BadInput` for a deed that can't be taken back and isn't accepted, or one that needs no accepting."""
        accepted = set(accept)
        missing = [deed for deed in self.stays if deed.effect not in accepted]
        if missing:
            named = ", ".join(f"effect {deed.effect} ({deed.tool})" for deed in missing)
            flags = " ".join(f"--accept {deed.effect}" for deed in missing)
            raise BadInput(f"{named} can't be undone: accept that it stays ({flags}), or don't go back behind it")
        known = {deed.effect for deed in (*self.stays, *(each for each in self.doubts if not each.undo))}
        for number in sorted(accepted - known):
            raise BadInput(f"there is nothing to accept about effect {number}")


def plan(history: Log, to: int) -> Plan:
    """How a run goes back to turn `to`. Raises `BadInput` for a turn that there is no way back to."""
    then, found = began(history, to), deeds_of(history)
    check_past(found, then, to)
    deeds = [deed for deed in found.values() if deed.seq > then.turn_seq and not deed.accepted]
    standing = [deed for deed in reversed(deeds) if deed.stands]
    return Plan(
        to=to,
        then=then,
        undo=tuple(deed for deed in standing if deed.undo),
        stays=tuple(deed for deed in standing if not deed.undo),
        doubts=tuple(deed for deed in deeds if deed.open and not deed.done),
    )


def began(history: Log, turn: int) -> RunState:
    """The run as it stood when a turn began. Raises `BadInput` for one that hasn't begun, or was a rollback's."""
    state, last = RunState(), 0
    for seq, event in history:
        state.apply(seq, event)
        if state.status not in FINAL:  # an end by a transition counts on, to a turn that nobody takes
            last = state.turn
        if state.turn >= turn >= 1:
            break
    if state.turn != turn or state.status in FINAL:
        raise BadInput(f"there is no turn {turn}: this run has had turns 1 to {last}")
    if state.rollback:
        raise BadInput(f"turn {turn} was a rollback: name another")
    upgraded = next((seq for seq, event in history if seq > state.turn_seq and isinstance(event, e.Upgraded)), None)
    if upgraded is not None:
        raise BadInput(f"the run was upgraded since turn {turn} (event {upgraded}): it can't go back to its old shape")
    return state


def check_past(deeds: Mapping[int, Deed], then: RunState, turn: int) -> None:
    """Raises `BadInput` when a deed of before `turn` was taken back since: the record of then speaks of what isn't so
    any more."""
    for deed in deeds.values():
        if deed.seq <= then.turn_seq < deed.undone:
            raise BadInput(
                f"effect {deed.effect} ({deed.tool}) came before turn {turn} and was undone since: "
                f"what was known then isn't so any more; take turn {deed.turn} or an earlier one"
            )
