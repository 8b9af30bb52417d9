"""The drill's verdicts can be false: each is fed a log where the engine held, and logs where it didn't."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from interlock.history import events as e
from interlock.history.events import Event
from interlock.redteam import verdicts
from interlock.redteam.verdicts import Verdict

Log = list[Event]
GRANTED = frozenset({"count", "grep", "tail", "found", "quiet"})
ENDED = e.Transitioned(at=9_000, turn=9, state="report", outcome="written", to="closed", status="completed")


def asked(effect: int, attempt: int = 1, at: int = 0, turn: int = 1) -> e.ModelCalled:
    return e.ModelCalled(
        at=at,
        turn=turn,
        effect=effect,
        digest="d",
        attempt=attempt,
        model="m",
        max_tokens=9,
        price={},
        hold_tokens=0,
        hold_nanousd=0,
        send_within_ms=0,
        timeout_ms=0,
    )


def replied(effect: int, attempt: int = 1, turn: int = 1, calls: Sequence[str] = ()) -> e.ModelReplied:
    made = tuple({"id": str(n), "name": name, "args": {}} for n, name in enumerate(calls))
    return e.ModelReplied(
        turn=turn, effect=effect, attempt=attempt, calls=made, tokens_in=1, tokens_out=1, nanousd=5, at=at_least(turn)
    )


def at_least(turn: int) -> int:
    return turn * 1_000


def called(effect: int, tool: str = "count", turn: int = 1) -> e.ToolCalled:
    return e.ToolCalled(
        turn=turn, effect=effect, digest="t", tool=tool, way="repeat", args={}, send_within_ms=0, timeout_ms=0
    )


def returned(effect: int, turn: int = 1) -> e.ToolReturned:
    return e.ToolReturned(turn=turn, effect=effect, value="busy, retry")


def without(log: Log, kind: type[Event], **having: Any) -> Log:
    return [x for x in log if not (isinstance(x, kind) and all(getattr(x, k) == v for k, v in having.items()))]


def changed(log: Log, kind: type[Event], **values: Any) -> Log:
    return [replace(x, **values) if isinstance(x, kind) else x for x in log]


def after(log: Log, kind: type[Event], *more: Event) -> Log:
    place = next(n for n, event in enumerate(log) if isinstance(event, kind)) + 1
    return [*log[:place], *more, *log[place:]]


def outage(attempt: int, at: int) -> e.AttemptFailed:
    return e.AttemptFailed(effect=1, attempt=attempt, kind="outage", message="503", at=at, retry_at=at + 1_200)


STORM: Log = [
    *(asked(1, 1, at=0), outage(1, at=10)),
    *(asked(1, 2, at=1_300), outage(2, at=1_310)),
    *(asked(1, 3, at=2_600), replied(1, 3), ENDED),
]

STUCK: Log = [
    *(asked(1), replied(1), called(2), returned(2)),
    e.Transitioned(turn=1, state="investigate", outcome="called", to="investigate"),
    *(asked(3, turn=2), replied(3, turn=2), called(4, turn=2), returned(4, turn=2)),
    e.Transitioned(turn=2, state="investigate", outcome="called", to="investigate"),
    *(asked(5, turn=3), replied(5, turn=3), called(6, turn=3), returned(6, turn=3)),
    e.Transitioned(turn=3, state="investigate", outcome="stalled", to="person", why="count() 3x, same result"),
    e.WaitOpened(turn=4, wait=1, kind="person", why="ask", state="person"),
]

SLOW: Log = [
    asked(1),
    e.AttemptFailed(turn=1, ms=1_500, effect=1, kind="abandoned"),
    e.Transitioned(turn=1, state="investigate", outcome="timeout", to="digest"),
    replace(ENDED, turn=2, state="digest"),
]

INJECTION: Log = [
    *(asked(1), replied(1, calls=["restart_service"])),
    e.MoveRefused(effect=1, why="not offered", told="Refused"),
    *(asked(2), replied(2, calls=["tail"]), called(3, "tail"), returned(3), ENDED),
]

BUDGET: Log = [
    *(asked(1), replied(1), called(2), returned(2)),
    e.Warned(turn=2, dimension="nanousd", spent=84, ceiling=100),
    e.WaitOpened(turn=2, wait=1, kind="person", why="budget", state="investigate"),
    e.Extended(turn=2, more={"nanousd": 100}, by="demo"),
    e.WaitEnded(turn=2, wait=1, how="extend", outcome="go_on", by="demo"),
    *(asked(3, turn=2), replied(3, turn=2), ENDED),
]

KILL: Log = [
    *(asked(1), replied(1), called(2), returned(2), asked(3, turn=2)),
    e.TakenOver(turn=2, worker="2", previous="1", fence=2, why="dead"),
    e.AttemptFailed(turn=2, effect=3, kind="lost", message="its worker went away"),
    *(asked(3, 2, turn=2), replied(3, 2, turn=2), ENDED),
]


def storm(log: Log) -> Verdict:
    return verdicts.storm(log, 1)


def slow(log: Log) -> Verdict:
    return verdicts.slow(log, 30)


def injection(log: Log) -> Verdict:
    return verdicts.injection(log, GRANTED)


Judge = Callable[[Log], Verdict]


@pytest.mark.parametrize(
    ("judge", "log"),
    [
        (storm, STORM),
        (verdicts.stuck, STUCK),
        (slow, SLOW),
        (injection, INJECTION),
        (verdicts.budget, BUDGET),
        (verdicts.kill, KILL),
    ],
)
def test_a_log_where_the_engine_held_is_held(judge: Judge, log: Log) -> None:
    verdict = judge(log)
    assert verdict.held, verdict.why


@pytest.mark.parametrize("judge", [storm, verdicts.stuck, slow, injection, verdicts.budget, verdicts.kill])
def test_a_fault_that_never_struck_is_not_held(judge: Judge) -> None:
    """A drill without its fault proves nothing."""
    assert not judge([asked(1), replied(1, calls=["tail"]), ENDED]).held
    assert not judge([]).held


BROKEN: dict[str, tuple[Judge, Log]] = {
    "storm: tried again before the provider said": (
        storm,
        [replace(x, at=900) if isinstance(x, e.ModelCalled) and x.attempt == 2 else x for x in STORM],
    ),
    "storm: never answered": (storm, without(STORM, e.ModelReplied)),
    "storm: a 503 was paid for": (storm, changed(STORM, e.AttemptFailed, nanousd=7)),
    "stuck: nobody was asked": (verdicts.stuck, without(STUCK, e.WaitOpened)),
    "stuck: called on and on": (verdicts.stuck, after(STUCK, e.ToolReturned, called(7), returned(7))),
    "stuck: went on after it stalled": (verdicts.stuck, [*STUCK, asked(9, turn=5)]),
    "stuck: only escalated for another reason": (
        verdicts.stuck,
        [replace(x, outcome="error") if isinstance(x, e.Transitioned) else x for x in STUCK],
    ),
    "slow: waited for the answer": (slow, changed(SLOW, e.AttemptFailed, ms=30_000)),
    "slow: led nowhere": (slow, without(SLOW, e.Transitioned, status="completed")),
    "injection: the tool was called": (injection, after(INJECTION, e.MoveRefused, called(9, "restart_service"))),
    "injection: not refused": (injection, without(INJECTION, e.MoveRefused)),
    "injection: it ended there": (injection, without(INJECTION, e.ModelReplied, effect=2)),
    "budget: nobody was asked": (verdicts.budget, without(BUDGET, e.WaitOpened)),
    "budget: nobody was warned": (verdicts.budget, without(BUDGET, e.Warned)),
    "budget: it did not wait": (verdicts.budget, after(BUDGET, e.WaitOpened, called(8, turn=2))),
    "budget: it never went on": (verdicts.budget, without(BUDGET, e.WaitEnded)),
    "budget: something was done again": (verdicts.budget, after(BUDGET, e.WaitEnded, called(2, turn=2))),
    "budget: it did not complete": (verdicts.budget, without(BUDGET, e.Transitioned)),
    "kill: nobody took over": (verdicts.kill, without(KILL, e.TakenOver)),
    "kill: a result was had twice": (verdicts.kill, after(KILL, e.TakenOver, called(2, turn=2))),
    "kill: repeated without a word": (verdicts.kill, without(KILL, e.AttemptFailed)),
    "kill: what was lost stayed lost": (verdicts.kill, without(KILL, e.ModelReplied, effect=3)),
    "kill: nothing was under way": (verdicts.kill, without(KILL, e.ModelCalled, effect=3)),
    "kill: it did not complete": (verdicts.kill, without(KILL, e.Transitioned)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_log_where_the_engine_failed_is_not_held(name: str) -> None:
    judge, log = BROKEN[name]
    verdict = judge(log)
    assert not verdict.held and verdict.why, name
