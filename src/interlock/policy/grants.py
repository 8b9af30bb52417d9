"""Grants: what a state may read and write. Origins: where what it writes came from. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from interlock.errors import NotGranted


@dataclass(frozen=True, slots=True)
class Grant:
    """What one state may do to the record. `reads` None: every field."""

    state: str
    reads: frozenset[str] | None
    writes: frozenset[str]

    def may_read(self, name: str) -> None:
        """Raises `NotGranted`. What may be written may be read."""
        if self.reads is not None and name not in self.reads and name not in self.writes:
            raise NotGranted(f"state `{self.state}` does not read `{name}`: add it to its reads=")

    def may_write(self, name: str) -> None:
        """Raises `NotGranted`."""
        if name not in self.writes:
            raise NotGranted(f"state `{self.state}` does not write `{name}`: add it to its writes=")


def tool_origin(name: str, trusted: bool = False) -> str:
    """The origin of what a tool returned, or of what somebody who knows says that it did."""
    return "tool" if trusted else f"tool:{name}"


def union(origins: Iterable[str]) -> str:
    """The origin of what was made from values of these origins: all of them, sorted, joined by commas."""
    found = {part for origin in origins for part in origin.split(",") if part}
    return ",".join(sorted(found))
