"""Audit: what must be true of any log, whatever happened to its workers. Recounts everything from the events alone,
without the engine's own fold, so that an error there shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from interlock.history import events as e
from interlock.history.fold import RunState
from interlock.history.lifecycles import APPROVAL, CALL
from interlock.machine.limits import Amounts
from interlock.reading import read_events, read_run, verify_run
from interlock.store.protocol import RunFilter, Store
from tests.laws.audit_rollback import rolled_back_rightly

FINAL = ("completed", "failed", "cancelled")


def audit(store: Store) -> None:
    """Every run of the store: its log verifies, its accounts balance, nothing was repeated blindly."""
    for row in store.runs(RunFilter(limit=10_000)):
        assert (broken := verify_run(store, row)) is None, broken
        log = [event for _, event, _ in read_events(store, row.number)]
        spent = recount(log)
        for name in ("calls", "tokens", "nanousd", "turns"):
            assert getattr(row.account.spent, name) == getattr(spent, name), (row.id, name, row.account.spent, spent)
        if row.status in FINAL:
            assert row.account.held == Amounts(), f"{row.id} ended with {row.account.held} held"
        no_blind_repeat(log)
        no_call_unapproved(log)
        approvals_go_as_drawn(log)
        calls_go_as_drawn(log)
        ends_once(log)
        rolled_back_rightly(log, read_run(store, row.id).record)
        assert row.status != "completed" or not doubts_left(log[: 1 + end_of(log)]), f"{row.id} completed in doubt"


def recount(log: Iterable[e.Event]) -> Amounts:
    """What the events say was spent."""
    turns = calls = tokens = nanousd = 0
    for event in log:
        match event:
            case e.ModelCalled() | e.ToolCalled():
                calls += 1
            case e.ModelReplied():
                tokens += event.tokens_in + event.tokens_out
                nanousd += event.nanousd
            case e.ToolReturned():
                nanousd += event.nanousd
            case e.AttemptFailed() | e.EvidenceRecorded():
                tokens += event.tokens
                nanousd += event.nanousd
            case e.Transitioned():
                turns += event.counts
    return Amounts(turns=turns, calls=calls, tokens=tokens, nanousd=nanousd)


def no_blind_repeat(log: Iterable[e.Event]) -> None:
    """No tool is called while one of its calls is in doubt, unless to repeat one under its own key, and nothing that
    has a result is done again."""
    doubts: dict[int, str] = {}
    repeating: set[int] = set()  # cleared by being done again under its key, which comes next
    under_way: dict[int, e.ToolCalled | e.ModelCalled] = {}
    done: set[int] = set()
    last: dict[int, int] = {}
    for event in log:
        match event:
            case e.ToolCalled() | e.ModelCalled():
                assert event.effect not in done, f"effect {event.effect} has a result and is done again"
                assert event.effect not in under_way, f"effect {event.effect} is under way and is done again"
                assert event.attempt == last.get(event.effect, 0) + 1, f"effect {event.effect}: attempt {event.attempt}"
                if isinstance(event, e.ToolCalled):
                    barred = event.tool in doubts.values() and event.effect not in repeating
                    assert not barred, f"{event.tool} is called while {doubts} is in doubt"
                    repeating.discard(event.effect)
                last[event.effect] = event.attempt
                under_way[event.effect] = event
            case e.ToolReturned() | e.ModelReplied():
                under_way.pop(event.effect)
                done.add(event.effect)
            case e.AttemptFailed():
                intent = under_way.pop(event.effect)
                if event.doubt:
                    assert isinstance(intent, e.ToolCalled) and intent.way != "repeat"
                    doubts[event.effect] = intent.tool
                elif event.sent and event.kind in ("lost", "timeout", "raised", "abandoned"):
                    assert isinstance(intent, e.ModelCalled) or intent.way == "repeat", f"{event} is no doubt"
            case e.DoubtCleared():
                doubts.pop(event.effect)
                if event.way == "key":
                    repeating.add(event.effect)
                if event.happened:
                    done.add(event.effect)


def no_call_unapproved(log: Iterable[e.Event]) -> None:
    """What a person was asked to approve is called only as she approved it: once, in its turn, in time."""
    asked: dict[int, e.WaitOpened] = {}
    given: dict[int, e.Approved] = {}
    used: dict[int, int] = {}
    for event in log:
        match event:
            case e.WaitOpened() if event.why == "approve":
                assert event.effect is not None and event.effect not in used
                asked[event.effect] = event
            case e.Approved():
                assert asked[event.effect].wait == event.wait
                given[event.effect] = event
            case e.ApprovalRefused() if event.effect in given and given[event.effect].wait == event.wait:
                del given[event.effect]
            case e.ToolCalled() if event.effect in used:
                assert event.approval == used[event.effect], f"{event} goes by another approval than its first attempt"
            case e.ToolCalled() if event.effect in asked:
                approved = given.pop(event.effect)
                args = asked[event.effect].call["args"] if approved.args is None else approved.args
                assert (event.approval, event.args) == (approved.wait, args), f"{event} isn't what was approved"
                assert event.at < approved.until and event.turn == approved.turn
                used[event.effect] = approved.wait
            case e.ToolCalled():
                assert event.approval is None, f"{event} names an approval that nobody was asked for"
            case e.Transitioned():
                given.clear()


def approvals_go_as_drawn(log: Iterable[e.Event]) -> None:
    """Each effect's approval moves only as `docs/lifecycle.md` draws it."""
    stands: dict[int, str] = {}
    asked: dict[int, int] = {}
    for event in log:
        effect, to = None, ""
        match event:
            case e.WaitOpened() if event.why == "approve" and event.effect is not None:
                effect, to = event.effect, "asked for"
                asked[event.wait] = effect
            case e.WaitEnded() if event.wait in asked and (event.how != "decision" or event.outcome == "deny"):
                effect, to = asked[event.wait], "denied or too late"
            case e.Approved():
                effect, to = event.effect, "given"
            case e.ApprovalRefused():
                effect, to = event.effect, "void"
            case e.ToolCalled() if event.approval is not None and stands.get(event.effect) != "used up":
                effect, to = event.effect, "used up"
        if effect is not None:
            move = (stands.get(effect, ""), event.TYPE, to)
            assert move in APPROVAL, move
            stands[effect] = to


