"""Report: everything `check` can say about a machine once prices are known. Plain data for whoever prints it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from interlock.errors import Finding, UnknownPrice
from interlock.machine.check import findings_of
from interlock.machine.definition import Definition
from interlock.machine.limits import Amounts
from interlock.machine.rules.wrap_up import wrap_up_within
from interlock.machine.states import CodeState, ModelState, Row
from interlock.machine.worst_case import PriceOf, WorstCase, ceiling_of, worst_case

AnyDefinition = Definition[Any, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """`ok`: no finding is an error. `worst` and `ceiling` are None when they can't be computed; a finding says why."""

    findings: tuple[Finding, ...]
    worst: WorstCase | None
    ceiling: Amounts | None

    @property
    def ok(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)


def report_of(machine: AnyDefinition, price_of: PriceOf) -> Report:
    """Rules, prices, worst case, ceiling. `price_of` raises `UnknownPrice` where nobody states a price."""
    findings = [*findings_of(machine), *_unpriced(machine, price_of)]
    if any(finding.severity == "error" for finding in findings):
        return Report(tuple(findings), None, None)
    for remark in wrap_up_within(machine, price_of, ["nanousd"]):
        findings.append(Finding("wrap_up", remark.message, remark.state, remark.source.file, remark.source.line))
    return Report(tuple(findings), worst_case(machine, price_of), ceiling_of(machine, price_of))


def _unpriced(machine: AnyDefinition, price_of: PriceOf) -> Iterator[Finding]:
    rows = {name: row for name, row in machine.table.items() if isinstance(row, Row)}
    for name, row in rows.items():
        for model in _models(row):
            try:
                price_of(model)
            except UnknownPrice as unknown:
                message = f"uses `{model}`: {unknown}"
                yield Finding("price", message, name, row.state.source.file, row.state.source.line)


def _models(row: Row[Any, Any]) -> tuple[str, ...]:
    return row.state.models if isinstance(row.state, CodeState | ModelState) else ()
