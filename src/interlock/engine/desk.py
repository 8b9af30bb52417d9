"""Desk: where one entry into a turn is worked at: the run, the turn's journal, and the ways to stop.

A turn may be entered several times (after a crash, a park, a takeover); each entry has a desk of its own. Stopping
never raises into the handler, which might swallow it: the effect that stops simply doesn't return, and the
orchestrator, told through `over`, cancels the handler. Knows no kind of effect and no kind of state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from msgspec.structs import replace

from interlock.engine.journal import Entry, Journal
from interlock.engine.live_run import LiveRun
from interlock.engine.world import World
from interlock.history.events import Diverged, Event, ValueNoted, WaitOpened

REPLAY_SECONDS = 5.0
"""How long a new effect waits for the handler to ask again for everything recorded, before that is a divergence: a
branch of it may work for a while (parse in a thread, say) between two recorded effects. At most half the time that the
turn has left, so that a divergence isn't taken for slowness."""

REPLAY_POLL_SECONDS = 0.05

ROUNDS = 8
"""Rounds of the loop between two recorded results of a turn entered again: a handler that waits for the first of
several takes some to go on."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The turn waits durably; a wait has been opened. It will be entered again."""


@dataclass(frozen=True, slots=True)
class Diverging:
    """The handler no longer asks for recorded effects. A person decides."""

    why: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The run can't be committed by us any more, or only after its mail is read."""

    error: Exception


Stop = Parked | Diverging | Broken


