"""Machine: one literal table of states, outcomes and destinations, plus limits. Frozen, and valid if it exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from types import MappingProxyType
from typing import Any

from interlock.errors import InvalidMachine
from interlock.machine.check import errors_of
from interlock.machine.definition import Definition
from interlock.machine.limits import Limits, Price
from interlock.machine.states import Final, Row, caller
from interlock.machine.turn import D, R
from interlock.machine.version import content_of, shape_of


class Machine(Definition[R, D]):
    """An agent as a finite state machine. The first row starts; finals end.

    name       what runs, commands and the log call it
    record     the pydantic model of what a run knows
    table      each state's row: `declared.then({...outcome: state...})` or `final(...)`
    deps       opens what handlers and tools need (clients, secrets), once per worker; never logged
    limits     what one run may use
    otherwise  the state that engine outcomes lead to where a row is silent; None: a person is asked
    prices     what models cost, before the built-in price list
    Raises `InvalidMachine` with every finding at once. Immutable.
    """

    def __init__(
        self,
        name: str,
        record: type[R],
        *,
        table: Mapping[str, Row[R, D] | Final],
        deps: Callable[[], AbstractAsyncContextManager[D]] | None = None,
        limits: Limits | None = None,
        otherwise: str | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        super().__init__(
            name=name,
            record=record,
            table=MappingProxyType(dict(table)),
            deps=deps,
            limits=limits or Limits(),
            otherwise=otherwise,
            prices=MappingProxyType(dict(prices or {})),
            source=caller(),
        )
        findings = errors_of(self)
        if findings:
            raise InvalidMachine(name, findings)

    @cached_property
    def shape(self) -> str:
        """Digest of states, outcomes, destinations and record schema: what a live run can't change under."""
        return shape_of(self)

    @cached_property
    def content(self) -> str:
        """Digest of prompts, code, models, tools, limits and prices: what a live run takes up at its next turn."""
        return content_of(self)

    def __repr__(self) -> str:
        return f"<Machine {self.name} {self.shape[:4]}: {len(self.table)} states>"


AnyMachine = Machine[Any, Any]
