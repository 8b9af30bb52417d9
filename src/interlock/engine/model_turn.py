"""Model states: ask the model, read its move, carry it out. Illegal moves are told to it, a bounded number of times.

Returns an outcome; commits nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from interlock.agent.model import ModelRequest, Offer
from interlock.agent.prices import Bulk, bulk_of_frame
from interlock.canonical import Json, fingerprint
from interlock.engine import server_tools
from interlock.engine.attempts import ToolEffect
from interlock.engine.code_turn import asked, model_effect
from interlock.engine.conversation import Conversation
from interlock.engine.desk import Desk
from interlock.engine.effects import Effects
from interlock.engine.ending import Ended
from interlock.engine.journal import Entry
from interlock.engine.live_run import Interrupted
from interlock.engine.moves import Calling, Chosen, Illegal, Move, offers_of, read_move
from interlock.engine.record import RecordDraft, fitting
from interlock.engine.trimming import room_for, trimmed
from interlock.errors import BadInput, EffectFailed, InterlockError, StaleLease, StoreError
from interlock.history.events import ModelReplied, MoveRefused
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.prompt import fill
from interlock.machine.states import ModelState, Prompt
from interlock.machine.tools import Tool
from interlock.policy.grants import Grant, union


async def model_turn(desk: Desk, state: ModelState) -> Ended:
    """One accepted reply of the model, or the engine's outcome for what went wrong."""
    try:
        if state.has_servers:
            state = await server_tools.pinned_state(desk, state)
        return await _ModelTurn(desk, state).decide()
    except EffectFailed as failed:
        return Ended(failed.outcome, why=str(failed))
    except (StaleLease, Interrupted, StoreError):
        raise
    except InterlockError as refused:
        return Ended(EngineOutcome.ERROR, why=str(refused))


class _ModelTurn:
    def __init__(self, desk: Desk, state: ModelState) -> None:
        self.desk = desk
        self.run = desk.run
        self.state = state
        self.thread = state.thread or f"@{desk.run.state.state}"
        self.offers, self.frame = _offered(desk, state)
        summaries = 1 if state.window.over == "summarise" else 0
        self.effects = Effects(desk, summaries + 1 + desk.run.machine.limits.illegal_moves + state.calls)

    async def decide(self) -> Ended:
        before = self.run.conversations.get(self.thread) or await self.run.conversation(self.thread)
        talk, prompt = await self._opened(before)
        for _ in range(1 + self.run.machine.limits.illegal_moves):
            entry = await self._ask(talk, prompt)
            reply = entry.result
            assert isinstance(reply, ModelReplied)
            match self._fitting(read_move(self.run.machine.record, self.state, reply, entry.result_seq)):
                case Chosen(outcome, writes):
                    return Ended(outcome, writes, origin=self._origin())
                case Calling(calls):
                    await self._call_all(calls)
                    return Ended("called")
                case Illegal(why, told):
                    talk = before.copy() if talk is before else talk
                    talk.replied(entry.result_seq, reply)
                    talk.refused(entry.result_seq, told)
                    self._refuse(entry, why, told)
            prompt = None
        return Ended(EngineOutcome.INVALID, why=f"no legal move: {why}")

    def _fitting(self, move: Move) -> Move:
        """The same move, unless the record's own validators refuse what it writes."""
        if not isinstance(move, Chosen):
            return move
        try:
            return Chosen(move.outcome, fitting(self.run.machine.record, self.run.values, move.writes))
        except BadInput as wrong:
            return Illegal(str(wrong), f"Refused: {wrong}.")

    async def _opened(self, before: Conversation) -> tuple[Conversation, str | None]:
        """The conversation as this turn's first call sends it, and the prompt that this call adds when the turn begins
        a conversation."""
        prompt = None
        if self.run.enters(self.thread):
            prompt = prompt_text(self.desk, self.state.prompt, self.state.reads)
        room = room_for(self.state, self.frame.tokens_max, prompt)
        talk = await trimmed(self.desk, self.state, self.thread, before, room, self.effects.carry_out)
        if prompt is None:
            return talk or before, None
        talk = talk or before.copy()
        talk.said_to_model(0, prompt)
        return talk, prompt

    async def _ask(self, talk: Conversation, prompt: str | None) -> Entry:
        request = ModelRequest(
            model=self.state.models[0],
            messages=tuple(talk.messages),
            instructions=self.state.instructions,
            offers=self.offers,
            must_choose=True,
            max_tokens=self.state.max_tokens,
            timeout=self.state.within,
        )
        start = talk.seqs[1] if len(talk.seqs) > 1 else 0
        digest = fingerprint(["model", asked(self.state.models), prompt, start])
        if self.state.has_servers and not self.desk.journal.answers(digest):
            await server_tools.unchanged(self.desk, self.state.tools)
        self.run.talking = self.thread
        bulk, models, window = self.frame + talk.bulk, self.state.models, self.state.window.bytes
        effect = model_effect(
            self.desk, request, models, bulk, digest, window=window, thread=self.thread, prompt=prompt
        )
        return await self.effects.carry_out(effect)

    def _refuse(self, entry: Entry, why: str, told: str) -> None:
        if not entry.refused:
            self.desk.add(MoveRefused(effect=entry.effect, why=why, told=told))

    async def _call_all(self, calls: tuple[tuple[str, Tool[Any, Any, Any], dict[str, Json]], ...]) -> None:
        """Carry out the calls of one reply, side by side. What a tool says against it is told to the model."""
        desk = self.desk
        effects = [ToolEffect(tool, args, desk.deps, desk.world.offload, answers=call) for call, tool, args in calls]
        if len(effects) == 1:  # mostly
            try:
                await self.effects.carry_out(effects[0])
            except EffectFailed as failed:
                if failed.outcome != EngineOutcome.ERROR:
                    raise
            return
        ends = await asyncio.gather(*(self.effects.carry_out(effect) for effect in effects), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and getattr(end, "outcome", None) != EngineOutcome.ERROR:
                raise end

    def _origin(self) -> str:
        reads = self.run.machine.record.model_fields if self.state.reads is None else self.state.reads
        return union([self.run.origin_of(list(reads)), *self.run.state.threads[self.thread].origins, "model"])


def _offered(desk: Desk, state: ModelState) -> tuple[tuple[Offer, ...], Bulk]:
    """What a state offers, and what its requests weigh without their messages. Made once per state; a machine is
    frozen."""
    made = _OFFERED.get(id(state))
    if made is None or made[0] is not state:
        offers = offers_of(desk.run.machine.record, state)
        made = _OFFERED[id(state)] = (state, offers, bulk_of_frame(state.instructions, offers))
    return made[1:]


_OFFERED: dict[int, tuple[ModelState, tuple[Offer, ...], Bulk]] = {}


def prompt_text(desk: Desk, prompt: Prompt, reads: tuple[str, ...] | None = None) -> str:
    """A prompt with the record's values filled in."""
    run = desk.run
    if isinstance(prompt, str):
        return fill(prompt, run.values)
    grant = Grant(run.state.state, None if reads is None else frozenset(reads), frozenset())
    return prompt(RecordDraft(run.machine.record, run.values, grant))
