"""Definition: what a machine is made of, checked or not. The rules of `check` read it; `Machine` is a checked one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic

from interlock.machine.limits import Limits, Price
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import Final, Row, Source
from interlock.machine.turn import D, R

_ENGINE = frozenset(EngineOutcome)


@dataclass(frozen=True)
class Definition(Generic[R, D]):
    """Name, record class, table, dependencies, limits. The first row starts; finals end."""

    name: str
    record: type[R]
    table: Mapping[str, Row[R, D] | Final]
    deps: Callable[[], AbstractAsyncContextManager[D]] | None
    limits: Limits
    otherwise: str | None
    prices: Mapping[str, Price]
    source: Source

    @property
    def start(self) -> str:
        """The first row's name."""
        return next(iter(self.table))

    def row(self, state: str) -> Row[R, D]:
        """The row of a state that isn't final."""
        found = self.table[state]
        if isinstance(found, Final):
            raise KeyError(f"{state} is final")
        return found

    def destination(self, state: str, outcome: str) -> str | None:
        """Where an outcome leads: the row's word, else (for the engine's outcomes) `otherwise`, else None: a person.

        What goes wrong in the state `otherwise` itself goes to a person, or it would catch its own failures for ever.
        """
        to = self.row(state).moves.get(outcome)
        if to is None and outcome == "called":
            return state
        if to is None and outcome in _ENGINE and state != self.otherwise:
            return self.otherwise
        return to
