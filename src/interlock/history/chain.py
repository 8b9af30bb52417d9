"""The hash chain: each event carries the hash of the one before, over the digest of its body.

    hash(n) = SHA-256(hash(n-1) || SHA-256(body(n)))        hash(0) = SHA-256(run id)

Over digests, so that an erased body can be replaced by its digest and the chain still holds. Knows no store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol


def seed(run_id: str) -> bytes:
    """The hash before a run's first event: ties a chain to its run."""
    return sha256(run_id.encode("utf-8")).digest()


def link(before: bytes, body: bytes) -> bytes:
    """The hash of an event with this body after the hash `before`."""
    return sha256(before + sha256(body).digest()).digest()


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain stops holding, and why."""

    seq: int
    why: str


class Link(Protocol):
    """One stored event, as the chain sees it."""

    @property
    def seq(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def hash(self) -> bytes: ...


def first_break(run_id: str, events: Iterable[Link], count: int, head: bytes) -> Break | None:
    """Walk events in order against the count and head that the run row holds. None: unbroken."""
    before, expected = seed(run_id), 0
    for expected, event in enumerate(events, start=1):
        if event.seq != expected:
            return Break(expected, f"event {expected} is missing")
        before = sha256(before + sha256(event.body).digest()).digest()  # `link`, without a call for each event
        if before != event.hash:
            return Break(expected, "its bytes don't match its hash")
    if expected != count:
        return Break(expected + 1, f"the run has {count} events, the log {expected}")
    return None if before == head else Break(count, "the last hash is not the run's head")
