"""Check: the rules of a valid machine, as one table. Each rule says everything it has to say; nothing is raised."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from interlock.errors import Finding
from interlock.machine.definition import Definition
from interlock.machine.rules import (
    approvals,
    dependencies,
    fields,
    handlers,
    moves,
    names,
    offers,
    servers,
    tools,
    wrap_up,
)
from interlock.machine.rules.remark import Remark, Rule

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "table": names.table,
        "final": names.final,
        "name": names.name,
        "reserved": names.reserved,
        "time": names.time,
        "visits": names.visits,
        "limits": names.limits,
        "record": fields.record,
        "field": fields.field,
        "writable": fields.writable,
        "prompt": fields.prompt,
        "offer": offers.offer,
        "returns": handlers.returns,
        "returned": handlers.returned,
        "handler": handlers.handler,
        "plain": handlers.bounds,
        "grant": tools.grant,
        "tool_name": tools.tool_name,
        "tool_terms": tools.tool_terms,
        "tool_signature": tools.tool_signature,
        "probe": tools.probe,
        "approval": approvals.approval,
        "undo": tools.undo,
        "arguments": tools.arguments,
        "server": servers.server,
        "deps": dependencies.opener,
        "dependencies": dependencies.dependencies,
        "destination": moves.destination,
        "outcome": moves.outcome,
        "unreachable": moves.unreachable,
        "endless": moves.endless,
        "loop": moves.loop,
        "nobody_answers": moves.nobody_answers,
    }
)

AFTERWARDS: Mapping[str, Rule] = MappingProxyType({"wrap_up": wrap_up.wrap_up})
"""Rules that compute with the machine, so they are asked only when it has no other error."""


def errors_of(machine: Definition[Any, Any]) -> list[Finding]:
    """Why the machine can't exist: every error at once, in the order of the file."""
    return [finding for finding in findings_of(machine) if finding.severity == "error"]


def findings_of(machine: Definition[Any, Any]) -> list[Finding]:
    """Every error and warning, in the order of the file."""
    found = _ask(RULES, machine)
    if all(finding.severity != "error" for finding in found):
        found += _ask(AFTERWARDS, machine)
    return sorted(dict.fromkeys(found), key=lambda finding: (finding.file, finding.line))


def _ask(rules: Mapping[str, Rule], machine: Definition[Any, Any]) -> list[Finding]:
    return [_finding(name, remark) for name, rule in rules.items() for remark in rule(machine)]


def _finding(rule: str, remark: Remark) -> Finding:
    return Finding(rule, remark.message, remark.state, remark.source.file, remark.source.line, remark.severity)