class Desk:
    """One entry into one turn. `live` False: a replay, in which nothing goes out and nothing is written. `unattended`:
    what is done here is nobody's turn, so nobody is asked about it."""

    live = True
    unattended = False
    draining: Callable[[], bool] = staticmethod(lambda: False)
    """Whether whoever works here wants to be rid of its runs: what may wait elsewhere isn't waited for here."""

    def __init__(self, run: LiveRun, world: World, deps: Any) -> None:
        self.run = run
        self.world = world
        self.deps = deps
        self.journal = Journal(run.journal)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped: Stop | None = None
        self.parking = False
        self._broken: Broken | None = None
        self.leaving = False  # the turn is being ended: what is cancelled from now on isn't the handler's doing
        self.closed = False
        self.alarm = 0  # what rings when its time is up, once that has been put off
        self.at_work: set[int] = set()  # effects that somebody in this entry is carrying out or clearing
        self._under_way = 0
        self._settlement: list[asyncio.Future[None]] = []
        self._early: list[asyncio.Future[None]] = []
        self._ordered_until: float | None = None
        self._ordered = True
        self._sleeps: dict[str, int] = {}

    def add(self, event: Event) -> None:
        """Take in one fact, for the run and for this turn's journal."""
        if self.closed:  # a task that a handler left behind: its turn is over
            raise asyncio.CancelledError
        self.journal.take_in(*self.run.add(event))

    @property
    def takes_more(self) -> bool:
        """While it parks, others of this entry may still open waits: nothing is broken, and nobody is cancelled yet."""
        broken = self._broken is not None or isinstance(self.stopped, Diverging | Broken)
        return not (broken or self.leaving or self.closed)

    # -- stopping ---------------------------------------------------------------------------------------------------

    async def break_off(self, error: Exception, *, settled: bool = False) -> NoReturn:
        """Stop this entry: nothing more can be committed by it. `settled`: but first let the attempts under way end;
        what they bring will be saved."""
        self.parking, self._broken = True, Broken(error)
        if settled:
            self._stop_if_idle()
        else:
            self._end(self._broken)
        await self.never()

    async def park(self) -> NoReturn:
        """Stop this entry once every attempt under way has ended; a wait is open."""
        self.parking = True
        self._stop_if_idle()
        await self.never()

    async def diverge(self, why: str) -> NoReturn:
        """Stop this entry: what it asks for isn't what was recorded."""
        self.add(Diverged(effects=self.journal.unasked, why=why))
        self._end(Diverging(why))
        await self.never()

    async def unrecorded(self, asked: Any, number: int) -> NoReturn:
        """What a replay does about an attempt that isn't in the record: nothing, for ever."""
        await self.never()

    async def never(self) -> NoReturn:
        """Wait to be cancelled, whatever tries to keep us."""
        while True:
            await asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """This entry is over; whatever still runs on it changes nothing any more."""
        self.closed = True

    def wind_up(self) -> None:
        """There is something to see to: the handler is done, its time is up, or this entry has stopped."""
        if not self.over.done():
            self.over.set_result(None)

    def _end(self, stop: Stop) -> None:
        if self.stopped is None:
            self.stopped = stop
            self.wind_up()

    def _stop_if_idle(self) -> None:
        if self.parking and self._under_way == 0:
            self._end(self._broken or Parked())

    # -- attempts under way -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._under_way += 1

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return self._under_way > 0

    def done(self) -> None:
        """An attempt has ended: those who wait for held money look again."""
        self._under_way -= 1
        self.wake()
        self._stop_if_idle()

    def wake(self) -> None:
        """Let everybody look again who waits for others."""
        waiting, self._settlement = self._settlement, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def settlement(self) -> None:
        """Until the next attempt under way ends, or the next doubt is done with."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settlement.append(future)
        await future

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def until(self, at_ms: int, why: str, effect: int) -> None:
        """Wait until `at_ms`: here when it is soon, else durably, the worker free."""
        seconds = (at_ms - self.run.now) / 1000
        if seconds <= 0:
            return
        left = self.run.turn_seconds_left()
        # Clearing a doubt can't be hurried, so it must not cost the turn the time it has; a back-off does.
        outlasts = why == "doubt" and left is not None and seconds + self.run.since_last_event_ms() / 1000 >= left
        if seconds <= self.world.timing.park_after and not outlasts:
            await asyncio.sleep(seconds)
            return
        if not any(opened.effect == effect and ended is None for opened, _, ended in self.journal.waits.values()):
            self.open_wait(WaitOpened(wait=0, kind="time", why=why, state="", effect=effect, due=at_ms))
        await self.park()

    def open_wait(self, event: WaitOpened) -> int:
        """Open a durable wait of this turn; numbers it and names the state."""
        state = self.run.state
        number = state.waits + 1
        self.add(replace(event, wait=number, state=state.state))
        return number

    # -- what was recorded ------------------------------------------------------------------------------------------

    async def replayed(self) -> None:
        """Before anything new: until the handler has asked again for all that was recorded. What was recorded can
        only depend on recorded results, so a handler that doesn't ask has changed."""
        self._refuse_if_leaving()
        if self.journal.unasked:  # seldom
            await self._replay()

    def _refuse_if_leaving(self) -> None:
        if self.leaving:  # a handler's clean-up: entered again, the turn wouldn't ask for it
            raise asyncio.CancelledError

    async def _replay(self) -> None:
        now, left = asyncio.get_running_loop().time, self.run.turn_seconds_left()
        until = now() + (REPLAY_SECONDS if left is None else min(REPLAY_SECONDS, left / 2))
        pause = 0.0
        while self.journal.unasked:
            if now() >= until:
                await self.diverge("the handler asks for something new and no longer for what is recorded")
            await asyncio.sleep(pause)
            pause = min(2 * pause + 0.001, REPLAY_POLL_SECONDS)
            self._refuse_if_leaving()

    def ask(self, digest: str) -> Entry | None:
        """The recorded effect that answers this request, if the turn asked for it before."""
        entry = self.journal.ask(digest)
        if self._early:
            self._look_again()
        return entry

    async def in_order(self, seq: int) -> None:
        """Return when it is the turn of event `seq`: recorded results come in the order in which they came, each after
        what was asked for before it, so that a handler that asks side by side goes the way that it went."""
        if self._ordered and self.journal.is_early(seq):
            await self._in_order(seq)
        self.journal.to_come.discard(seq)
        if self._early:
            self._look_again()

    async def _in_order(self, seq: int) -> None:
        while self._ordered and self.journal.is_early(seq):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._early.append(future)
            try:
                async with asyncio.timeout_at(self._order_ends()):
                    await future
            except TimeoutError:  # the code is another: it is told as soon as it asks
                self._ordered = False
                self._look_again()
                return
            for _ in range(ROUNDS):  # what came before is taken in first
                await asyncio.sleep(0)

    def _order_ends(self) -> float | None:
        """On the loop's clock. As long as a divergence is waited for, over all of this entry."""
        if self._ordered_until is None:
            left = self.run.turn_seconds_left()
            seconds = REPLAY_SECONDS if left is None else min(REPLAY_SECONDS, left / 2)
            self._ordered_until = asyncio.get_running_loop().time() + seconds
        return self._ordered_until

    def _look_again(self) -> None:
        waiting, self._early = self._early, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def note(self, kind: str, digest: str, value: Any) -> Any:
        """A value of time or chance: recorded the first time, the recorded one ever after."""
        recorded = self.journal.note(digest)
        if recorded is not None:
            await self.in_order(recorded[0])
            return recorded[1].value
        await self.replayed()
        self.add(ValueNoted(digest=digest, kind=kind, value=value))
        return value

    async def sleep(self, seconds: float, digest: str) -> None:
        """A durable sleep."""
        ordinal = self._sleeps.get(digest, 0)
        self._sleeps[digest] = ordinal + 1
        noted = self.journal.note(digest)
        if noted is not None:
            await self.in_order(noted[0])
            return
        waits = [w for w in self.journal.waits.values() if w[0].digest == digest]
        if ordinal >= len(waits):
            await self.replayed()
            await self._sleep_anew(seconds, digest)
        elif waits[ordinal][2] is None:
            await self.park()

    async def _sleep_anew(self, seconds: float, digest: str) -> None:
        if seconds <= self.world.timing.park_after:
            await asyncio.sleep(seconds)
            self.add(ValueNoted(digest=digest, kind="sleep"))
            return
        due = self.run.now + int(seconds * 1000)
        self.open_wait(WaitOpened(wait=0, kind="time", why="sleep", state="", digest=digest, due=due))
        await self.park()
