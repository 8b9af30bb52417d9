"""Rollback: return a run to where an earlier turn began. A control move of several commits, each of which may be the
last that a worker makes: whoever takes the run next goes on from the log.

    begin (from the inbox) > doubts cleared > deeds taken back, newest first > rolled back, or given up by a person

It is a turn of its own, so what it does is found in its journal like any turn's. What is restored is read off the log.
"""

from __future__ import annotations

from functools import cache
from typing import NoReturn

from msgspec import to_builtins
from pydantic import ValidationError

from interlock.canonical import Json, decode, encode
from interlock.engine import approvals
from interlock.engine.abandoning import abandon
from interlock.engine.desk import Desk
from interlock.engine.live_run import LiveRun
from interlock.engine.parked import is_parked
from interlock.engine.people import RETRY, escalation
from interlock.engine.record import load_record
from interlock.engine.undo import Undoing, undo_name
from interlock.errors import BadInput, EffectFailed
from interlock.history import events as e
from interlock.history.deeds import Deed, Log, Plan, deeds_of, plan
from interlock.history.fold import RunState, record_of, walk
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import Row
from interlock.store.protocol import InboxItem

ACCEPT, GIVE_UP = "accept", "give_up"


# -- the beginning ---------------------------------------------------------------------------------------------------


def begin(run: LiveRun, item: InboxItem) -> None:
    """Take in a person's order. What no longer fits it, it changes nothing; the log says why."""
    body = item.body
    to, accept, said = int(body["to"]), [int(n) for n in body["accept"]], {"by": body["by"]}
    try:
        found = _planned(run, to, accept)
    except BadInput as refused:
        run.add(e.AnswerDropped(kind=item.kind, body=body, why=str(refused), inbox=item.id))
        return
    abandon(run, f"rolled back to turn {to}")
    approvals.void(run, "rolled back")
    _close_waits(run, body["by"])
    run.add(
        e.RollbackBegun(
            to=to,
            undo=tuple(deed.effect for deed in found.undo),
            accept=tuple(deed.effect for deed in (*found.stays, *found.doubts) if deed.effect in accept),
            doubts=tuple(deed.effect for deed in found.doubts),
            reason=body.get("reason", ""),
            inbox=item.id,
            **said,
        )
    )


def _planned(run: LiveRun, to: int, accept: list[int]) -> Plan:
    if run.state.rollback:
        raise BadInput(f"a rollback to turn {run.state.rollback[0]} is under way")
    if is_parked(run.state):
        raise BadInput("the store was restored: resume the run first")
    found = plan(_log(run), to)
    found.check_accepted(accept)
    _check_fits(run, found.then)
    return found


def _check_fits(run: LiveRun, then: RunState) -> None:
    """Raises `BadInput` when the machine, as it is now, can't stand where the run stood then."""
    if not isinstance(run.machine.table.get(then.state), Row):
        raise BadInput(f"this machine has no state `{then.state}` any more")
    try:
        load_record(run.machine.record, _values(run, then))
    except ValidationError as wrong:
        raise BadInput(f"the record of then isn't one any more: {wrong.error_count()} fields don't fit") from None


def _values(run: LiveRun, then: RunState) -> dict[str, Json]:
    body_at = cache(lambda seq: e.to_json(run.event_at(seq)))  # many cells point into one event
    return record_of(then.cells, lambda seq, path: walk(body_at(seq), path))


def _log(run: LiveRun) -> Log:
    return list(enumerate(reversed(list(run.history())), start=1))


def _close_waits(run: LiveRun, by: str) -> None:
    for number in list(run.state.waiting):
        run.add(e.WaitEnded(wait=int(number), how="rollback", by=by))


# -- the way back ----------------------------------------------------------------------------------------------------


async def roll_back(desk: Desk) -> None:
    """Go on with a rollback that has begun, until it is done, given up, or waits for somebody."""
    await _Rollback(desk).carry_out()


class _GivenUp(Exception):
    def __init__(self, deed: Deed, said: e.WaitEnded) -> None:
        super().__init__(deed.effect)
        self.deed, self.said = deed, said


