"""The epoch: a small file beside the store that remembers how far the store had come. It gives a restored backup away.

It holds the store's id, its incarnation and a high-water mark: the number of its last event. A store that is older
than its mark, or that has lost its mark, was restored (or copied): effects may have happened that its log doesn't know.
Knows no table.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

RESTORED = "store restored: release it"


@dataclass(frozen=True, slots=True)
class Mark:
    """Which store, which life of it, and how many events it has at least."""

    store: str
    incarnation: int
    events: int

    def proves_restored(self, seen: Mark | None) -> bool:
        """Is this store, as it stands, older than what the file `seen` remembers?"""
        if seen is None:
            return self.incarnation > 0
        return seen.store != self.store or seen.incarnation > self.incarnation or seen.events > self.events


class EpochFile:
    """`<store>.epoch`, replaced as a whole."""

    def __init__(self, store: str) -> None:
        self.path = Path(store + ".epoch")
        self._written: Mark | None = None

    def read(self) -> Mark | None:
        """The mark, or None when there is none that can be read."""
        try:
            found = json.loads(self.path.read_bytes())
            return Mark(str(found["store"]), int(found["incarnation"]), int(found["events"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, mark: Mark) -> None:
        """Only ever after the commit it speaks of. A mark that can't be written stays behind, which harms nothing."""
        if mark == self._written:
            return
        with contextlib.suppress(OSError):
            _replace(self.path, json.dumps(asdict(mark)).encode())
            self._written = mark


_replacing = threading.Lock()
"""Two stores of one process may open the same file: half of one's mark must not be moved into place by the other."""


def _replace(path: Path, body: bytes) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with _replacing:
        with open(fresh, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
