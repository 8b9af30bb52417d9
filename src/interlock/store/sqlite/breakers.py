"""Breakers in the file: rows and their log, changed inside a transaction that somebody else opened.

What a change is, `policy.breaker` decides; here it is read, kept and looked up for commits that pass a breaker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
from msgspec import json

from interlock.policy import breaker as rules
from interlock.policy.breaker import Breaker, Change, State
from interlock.store.protocol import Guard, Probe, Report, Reset, Standing, Trip
from interlock.store.sqlite.queries import queries


class Breakers:
    """Everything about breakers, on the connection that writes."""

    def __init__(self, run: Callable[..., apsw.Cursor]) -> None:
        self._run = run
        self._sql = queries()
        self._shut: dict[str, Breaker] | None = None  # those not closed, as this transaction has them

    def begin(self) -> None:
        """A transaction opens: other processes may have changed anything."""
        self._shut = None

    # -- commits ------------------------------------------------------------------------------------------------------

    def refuse(self, guards: tuple[Guard, ...]) -> bool:
        """Whether one of these is shut for its intent. Read once per transaction, for all its commits."""
        shut = self._shut
        if shut is None:
            rows: list[Any] = self._run(self._sql["shut_breakers"]).fetchall()
            shut = self._shut = {row[0]: breaker_row(row) for row in rows}
        if not shut:
            return False
        probes = [guard.name for guard in guards if guard.probe]
        return len(set(probes)) < len(probes) or not all(rules.holds(shut.get(g.name), g.probe) for g in guards)

    def use(self, guards: tuple[Guard, ...]) -> None:
        """The intents that these let pass are being committed: a probe is used up."""
        for guard in guards:
            if guard.probe and (breaker := (self._shut or {}).get(guard.name)) is not None:
                self._keep(rules.used_probe(breaker, guard.until))

    # -- writes -------------------------------------------------------------------------------------------------------

    def report(self, report: Report) -> Standing:
        breaker = self._breaker(report.name)
        changed, change = _told(breaker, report)
        if changed != breaker:
            self._keep(changed, change)
        return Standing(changed)

    def probe(self, probe: Probe) -> Standing:
        breaker = self._breaker(probe.name)
        given = rules.given_probe(breaker, probe.at, probe.until, probe.by)
        if given is None:
            return Standing(breaker)
        self._keep(*given)
        return Standing(given[0], granted=given[0].probe)

    def trip(self, trip: Trip) -> Standing:
        return self._kept(*rules.tripped(self._breaker(trip.name), trip.at, trip.until, trip.by, trip.reason))

    def reset(self, reset: Reset) -> Standing:
        return self._kept(*rules.reset(self._breaker(reset.name), reset.at, reset.by, reset.reason))

    def troubled(self) -> tuple[Breaker, ...]:
        """Those not at rest."""
        rows: list[Any] = self._run(self._sql["troubled_breakers"]).fetchall()
        return tuple(breaker_row(row) for row in rows)

    def _breaker(self, name: str) -> Breaker:
        row: Any = self._run(self._sql["breaker"], (name,)).fetchone()
        return Breaker(name) if row is None else breaker_row(row)

    def _kept(self, breaker: Breaker, change: Change) -> Standing:
        self._keep(breaker, change)
        return Standing(breaker)

    def _keep(self, b: Breaker, change: Change | None = None) -> None:
        self._run(
            self._sql["keep_breaker"],
            (b.name, b.state, json.encode(b.failures).decode(), b.window_at, b.window_calls, b.window_failed,
             b.changed_at, b.until, b.probe, int(b.sent), b.reason, b.by),
        )  # fmt: skip
        if change is not None:
            self._run(
                self._sql["append_breaker_event"],
                (change.what, change.name, change.state, change.at, change.until, change.probe, change.reason,
                 change.by),
            )  # fmt: skip
        if self._shut is not None and b.state == State.CLOSED:
            self._shut.pop(b.name, None)
        elif self._shut is not None:
            self._shut[b.name] = b


def _told(breaker: Breaker, report: Report) -> tuple[Breaker, Change | None]:
    """What a report makes of a breaker."""
    at, probe = report.at, report.probe
    match report.said, probe > 0:
        case "answered", False:
            return rules.succeeded(breaker, at, report.sent_at, report.calls, report.terms), None
        case "failed", False:
            return rules.failed(breaker, at, report.sent_at, report.calls, report.why, report.terms)
        case "answered", True:
            return rules.probe_answered(breaker, at, probe)
        case "failed", True:
            return rules.probe_failed(breaker, at, probe, report.why, report.terms)
        case _:
            return rules.probe_released(breaker, at, probe)


def breaker_row(row: tuple[Any, ...]) -> Breaker:
    name, state, failures, *rest = row
    columns: list[Any] = [name, state, tuple(json.decode(failures)), *rest]
    columns[9] = bool(columns[9])
    return Breaker(*columns)