def calls_go_as_drawn(log: Iterable[e.Event]) -> None:
    """Each call on the queue moves only as `docs/lifecycle.md` draws it."""
    state = RunState()
    before: dict[str, str] = {}
    for seq, event in enumerate(log, start=1):
        state.apply(seq, event)
        now = {effect: call.status for effect, call in state.calls.items()}
        for effect in before.keys() | now.keys():
            redone = isinstance(event, e.CallRedone) and effect == str(event.effect)
            source, to = before.get(effect, ""), now.get(effect, "done with")
            if isinstance(event, e.CallRedone) and effect == str(event.again):
                source = "dead"
            assert source == to or redone or (source, event.TYPE, to) in CALL, (source, event.TYPE, to)
        before = now


def end_of(log: list[e.Event]) -> int:
    """Where the event stands that ended the run; else the last one. What a person has done again later comes after."""
    ends = [at for at, event in enumerate(log) if isinstance(event, e.Cancelled) or getattr(event, "status", None)]
    return ends[0] if ends else len(log) - 1


def ends_once(log: list[e.Event]) -> None:
    """After the event that ended the run there is nothing but evidence and what it says of doubts and ceilings, what
    came too late, and what people have done about dead calls; event numbers of turns never run back."""
    ends = [at for at, event in enumerate(log) if isinstance(event, e.Cancelled) or getattr(event, "status", None)]
    if ends:
        redone = {event.again for event in log if isinstance(event, e.CallRedone)}
        for event in log[ends[0] + 1 :]:
            cleared = isinstance(event, e.DoubtCleared) and event.way in ("evidence", "person")
            late = isinstance(event, e.EvidenceRecorded | e.Overrun | e.AnswerDropped | e.TakenOver)
            called = isinstance(event, e.CallRedone | e.CallDropped | e.RedoRefused)
            again = getattr(event, "effect", None) in redone
            assert cleared or late or called or again, f"{event} comes after the end"
    turns = [event.turn for event in log]
    assert turns == sorted(turns)


def doubts_left(log: Iterable[e.Event]) -> set[int]:
    """Effects that may or may not have happened."""
    left: set[int] = set()
    for event in log:
        if isinstance(event, e.AttemptFailed) and event.doubt:
            left.add(event.effect)
        elif isinstance(event, e.DoubtCleared):
            left.discard(event.effect)
    return left


def counted(log: Iterable[e.Event]) -> Counter[str]:
    return Counter(event.TYPE for event in log)
