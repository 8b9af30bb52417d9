"""Notices: which facts of a run somebody outside is told of, in what words, under which id. Pure; sends nothing.

A notice says where to look and what kind of answer is asked for, and nothing that a record, a model or a person said:
it travels further than the store does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from interlock.canonical import Json, encode
from interlock.history.events import Event, Paused, Transitioned, WaitOpened


def notice_id(run: str, seq: int, link: bytes) -> str:
    """What a receiver knows a notice by. The event's link in the chain is in it: one that was never committed, or was
    in a future that a restored store doesn't have, had another id."""
    return f"{run}-{seq}-{link[:6].hex()}"


def notice_of(run: str, machine: str, event: Event) -> bytes | None:
    """The body that tells of this event, in the form that Standard Webhooks recommends. None: nobody is told.

    `verify` compares a stored notice with what this makes of its event: what it says once, it must go on saying.
    """
    match event:
        case WaitOpened(kind="person"):
            return _body("run.waiting", event, run, machine, _asked(event))
        case Transitioned(status="failed"):
            return _body("run.failed", event, run, machine, {"state": event.to, "why": event.outcome})
        case Paused(by="worker"):
            return _body("run.parked", event, run, machine, {"why": "paused"})
        case _:
            return None


def _asked(event: WaitOpened) -> dict[str, Json]:
    return {
        "state": event.state,
        "why": event.why,
        "outcome": event.outcome,
        "wait": event.wait,
        "effect": event.effect,
        "role": event.of,
        "due": None if event.due is None else _time(event.due),
        "choices": list(event.form),
    }


def _body(kind: str, event: Event, run: str, machine: str, more: dict[str, Json]) -> bytes:
    data: dict[str, Any] = {"run": run, "machine": machine, **more}
    return encode({"type": kind, "timestamp": _time(event.at), "data": data})


def _time(at: int) -> str:
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
