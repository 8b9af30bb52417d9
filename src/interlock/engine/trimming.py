"""Trimming: a conversation that has outgrown its state's window, made to fit: what is left out, what is told
instead.

Decided once, before the model is asked, and said in an event; a turn that is entered again finds it there. Knows no
provider and commits nothing; a summary is an effect like any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from interlock.agent.model import Message, ModelRequest
from interlock.agent.prices import bulk_of, bulk_of_message
from interlock.canonical import encode, fingerprint
from interlock.engine.attempts import ModelEffect
from interlock.engine.code_turn import model_effect
from interlock.engine.conversation import Conversation, as_text
from interlock.engine.desk import Desk
from interlock.engine.journal import Entry
from interlock.errors import EffectFailed
from interlock.history.events import ContextTrimmed, ModelReplied
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import ModelState

CarryOut = Callable[[ModelEffect], Awaitable[Entry]]

SUMMARISE = (
    "Below is the older part of a conversation that is about to be left out. Sum it up for whoever goes on with it: "
    "facts, figures and names, what was decided, what was tried and failed, what is still open. Plain text only."
)

_NOT_FATAL = frozenset(
    {EngineOutcome.RETRIES_SPENT, EngineOutcome.UNAVAILABLE, EngineOutcome.ERROR, EngineOutcome.OVERFLOW}
)
"""Ends of a summary that cost only the summary. What ends the turn (money, calls) ends it here as well."""


async def trimmed(
    desk: Desk, state: ModelState, thread: str, before: Conversation, room: int, carry_out: CarryOut
) -> Conversation | None:
    """The conversation in at most `room` tokens, if it must be cut to fit; None: it is as it is.

    Raises `EffectFailed` (`overflow`) where the state says so, or nothing that may be left out makes it fit.
    """
    said = _said(desk, thread)
    if said is not None:
        desk.journal.pass_over(_digest(said[1].start))  # the summary was had before this was said
        return _cut(before, *said)
    if before.bulk.tokens_max <= room:
        return None
    at = before.where_to_start(room)
    if at is None or state.window.over == "overflow":
        raise _overflow(before.bulk.tokens_max, room)
    summary, why = "", ""
    if state.window.over == "summarise":
        summary, why = await _summary(desk, state, before, at, carry_out)
    event = _event(desk, state, thread, before, at, (summary, why))
    talk = _cut(before, desk.run.state.seq + 1, event)
    if talk.bulk.tokens_max > room:  # what is told instead is too long
        raise _overflow(talk.bulk.tokens_max, room)
    await desk.replayed()
    desk.add(event)
    return talk


def _said(desk: Desk, thread: str) -> tuple[int, ContextTrimmed] | None:
    """What this turn said of it when it was here before, and in which event."""
    known = desk.run.state.threads.get(thread)
    if known is None or known.trimmed <= desk.run.state.turn_seq:
        return None
    event = desk.run.event_at(known.trimmed)
    assert isinstance(event, ContextTrimmed)
    return known.trimmed, event


def _event(
    desk: Desk, state: ModelState, thread: str, before: Conversation, at: int, summed_up: tuple[str, str]
) -> ContextTrimmed:
    left_out, (summary, why) = before.messages[1:at], summed_up
    return ContextTrimmed(
        thread=thread,
        start=before.seqs[at],
        left_out=(before.seqs[1], before.seqs[at - 1]),
        messages=len(left_out),
        bytes=sum(message.size_bytes() for message in left_out),
        how="summarised" if summary else "dropped",
        note=_note(desk, state, summary),
        why=why,
    )


def _cut(before: Conversation, seq: int, event: ContextTrimmed) -> Conversation:
    talk = before.copy()
    talk.trim(seq, event)
    return talk


def _digest(start: int) -> str:
    return fingerprint(["summary", start])


async def _summary(
    desk: Desk, state: ModelState, before: Conversation, at: int, carry_out: CarryOut
) -> tuple[str, str]:
    """What the model makes of it, or nothing and why."""
    request = ModelRequest(
        model=state.models[0],
        messages=(Message("user", ""),),
        instructions=SUMMARISE,
        max_tokens=state.window.summary_tokens,
        timeout=state.within,
    )
    room = state.window.bytes - bulk_of(request).tokens_max
    text = _last_bytes("\n\n".join(_told(message) for message in before.messages[1:at]), room)
    request = replace(request, messages=(Message("user", text),))
    digest, bulk = _digest(before.seqs[at]), bulk_of(request)
    try:
        entry = await carry_out(model_effect(desk, request, state.models, bulk, digest, window=state.window.bytes))
    except EffectFailed as failed:
        if failed.outcome not in _NOT_FATAL:
            raise
        return "", f"no summary: {failed}"[:300]
    assert isinstance(entry.result, ModelReplied)
    return entry.result.text.strip(), "" if entry.result.text.strip() else "no summary: the model wrote none"


def _told(message: Message) -> str:
    calls = "".join(f"\n{call.name} {encode(call.args).decode()}" for call in message.calls)
    who = f"{message.role} {message.name}".strip()
    return f"[{who}] {message.text}{calls}"


def _last_bytes(text: str, most: int) -> str:
    """The end of a text, in at most so many bytes of UTF-8: what is newest matters most."""
    whole = text.encode("utf-8", "surrogatepass")
    return text if len(whole) <= most else whole[len(whole) - most :].decode("utf-8", "ignore")


def _note(desk: Desk, state: ModelState, summary: str) -> str:
    parts = [f"Earlier messages, summed up:\n{summary}"] if summary else []
    if state.window.pin:
        told = "\n".join(f"{name}: {as_text(desk.run.values.get(name))}" for name in state.window.pin)
        parts.append(f"Earlier messages are left out. What is known:\n{told}")
    return "\n\n".join(parts)


def room_for(state: ModelState, frame: int, prompt: str | None) -> int:
    """What the conversation so far may weigh, beside the frame and a prompt that is still to come."""
    coming = 0 if prompt is None else bulk_of_message(Message("user", prompt)).tokens_max
    return state.window.bytes - frame - coming


def _overflow(weight: int, room: int) -> EffectFailed:
    return EffectFailed(
        EngineOutcome.OVERFLOW, f"the conversation weighs {weight} bytes, the window has room for {max(room, 0)}"
    )
