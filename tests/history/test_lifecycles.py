"""The life cycles that the documentation draws are the ones that runs go through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, state, tool
from interlock.history.events import TYPES, AttemptFailed, Event
from interlock.history.fold import RunState
from interlock.history.lifecycles import EFFECT, LIFECYCLES, RUN, page
from interlock.testing import ScriptedModel, say
from tests.stage import play


class Note(BaseModel):
    text: str = ""


@tool(does="read", within=1)
async def look(call: Call[None]) -> str:
    return "seen"


@state(models=["test:model"], tools=[look], writes=["text"])
async def write(turn: Turn[Note]) -> Literal["written"]:
    seen = await turn.call(look)
    turn.record.text = seen + (await turn.model("test:model", "go")).text
    return "written"


desk = Machine(
    "desk",
    Note,
    limits=Limits(usd=1, tokens=1_000_000),
    table={
        "write": write.then({"written": "check"}),
        "check": ask("Right? {text}", of="editor", writes={"yes": [], "no": []}).then({"yes": "done", "no": "write"}),
        "done": final(),
    },
)


def statuses(events: tuple[Event, ...]) -> Iterator[tuple[str, str, str]]:
    run, before = RunState(), ""
    for seq, event in enumerate(events, start=1):
        run.apply(seq, event)
        yield before, event.TYPE, run.status
        before = run.status


def test_a_run_changes_its_status_only_as_drawn() -> None:
    played = play(desk, Note(), model=ScriptedModel([say("a"), say("b")]), answers=[("no",), ("yes",)])
    moves = list(statuses(played.events))
    assert played.status == "completed"
    assert all(move in RUN or move[0] == move[2] for move in moves), moves
    assert {"waiting", "ready", "completed"} <= {after for _, _, after in moves}


def test_an_effect_ends_as_drawn() -> None:
    played = play(desk, Note(), model=ScriptedModel([say("a")]))
    known: dict[int, str] = {}
    for event in played.events:
        effect = getattr(event, "effect", None)
        if effect is None:
            continue
        ways = [to for source, kind, to in EFFECT if source == known.get(effect, "") and kind == event.TYPE]
        assert ways, (effect, known.get(effect), event.TYPE)
        known[effect] = "in doubt" if isinstance(event, AttemptFailed) and event.doubt else ways[0]
    assert set(known.values()) == {"done"}


def test_life_cycles_name_only_events_that_exist() -> None:
    assert {event for moves in LIFECYCLES.values() for _, event, _ in moves} <= set(TYPES)


def test_the_page_is_drawn_from_the_tables() -> None:
    assert (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text() == page()
