"""Redo: a dead call is done again because a person says so, or dropped. Beside the run's turns, also after its end.

The call is an effect of its own, under a new key, with an allowance of its own and as many attempts as any. It isn't
on the run's clock, and nobody is asked about it: what may have happened stays in doubt, what failed is dead again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from interlock.canonical import Json
from interlock.engine import server_tools
from interlock.engine.attempts import ToolEffect
from interlock.engine.desk import Broken, Desk
from interlock.engine.effects import Effects, tools_of
from interlock.engine.live_run import Interrupted, LiveRun
from interlock.engine.raised import RAISED, told
from interlock.engine.world import World
from interlock.errors import BadInput, EffectFailed, StaleLease, StoreError
from interlock.history import events as e
from interlock.history.calls import DEAD, DUE, pending
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.tools import Tool
from interlock.store.protocol import InboxItem

_TRIES_SECONDS = 10.0


# -- what a person said ------------------------------------------------------------------------------------------------


def take_redo(run: LiveRun, item: InboxItem) -> None:
    """Have a dead call done again. What can't be done is said, and the call stays as it is."""
    effect = item.body["effect"]
    try:
        tool = _tool(run, effect)
    except BadInput as wrong:
        run.add(e.AnswerDropped(kind=item.kind, body=item.body, why=str(wrong), inbox=item.id))
        _as_before(run, effect)
        return
    attempts = run.machine.limits.attempts
    more = {"calls": attempts, "nanousd": attempts * tool.nanousd_max}
    run.add(
        e.CallRedone(
            effect=effect,
            again=run.next_effect(),
            more={name: amount for name, amount in more.items() if amount},
            by=item.body["by"],
            reason=item.body.get("reason", ""),
            inbox=item.id,
        )
    )


def take_drop(run: LiveRun, item: InboxItem) -> None:
    """Take a dead call off the queue."""
    effect, said = item.body["effect"], {"by": item.body["by"], "reason": item.body.get("reason", "")}
    if _is_dead(run, effect):
        run.add(e.CallDropped(effect=effect, inbox=item.id, **said))
    else:
        run.add(e.AnswerDropped(kind=item.kind, body=item.body, why=f"effect {effect} isn't dead", inbox=item.id))


def _is_dead(run: LiveRun, effect: int) -> bool:
    call = run.state.calls.get(str(effect))
    return call is not None and call.status == DEAD


def _tool(run: LiveRun, effect: int) -> Tool[Any, Any, Any]:
    """The tool of a dead call, if it can be called as it was. Raises `BadInput`."""
    if not _is_dead(run, effect):
        raise BadInput(f"effect {effect} isn't dead")
    intent = _intent(run, effect)
    tool = tools_of(run.machine).get(intent.tool)
    if tool is None:
        raise BadInput(f"no state of this machine calls {intent.tool} any more")
    if tool.approve is not None or intent.approval is not None:
        raise BadInput(f"no call of {intent.tool} without an approval, and only a turn asks for one")
    return tool


def _intent(run: LiveRun, effect: int) -> e.ToolCalled:
    intent = run.event_at(run.state.calls[str(effect)].seq)
    assert isinstance(intent, e.ToolCalled)
    return intent


def _as_before(run: LiveRun, effect: int) -> None:
    """Written again, so that others may say something of it."""
    if _is_dead(run, effect):
        run.state.touched.add(str(effect))


# -- doing it ----------------------------------------------------------------------------------------------------------


class RedoDesk(Desk):
    """Where redone calls are worked at: beside the turn, off its clock, without leaving the worker."""

    unattended = True

    def add(self, event: e.Event) -> None:
        self.run.off_the_clock()
        super().add(event)

    async def until(self, at_ms: int, why: str, effect: int) -> None:
        await asyncio.sleep(max(0.0, (at_ms - self.run.now) / 1000))

    def open_wait(self, event: e.WaitOpened) -> int:
        if self.run.ended:
            raise EffectFailed(EngineOutcome.DENIED, f"the run has ended, so nobody can be asked: {event.prompt}")
        return super().open_wait(event)


def waits_to_be_done(run: LiveRun) -> bool:
    """Whether a redone call is to be made now. A paused run starts nothing."""
    return bool(run.state.calls) and not run.state.paused and bool(pending(run.state))


async def carry_out(run: LiveRun, world: World, deps: Any) -> None:
    """Make the redone calls of a run. Raises what ends the holding of its lease."""
    desk = RedoDesk(run, world, deps)
    task = asyncio.create_task(_all(desk), name=f"run {run.id} calls done again")
    try:
        await desk.over
        if task.done() and desk.stopped is None:
            task.result()
        elif isinstance(desk.stopped, Broken):
            raise desk.stopped.error
    finally:
        run.beside = 0.0
        run.off_the_clock()
        desk.close()
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=world.timing.cancel_grace)


async def _all(desk: RedoDesk) -> None:
    try:
        for number in pending(desk.run.state):
            await _one(desk, number)
        await desk.run.durable()
    except (StaleLease, Interrupted, StoreError) as broken:
        await desk.break_off(broken)
    finally:
        desk.wind_up()


async def _one(desk: RedoDesk, number: int) -> None:
    run, timing = desk.run, desk.world.timing
    call, intent = run.state.calls[str(number)], _intent(run, number)
    tool = tools_of(run.machine).get(call.tool)
    try:
        if tool is None:  # gone since a deploy
            raise EffectFailed(EngineOutcome.ERROR, f"no state of this machine calls {call.tool} any more")
        run.beside = run.machine.limits.attempts * (timing.send_window + tool.within + timing.grace + _TRIES_SECONDS)
        tool = await server_tools.pinned(desk, tool)
        args: dict[str, Json] = tool.check(intent.args)
        effect = ToolEffect(tool, args, desk.deps, desk.world.offload, digest=intent.digest, redoes=call.redoes)
        await Effects(desk, 0).see_through(effect, number, desk.journal.entries.get(number))
    except (StaleLease, Interrupted, StoreError):
        raise
    except (EffectFailed, BadInput) as failed:
        _not_made(desk, number, str(failed))
    except RAISED as raised:  # a schema with a bug, say: it mustn't keep the run from being given back
        _not_made(desk, number, told(raised))


def _not_made(desk: RedoDesk, number: int, why: str) -> None:
    """What stood in its way, if its own events don't say it."""
    left = desk.run.state.calls.get(str(number))
    if left is not None and left.status == DUE:
        desk.add(e.RedoRefused(effect=number, why=why[:500]))
