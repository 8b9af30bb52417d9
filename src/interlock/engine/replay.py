"""Replay: the code of a machine performed again on a run's record, turn by turn, up to the first divergence.

A turn is entered as it would be after a crash right before its end: performed by the same code, at the same desk, on
the journal of the whole turn. It must ask for what is recorded, for nothing else, and come to the recorded end. What
others did (people, time, limits, other workers) is taken from the record. Nothing goes out and nothing is written: see
`recorded`. Time is virtual.

    turn > take its events up to its end > perform > conclude, and compare > take its end > next turn
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby

from interlock.canonical import Json, same
from interlock.clock import run_virtually
from interlock.engine.approvals import UNUSED
from interlock.engine.conclusion import OF_ITS_TURN, conclude
from interlock.engine.desk import Broken
from interlock.engine.divergence import (
    QUESTION,
    Divergence,
    Otherwise,
    asked_of,
    contrast,
    described,
    ends_so,
    outcome_of,
    said_of,
    why_of,
)
from interlock.engine.ending import SECONDS_SPENT, WITHIN_PASSED, Ended
from interlock.engine.live_run import LiveRun
from interlock.engine.performing import escaped, perform
from interlock.engine.preemption import preempted
from interlock.engine.recorded import Log, RecordedClock, RecordedDesk, RecordedRun, recorded_world
from interlock.engine.world import World
from interlock.errors import ShapeChanged
from interlock.history import payloads
from interlock.history.events import (
    ApprovalRefused,
    AttemptFailed,
    Cancelled,
    Diverged,
    Event,
    RollbackBegun,
    RollbackGivenUp,
    Transitioned,
    Upgraded,
    WaitEnded,
    WaitOpened,
)
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.table import AnyMachine
from interlock.store.protocol import RunRow

Stretch = Sequence[tuple[int, Event]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay: how many turns were performed again, and where they first diverged, if they did."""

    run: str
    turns: int
    events: int
    divergence: Divergence | None = None
    since: int = 0  # the last upgrade: what came before it was other code's, and is taken as it is

    @property
    def ok(self) -> bool:
        return self.divergence is None

    def as_json(self) -> dict[str, Json]:
        found = self.divergence
        return {
            "ok": self.ok,
            "run": self.run,
            "turns": self.turns,
            "events": self.events,
            "since": self.since,
            "divergence": None if found is None else found.as_json(),
        }


def replay(world: World, machine: AnyMachine, row: RunRow, *, until: int | None = None) -> Replayed:
    """Perform a run's turns again on its record, up to event `until`. Calls nothing outside and writes nothing; the
    plain code of states does run. Raises `ShapeChanged` when the run has another shape than this machine."""
    if (row.machine, row.shape) != (machine.name, machine.shape):
        raise ShapeChanged(
            f"run {row.id} is of machine {row.machine}, shape {row.shape}; this {machine.name} has shape "
            f"{machine.shape}: replay it with the code that it was started with"
        )
    upto = row.seq if until is None else min(until, row.seq)
    stored = world.store.events(row.number, 1, upto)
    log = [payloads.event_in(each.body, world.store.payload) for each in stored]
    clock = RecordedClock()
    beside = recorded_world(world, clock, Log(stored, world.store.payload))

    async def all_turns() -> Replayed:
        run = RecordedRun(beside, machine, row, stored, log)
        return await _Replay(run, clock).turn_by_turn()

    return _beside_any_loop(lambda: run_virtually(all_turns(), clock))


