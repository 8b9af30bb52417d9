"""People and systems: `ask` and `wait` states, escalation, and what their answers mean. Commits nothing.

A wait's event says what may be answered (the form); the answer's event carries the fields, which the record points at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interlock.canonical import Json
from interlock.engine.desk import Desk
from interlock.engine.ending import Ended
from interlock.engine.live_run import LiveRun, Write
from interlock.engine.model_turn import prompt_text
from interlock.engine.moves import form_of
from interlock.engine.prospects import lead, leads, next_turn_nanousd
from interlock.engine.record import dump_field, fitting, set_from
from interlock.errors import BadInput
from interlock.history.events import AnswerDropped, SignalArrived, WaitEnded, WaitOpened
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, CodeState, ModelState, Row, WaitState

RETRY = "retry"


async def ask_turn(desk: Desk, state: AskState) -> Ended:
    """Wait for a person's answer; `timeout` when none came in time."""
    answered = _last_wait(desk, "ask")
    if answered is None:
        _open_ask(desk, state)
        await desk.park()
    opened, _, ended = answered
    if ended is None:
        await desk.park()
    if ended.how == "timer":
        return Ended(EngineOutcome.TIMEOUT, why=f"nobody of `{state.of}` answered in time")
    try:
        if ended.outcome not in state.writes:
            raise BadInput(f"no outcome `{ended.outcome}` here; it takes {', '.join(state.writes)}")
        return answer(desk, ended, seq_of(desk, ended))
    except BadInput as wrong:
        desk.add(AnswerDropped(kind="decision", body=dict(ended.fields), why=str(wrong)))
        _open_ask(desk, state, f"{wrong}. ", opened.due)
        await desk.park()


def _open_ask(desk: Desk, state: AskState, note: str = "", due: int | None = None) -> None:
    record = desk.run.machine.record
    form: dict[str, Json] = {outcome: form_of(record, fields) for outcome, fields in state.writes.items()}
    if due is None:  # an answer that doesn't fit buys no time
        due = desk.run.now + int(state.within * 1000)
    prompt = note + prompt_text(desk, state.prompt)
    desk.open_wait(
        WaitOpened(
            wait=0,
            kind="person",
            why="ask",
            state="",
            of=state.of,
            prompt=prompt,
            form=form,
            due=due,
            leads=leads(desk.run, {**{name: name for name in form}, "timeout": EngineOutcome.TIMEOUT}),
        )
    )


async def wait_turn(desk: Desk, state: WaitState) -> Ended:
    """Wait for a signal, or for time to pass."""
    found = _last_wait(desk, "wait")
    if found is None:
        _open_wait(desk, state)
        found = _last_wait(desk, "wait")
    assert found is not None  # just opened
    opened, _, ended = found
    if ended is None:
        await desk.park()
    if ended.how == "timer":
        return Ended("elapsed" if state.signal is None else EngineOutcome.TIMEOUT)
    try:
        return Ended("arrived", writes_of(desk.run, ended.fields, seq_of(desk, ended), state.writes), origin="signal")
    except BadInput as wrong:
        desk.add(AnswerDropped(kind="signal", body=dict(ended.fields), why=str(wrong)))
        _open_wait(desk, state, opened.due)
        await desk.park()


def _open_wait(desk: Desk, state: WaitState, due: int | None = None) -> None:
    if due is None:
        due = desk.run.now + int(state.within * 1000)
    kind = "time" if state.signal is None else "signal"
    timeout = {} if state.signal is None else leads(desk.run, {"timeout": EngineOutcome.TIMEOUT})
    number = desk.open_wait(
        WaitOpened(wait=0, kind=kind, why="wait", state="", signal=state.signal, due=due, leads=timeout)
    )
    if state.signal is not None:
        take_signal(desk.run, number, state.signal, desk)


def take_signal(run: LiveRun, wait: int, name: str, desk: Desk | None = None) -> None:
    """Let an open wait take the oldest signal of its name, if one has arrived."""
    arrived = run.state.signals.get(name)
    if not arrived:
        return
    event = run.event_at(arrived[0])
    assert isinstance(event, SignalArrived)
    ended = WaitEnded(wait=wait, how="signal", outcome="arrived", fields=event.fields, by=event.by)
    (desk or run).add(ended)


def _last_wait(desk: Desk, why: str) -> tuple[WaitOpened, int, WaitEnded | None] | None:
    waits = [wait for wait in desk.journal.waits.values() if wait[0].why == why]
    return waits[-1] if waits else None


def seq_of(desk: Desk, ended: WaitEnded) -> int:
    """The number of a `WaitEnded` of this turn."""
    return next(seq for seq, event in reversed(desk.run.journal) if event == ended)


# -- escalation ------------------------------------------------------------------------------------------------------


def escalation(row: Row[Any, Any], run: LiveRun, outcome: str, why: str) -> WaitOpened:
    """The wait that hands a turn to a person: any outcome of the row with its fields, or `retry`."""
    choices = _choices(row, run)
    again = {RETRY: lead(run, run.state.state, next_turn_nanousd(run, run.state.state))}
    return WaitOpened(
        wait=0,
        kind="person",
        why="escalated",
        state=run.state.state,
        of="operator",
        outcome=outcome,
        prompt=why or f"{run.state.state} ended `{outcome}`",
        form={**choices, RETRY: {}},
        leads={**leads(run, {name: name for name in choices}), **again},
    )


def _choices(row: Row[Any, Any], run: LiveRun) -> dict[str, Json]:
    record, state = run.machine.record, row.state
    match state:
        case ModelState() | AskState():
            fields: Mapping[str, tuple[str, ...]] = state.writes
            return {name: form_of(record, fields.get(name, ())) for name in row.moves if name != "called"}
        case CodeState():
            form = {**form_of(record, state.writes), "required": []}
            return dict.fromkeys(row.moves, form)
        case _:
            return {name: {} for name in row.moves}


def answer(desk: Desk, ended: WaitEnded, seq: int) -> Ended:
    """What a person's answer makes of the turn. Raises `BadInput` for fields that don't fit the record."""
    assert ended.outcome is not None  # a decision names an outcome
    choices = _choices(desk.run.machine.row(desk.run.state.state), desk.run)
    if ended.outcome not in choices:
        raise BadInput(f"no outcome `{ended.outcome}` here; it takes {', '.join(choices)}")
    allowed = choices[ended.outcome]
    missing = [name for name in allowed.get("required", ()) if name not in ended.fields]
    if missing:
        raise BadInput(f"`{ended.outcome}` takes `{missing[0]}`, which is missing")
    writes = writes_of(desk.run, ended.fields, seq, tuple(allowed.get("properties", {})))
    return Ended(ended.outcome, writes, why=ended.reason, origin="person", by=ended.by)


def writes_of(run: LiveRun, fields: Mapping[str, Json], seq: int, allowed: tuple[str, ...]) -> tuple[Write, ...]:
    """Answered fields as changes of the record. Raises `BadInput`."""
    strangers = set(fields) - set(allowed)
    if strangers:
        raise BadInput(f"no field `{sorted(strangers)[0]}` here; it takes {', '.join(allowed) or 'none'}")
    record = run.machine.record
    writes = [
        set_from(name, dump_field(record, name, given), given, seq, "fields", name) for name, given in fields.items()
    ]
    return fitting(record, run.values, writes)
