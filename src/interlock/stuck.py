"""Stuck: open runs that nobody advances though somebody could, why, and the remedy. Changes nothing.

A run is *stranded* when no living worker has its machine in its shape: no worker that there is will ever claim it.
"""

from __future__ import annotations

from dataclasses import dataclass

from interlock.store.protocol import RunFilter, RunRow, Store, WorkerRow

UNCLAIMED_MS = 60_000
"""A run that a worker could have taken for so long and did not is stuck; one so long without a beat stands still."""

_OPEN = ("ready", "running", "waiting", "paused")


@dataclass(frozen=True, slots=True)
class Stuck:
    """A run that nobody advances though somebody could, why, and the remedy."""

    row: RunRow
    why: str
    remedy: str
    stranded: bool = False


def stuck_runs(store: Store, now: int) -> list[Stuck]:
    """Every stuck run of a store, newest first."""
    crew = _Crew(store.workers(), now)
    rows = store.runs(RunFilter(statuses=_OPEN, limit=2**31))
    return [found for row in rows if (found := crew.look_at(row)) is not None]


def stuck_run(store: Store, row: RunRow, now: int) -> Stuck | None:
    """How one run is stuck. None: it isn't."""
    return _Crew(store.workers(), now).look_at(row) if row.status in _OPEN else None


class _Crew:
    """The workers of a store at one moment, and what they can take."""

    def __init__(self, workers: list[WorkerRow], now: int) -> None:
        self._now = now
        self._names = {worker.number: worker.name for worker in workers}
        self._dead = {worker.number for worker in workers if worker.alive is False}
        self._still = {worker.number for worker in workers if now - worker.beat_at > UNCLAIMED_MS} - self._dead
        self._has = {
            pair for worker in workers if worker.number not in self._dead | self._still for pair in worker.machines
        }

    def look_at(self, row: RunRow) -> Stuck | None:
        if row.worker is not None and self._lives(row.worker):
            return None
        waits_for_worker = self._waits_for_worker(row)
        others = sorted({shape for machine, shape in self._has if machine == row.machine})
        if (row.machine, row.shape) not in self._has and (waits_for_worker or others):
            return self._stranded(row, others)
        if row.worker is not None:
            stands = "is dead" if row.worker in self._dead or row.worker not in self._names else "stands still"
            name = self._names.get(row.worker, str(row.worker))
            return Stuck(row, f"held by worker {name}, which {stands}", "A worker of its machine takes it over")
        if waits_for_worker and self._now - row.changed_at > UNCLAIMED_MS:
            what = "lies" if row.status == "ready" else "is due" if not row.mail else "has unread mail that lies"
            remedy = f"All workers of `{row.machine}` may be busy: raise --concurrency, or start another"
            return Stuck(row, f"{what} until a worker takes it", remedy)
        return None

    def _lives(self, worker: int) -> bool:
        return worker in self._names and worker not in self._dead | self._still

    def _waits_for_worker(self, row: RunRow) -> bool:
        if row.status in ("ready", "running") or row.mail:
            return True
        return row.status == "waiting" and row.wake_at is not None and row.wake_at <= self._now

    def _stranded(self, row: RunRow, others: list[str]) -> Stuck:
        if not others:
            why = f"no living worker has its machine `{row.machine}`"
            return Stuck(row, why, f"Start one: interlock work TARGET, whose machine is `{row.machine}`", True)
        have = ", ".join(shape[:8] for shape in others)
        why = f"it is on shape {row.shape[:8]} of `{row.machine}`, and the living workers have {have}"
        remedy = "Start a worker with the code it was started with, or move it: interlock upgrade TARGET"
        return Stuck(row, why, remedy, True)
