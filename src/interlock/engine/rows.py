"""Rows: a run's calls as the store keeps them. Pure."""

from __future__ import annotations

from interlock.history.calls import Queued
from interlock.history.fold import RunState
from interlock.store.protocol import CallRow


def changed_calls(state: RunState) -> tuple[tuple[CallRow, ...], tuple[int, ...]]:
    """The rows that changed since they were last written, and the effects whose rows go."""
    rows, over = [], []
    for key in state.touched:
        call = state.calls.get(key)
        if call is None:
            over.append(int(key))
        else:
            rows.append(row_of_call(int(key), call))
    state.touched = set()
    return tuple(rows), tuple(over)


def row_of_call(effect: int, call: Queued) -> CallRow:
    return CallRow(
        effect=effect,
        status=call.status,
        tool=call.tool,
        way=call.way,
        attempt=call.attempt,
        seq=call.seq,
        until=call.until,
        due=call.due,
        failed=call.failed,
        limited=call.limited,
        redoes=call.redoes,
    )
