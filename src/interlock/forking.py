"""Forking: a new run that takes another's history for its own, up to where one of its turns began. Changes nothing:
what it makes is the first event of that run, which is started like any other.

It inherits state, record and conversations, with their origins. It inherits no money, no approval, no signal and no
effect under way; where one was under way or in doubt, there is no fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError

from interlock.canonical import Json, fingerprint, in_key_order
from interlock.engine import threads
from interlock.engine.record import dump_record, load_record
from interlock.errors import BadInput, ShapeChanged
from interlock.fitting import as_said, check_names
from interlock.history.deeds import began, check_past, deeds_of
from interlock.history.events import Event, RunStarted, to_json
from interlock.history.fold import RunState, record_of, walk
from interlock.machine.rules.remark import near
from interlock.machine.table import AnyMachine
from interlock.policy.grants import union
from interlock.reading import read_events
from interlock.store.protocol import RunRow, Store


class _History:
    """A run's log, read once."""

    def __init__(self, store: Store, row: RunRow) -> None:
        self.row = row
        self.hashes: dict[int, bytes] = {}
        self.events: list[tuple[int, Event]] = []
        for seq, event, digest in read_events(store, row.number):
            self.events.append((seq, event))
            self.hashes[seq] = digest

    def event_at(self, seq: int) -> Event:
        return self.events[seq - 1][1]

    def stretch(self, first: int, last: int) -> Iterator[tuple[int, Event]]:
        yield from self.events[max(first, 1) - 1 : last]

    def values(self, then: RunState) -> dict[str, Json]:
        body_at = cache(lambda seq: to_json(self.event_at(seq)))  # many cells point into one event
        return record_of(then.cells, lambda seq, path: walk(body_at(seq), path))


def fork_of(
    store: Store,
    run_id: str,
    at: int,
    fields: Mapping[str, Json] | None = None,
    machine: AnyMachine | None = None,
    ceiling_of: Callable[[AnyMachine], Mapping[str, int]] | None = None,
) -> RunStarted:
    """The first event of a fork of this run, where turn `at` began, with other values for some fields of its record.

    With its machine the whole record is checked against its class, and account and content are the machine's as it is
    now; without, a field takes another value of the same kind, and they are those of the run. Raises `UnknownRun`,
    `BadInput` for a turn or field that it hasn't, and for a moment at which something was under way or in doubt,
    `ShapeChanged` for another machine's.
    """
    row = store.find(run_id)
    history = _History(store, row)
    start = history.event_at(1)
    assert isinstance(start, RunStarted)  # every log begins so
    then = began(history.events, at)
    _check_settled(history, then, at)
    started = _born(history, start, then, at)
    changes = as_said("the fields", fields)
    if machine is None:
        return replace(started, **_changed(started, _of_a_kind(started.record, changes), changes))
    _check_machine(row, then, machine)
    whole = _whole(machine, started.record, changes)
    limits = machine.limits
    return replace(
        started,
        **_changed(started, whole, changes),
        content=machine.content,
        ceiling=started.ceiling if ceiling_of is None else ceiling_of(machine),
        mode=limits.mode,
        warn_at=float(limits.warn_at),
        on_warn=limits.on_warn,
        wrap_up=float(limits.wrap_up),
    )


def digest_of(started: RunStarted) -> str:
    """What the same fork under the same key is recognised by."""
    return fingerprint([in_key_order(started.record), in_key_order(started.forked_from)])


def _check_settled(history: _History, then: RunState, at: int) -> None:
    check_past(deeds_of(history.events), then, at)
    for number in (*then.open, *then.doubts):
        seq = (then.open.get(number) or then.doubts[number])[-1]
        name = getattr(history.event_at(seq), "tool", "a model call")
        raise BadInput(
            f"effect {number} ({name}) was {'under way' if number in then.open else 'in doubt'} when turn {at} began: "
            f"a fork would not know whether it happened; take an earlier turn, or one after it was cleared"
        )


def _born(history: _History, start: RunStarted, then: RunState, at: int) -> RunStarted:
    row, seq = history.row, then.turn_seq
    talks = {
        name: threads.carried(threads.read(name, known, seq, history), known) for name, known in then.threads.items()
    }
    return replace(
        start,
        turn=1,
        ms=0,
        payloads=0,
        shape=row.shape,
        content=row.content,
        state=then.state,
        record=history.values(then),
        key=None,
        parent=None,
        tenant=row.tenant,
        forked_from={"run": row.id, "turn": at, "seq": seq, "hash": history.hashes[seq].hex()},
        threads={name: talk for name, talk in talks.items() if talk["messages"]},
        origins={name: union(pointer.origin for pointer in pointers) for name, pointers in then.cells.items()},
    )


# -- other values ----------------------------------------------------------------------------------------------------


def _changed(started: RunStarted, record: Mapping[str, Json], changes: Mapping[str, Json]) -> dict[str, Any]:
    other = {name for name in record if name in changes or record[name] != started.record.get(name)}
    return {"record": record, "origins": {**started.origins, **dict.fromkeys(sorted(other), "person")}}


def _of_a_kind(record: Mapping[str, Json], changes: Mapping[str, Json]) -> dict[str, Json]:
    """Without its class, all that is known of a field is what it held."""
    for name, value in changes.items():
        if name not in record:
            raise BadInput(f"the record has no field `{name}`; {near(name, record)}")
        before = record[name]
        if before is not None and _kind(value) != _kind(before):
            raise BadInput(f"record field `{name}` holds {_kind(before)}, not {_kind(value)}")
    return {**record, **changes}


def _kind(value: Json) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case _:
            return "an object"


def _check_machine(row: RunRow, then: RunState, machine: AnyMachine) -> None:
    if (row.machine, row.shape) != (machine.name, machine.shape):
        raise ShapeChanged(
            f"run {row.id} is of machine {row.machine} of shape {row.shape}; this {machine.name} has shape "
            f"{machine.shape}: fork it with the code that it was started with"
        )
    if then.state not in machine.table:
        raise BadInput(f"this machine has no state `{then.state}`")


def _whole(machine: AnyMachine, record: Mapping[str, Json], changes: Mapping[str, Json]) -> dict[str, Json]:
    if changes:
        check_names(machine.record, changes)
        return dump_record(machine.record, {**record, **changes})
    try:
        load_record(machine.record, record)
    except ValidationError as wrong:
        raise BadInput(f"the record of then isn't one any more: {wrong.error_count()} fields don't fit") from None
    return dict(record)
