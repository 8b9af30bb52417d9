"""A disk that remembers, and a disk that fails: SQLite file systems (VFS) for tests, passing through to the real one.

The model of power loss: what was written to a file before its last completed sync is there; of every later write it is
not known whether it is there, isn't, or is there by half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import apsw


@dataclass(frozen=True, slots=True)
class Wrote:
    file: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    file: str


@dataclass(frozen=True, slots=True)
class Deleted:
    file: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a test wants to know of that moment."""

    what: Any


Act = Wrote | Cut | Synced | Deleted | Noted


class Disk(apsw.VFS):
    """A file system under a name of its own that tells every act beforehand: `told` may record it, or raise."""

    def __init__(self, name: str, told: Callable[[Act], None]) -> None:
        self.name, self.told = name, told
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.told(Deleted(Path(filename).name))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "").name
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.told(Wrote(self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.told(Cut(self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)  # it counts once it is done
        self._disk.told(Synced(self._name))


# -- what may be left after a power loss ------------------------------------------------------------------------------

Files = dict[str, bytearray]


def left_after(acts: Sequence[Act], before: Files, fate: Callable[[Wrote | Cut], str]) -> Files:
    """The files after the loss of power that follows `acts`. `fate` of what wasn't synced: kept, dropped or torn."""
    files = {name: bytearray(body) for name, body in before.items()}
    settled = {act.file: number for number, act in enumerate(acts) if isinstance(act, Synced)}
    for number, act in enumerate(acts):
        if isinstance(act, Deleted):
            files.pop(act.file, None)
        elif isinstance(act, Wrote | Cut):
            word = "kept" if number < settled.get(act.file, -1) else fate(act)
            if word != "dropped":
                _apply(act, files.setdefault(act.file, bytearray()), torn=word == "torn")
    return files


def _apply(act: Wrote | Cut, body: bytearray, torn: bool) -> None:
    if isinstance(act, Cut):
        del body[act.size :]
        return
    data = act.data[: len(act.data) // 2] if torn else act.data
    body.extend(bytes(max(0, act.offset - len(body))))
    body[act.offset : act.offset + len(data)] = data


def fates(chance: Random) -> Iterator[tuple[str, Callable[[Wrote | Cut], str]]]:
    """The ways unsynced writes are treated at one point: all there, none, and a mixture by lot."""
    yield "kept", lambda _: "kept"
    yield "dropped", lambda _: "dropped"
    yield "mixed", lambda _: chance.choice(["kept", "dropped", "torn"])
