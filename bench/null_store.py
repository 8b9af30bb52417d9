"""A store that writes nothing: it keeps each run's last claim in memory and says yes. What is left is the engine."""

from __future__ import annotations

from collections.abc import Sequence

from interlock.policy.breaker import Breaker
from interlock.store.protocol import (
    Answer,
    Beat,
    Beaten,
    Claim,
    Claimed,
    Commit,
    Committed,
    Done,
    Join,
    Joined,
    Lease,
    Part,
    RunRow,
    Snapshot,
    Start,
    Started,
    Write,
)


class NullStore:
    """Takes starts, hands them out once, and acknowledges every commit."""

    url = "null:"

    def __init__(self) -> None:
        self.commits = 0
        self._fresh: list[Snapshot] = []
        self._started = 0

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        return [self._answer(write) for write in batch]

    def _answer(self, write: Write) -> Answer:
        match write:
            case Commit():
                self.commits += 1
                return Committed(mail=False)
            case Start():
                return self._start(write)
            case Claim():
                taken, self._fresh = self._fresh[: write.limit], self._fresh[write.limit :]
                return Claimed(tuple(Lease(write.worker, 1, snapshot) for snapshot in taken), None)
            case Join():
                return Joined(1)
            case Beat():
                return Beaten({}, ())
            case Part():
                return Done()
            case _:
                raise NotImplementedError(type(write).__name__)

    def _start(self, start: Start) -> Answer:
        self._started += 1
        row, event = start.row, start.event
        run = RunRow(
            number=self._started, id=start.id, machine=start.machine, shape=start.shape, content=row.content,
            tenant=start.tenant, key=start.key, status="running", reason=row.reason, state=row.state, turn=row.turn,
            seq=event.seq, head=event.hash, turn_seq=row.turn_seq, fence=1, worker=1, wake_at=None, deadline_at=None,
            mail=False, created_at=start.at, changed_at=start.at, live=row.live, account=start.account,
        )  # fmt: skip
        self._fresh.append(Snapshot(run, start.cells, {1: event.body}, (), (), ()))
        return Started(start.id, self._started, new=True)

    def breakers(self, *, all: bool = False) -> list[Breaker]:
        return []

    def close(self) -> None: ...

    def payload(self, digest: bytes) -> bytes:
        raise LookupError("the null store keeps no payload")
