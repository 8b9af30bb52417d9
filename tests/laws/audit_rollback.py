"""Audit of rollbacks: what a record is and what was undone, told from the events alone, without the engine's fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from interlock.canonical import encode
from interlock.history import events as e


def record_of(log: Sequence[e.Event]) -> dict[str, Any]:
    """The record at the end of a log. A rollback makes it what it was after the event that it names."""
    record: dict[str, Any] = {}
    then: dict[int, dict[str, Any]] = {}
    for seq, event in enumerate(log, start=1):
        match event:
            case e.RunStarted():
                record = dict(event.record)
            case e.Transitioned():
                record = {**record, **_changed(record, event, log)}
            case e.RolledBack():
                record = then[event.since]
        then[seq] = record
    return record


def _changed(record: dict[str, Any], event: e.Transitioned, log: Sequence[e.Event]) -> dict[str, Any]:
    new: dict[str, Any] = {}
    for how, name, value in event.changes:
        given: Any = value
        if how.endswith("@"):
            given = e.to_json(log[value[0] - 1])
            for step in value[1:]:
                given = given[step]
        before = new.get(name, record.get(name, []))
        new[name] = given if how.startswith("set") else [*before, *([given] if how.endswith("@") else given)]
    return new


def rolled_back_rightly(log: Sequence[e.Event], record: dict[str, Any]) -> None:
    """The record is what the events say; nothing was undone twice; what a rollback was to undo is undone, or a person
    accepted that it stays."""
    if not any(isinstance(event, e.RollbackBegun) for event in log):
        return
    assert encode(record_of(log)) == encode(record), (record_of(log), record)
    undoing = {event.effect: event.undoes for event in log if isinstance(event, e.ToolCalled) and event.undoes}
    undone: Counter[int] = Counter()
    began: dict[int, tuple[int, e.ToolCalled]] = {}
    done: set[int] = set()
    stays: set[int] = set()
    for seq, event in enumerate(log, start=1):
        match event:
            case e.ToolCalled() if event.undoes is None and event.way != "repeat":
                began.setdefault(event.effect, (seq, event))
            case e.ToolReturned() | e.DoubtCleared(happened=True):
                if event.effect in undoing:
                    undone[undoing[event.effect]] += 1
                done.add(event.effect)
            case e.RolledBack():
                stays |= set(event.accepted)
                left = {n for n, (at, _) in began.items() if at > event.since and n in done} - set(undone) - stays
                assert not left, f"after {event}: {left} still stand"
                assert {n for n, (at, _) in began.items() if at > event.since and n in stays} >= set(event.accepted)
    assert all(times == 1 for times in undone.values()), f"undone more than once: {undone}"
    assert not any(began[number][1].undo is False for number in undone), f"undone without an undo: {undone}"
