"""Claiming: which runs a worker may lease, and raising their fences, inside a transaction that somebody else opened.

A run is claimable when nobody holds it and it is ready, due or has mail; or when its holder is permitted to lose it:
dead (its lock file is free), still (its heartbeat stood for a whole lease), or past the turn's deadline. One that has
ended is claimable for its mail, and for a call that was to be done again. A claimant never takes a run from itself,
except one that it names and whose deadline has passed: its turn may be about to end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import apsw

from interlock.store.protocol import Claim, Claimed, Lease
from interlock.store.sqlite.locks import WorkerLocks
from interlock.store.sqlite.queries import queries
from interlock.store.sqlite.reads import Reads

_ENDED = {"completed", "failed", "cancelled"}


class Claims:
    """Everything about `Claim`."""

    def __init__(self, run: Callable[..., apsw.Cursor], locks: WorkerLocks, reads: Reads) -> None:
        self._run = run
        self._locks = locks
        self._reads = reads
        self._sql = queries()

    def claim(self, claim: Claim) -> Claimed:
        beats = dict(self._rows("beats"))
        if claim.worker not in beats:
            return Claimed((), None)  # struck off: its next heartbeat tells it
        machines = json.dumps([f"{machine}/{shape}" for machine, shape in claim.machines])
        found = self._named(claim, machines, beats) if claim.run else self._sweep(claim, machines, beats)
        leases = tuple(self._lease(claim, number, why) for number, why in found.items())
        wake = self._run(self._sql["next_wake"], (machines, claim.at)).fetchone()
        return Claimed(leases, wake[0] if wake else None)

    def _sweep(self, claim: Claim, machines: str, beats: dict[int, int]) -> dict[int, str]:
        """Up to `limit` runs, each with why its holder loses it: others' losses first, then mail, due, ready."""
        found: dict[int, str] = {}
        for number, why in self._candidates(claim, machines, beats):
            if len(found) >= claim.limit:
                break
            found.setdefault(number, why)
        return found

    def _candidates(self, claim: Claim, machines: str, beats: dict[int, int]) -> Iterator[tuple[int, str]]:
        for worker in beats:
            why = self._loses(claim, worker, beats)
            if why:
                yield from ((number, why) for number in self._numbers("held_by", machines, claim.limit, worker))
        if claim.mine is not None:
            held = self._numbers("held_by", machines, claim.limit + len(claim.mine), claim.worker)
            yield from ((number, "") for number in held if number not in claim.mine)
        late = self._numbers("held_past_deadline", machines, claim.limit, claim.worker, claim.at)
        yield from ((number, "deadline") for number in late)
        yield from ((number, "") for number in self._numbers("claimable_with_mail", machines, claim.limit))
        yield from ((number, "") for number in self._numbers("claimable_due", machines, claim.limit, claim.at))
        yield from ((number, "") for number in self._numbers("claimable_redone", machines, claim.limit))
        yield from ((number, "") for number in self._numbers("claimable_ready", machines, claim.limit))

    def _named(self, claim: Claim, machines: str, beats: dict[int, int]) -> dict[int, str]:
        row = self._run(self._sql["run_for_claim"], (machines, claim.run)).fetchone()
        if row is None or claim.limit < 1:
            return {}
        number, status, worker, wake_at, deadline_at, mail, unfinished = row
        if worker is None:
            due = status == "ready" or (status == "waiting" and wake_at is not None and wake_at <= claim.at)
            due = due or (claim.at_rest and status not in _ENDED)
            return {number: ""} if due or mail or (unfinished and status in _ENDED) else {}
        if status in _ENDED and not (mail or unfinished):
            return {}
        if worker == claim.worker and claim.mine is not None and number not in claim.mine:
            return {number: ""}
        late = "deadline" if deadline_at is not None and deadline_at <= claim.at else ""
        why = self._loses(claim, worker, beats) or late
        return {number: why} if why else {}

    def _loses(self, claim: Claim, worker: int, beats: dict[int, int]) -> str:
        if worker == claim.worker:
            return ""
        if worker not in beats or self._locks.alive(worker) is False:
            return "dead"
        return "still" if claim.still.get(worker) == beats[worker] else ""

    def _lease(self, claim: Claim, number: int, why: str) -> Lease:
        previous = self._rows("holder", number)[0][0] if why else ""
        self._run(self._sql["claim_run"], (number, claim.worker, claim.at))
        snapshot = self._reads.snapshot(number)
        return Lease(claim.worker, snapshot.row.fence, snapshot, previous or "", why)

    def _numbers(self, query: str, *values: Any) -> list[int]:
        return [number for (number,) in self._rows(query, *values)]

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._run(self._sql[query], values).fetchall()