class _Rollback:
    """One entry into a rollback."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.run = desk.run
        begun = self.run.event_at(self.run.state.rollback[1])
        assert isinstance(begun, e.RollbackBegun)
        self.begun = begun
        self.undone: list[int] = []
        self.left: list[int] = []

    async def carry_out(self) -> None:
        try:
            await self._clear_doubts()
            for deed in self._standing():
                await self._take_back(deed)
        except _GivenUp as given_up:
            self._give_up(given_up)
        else:
            self._return()
        await self.run.durable()

    def _look(self) -> None:
        """Read the log anew: what an entry before this one, or the mail, has changed."""
        log = _log(self.run)
        self.then = plan(log, self.begun.to).then
        self.deeds = deeds_of(log)
        self.effects = Undoing(self.desk, self.deeds)

    async def _clear_doubts(self) -> None:
        """Of the turns that are undone, and of an earlier rollback's own effects; the others stay what they are."""
        self._look()
        for number, (*_, seq) in list(self.run.state.doubts.items()):
            intent = self.run.event_at(seq)
            assert isinstance(intent, e.ToolCalled)  # models are never in doubt
            about = self.deeds[intent.undoes or int(number)]
            ours = int(number) in self.desk.journal.entries and not self.desk.journal.entries[int(number)].left_behind
            if about.seq > self.then.turn_seq and not ours:
                await self.effects.clear(int(number))
        self._look()

    def _standing(self) -> list[Deed]:
        """What is to be taken back or accepted, newest first; also what this rollback has taken back already."""
        since, begun = self.then.turn_seq, self.run.state.rollback[1]
        return [
            deed
            for deed in reversed(self.deeds.values())
            if deed.seq > since and deed.done and not deed.accepted and not 0 < deed.undone < begun
        ]

    # -- one deed -----------------------------------------------------------------------------------------------------

    async def _take_back(self, deed: Deed) -> None:
        if deed.effect in self.begun.accept:
            self.left.append(deed.effect)
            return
        time = 1
        while not self._decided(deed):
            try:
                if not deed.undo:
                    raise EffectFailed(EngineOutcome.ERROR, f"{deed.tool} can't be undone")
                self._check_survivable()
                await self.effects.undo(deed, time)
                self.undone.append(deed.effect)
                return
            except EffectFailed as failed:
                await self._ask(deed, time, failed)
            time += 1

    def _decided(self, deed: Deed) -> bool:
        """Whether a person said that it stays. Raises `_GivenUp`."""
        asked = self._last_asked(deed)
        said = asked[2] if asked is not None else None
        if said is not None and said.outcome == GIVE_UP:
            raise _GivenUp(deed, said)
        if said is not None and said.outcome == ACCEPT:
            self.left.append(deed.effect)
            return True
        return False

    async def _ask(self, deed: Deed, time: int, failed: EffectFailed) -> None:
        """Return when a person has said `retry` to a try that is over and surely did nothing: the next one is another
        effect. Else ask, and wait: what may have happened is tried on under its own key."""
        asked, tried = self._last_asked(deed), self.effects.tried(deed, time)
        if asked is not None and asked[2] is None:
            await self.desk.park()
        over = tried is not None and not tried.under_way and not self.effects.in_doubt(tried)
        if asked is not None and tried is not None and over and asked[1] > tried.seq:
            return
        await self._open(deed, failed)

    async def _open(self, deed: Deed, failed: EffectFailed) -> NoReturn:
        can = [RETRY] if deed.undo else []
        self.desk.open_wait(
            e.WaitOpened(
                wait=0,
                kind="person",
                why="undo",
                state="",
                of="operator",
                outcome=failed.outcome,
                prompt=f"effect {deed.effect}, {deed.tool}, could not be taken back: {failed}"[:500],
                effect=deed.effect,
                form={choice: {} for choice in (*can, ACCEPT, GIVE_UP)},
            )
        )
        await self.desk.park()

    def _last_asked(self, deed: Deed) -> tuple[e.WaitOpened, int, e.WaitEnded | None] | None:
        waits = [w for w in self.desk.journal.waits.values() if w[0].why == "undo" and w[0].effect == deed.effect]
        return waits[-1] if waits else None

    def _check_survivable(self) -> None:
        """Raises `EffectFailed` when the last attempts took their workers down, until a person says to try again."""
        fallen = 0
        for _, event in self.run.journal:
            if isinstance(event, e.WaitEnded):
                fallen = 0
            fallen += isinstance(event, e.TakenOver)
        if fallen >= self.run.world.timing.takeovers:
            raise EffectFailed(EngineOutcome.ERROR, f"this rollback took down {fallen} workers")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _return(self) -> None:
        then = self.then
        _close_waits(self.run, self.begun.by)
        self.desk.add(
            e.RolledBack(
                to=self.begun.to,
                since=then.turn_seq,
                state=then.state,
                cells={
                    name: [[p.item, p.seq, list(p.path), p.origin] for p in pointers]
                    for name, pointers in then.cells.items()
                },
                threads=to_builtins(then.threads),
                prints=decode(encode(then.prints)),
                signals=self._signals(),
                wrapping=then.wrapping,
                undone=tuple(self.undone),
                accepted=tuple(self.left),
            )
        )

    def _signals(self) -> dict[str, Json]:
        """Signals are facts from outside: those that came since have come, those taken since are there again."""
        arrived = {name: list(seqs) for name, seqs in self.then.signals.items()}
        for seq, event in _log(self.run):
            if seq > self.then.turn_seq and isinstance(event, e.SignalArrived):
                arrived.setdefault(event.name, []).append(seq)
        return arrived

    def _give_up(self, given_up: _GivenUp) -> None:
        """The turn begins anew in its state, and is a person's at once: what it relied on may be undone."""
        deed, said = given_up.deed, given_up.said
        _close_waits(self.run, said.by)
        self.desk.add(
            e.RollbackGivenUp(
                to=self.begun.to, effect=deed.effect, undone=tuple(self.undone), by=said.by, reason=said.reason
            )
        )
        undone = ", ".join(str(number) for number in self.undone) or "nothing"
        why = f"the rollback to turn {self.begun.to} was given up at {undo_name(deed.tool)}; undone: {undone}"
        row = self.run.machine.row(self.run.state.state)
        self.desk.open_wait(escalation(row, self.run, EngineOutcome.ERROR, why))
