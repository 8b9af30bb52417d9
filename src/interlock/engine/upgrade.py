"""Upgrade: an open run moves to its machine's present shape, by a map of states and fields, in one commit or not.

    check (state, record, what is under way) > close what the old turn left open > `Upgraded` > the turn begins anew

What the old turn had only read or asked a model is read and asked again. What it has written, sent or destroyed would
happen twice, so such a run isn't moved, unless a person has it: then that person goes on having it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from interlock.canonical import Json, as_stored, same
from interlock.engine import approvals
from interlock.engine.abandoning import abandon
from interlock.engine.live_run import LiveRun
from interlock.engine.people import escalation
from interlock.engine.record import dump_record
from interlock.errors import BadInput
from interlock.history import events as e
from interlock.machine.states import Row
from interlock.machine.table import AnyMachine
from interlock.machine.tools import Way

_PARTS = ("states", "fields", "set")


@dataclass(frozen=True, slots=True)
class Map:
    """How runs of older shapes fit the machine as it is now. What isn't named keeps its name.

    states  old state -> the state in which its turn begins anew
    fields  old field -> new field; None: its value is dropped
    set     new field -> its value
    """

    states: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str | None] = field(default_factory=dict)
    set: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Json, machine: AnyMachine) -> Map:
        """A map as it is written in JSON. Raises `BadInput` for one that this machine has no use for."""
        if not isinstance(given, Mapping) or not all(isinstance(given.get(part, {}), Mapping) for part in _PARTS):
            raise BadInput('a map is an object like {"states": {"old": "new"}, "fields": {"old": "new"}, "set": {}}')
        strangers = sorted(set(given) - set(_PARTS))
        if strangers:
            raise BadInput(f"a map has {', '.join(_PARTS)}, no `{strangers[0]}`")
        made = cls(*(dict(given.get(part, {})) for part in _PARTS))
        made._check(machine)
        return made

    def _check(self, machine: AnyMachine) -> None:
        for old, new in self.states.items():
            if not isinstance(machine.table.get(str(new)), Row):
                raise BadInput(f"states: `{old}` leads to `{new}`, which is no state of {machine.name} with a turn")
        known = machine.record.model_fields
        kept = [new for new in self.fields.values() if new is not None]
        for name in [*kept, *self.set]:
            if name not in known:
                raise BadInput(f"`{name}` is no field of {machine.record.__name__}")
        twice = sorted({str(name) for name in kept if kept.count(name) > 1} | (set(kept) & set(self.set)))
        if twice:
            raise BadInput(f"`{twice[0]}` would get two values")
        as_stored(dict(self.set))

    def field_of(self, old: str) -> str | None:
        return self.fields.get(old, old)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a run can't be moved, and what to do about it."""

    run: str
    what: str
    remedy: str

    def as_json(self) -> dict[str, Json]:
        return {"run": self.run, "what": self.what, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class Fit:
    """A run's place in the new shape: its state, the fields whose value is carried on, and those that are set."""

    state: str
    carried: Mapping[str, str]
    values: Mapping[str, Json]
    origins: Mapping[str, str]


# -- does it fit? -----------------------------------------------------------------------------------------------------


def fit(run: LiveRun, machine: AnyMachine, by: Map) -> Fit | list[Problem]:
    """Where a run would stand, or everything that keeps it from being moved."""
    found = [Problem(run.id, what, remedy) for what, remedy in _in_the_way(run)]
    state = by.states.get(run.state.state, run.state.state)
    if not isinstance(machine.table.get(state), Row):
        what = f"its state `{state}` is none of {machine.name} as it is now"
        found.append(Problem(run.id, what, f'say which is meant: {{"states": {{"{state}": "..."}}}}'))
    record = _record(run, machine, by)
    if isinstance(record, tuple):
        found.append(Problem(run.id, *record))
    if found or isinstance(record, tuple):
        return found
    carried = {
        old: new
        for old, value in run.values.items()
        if (new := by.field_of(old)) is not None and new not in by.set and same(record[new], value)
    }
    values = {name: value for name, value in record.items() if name not in carried.values()}
    return Fit(state, carried, values, {name: _origin(run, name, by) for name in values})


def _record(run: LiveRun, machine: AnyMachine, by: Map) -> dict[str, Json] | tuple[str, str]:
    """The whole record as the new class has it, or what is wrong with it and what to do."""
    known, given = machine.record.model_fields, dict(by.set)
    for old, value in run.values.items():
        new = by.field_of(old)
        if new is None or new in by.set:
            continue
        if new not in known:
            remedy = f'drop it or say which is meant: {{"fields": {{"{old}": null}}}}'
            return f"its field `{old}` is none of {machine.record.__name__} as it is now", remedy
        given[new] = value
    for name, info in known.items():
        if name not in given and info.is_required():
            return f"`{name}` is new and has no default", f'give it a value: {{"set": {{"{name}": ...}}}}'
    try:
        return dump_record(machine.record, given)
    except BadInput as wrong:
        return f"its record doesn't fit: {wrong}", 'rename, drop or set what is wrong: {"fields": {}, "set": {}}'


def _origin(run: LiveRun, name: str, by: Map) -> str:
    if name in by.set:
        return "person"
    old = next((each for each in run.values if by.field_of(each) == name), None)
    return "machine" if old is None else run.origin_of([old])


def _in_the_way(run: LiveRun) -> Iterator[tuple[str, str]]:
    """What is under way in a run and can't be begun anew: (what, remedy)."""
    if run.state.rollback:
        yield "a rollback is under way", "let a worker with the code it was started with end it"
    if any(item.kind == "decision" for item in run.inbox):
        yield "an answer lies unread in its inbox", "let a worker with the code it was started with take it first"
    if _escalated(run) is not None:
        return
    if _is_answered(run):
        yield "what it waited for has come", "let a worker with the code it was started with go on with it first"
    for effect, tool in _happened(run):
        what = f"its turn has called {tool} (effect {effect}), which would be called again"
        yield what, "let a worker with the code it was started with end the turn, or roll back behind it"


def _escalated(run: LiveRun) -> e.WaitOpened | None:
    """The open question by which a person has the turn."""
    for seq, event in run.journal:
        if isinstance(event, e.WaitOpened) and event.why == "escalated" and str(event.wait) in run.state.waiting:
            assert run.state.waiting[str(event.wait)][2] == seq
            return event
    return None


def _is_answered(run: LiveRun) -> bool:
    """Whether the turn's own wait was closed, and nothing has come of it yet."""
    asked = [w for _, w in run.journal if isinstance(w, e.WaitOpened) and w.why in ("ask", "wait", "escalated")]
    return bool(asked) and str(asked[-1].wait) not in run.state.waiting


def _happened(run: LiveRun) -> list[tuple[int, str]]:
    """Calls of the open turn, but for reads, that have or may have happened."""
    called: dict[int, str] = {}
    for _, event in run.journal:
        match event:
            case e.ToolCalled() if event.way != Way.REPEAT and event.redoes is None and event.undoes is None:
                called[event.effect] = event.tool
            case e.AttemptFailed() if not event.doubt and event.kind != "malformed":
                called.pop(event.effect, None)
            case e.DoubtCleared() if not event.happened:
                called.pop(event.effect, None)
    return list(called.items())


# -- moving -----------------------------------------------------------------------------------------------------------


def move(run: LiveRun, machine: AnyMachine, fitting: Fit, by: Map, who: str, reason: str) -> None:
    """Add what moves the run: its old turn is over, and begins anew in the new shape. Commits nothing."""
    escalated = _escalated(run)
    abandon(run, "upgraded")
    for number in list(run.state.waiting):
        run.add(e.WaitEnded(wait=int(number), how="upgrade", by=who))
    approvals.void(run, "upgraded")
    run.add(
        e.Upgraded(
            shape=machine.shape,
            content=machine.content,
            state=fitting.state,
            states=dict(by.states),
            carried=dict(fitting.carried),
            values=dict(fitting.values),
            origins=dict(fitting.origins),
            by=who,
            reason=reason,
        )
    )
    if escalated is not None:
        _hand_over_again(run, machine, escalated)


def _hand_over_again(run: LiveRun, machine: AnyMachine, asked: e.WaitOpened) -> None:
    outcome: Any = asked.outcome
    opened = escalation(machine.row(run.state.state), run, outcome, asked.prompt)
    run.add(replace(opened, wait=run.state.waits + 1))
