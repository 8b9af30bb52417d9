"""Effects: once for all kinds, how one is permitted, intended, performed, settled, retried, and had again.

    ask the journal > permit (breaker, hold) > commit the intent > perform > record the result
                                                                            else: failed > doubt, retry, fallback

The loop of `carry_out` reads the effect's journal entry and does what is missing, so a first entry into a turn and
one after a crash take the same path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NoReturn

from interlock.canonical import Json
from interlock.engine import approvals, doubts, fallbacks, passages
from interlock.engine.attempts import AttemptError, Effect, Sending, ToolEffect, unsent
from interlock.engine.desk import REPLAY_POLL_SECONDS, Desk
from interlock.engine.journal import Entry, Result
from interlock.engine.live_run import Interrupted, leave_evidence
from interlock.engine.prospects import lead, leads
from interlock.engine.queue import Place, take_place
from interlock.errors import BadInput, EffectFailed, StaleLease, StoreError
from interlock.history.events import AttemptFailed, DoubtCleared, Event, ToolCalled, WaitOpened, Warned
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import CodeState, ModelState, UseState
from interlock.machine.table import AnyMachine
from interlock.machine.tools import Tool, Way
from interlock.policy.accounts import Admission, Hold, ended_by_warning, left, overruns, warned, warnings_due
from interlock.policy.retry import RETRY_AFTER_MAX, delay_seconds

_OUTCOME_OF_FAILURE: Mapping[str, str] = {
    "overflow": EngineOutcome.OVERFLOW,
    "quota": EngineOutcome.UNAVAILABLE,
    "auth": EngineOutcome.UNAVAILABLE,
    "rejected": EngineOutcome.ERROR,
    "not_done": EngineOutcome.ERROR,
    "tool_error": EngineOutcome.ERROR,
    "oversize": EngineOutcome.ERROR,
    "unset": EngineOutcome.UNAVAILABLE,
    "changed": EngineOutcome.DENIED,
    "vanished": EngineOutcome.DENIED,
    "malformed": EngineOutcome.ERROR,
    "bug": EngineOutcome.ERROR,
}
"""What a failure that isn't tried again makes of its turn; any other ends `retries_spent`."""

_SAID = {"nanousd": "the money", "tokens": "the tokens"}


