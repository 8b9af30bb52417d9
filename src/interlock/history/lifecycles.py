"""The life cycles of run, effect, wait and account: each one literal table of (from, event, to).

`docs/lifecycle.md` is drawn from these tables, and tests hold every run they play against them. The fold in
`history.fold` is what makes them true. Knows no store.
"""

from __future__ import annotations

from collections.abc import Mapping

Moves = tuple[tuple[str, str, str], ...]

RUN: Moves = (
    ("", "run_started", "ready"),
    ("ready", "transitioned", "ready"),
    ("ready", "transitioned", "completed"),
    ("ready", "transitioned", "failed"),
    ("ready", "wait_opened", "waiting"),
    ("waiting", "wait_ended", "ready"),
    ("ready", "paused", "paused"),
    ("waiting", "paused", "paused"),
    ("paused", "resumed", "ready"),
    ("paused", "resumed", "waiting"),
    ("ready", "cancelled", "cancelled"),
    ("waiting", "cancelled", "cancelled"),
    ("paused", "cancelled", "cancelled"),
    ("paused", "rollback_begun", "ready"),
    ("ready", "rolled_back", "paused"),
    ("ready", "rollback_given_up", "paused"),
)
"""A run's status. `running` isn't here: it is a ready run that a worker holds. Events not named leave it as it is."""

EFFECT: Moves = (
    ("", "model_called", "under way"),
    ("", "tool_called", "under way"),
    ("under way", "model_replied", "done"),
    ("under way", "tool_returned", "done"),
    ("under way", "attempt_failed", "failed"),
    ("under way", "attempt_failed", "in doubt"),
    ("", "call_prevented", "failed"),
    ("failed", "call_prevented", "failed"),
    ("failed", "model_called", "under way"),
    ("failed", "tool_called", "under way"),
    ("in doubt", "doubt_cleared", "done"),
    ("in doubt", "doubt_cleared", "failed"),
    ("failed", "evidence_recorded", "failed"),
    ("done", "evidence_recorded", "done"),
)
"""One effect over all its attempts."""

WAIT: Moves = (
    ("", "wait_opened", "open"),
    ("open", "wait_ended", "closed by a decision"),
    ("open", "wait_ended", "closed by a signal"),
    ("open", "wait_ended", "closed by the timer"),
    ("open", "wait_ended", "closed by an extension"),
    ("open", "wait_ended", "closed by evidence"),
    ("open", "wait_ended", "closed by what somebody said of its effect"),
    ("open", "wait_ended", "closed by a cancel"),
    ("open", "wait_ended", "closed by a rollback"),
    ("open", "wait_ended", "closed by an upgrade"),
)
"""A wait is closed once."""

ACCOUNT: Moves = (
    ("", "run_started", "open"),
    ("open", "model_called", "held"),
    ("open", "tool_called", "held"),
    ("held", "model_replied", "open"),
    ("held", "tool_returned", "open"),
    ("held", "attempt_failed", "open"),
    ("open", "warned", "warned"),
    ("warned", "extended", "open"),
    ("warned", "wait_ended", "open"),
    ("open", "overrun", "overrun"),
    ("overrun", "extended", "open"),
)
"""A run's account: something is held while an attempt is under way; settled, what it cost is spent."""

APPROVAL: Moves = (
    ("", "wait_opened", "asked for"),
    ("asked for", "approved", "given"),
    ("asked for", "wait_ended", "denied or too late"),
    ("given", "tool_called", "used up"),
    ("asked for", "approval_refused", "void"),
    ("given", "approval_refused", "void"),
    ("void", "wait_opened", "asked for"),
)
"""The approval of one effect. Used up, it is so for the effect's further attempts as well."""

CALL: Moves = (
    ("", "tool_called", "under way"),
    ("under way", "tool_returned", "done with"),
    ("under way", "attempt_failed", "due"),
    ("under way", "attempt_failed", "in doubt"),
    ("under way", "attempt_failed", "dead"),
    ("under way", "attempt_failed", "done with"),
    ("due", "tool_called", "under way"),
    ("due", "transitioned", "dead"),
    ("due", "transitioned", "done with"),
    ("due", "rollback_begun", "dead"),
    ("due", "rollback_begun", "done with"),
    ("due", "rolled_back", "done with"),
    ("due", "rollback_given_up", "done with"),
    ("due", "upgraded", "dead"),
    ("due", "upgraded", "done with"),
    ("due", "call_prevented", "dead"),
    ("due", "redo_refused", "dead"),
    ("due", "cancelled", "done with"),
    ("due", "cancelled", "dead"),
    ("in doubt", "doubt_cleared", "due"),
    ("in doubt", "doubt_cleared", "dead"),
    ("in doubt", "doubt_cleared", "done with"),
    ("dead", "call_redone", "due"),
    ("dead", "call_dropped", "done with"),
    ("dead", "evidence_recorded", "done with"),
    ("dead", "rolled_back", "done with"),
    ("dead", "rollback_given_up", "done with"),
)
"""A tool call on its run's queue. Redone, it is due as an effect of its own."""

LIFECYCLES: Mapping[str, Moves] = {
    "run": RUN,
    "effect": EFFECT,
    "call": CALL,
    "wait": WAIT,
    "approval": APPROVAL,
    "account": ACCOUNT,
}


def mermaid(moves: Moves) -> str:
    """A life cycle as a Mermaid state diagram."""
    names = list(dict.fromkeys(name for move in moves for name in (move[0], move[2]) if name))
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{name}" as s{number}' for number, name in enumerate(names)]
    by_ends: dict[tuple[str, str], list[str]] = {}
    for source, event, target in moves:
        by_ends.setdefault((source, target), []).append(event)
    for (source, target), events in by_ends.items():
        start = "[*]" if not source else f"s{names.index(source)}"
        lines.append(f"    {start} --> s{names.index(target)}: {', '.join(events)}")
    ends = {target for _, _, target in moves} - {source for source, _, _ in moves}
    lines += [f"    s{names.index(name)} --> [*]" for name in names if name in ends]
    return "\n".join(lines)


def page() -> str:
    """The text of `docs/lifecycle.md`."""
    parts = [
        "# Life cycles",
        "",
        "Drawn from `src/interlock/history/lifecycles.py`. A test fails when this page is older than the tables;",
        "`python -m interlock.history.lifecycles > docs/lifecycle.md` draws it anew.",
    ]
    for name, moves in LIFECYCLES.items():
        parts += ["", f"## {name.capitalize()}", "", "```mermaid", mermaid(moves), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
