"""Deciding: of two who answer one wait, one wins; who and when, for the other. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from interlock.errors import WaitClosed
from interlock.fitting import wait_for_answer
from interlock.history.events import Cancelled, WaitEnded, WaitOpened
from interlock.reading import OpenWait, RunView, read_events, read_run
from interlock.store.protocol import Store

Answerable = Callable[[RunView, int | None], OpenWait]

_CLOSED = {
    "timer": "its due time has passed",
    "due": "its due time has passed",
    "cancel": "the run was cancelled",
    "rollback": "the run was rolled back",
    "signal": "a signal came",
    "extend": "the account was extended",
    "evidence": "a late result answered it",
    "unknown": "it has no such wait",
}


def to_answer(store: Store, run_id: str, number: int | None, which: Answerable = wait_for_answer) -> OpenWait:
    """The wait that an answer is for. Raises `WaitClosed` that names who was first, `BadInput`."""
    view = read_run(store, run_id)
    try:
        return which(view, number)
    except WaitClosed as closed:
        asked = number or _last_asked(store, view.row.number)
        if asked is None or any(wait.number == asked for wait in view.waits):
            raise
        raise WaitClosed(f"{closed}; {closed_by(store, view.id, asked, 'unknown')}") from None


def _last_asked(store: Store, run: int) -> int | None:
    """The last wait for a person that there was."""
    asked = [e.wait for _, e, _ in read_events(store, run) if isinstance(e, WaitOpened) and e.kind == "person"]
    return asked[-1] if asked else None


def closed_by(store: Store, run_id: str, wait: int, how: str) -> str:
    """Who or what closed a wait, and when, in one line: "wait 3 was answered by ann at 14:02:11 UTC: approve"."""
    row = store.find(run_id)
    for item in store.snapshot(row.number).inbox:  # accepted, and not read by a host yet
        if not isinstance(item.body, Mapping):
            continue  # it says nothing
        if item.kind == "decision" and item.body.get("wait") == wait:
            return _answered(wait, str(item.body.get("by")), item.left_at, str(item.body.get("outcome")))
        if item.kind == "cancel":
            return f"wait {wait} is closed: the run was cancelled by {item.body.get('by')} {_at(item.left_at)}"
    for _, event, _ in read_events(store, row.number):
        if isinstance(event, WaitEnded) and event.wait == wait:
            if event.how == "decision":
                return _answered(wait, event.by, event.at, event.outcome or "")
            who = f" by {event.by}" if event.by and event.by != "engine" else ""
            return f"wait {wait} was closed {_at(event.at)}: {_CLOSED.get(event.how, event.how)}{who}"
        if isinstance(event, Cancelled):
            return f"wait {wait} is closed: the run was cancelled by {event.by} {_at(event.at)}"
    return f"wait {wait} is closed: {_CLOSED.get(how, how)}"


def _answered(wait: int, by: str, at: int, outcome: str) -> str:
    return f"wait {wait} was answered first, by {by} {_at(at)}: {outcome}"


def _at(ms: int) -> str:
    return f"at {datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