def _beside_any_loop(work: Callable[[], Replayed]) -> Replayed:
    """Virtual time takes a loop of its own, and a thread has one loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    done: Future[Replayed] = Future()

    def elsewhere() -> None:
        try:
            done.set_result(work())
        except BaseException as raised:
            done.set_exception(raised)

    threading.Thread(target=elsewhere, name="interlock-replay", daemon=True).start()
    return done.result()


class _Replay:
    """One run led along its log."""

    def __init__(self, run: RecordedRun, clock: RecordedClock) -> None:
        self.run = run
        self.clock = clock
        self.turns = 0

    async def turn_by_turn(self) -> Replayed:
        run, found = self.run, None
        log = list(enumerate(run.log, start=1))
        since = max((seq for seq, event in log if isinstance(event, Upgraded)), default=0)
        before = max(since, 1)
        run.go_to(before)
        rest = log[before:]
        for _, turn in groupby(rest, lambda item: item[1].turn):
            found = await self._turn(list(turn))
            if found is not None:
                break
        return Replayed(run.id, self.turns, len(run.log), found, since)

    async def _turn(self, events: Stretch) -> Divergence | None:
        if self.run.state.rollback or self.run.ended:  # a person's doing, and no code's but that of tools
            self._take(events)
            return None
        self.turns += 1
        performed, at = False, 0
        if self._begins_with_a_person(events[0][1]):
            performed, at = True, 1
            self._take(events[:1])
        found = await self._question(events)
        if found is not None:
            return found
        for start, end in _ends(events, at):
            self._take(events[at:start])
            found = await self._compare(events[start:end], not performed)
            if found is not None:
                return found
            performed, at = True, end
        rest = events[at:]
        if not performed and rest:
            upto = _before_a_cancel(rest)
            self._take(rest[:upto])
            found, at = await self._open(rest), at + upto
        self._take(events[at:])
        return found if not performed else None

    def _begins_with_a_person(self, first: Event) -> bool:
        """Whether the turn was handed to a person before it began."""
        before = self.run.log[self.run.state.seq - 1]
        handed = isinstance(first, WaitOpened) and first.why == "escalated"
        return handed and isinstance(before, RollbackGivenUp | Upgraded)

    def _take(self, events: Stretch) -> None:
        for seq, event in events:
            self.run.take(seq, event)

    # -- a turn that ended --------------------------------------------------------------------------------------------

    async def _compare(self, end: Stretch, first: bool) -> Divergence | None:
        """Does the turn come to the end that is recorded? `first`: the code has not been performed for it yet."""
        run, (seq, last) = self.run, end[-1]
        ended = self._preempted(last)
        if _diverged(run):
            ended = ended or _as_recorded(last)
        elif first and (ended is None or self._desk().journal.left()):
            desk = self._desk()
            now = await self._entered(desk)
            left, more = desk.journal.left(), desk.asked or run.extra
            if now is not None and _comes_to(now, last) and not left and not more:
                ended = now
            elif left or (ended is None and not _is_of_time(last)):
                return self._differs(desk, now, seq, last)
            self._back()
        if ended is None and first:
            ended = _as_recorded(last)  # time did it
        if ended is None:
            return self._divergence(seq, f"nothing that is recorded ends the turn so: {said_of(last)}")
        return self._concluded(ended, end)

    def _preempted(self, last: Event) -> Ended | None:
        """What people, and limits but for time, make of the turn, if that is what is recorded."""
        ended = preempted(self.run, self._desk())
        self._back()
        return ended if ended is not None and _comes_to(ended, last) else None

    def _desk(self) -> RecordedDesk:
        run = self.run
        self.clock.set(run.log[run.state.seq - 1].at)
        run._accounted_at = self.clock.monotonic()
        return RecordedDesk(run)

    def _back(self) -> None:
        """Forget what was added beyond the record."""
        if self.run.extra:
            self.run.go_to(self.run.state.seq - len(self.run.extra))

    async def _entered(self, desk: RecordedDesk) -> Ended | None:
        """What the code makes of the turn; None: it doesn't come to an end on what is recorded."""
        run = self.run
        seconds = run.machine.row(run.state.state).state.within
        task = asyncio.create_task(perform(desk, None))
        await asyncio.wait({desk.over}, timeout=seconds)
        if isinstance(desk.stopped, Broken):
            raise desk.stopped.error
        if task.cancelled() and desk.stopped is None:
            return escaped()
        if task.done() and desk.stopped is None:
            return task.result()
        desk.leaving = True
        task.cancel()
        await asyncio.wait({task}, timeout=run.world.timing.cancel_grace)
        desk.close()
        return None

    def _concluded(self, ended: Ended, end: Stretch) -> Divergence | None:
        run, (seq, last) = self.run, end[-1]
        run.expected = list(end)
        try:
            conclude(run, ended)
        except Otherwise as other:
            return self._divergence(other.seq, contrast(other))
        if run.expected or run.extra:
            return self._divergence(seq, f"now ends otherwise than recorded: {last.TYPE} doesn't come of it")
        return None

    # -- what people and systems are asked ----------------------------------------------------------------------------

    async def _question(self, events: Stretch) -> Divergence | None:
        """Does an `ask` or `wait` state ask what is recorded? On the whole turn's journal it would ask nothing."""
        opened = next(((seq, w) for seq, w in events if isinstance(w, WaitOpened) and w.why in ("ask", "wait")), None)
        if opened is None:
            return None
        seq, recorded = opened
        now = await self._asked_anew()
        self._back()
        if now is None:
            return self._divergence(seq, f"the code now asks nobody; recorded is {asked_of(recorded)}")
        if [getattr(now, name) for name in QUESTION] == [getattr(recorded, name) for name in QUESTION]:
            return None
        if same(dict(now.form), dict(recorded.form)):
            return self._divergence(seq, f"the code now asks {asked_of(now)}; recorded is {asked_of(recorded)}")
        return self._divergence(seq, f"the code now takes other answers, or other fields, to {asked_of(recorded)}")

    async def _asked_anew(self) -> WaitOpened | None:
        await self._entered(self._desk())
        return next((event for event in self.run.extra if isinstance(event, WaitOpened)), None)

    # -- a turn that is open, or was cut short ------------------------------------------------------------------------

    async def _open(self, rest: Stretch) -> Divergence | None:
        run = self.run
        desk = self._desk()
        if not desk.journal.left() or _diverged(run):
            return None
        now = await self._entered(desk)
        left = desk.journal.left()
        found = self._differs(desk, now, *rest[-1]) if left else None
        self._back()
        return found

    # -- words --------------------------------------------------------------------------------------------------------

    def _divergence(self, seq: int, why: str) -> Divergence:
        state = self.run.state
        return Divergence(state.turn, seq, state.state, why)

    def _differs(self, desk: RecordedDesk, now: Ended | None, seq: int, last: Event) -> Divergence:
        left, asked = desk.journal.left(), desk.asked or desk.awaited
        if left:
            first = self._number_of(left[0])
            said = described(left[0])
            if asked:
                return self._divergence(first, f"the code now asks for {asked[0]}; recorded is {said}")
            return self._divergence(first, f"the code no longer asks for {said}")
        if asked:
            return self._divergence(seq, f"the code now asks for {asked[0]}; recorded is {said_of(last)}")
        if self.run.extra:
            return self._divergence(seq, f"the code now waits ({self.run.extra[0].TYPE}); recorded is {said_of(last)}")
        if now is None:
            return self._divergence(seq, f"the code now comes to no end; recorded is {said_of(last)}")
        return self._divergence(seq, f"the code now {ends_so(now)}; recorded is {said_of(last)}")

    def _number_of(self, event: Event) -> int:
        effect = getattr(event, "effect", None)
        return next(
            seq
            for seq, each in self.run.journal
            if each is event or (effect is not None and getattr(each, "effect", None) == effect)
        )


