"""Every error interlock raises: one tree. A docstring says what happened and what to do.

Expected endings of a run are outcomes (values), never exceptions. Knows nothing else of interlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class InterlockError(Exception):
    """The root: catch it to catch everything interlock raises on purpose."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing `check` (or `doctor`) has to say: where, what, and the remedy, in one line."""

    rule: str
    message: str
    state: str | None = None
    file: str = ""
    line: int = 0
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line} " if self.file else ""
        return f"{where}{self.state + ' ' if self.state else ''}{self.message}"


class InvalidMachine(InterlockError):
    """The table contradicts itself. `findings` lists every error at once; mend them where they point."""

    def __init__(self, machine: str, findings: Sequence[Finding]) -> None:
        self.machine = machine
        self.findings = tuple(findings)
        lines = "\n".join(f"  {finding}" for finding in self.findings)
        super().__init__(f"machine `{machine}` is not valid:\n{lines}")


class BadInput(InterlockError):
    """A value from outside doesn't fit what is declared (type, range, missing field). Mend it; nothing was written."""


class NotGranted(InterlockError):
    """A state reached for a field, tool or model that it doesn't declare. Declare it on the state, or don't use it."""


class FrozenValue(InterlockError):
    """A nested record value was changed in place. Assign the whole field instead: `turn.record.x = new`."""


class UnknownRun(InterlockError):
    """No run, or more than one, answers to this id. `interlock runs` lists them."""


class KeyTaken(InterlockError):
    """A run with this key exists and was started with other input. Use another key, or the same input."""


class ShapeChanged(InterlockError):
    """An open run was started on another shape (states, outcomes, record) of its machine. Run the code that it
    started with until it ends, move it (`interlock upgrade TARGET`), or cancel it."""


class WaitClosed(InterlockError):
    """Something (decision, timer, cancel) closed this wait first, or it was never open. The message says who was first
    and when. Nothing was written."""


class UnknownPrice(InterlockError):
    """Nobody states what this model costs, so its worst case can't be held. State it: `Machine(prices={...})`."""


class UnknownModel(InterlockError):
    """The name doesn't say which provider to ask, or its package or key is missing. The message says which."""


class NotDone(InterlockError):
    """Raised by a tool to say: surely nothing happened. `retry` lets the engine try again, not before `retry_after`
    seconds. Any other exception of a tool that isn't a read leaves a doubt."""

    def __init__(self, message: str, *, retry: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry = retry or retry_after is not None
        self.retry_after = retry_after


class EffectFailed(InterlockError):
    """An effect brought no result and won't be tried again. A handler may catch it and go another way; uncaught, the
    turn ends with `outcome`."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class StaleLease(InterlockError):
    """Another worker holds a newer lease on this run. Drop the work; nothing was written."""


class StoreError(InterlockError):
    """The store can't be opened or written. The message says why; what was acknowledged before is safe."""


class ForeignStore(StoreError):
    """The file is a database, or a file, that interlock didn't make. Point `--store` somewhere else."""


class NewerStore(StoreError):
    """The file was written by a newer interlock. Upgrade the package; the file was not touched."""


class DamagedStore(StoreError):
    """What the file holds can't be read as a database any more. Restore a backup."""


class Stuck(InterlockError):
    """The virtual loop has nothing left to wait for and the awaited thing hasn't happened: a test waits for what
    nobody will do."""
