"""Doubts: an attempt may have happened, nobody knows. Each is cleared once, in the way its tool declares.

    repeat  done again (reads, model calls)             key    done again under the same key
    probe   a function of the tool's author can tell    person somebody answers
Never before `send_before` + timeout + grace: until then the attempt may still be on its way.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from interlock.canonical import Json
from interlock.engine.attempts import ToolEffect
from interlock.engine.desk import Desk
from interlock.engine.journal import Entry
from interlock.engine.prospects import lead
from interlock.engine.raised import RAISED
from interlock.errors import EffectFailed
from interlock.history.events import DoubtCleared, ToolCalled, WaitOpened
from interlock.machine.tools import Happened, Tool, Way

PROBES_MAX = 3


async def clear(desk: Desk, effect: ToolEffect, entry: Entry) -> bool:
    """Clear the doubt about an effect's last attempt, or answer True: it is cleared by doing it again under its key."""
    intent = entry.intent
    assert isinstance(intent, ToolCalled)  # a doubt has an intent
    settled_at = intent.send_before + intent.timeout_ms + int(desk.world.timing.grace * 1000)
    await desk.until(settled_at, "doubt", entry.effect)
    if effect.way == Way.KEY and _key_holds(desk, effect, entry):
        return True
    if not (effect.way == Way.PROBE and await _probed(desk, effect, entry)):
        if desk.unattended or _has_a_destination(desk):
            raise EffectFailed("in_doubt", f"{effect.name} may or may not have happened (effect {entry.effect})")
        await ask_person(desk, entry, effect.tool if effect.undoes is None else None)
    return False


def _has_a_destination(desk: Desk) -> bool:
    """Whether the turn's row says where a doubt leads."""
    state = desk.run.state
    return not state.rollback and "in_doubt" in desk.run.machine.row(state.state).moves


def _key_holds(desk: Desk, effect: ToolEffect, entry: Entry) -> bool:
    valid = effect.tool.key_valid_for
    if entry.failure is not None and entry.failure.final:
        return False  # its attempts are used up
    return valid is None or desk.run.now < entry.first_at + int(valid * 1000)


async def _probed(desk: Desk, effect: ToolEffect, entry: Entry) -> bool:
    """Ask the tool's probe; False when it can't tell."""
    for _ in range(PROBES_MAX if desk.live else 0):  # what one has told is in the record
        try:
            async with asyncio.timeout(effect.timeout):
                answer = await effect.probe(desk.run, entry.effect, entry.intent.attempt)
        except RAISED:  # a probe that can't answer is asked again, then a person is
            continue
        happened = isinstance(answer, Happened)
        value = effect.tool.dump(answer.result) if isinstance(answer, Happened) else None
        desk.add(DoubtCleared(effect=entry.effect, way=Way.PROBE, happened=happened, value=value))
        await desk.run.durable()
        return True
    return False


async def ask_person(desk: Desk, entry: Entry, tool: Tool[Any, Any, Any] | None) -> NoReturn:
    """Park until a person has said whether it happened, and, if a handler waits for it, with what result."""
    form = {"result": {}} if entry.left_behind or tool is None else _form(tool.result_schema)
    asked = any(
        opened.why == "doubt" and opened.kind == "person" and opened.effect == entry.effect and ended is None
        for opened, _, ended in desk.journal.waits.values()
    )
    if not asked:
        assert isinstance(entry.intent, ToolCalled)  # models are repeated, never asked about
        desk.open_wait(
            WaitOpened(
                wait=0,
                kind="person",
                why="doubt",
                state="",
                of="operator",
                prompt=f"Did {entry.intent.tool} happen? Nobody knows. Arguments and key are in event {entry.seq}.",
                effect=entry.effect,
                form={"happened": form, "did_not": {}},
                leads={answer: lead(desk.run, "") for answer in ("happened", "did_not")},
            )
        )
    await desk.park()


def _form(result: dict[str, Json]) -> dict[str, Json]:
    """A form with one field, `result`; definitions that its schema refers to stand at the form's root."""
    schema = {name: value for name, value in result.items() if name != "$defs"}
    form: dict[str, Json] = {
        "type": "object",
        "properties": {"result": schema},
        "required": ["result"],
        "additionalProperties": False,
    }
    return {**form, "$defs": result["$defs"]} if "$defs" in result else form