def _ends(events: Stretch, first: int) -> Iterator[tuple[int, int]]:
    """The stretches of a turn's events in which the engine concluded it: the hand-over to a person, the transition."""
    escalated = first > 0
    for at, (_, event) in enumerate(events):
        hands_over = isinstance(event, WaitOpened) and event.why == "escalated" and not escalated
        escalated = escalated or hands_over
        if hands_over or isinstance(event, Transitioned):
            start = at
            while start and _is_closing(events[start - 1][1]):
                start -= 1
            yield start, at + 1


def _is_closing(event: Event) -> bool:
    """Whether an event closes what a turn leaves open at its end."""
    if isinstance(event, WaitEnded):
        return event.how == "cancel" and event.reason == OF_ITS_TURN
    if isinstance(event, ApprovalRefused):
        return event.why.startswith(UNUSED)
    return isinstance(event, AttemptFailed) and event.kind == "abandoned"


def _before_a_cancel(events: Stretch) -> int:
    """How many events come before a cancellation or rollback, and before what it closed."""
    at = next((at for at, (_, event) in enumerate(events) if isinstance(event, Cancelled | RollbackBegun)), len(events))
    while 0 < at < len(events) and _closed_by_cancel(events[at - 1][1]):
        at -= 1
    return at


def _closed_by_cancel(event: Event) -> bool:
    return _is_closing(event) or (isinstance(event, WaitEnded) and event.how in ("cancel", "rollback"))


def _diverged(run: LiveRun) -> bool:
    """Whether the turn's divergence is in the record already: people know of it."""
    return any(isinstance(event, Diverged) for _, event in run.journal)


def _comes_to(ended: Ended, last: Event) -> bool:
    # A turn that comes to its end may then be found to be stalled.
    return outcome_of(last) in (ended.outcome, EngineOutcome.STALLED)


def _is_of_time(last: Event) -> bool:
    return why_of(last) in (WITHIN_PASSED, SECONDS_SPENT)


def _as_recorded(last: Event) -> Ended:
    """The end that the record has, where it wasn't the code's doing."""
    return Ended(outcome_of(last) or "", why=why_of(last))
