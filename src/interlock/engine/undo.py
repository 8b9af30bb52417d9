"""Undo: taking back one effect, as an effect of its own: the tool's `undo`, under a key of its own.

In doubt it is done again under that key, as often as attempts allow; then a person says. Commits nothing by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from interlock.canonical import Json, as_stored, copied, fingerprint
from interlock.engine import doubts
from interlock.engine.attempts import Effect, Sending, ToolEffect
from interlock.engine.desk import Desk
from interlock.engine.effects import Effects, tools_of
from interlock.engine.journal import Entry
from interlock.engine.live_run import Interrupted, LiveRun
from interlock.errors import BadInput, EffectFailed, StaleLease, StoreError
from interlock.history.deeds import Deed
from interlock.history.events import ToolCalled
from interlock.machine.tools import Call, Way

_ANY: TypeAdapter[Any] = TypeAdapter(Any)

UNBOUNDED = 10**9
"""A rollback takes back what there is; each try is counted and held like any other."""


def undo_name(tool: str) -> str:
    """What the log calls the undo of a tool. No tool can be named so."""
    return f"undo {tool}"


def undo_digest(deed: Deed, time: int) -> str:
    """What the `time`-th try to take a deed back is found by again."""
    return fingerprint(["undo", deed.effect, time])


class UndoEffect(ToolEffect):
    """Taking back one deed: `args` are the deed's, `result` is what it returned."""

    result: Json = None

    @property
    def name(self) -> str:
        return undo_name(self.tool.name)

    @property
    def way(self) -> str:
        return Way.KEY

    @property
    def unapproved(self) -> bool:
        return False  # whoever rolls back has said so

    @property
    def limited(self) -> bool:
        return False  # limits are the tool's own, and a rollback doesn't queue

    async def act(self, run: LiveRun, call: Call[Any], sending: Sending, late: Callable[[Any], None]) -> Any:
        undo, known = self.tool.undo, self._known()
        assert undo is not None  # else nobody makes one

        def send(**arguments: Any) -> Any:
            sending.begin()
            return undo(call, known, **arguments)

        return await self.invoke(send, inspect.iscoroutinefunction(undo), late)

    def _known(self) -> Any:
        try:
            return None if self.result is None else self.tool.load(copied(self.result))
        except ValueError:  # a person said what it answered, or the tool has another result by now
            return self.result

    def dump(self, value: Any) -> Json:
        """What an undo returns is kept where it can be; nothing depends on it."""
        try:
            return as_stored(_ANY.dump_python(value, mode="json"))
        except (PydanticSerializationError, ValueError, TypeError, BadInput):
            return None


class Undoing(Effects):
    """The effects of a rollback. A person ordered it, so no warning stops it; holds and ceilings do."""

    def __init__(self, desk: Desk, deeds: dict[int, Deed]) -> None:
        super().__init__(desk, UNBOUNDED)
        self._deeds = deeds

    async def undo(self, deed: Deed, time: int) -> None:
        """Take a deed back, for the `time`-th time: a second try comes after a first that surely did nothing.

        Raises `EffectFailed`.
        """
        entry = self.tried(deed, time)
        if entry is not None and entry.result is not None:
            return
        if entry is not None and entry.prevented is not None:
            if self.in_doubt(entry):
                await doubts.ask_person(self.desk, entry, None)
            raise EffectFailed(entry.prevented.outcome, entry.prevented.why)
        tool = tools_of(self.run.machine).get(deed.tool)
        if tool is None or tool.undo is None:
            raise EffectFailed("error", f"{deed.tool} has no undo any more")
        number = self.run.next_effect() if entry is None else entry.effect
        try:
            await self.see_through(self._effect(deed, undo_digest(deed, time)), number, entry)
        except (StaleLease, Interrupted, StoreError) as broken:
            await self.desk.break_off(broken, settled=not isinstance(broken, StoreError))

    def tried(self, deed: Deed, time: int) -> Entry | None:
        """What is known of one try. None: it didn't come to anything that the log knows."""
        digest = undo_digest(deed, time)
        return next((entry for entry in self.desk.journal.entries.values() if entry.intent.digest == digest), None)

    def in_doubt(self, entry: Entry) -> bool:
        return str(entry.effect) in self.run.state.doubts

    async def clear(self, number: int) -> None:
        """Clear a doubt that an earlier turn left behind."""
        while str(number) in self.run.state.doubts:
            self.desk.at_work.add(number)
            try:
                await self._clear_one_left_behind(number, ask=True)
            finally:
                self.desk.at_work.discard(number)
                self.desk.wake()

    def _effect(self, deed: Deed, digest: str) -> UndoEffect:
        desk = self.desk
        return UndoEffect(
            tools_of(self.run.machine)[deed.tool],
            deed.args,
            desk.deps,
            desk.world.offload,
            digest=digest,
            undoes=deed.effect,
            result=deed.value,
        )

    def effect_again(self, intent: ToolCalled) -> ToolEffect | None:
        """What is in doubt, to be cleared in its own way. None: by a person; done again under its key it would surely
        have happened, which is no help where nothing can take it back."""
        tool = tools_of(self.run.machine).get(intent.tool.removeprefix(undo_name("")))
        if tool is None or (tool.undo is None and (intent.undoes is not None or tool.way == Way.KEY)):
            return None
        if intent.undoes is not None:
            return self._effect(self._deeds[intent.undoes], intent.digest)
        return super().effect_again(intent)

    async def _hand_over(self, effect: Effect, number: int) -> None:
        return

    def _refuse(self, effect: Effect, number: int, outcome: str, why: str) -> NoReturn:
        raise EffectFailed(outcome, why)  # not for good: a person may extend, and have it tried again in this turn

    async def _repeat(self, effect: ToolEffect, entry: Entry) -> Entry:
        entry = await super()._repeat(effect, entry)
        while entry.failure is not None and not entry.failure.doubt and not entry.failure.final:
            # The doubt is settled by what the repeat says, so it goes on until it has said it.
            if await self._may_try_again(effect, entry):
                entry = await super()._repeat(effect, entry)
        return entry
