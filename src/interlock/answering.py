"""Answering: what people and systems say to runs, breakers and notices. The half of `Client` that needs no machine.

What is said to a run lies in its inbox until a host takes the run; each verb returns when it is durable there.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence

from interlock.canonical import Json
from interlock.dead import DeadCall, dead_call, dead_calls, seen_to, who_asks
from interlock.deciding import closed_by, to_answer
from interlock.engine.world import World
from interlock.errors import WaitClosed
from interlock.fitting import (
    as_said,
    check_answer,
    check_switch,
    check_words,
    extension,
    wait_for_approval,
)
from interlock.history.deeds import Plan
from interlock.policy.breaker import Breaker
from interlock.reading import read_run, rollback_plan
from interlock.store.protocol import (
    Answer,
    DecideNotice,
    Failed,
    InboxItem,
    Leave,
    Left,
    Over,
    Reset,
    Shut,
    Standing,
    Start,
    Store,
    Trip,
)


def login_name() -> str:
    """Who acts when nobody is named."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


class Answering:
    """Answers the runs of one world. `listeners` are told when there may be work."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.listeners: list[Callable[[], None]] = []

    @property
    def world(self) -> World:
        return self._world

    @property
    def store(self) -> Store:
        return self._world.store

    async def resolve(
        self,
        run_id: str,
        outcome: str,
        fields: Mapping[str, Json] | None = None,
        *,
        wait: int | None = None,
        by: str | None = None,
        reason: str = "",
    ) -> Left:
        """Answer a wait for a person: one of its outcomes, with its fields. Accepted means that this answer won.

        Raises `WaitClosed` when somebody or something was first, `BadInput` for what the form doesn't take.
        """
        found = to_answer(self.store, run_id, wait)
        said = check_answer(found, outcome, fields)
        body: dict[str, Json] = {"wait": found.number, "outcome": outcome, "fields": said}
        if found.binding is not None:  # to what she was shown, and to nothing else
            body["approval"] = found.binding
        return await self._leave(found.run, "decision", body, by, reason, wait=found.number)

    async def approve(
        self,
        run_id: str,
        *,
        wait: int | None = None,
        args: Mapping[str, Json] | None = None,
        by: str | None = None,
        reason: str = "",
    ) -> Left:
        """Say yes to the one call that a run asks about; with `args`, to the same call with these arguments changed.

        The yes is for this call only: other arguments, another tool, run or turn need another. Raises as `resolve`
        does; `BadInput` also when the run asks for no approval.
        """
        found = to_answer(self.store, run_id, wait, wait_for_approval)
        outcome = "edit" if args else "approve"
        return await self.resolve(found.run, outcome, args, wait=found.number, by=by, reason=reason)

    async def deny(self, run_id: str, *, wait: int | None = None, by: str | None = None, reason: str = "") -> Left:
        """Say no to the call that a run asks about: it isn't made, and the turn ends `denied`. Raises as `approve`."""
        found = to_answer(self.store, run_id, wait, wait_for_approval)
        return await self.resolve(found.run, "deny", wait=found.number, by=by, reason=reason)

    async def clear(
        self,
        run_id: str,
        effect: int,
        *,
        happened: bool,
        result: Json = None,
        by: str | None = None,
        reason: str = "",
    ) -> Left:
        """Say of an effect in doubt that it happened (with its result) or did not; also when its run has ended, and
        nobody asks any more. Raises `WaitClosed`."""
        view = read_run(self.store, run_id)
        wait = who_asks(view, effect)
        if wait is None:
            body: dict[str, Json] = {"effect": effect, "happened": happened, **as_said("result", {"result": result})}
            return await self._leave(view.id, "clear", body, by, reason, call=effect)
        outcome, fields = ("happened", {"result": result}) if happened else ("did_not", {})
        return await self.resolve(wait.run, outcome, fields, wait=wait.number, by=by, reason=reason)

    def dead_calls(self) -> list[DeadCall]:
        """Tool calls that failed for good and that nobody has seen to; also of runs that have ended."""
        return dead_calls(self.store)

    async def redo(self, run_id: str, effect: int, *, by: str | None = None, reason: str = "") -> Left:
        """Have a dead call made again, as an effect of its own under a new key; its result is in the log. It takes
        nothing from the run: what it may use is added to the ceilings. Accepted means that nobody was first.

        Raises `WaitClosed` when somebody was, `BadInput` for an effect that isn't a dead call.
        """
        return await self._see_to("redo", run_id, effect, by, reason)

    async def drop(self, run_id: str, effect: int, *, by: str | None = None, reason: str = "") -> Left:
        """Say of a dead call that it isn't made any more. Raises as `redo`."""
        return await self._see_to("drop", run_id, effect, by, reason)

    async def _see_to(self, what: str, run_id: str, effect: int, by: str | None, reason: str) -> Left:
        call = dead_call(self.store, run_id, effect)
        return await self._leave(call.run, what, {"effect": effect}, by, reason, call=effect)

    async def extend(
        self,
        run_id: str,
        *,
        usd: float = 0,
        tokens: int = 0,
        turns: int = 0,
        calls: int = 0,
        seconds: float = 0,
        by: str | None = None,
        reason: str = "",
    ) -> Left:
        """Raise a run's ceilings; a run that waits because of them goes on: from exactly there at its
        warning; where its turn had ended, with that turn taken anew, as `retry` does."""
        more = extension(usd=usd, tokens=tokens, turns=turns, calls=calls, seconds=seconds)
        return await self._leave(run_id, "extend", {"more": more}, by, reason)

    async def signal(
        self,
        run_id: str,
        name: str,
        fields: Mapping[str, Json] | None = None,
        *,
        by: str | None = None,
        id: str | None = None,
    ) -> Left:
        """Tell a run something from a system. It is kept until a wait for it takes it; the same `id` counts once. One
        that comes after a wait's due time doesn't end that wait: the time has. Raises `BadInput`."""
        check_words(name=name)
        body = {"name": name, "fields": as_said(name, fields)}
        return await self._leave(run_id, "signal", body, by, "", id=id)

    async def pause(self, run_id: str, *, by: str | None = None, reason: str = "") -> Left:
        """Start no further effect; what is under way ends and is recorded."""
        return await self._leave(run_id, "pause", {}, by, reason)

    async def resume(self, run_id: str, *, by: str | None = None, reason: str = "") -> Left:
        """Let a paused run go on; also releases one that a restored store parked."""
        return await self._leave(run_id, "resume", {}, by, reason)

    async def cancel(self, run_id: str, *, by: str | None = None, reason: str = "") -> Left:
        """End a run as cancelled."""
        return await self._leave(run_id, "cancel", {}, by, reason)

    def rollback_plan(self, run_id: str, *, to: int) -> Plan:
        """What going back to where turn `to` began would take back, and what it can't. Changes nothing. Raises
        `WaitClosed` for a run that has ended, `BadInput` for a turn that there is no way back to."""
        return rollback_plan(self.store, run_id, to)

    async def rollback(
        self, run_id: str, *, to: int, accept: Sequence[int] = (), by: str | None = None, reason: str = ""
    ) -> Left:
        """Return a run to where turn `to` began: what its turns did since is undone, newest first, by the tools' own
        `undo`; `accept` names each effect that has none, and stays. Record and conversation are then what they were;
        numbers, spending and visits go on. The worker looks anew: what has come to pass since then is not accepted.

        Raises `WaitClosed` for a run that has ended, `BadInput` for what there is no way back from.
        """
        plan = self.rollback_plan(run_id, to=to)
        plan.check_accepted(accept)
        return await self._leave(run_id, "rollback", {"to": to, "accept": sorted(set(accept))}, by, reason)

    # -- breakers and notices ---------------------------------------------------------------------------------------

    def breakers(self) -> list[Breaker]:
        """How the breaker of each model and tool stands of which there ever was something to say, by name
        (`model:openai:gpt-5-mini`, `tool:refund`)."""
        return self.store.breakers(all=True)

    async def decide_notice(self, id: str, *, again: bool, by: str | None = None, reason: str = "") -> None:
        """Have a dead notice sent `again`, or one that isn't delivered dropped. Raises `WaitClosed` when it stands
        otherwise."""
        check_words(by=by, reason=reason)
        now, status = self._world.clock.now_ms(), "due" if again else "dropped"
        answer = await self._submit(DecideNotice(id, status, now, by or login_name(), reason))
        if isinstance(answer, Shut):
            raise WaitClosed(f"notice {id} is {answer.how}")
        self._tell_workers()

    async def trip(
        self, name: str, *, seconds: float | None = None, by: str | None = None, reason: str = ""
    ) -> Breaker:
        """Open a breaker, for so long or until somebody resets it: from now on no call of that model or tool begins, in
        any process. Calls that are under way end. Raises `BadInput`."""
        check_switch(name, seconds, by=by, reason=reason)
        now = self._world.clock.now_ms()
        until = None if seconds is None else now + int(seconds * 1000)
        return await self._switch(Trip(name, now, by or login_name(), reason, until))

    async def reset(self, name: str, *, by: str | None = None, reason: str = "") -> Breaker:
        """Close a breaker: calls begin again, and what failed before is forgotten. Raises `BadInput`."""
        check_switch(name, None, by=by, reason=reason)
        return await self._switch(Reset(name, self._world.clock.now_ms(), by or login_name(), reason))

    async def _switch(self, write: Trip | Reset) -> Breaker:
        answer = await self._submit(write)
        assert isinstance(answer, Standing)
        self._world.breakers.look(self.store)
        return answer.breaker

    # -- how it is said ---------------------------------------------------------------------------------------------

    async def _submit(self, write: Start | Leave | Trip | Reset | DecideNotice) -> Answer:
        answer = await self._world.committer.submit(write)
        if isinstance(answer, Failed):
            raise answer.error
        return answer

    def _tell_workers(self) -> None:
        for told in self.listeners:
            told()

    async def _leave(
        self,
        run_id: str,
        kind: str,
        body: dict[str, Json],
        by: str | None,
        reason: str,
        *,
        wait: int | None = None,
        call: int | None = None,
        id: str | None = None,
    ) -> Left:
        check_words(by=by, reason=reason)
        run = self.store.find(run_id).id
        now = self._world.clock.now_ms()
        item_id = f"{run}/{kind}/{id}" if id else f"{self._world.chance.getrandbits(128):032x}"
        item = InboxItem(item_id, kind, {**body, "by": by or login_name(), "reason": reason or ""}, now)
        closes = "decision" if wait is not None else f"{kind} by {by or login_name()}" if call is not None else ""
        answer = await self._submit(Leave(run, item, now, wait, closes, call))
        if isinstance(answer, Shut) and call is not None:
            raise WaitClosed(f"run {run}: {seen_to(self.store, run, call, answer.how)}; nothing was changed")
        if isinstance(answer, Shut):
            raise WaitClosed(f"run {run}: {closed_by(self.store, run, wait or 0, answer.how)}; nothing was changed")
        if isinstance(answer, Over):
            first = f"; {closed_by(self.store, run, wait, '')}" if wait is not None else ""
            raise WaitClosed(f"run {run} has ended ({answer.status}){first}")
        assert isinstance(answer, Left)
        self._tell_workers()
        return answer
