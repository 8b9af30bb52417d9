"""Conclusion: the end of a turn becomes its transition, or a person's. Alone, beside `people`, it knows the table."""

from __future__ import annotations

from operator import attrgetter

from msgspec.structs import replace

from interlock.canonical import fingerprint
from interlock.engine import approvals
from interlock.engine.abandoning import abandon
from interlock.engine.ending import Ended
from interlock.engine.live_run import LiveRun
from interlock.engine.people import RETRY, escalation
from interlock.history import events as e
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import AskState, Final

_OF_EFFECTS = ("retry", "doubt", "sleep", "approve", "queue")
"""Why an effect of a turn may wait; when the turn has ended nobody waits for it any more."""


OF_ITS_TURN = "its turn has ended"
"""Why such a wait ends then."""


def completes(run: LiveRun, ended: Ended) -> bool:
    """Whether this end of the turn would complete the run."""
    to = _destination(run, ended.outcome)
    row = None if to is None else run.machine.table[to]
    return isinstance(row, Final) and row.status == "completed"


def _destination(run: LiveRun, outcome: str) -> str | None:
    return run.state.state if outcome == RETRY else run.machine.destination(run.state.state, outcome)


def conclude(run: LiveRun, ended: Ended) -> None:
    """Turn the end of a turn into its transition, or hand it to a person."""
    abandon(run, f"the turn ended `{ended.outcome}`")
    for number, (_, why, *_) in list(run.state.waiting.items()):
        if why in _OF_EFFECTS:
            run.add(e.WaitEnded(wait=int(number), how="cancel", by="engine", reason=OF_ITS_TURN))
    approvals.void(run, f"the turn ended `{ended.outcome}`")
    print_ = _print(run, ended)
    if not ended.by:  # what a person chose is done
        ended = _stalled(run, ended, print_) or ended
    to = _destination(run, ended.outcome)
    if to is None:
        opened = escalation(run.machine.row(run.state.state), run, ended.outcome, ended.why)
        run.add(replace(opened, wait=run.state.waits + 1))
        return
    row = run.machine.table[to]
    run.transition(
        e.Transitioned(
            state=run.state.state,
            outcome=ended.outcome,
            to=to,
            status=row.status if isinstance(row, Final) else None,
            origin=ended.origin,
            why=ended.why,
            print=print_,
            counts=_counts(run, ended),
            by=ended.by,
        ),
        ended.writes,
    )
    run.soon()


def _counts(run: LiveRun, ended: Ended) -> bool:
    """Waits for people don't count, nor does a turn that a limit kept from being performed, whoever ended it."""
    handed_over = [w.outcome for _, w in run.journal if isinstance(w, e.WaitOpened) and w.why == "escalated"]
    asks = isinstance(run.machine.row(run.state.state).state, AskState)
    return not asks and EngineOutcome.LIMIT_REACHED not in (ended.outcome, *handed_over[-1:])


def _stalled(run: LiveRun, ended: Ended, print_: str | None) -> Ended | None:
    """No progress: the same turn in the same state, `limits.repeats` times in a row."""
    repeats = run.machine.limits.repeats
    before = run.state.prints.get(run.state.state)
    if repeats is None or print_ is None or before is None or before[0] != print_ or before[1] + 1 < repeats:
        return None
    return Ended(EngineOutcome.STALLED, why=f"{_said(run)} {repeats}x, same result")


def _print(run: LiveRun, ended: Ended) -> str | None:
    """Fingerprint of a turn: its outcome, its tools with arguments and results, its changes. None: it did nothing."""
    beside = {c.again for _, c in run.journal if isinstance(c, e.CallRedone)}  # a person's doing, and no turn's
    called = [c for _, c in run.journal if isinstance(c, e.ToolCalled) and c.attempt == 1 and c.redoes is None]
    returned = [r for _, r in run.journal if isinstance(r, e.ToolReturned) and r.effect not in beside]
    # In the order they were asked for: side by side, they begin and end in any.
    calls = [(c.tool, c.args) for c in sorted(called, key=attrgetter("effect"))]
    results = [r.value for r in sorted(returned, key=attrgetter("effect"))]
    if not calls and not any(isinstance(event, e.ModelCalled) for _, event in run.journal):
        return None
    return fingerprint([ended.outcome, calls, results, [[w.how, w.name, w.value] for w in ended.writes]])


def _said(run: LiveRun) -> str:
    """The turn's tool calls, as a person would write them."""
    calls = [
        f"{c.tool}({', '.join(f'{value!r}' for value in c.args.values())})"
        for _, c in run.journal
        if isinstance(c, e.ToolCalled) and c.attempt == 1 and c.redoes is None
    ]
    return ", ".join(calls)[:200] or "the same reply"