class Effects:
    """The effects of one entry into a turn. At most `calls_max` of them."""

    def __init__(self, desk: Desk, calls_max: int) -> None:
        self.desk = desk
        self.run = desk.run
        self.world = desk.world
        self._calls_left = calls_max
        self._places: dict[int, Place] = {}

    async def carry_out(self, effect: Effect) -> Entry:
        """The effect's journal entry with its result: recorded earlier, or had now. Raises `EffectFailed`."""
        self._calls_left -= 1
        if self._calls_left < 0:
            raise EffectFailed(EngineOutcome.LIMIT_REACHED, "the turn asked for more effects than its state declares")
        entry = self.desk.ask(effect.digest)
        if entry is None:
            if self.desk.leaving or self.desk.journal.unasked:  # seldom
                await self.desk.replayed()
        elif entry.result is not None:
            await self.desk.in_order(entry.result_seq)
            return entry
        elif entry.prevented is not None:
            raise EffectFailed(entry.prevented.outcome, entry.prevented.why)
        number = self.run.next_effect() if entry is None else entry.effect
        try:
            self.desk.at_work.add(number)
            try:
                entry = entry or await self._try(effect, number, 1)
                return entry if entry.result is not None else await self._go_on(effect, entry)
            finally:
                self.desk.at_work.discard(number)
                self.desk.wake()
        except (StaleLease, Interrupted, StoreError) as broken:
            # What is under way beside it is paid for: it is saved, or left for whoever holds the run now.
            await self.desk.break_off(broken, settled=not isinstance(broken, StoreError))

    async def see_through(self, effect: Effect, number: int, entry: Entry | None) -> Entry:
        """The same for an effect that no handler asks for. Raises `EffectFailed`, and what makes an entry break off."""
        self.desk.at_work.add(number)
        try:
            return await self._go_on(effect, entry or await self._try(effect, number, 1))
        finally:
            self.desk.at_work.discard(number)
            self.desk.wake()

    async def _go_on(self, effect: Effect, entry: Entry) -> Entry:
        while entry.result is None:
            if not entry.begun:
                await self._begin_approved(effect, entry)
            elif entry.under_way:
                if not self.desk.live:  # as it was when the turn ended
                    await self.desk.never()
                self._lose(entry, effect)
            elif await self._may_try_again(effect, entry):
                await self._try(effect, entry.effect, entry.intent.attempt + 1)
        return entry

    async def _begin_approved(self, effect: Effect, entry: Entry) -> None:
        if isinstance(effect, ToolEffect):  # none else is ever asked about
            approvals.answer_binds(self.desk, effect, entry.effect)
        approvals.check_not_refused(self.desk, entry.effect)
        if self.desk.leaving or self.desk.journal.unasked:
            await self.desk.replayed()
        if approvals.some_refused(self.desk):  # whoever hears a no may end the turn, before anything else begins
            await asyncio.sleep(REPLAY_POLL_SECONDS)
        await self._try(effect, entry.effect, 1)

    async def _may_try_again(self, effect: Effect, entry: Entry) -> bool:
        """After a failed attempt: its doubt cleared, its back-off over. Raises `EffectFailed` when it was the last."""
        failure = entry.failure
        assert failure is not None  # neither under way nor done: it failed
        if failure.doubt and entry.cleared is None:
            assert isinstance(effect, ToolEffect)  # only tools are ever in doubt
            return await doubts.clear(self.desk, effect, entry)
        if failure.final:
            raise EffectFailed(self._outcome(entry, failure), failure.message)
        if failure.retry_at is not None:
            await self.desk.until(failure.retry_at, "retry", entry.effect)
        return True

    def _outcome(self, entry: Entry, failure: AttemptFailed) -> str:
        """What an effect's last failure makes of its turn."""
        if any(tried.kind in fallbacks.REFUSING for tried in entry.tried):
            return EngineOutcome.UNAVAILABLE  # also where retries are spent at another
        outcome = _OUTCOME_OF_FAILURE.get(failure.kind, EngineOutcome.RETRIES_SPENT)
        spent = 1 < self.run.machine.limits.attempts <= entry.tries
        return EngineOutcome.RETRIES_SPENT if spent and outcome == EngineOutcome.ERROR else outcome

    # -- permit -----------------------------------------------------------------------------------------------------

    def _permitted(self, effect: Effect) -> Hold | None:
        """The hold of an attempt that nothing stands in the way of; that is mostly so. None: see `_permit`."""
        desk, state = self.desk, self.run.state
        if desk.parking or desk.leaving or state.doubts or state.open or warned(state):
            return None
        if effect.unapproved or effect.limited:
            return None
        if self.world.breakers.troubled:
            return None
        hold = effect.hold(self.run)
        return hold if isinstance(hold, Hold) else None

    async def _permit(self, effect: Effect, number: int, attempt: int) -> Hold:
        """The hold of an attempt, once what stands in its way is out of it. Raises `EffectFailed` if that can't be."""
        while True:
            if self.desk.parking:
                if isinstance(effect, ToolEffect) and effect.unapproved and self.desk.takes_more:
                    approvals.ask(self.desk, effect, number)  # while others are asked too
                await self.desk.never()
            if self.desk.leaving:  # a task that a handler left behind: the turn has ended
                raise asyncio.CancelledError
            if warned(self.run.state) and not self.desk.unattended:
                await self._hand_over(effect, number)
            if isinstance(effect, ToolEffect) and (self.run.state.doubts or self.run.state.open):
                await self._clear_others(effect.name, number)
            if isinstance(effect, ToolEffect) and effect.unapproved:
                await approvals.seek(self.desk, effect, number)
            chosen = passages.choose(self.desk, effect, number)
            hold = effect.hold(self.run)
            if isinstance(hold, Hold):
                # Asked again after the waiting: what was permitted before it may not be any more.
                if chosen.probes:
                    await passages.ask_for_probe(self.desk, effect)
                elif isinstance(effect, ToolEffect) and effect.limited and not self._has_place(number):
                    self._places[number] = await take_place(self.desk, effect.tool, number, attempt)
                else:
                    return hold
            elif hold == Admission.HELD:
                await self.desk.settlement()
            elif hold == Admission.CALLS:
                self._refuse(effect, number, EngineOutcome.LIMIT_REACHED, "the run's calls are used up")
            else:
                why = f"{effect.name} doesn't fit what the account has left"
                self._refuse(effect, number, EngineOutcome.BUDGET_SPENT, why)

    def _refuse(self, effect: Effect, number: int, outcome: str, why: str) -> NoReturn:
        passages.prevent(self.desk, effect, number, outcome, why)

    def _has_place(self, number: int) -> bool:
        """Whether a place is reserved for it, with time left to send. A replay sends nothing, and takes none."""
        if not self.desk.live:
            return True
        place = self._places.get(number)
        return place is not None and self.world.clock.boottime() + self.world.timing.send_window / 2 < place.send_before

    async def _hand_over(self, effect: Effect, number: int) -> None:
        if ended_by_warning(self.run.state):
            why = f"{self.run.state.warn_at:.0%} is spent"
            self._refuse(effect, number, EngineOutcome.BUDGET_SPENT, why)
        due = list(warnings_due(self.run.state))
        for dimension, spent, ceiling in due:
            self.desk.add(Warned(dimension=dimension, spent=spent, ceiling=ceiling))
        share = f"{self.run.state.warn_at:.0%} of {' and '.join(_SAID[dimension] for dimension, _, _ in due)} is spent"
        if self.run.state.on_warn == "end":
            self._refuse(effect, number, EngineOutcome.BUDGET_SPENT, share)
        form: dict[str, Json] = {"go_on": {}, "end": {}}
        self.desk.open_wait(
            WaitOpened(
                wait=0,
                kind="person",
                why="budget",
                state="",
                of="operator",
                prompt=share,
                form=form,
                leads={
                    "go_on": lead(self.run, "", max(0, left(self.run.state, "nanousd"))),
                    **leads(self.run, {"end": EngineOutcome.BUDGET_SPENT}),
                },
            )
        )
        await self.desk.park()

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _try(self, effect: Effect, number: int, attempt: int) -> Entry:
        if attempt > 1 and isinstance(effect, ToolEffect):
            approvals.cover(effect, self.desk.journal.entries.get(number))
        # What failed before may have to be done by another.
        hold = (self._permitted(effect) if attempt == 1 else None) or await self._permit(effect, number, attempt)
        if not self.desk.live:
            await self.desk.unrecorded(effect, number)
        self.desk.begin()
        try:
            clock, window = self.world.clock, self.world.timing.send_window
            if number in self._places:  # sent while the place is ours, or not at all
                assert isinstance(effect, ToolEffect)  # only tools have places
                place = self._places.pop(number)
                effect.reserved_at, window = place.at, max(0.0, place.send_before - clock.boottime())
            sending = Sending(clock, clock.boottime() + window)
            if str(number) in self.run.state.doubts:  # in one commit with the repeat: neither is without the other
                reason = "done again under its key"
                self.desk.add(DoubtCleared(effect=number, way=Way.KEY, happened=False, reason=reason))
            self.desk.add(effect.intent(number, attempt, hold, int(window * 1000)))
            effect.probing = 0
            entry = self.desk.journal.entries[number]
            await self.run.durable()
            await self._perform(effect, entry, hold, sending)
        finally:
            self.desk.done()
        if effect.way != Way.REPEAT or effect.limited:
            await self.run.durable()
            if effect.limited:
                self.world.lines.freed(effect.name)
        return entry

    async def _perform(self, effect: Effect, entry: Entry, hold: Hold, sending: Sending) -> None:
        try:
            if self.desk.closed:  # its turn ended while its intent was on its way
                raise asyncio.CancelledError
            with self.run.alarms.within(effect.timeout):
                result = await effect.perform(self.run, entry.effect, entry.intent.attempt, hold, sending)
        except TimeoutError:
            late = AttemptError("timeout", f"no answer within {effect.timeout:g} s", True)
            self._record_failure(entry, effect, hold.tokens, hold.nanousd, unsent() if sending.give_up() else late)
        except AttemptError as failed:
            self._record_failure(entry, effect, hold.tokens, hold.nanousd, failed)
        except asyncio.CancelledError:
            given_up = AttemptError("cancelled", "the handler didn't wait for it", True)
            never_sent = sending.give_up()
            if self.desk.leaving and not never_sent:
                passages.cut_off(self.desk, entry)
            if not self.desk.closed and (never_sent or not self.desk.leaving):  # else it is abandoned with its turn
                self._record_failure(entry, effect, hold.tokens, hold.nanousd, unsent() if never_sent else given_up)
            raise
        else:
            passages.tell(self.desk, entry)
            try:
                self._take(result)
            except BadInput as wrong:  # a reply that nobody could read
                bug = AttemptError("bug", str(wrong), False, True)
                self._record_failure(entry, effect, hold.tokens, hold.nanousd, bug)
        for overrun in overruns(self.run.state, entry.effect):
            self.desk.add(overrun)

    def _take(self, result: Result) -> None:
        if self.desk.closed:  # it came in spite of its cancellation, after its turn
            leave_evidence(self.world, self.run.id, self.run.fence, result)
            raise asyncio.CancelledError
        if isinstance(self.run.broken, StaleLease):
            leave_evidence(self.world, self.run.id, self.run.fence, result)
            raise self.run.broken
        self.desk.add(result)
        self.run.soon()

    def _lose(self, entry: Entry, effect: Effect | None = None) -> None:
        """The attempt's worker is gone, and with it the result: its worst case is charged until more is known."""
        held = self.run.state.open.get(str(entry.effect), [0, "", "", 0, 0, 0])
        lost = AttemptError("lost", "its worker went away", True)
        self._record_failure(entry, effect, held[3], held[4], lost)

    def _record_failure(
        self, entry: Entry, effect: Effect | None, tokens: int, nanousd: int, failed: AttemptError
    ) -> None:
        unknown = failed.happened is None or (entry.repeats_doubt and not failed.sent)  # what it was to repeat still is
        doubt = unknown and getattr(entry.intent, "way", Way.REPEAT) != Way.REPEAT
        last = entry.tries >= self.run.machine.limits.attempts
        bearable = failed.retry_after is None or failed.retry_after <= RETRY_AFTER_MAX  # and no NaN
        delay = delay_seconds(entry.tries, self.world.chance, failed.retry_after)
        if self.desk.unattended:  # nobody's turn waits for it: a person may have it done again later
            bearable = bearable and delay <= self.world.timing.park_after
        others = effect is not None and fallbacks.others_left(effect, entry, failed)
        if others:  # rather another than a run that is parked for as long as this one asks to be left alone
            bearable = bearable and (failed.retry_after or 0.0) <= self.world.timing.park_after
        again = failed.retry and not last and bearable
        final = not again and not others
        passages.tell(self.desk, entry, failed)
        self.desk.add(
            AttemptFailed(
                effect=entry.effect,
                attempt=entry.intent.attempt,
                kind=failed.kind,
                message=failed.message[:500],
                sent=failed.sent,
                doubt=doubt,
                tokens=tokens if failed.billed else 0,
                nanousd=nanousd if failed.billed else 0,
                retry_at=self.run.now + int(delay * 1000) if again else None,
                final=final,
                dead=final and not doubt and _may_be_dead(entry.intent) and _is_dead(failed),
            )
        )
        self.run.soon()

    # -- doubts of other calls --------------------------------------------------------------------------------------

    async def leave_nothing_in_doubt(self) -> None:
        """Before the run completes: what a handler's tasks have under way ends first, then every doubt is cleared."""
        while under_way := [int(n) for n, (_, _, way, *_) in self.run.state.open.items() if way != Way.REPEAT]:
            if self.desk.at_work.intersection(under_way):
                await self.desk.settlement()
                continue
            for number in under_way:  # its task was cancelled between the intent and the sending
                self._lose(self.desk.journal.entries[number])
        await self.clear_left_behind(ask=True)

    async def _clear_others(self, tool_name: str, number: int) -> None:
        # A repeat under its own key is no new call; and two such would wait for each other.
        if str(number) not in self.run.state.doubts:
            await self.clear_left_behind(tool_name, but=number)

    async def clear_left_behind(self, tool_name: str | None = None, *, but: int = 0, ask: bool = False) -> None:
        """Clear doubts that nobody is clearing (of one tool, or all) and wait for the others: before it is called anew,
        or the run completes. `ask`: what else can't be cleared is asked about, whatever the row says of doubts."""
        while (number := self._in_doubt(tool_name, but)) is not None:
            if number in self.desk.at_work:
                await self.desk.settlement()
                continue
            self.desk.at_work.add(number)
            try:
                await self._clear_one_left_behind(number, ask)
            finally:
                self.desk.at_work.discard(number)
                self.desk.wake()

    def _in_doubt(self, tool_name: str | None, but: int) -> int | None:
        state, entries = self.run.state, self.desk.journal.entries
        under_way = [n for n in state.open if int(n) in entries and entries[int(n)].left_behind]
        for number, (_, name, *_) in [*state.doubts.items(), *((n, state.open[n]) for n in under_way)]:
            if int(number) != but and tool_name in (None, name):
                return int(number)
        return None

    async def _clear_one_left_behind(self, number: int, ask: bool) -> None:
        entry = self._entry_of_doubt(number)
        if entry.under_way:
            self._lose(entry)
        intent = entry.intent
        assert isinstance(intent, ToolCalled)  # models are never in doubt
        effect = self.effect_again(intent)
        if effect is None:
            await doubts.ask_person(self.desk, entry, None)
        try:
            if await doubts.clear(self.desk, effect, entry):
                await self._repeat(effect, entry)
        except EffectFailed:
            if not ask:
                raise
            await doubts.ask_person(self.desk, entry, effect.tool)

    def effect_again(self, intent: ToolCalled) -> ToolEffect | None:
        """The effect of an earlier turn's intent. None: its tool is gone since a deploy."""
        tool = tools_of(self.run.machine).get(intent.tool)
        if tool is None:
            return None
        deps, offload = self.desk.deps, self.world.offload
        return ToolEffect(tool, intent.args, deps, offload, digest=intent.digest, approval=intent.approval)

    async def _repeat(self, effect: ToolEffect, entry: Entry) -> Entry:
        return await self._try(effect, entry.effect, entry.intent.attempt + 1)

    def _entry_of_doubt(self, number: int) -> Entry:
        known = self.desk.journal.entries.get(number)
        if known is None:
            intent = self.run.event_at(self.run.state.doubts[str(number)][-1])
            assert isinstance(intent, ToolCalled)
            last = intent.attempt >= self.run.machine.limits.attempts
            failure = AttemptFailed(effect=number, kind="lost", doubt=True, final=last)
            known = Entry(number, intent, first_at=intent.at, failure=failure, left_behind=True)
        if known.left_behind and known.intent.attempt > 1:
            attempts = (e for e in self.run.history() if isinstance(e, ToolCalled) and e.effect == number)
            known.first_at = min(attempt.at for attempt in attempts)
        return known


def _may_be_dead(intent: Event) -> bool:
    """Of what fails in a rollback, a person decides there and then."""
    return isinstance(intent, ToolCalled) and intent.undoes is None


def _is_dead(failed: AttemptError) -> bool:
    """Whether a call that isn't tried again is left to a person. Not one that took place, nor one that its own tool
    refused: that is an answer."""
    return failed.happened is not True and (failed.retry or failed.kind != "not_done")


def tools_of(machine: AnyMachine) -> dict[str, Tool[Any, Any, Any]]:
    """Every tool that some state of the machine may call, by name."""
    found: dict[str, Tool[Any, Any, Any]] = {}
    for row in machine.table.values():
        state = getattr(row, "state", None)
        match state:
            case ModelState() | CodeState():
                found.update({tool.name: tool for tool in state.tools})
            case UseState():
                found[state.tool.name] = state.tool
    return found
