"""Rules on approvals: who says yes is named, in one place, and has a time to answer in. Which calls need one is the
author's choice."""

from __future__ import annotations

from collections.abc import Iterator

from interlock.machine.rules.remark import AnyDefinition, Remark, is_time, on_tool, rows, tool_uses
from interlock.machine.states import UseState


def approval(machine: AnyDefinition) -> Iterator[Remark]:
    """Who must approve a call is a role in words, said in one place, and has a time to answer in."""
    for tool, state in tool_uses(machine):
        if tool.approve is not None and not _is_role(tool.approve):
            yield on_tool(tool, state, f'`approve={tool.approve!r}`: name the role that says yes: `approve="finance"`')
        if not is_time(tool.approve_within):
            yield on_tool(
                tool, state, f"`approve_within={tool.approve_within!r}`: give it seconds above 0, not infinite"
            )
    for state, row in rows(machine):
        if not isinstance(row.state, UseState) or row.state.approve is None:
            continue
        asked = getattr(row.state.tool, "approve", None)
        if not _is_role(row.state.approve):
            said = f'has `approve={row.state.approve!r}`: name the role that says yes: `approve="finance"`'
            yield Remark(said, state, row.state.source)
        elif asked not in (None, row.state.approve):
            said = f"asks `{row.state.approve}` to approve what its tool asks `{asked}` for: leave one"
            yield Remark(said, state, row.state.source)


def _is_role(role: object) -> bool:
    return isinstance(role, str) and bool(role.strip())
