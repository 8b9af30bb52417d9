"""Law 14, grants: a state reads and writes only its fields, calls only its tools and models, with checked arguments."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Machine, Turn, final, model_state, state, tool
from interlock.history.events import Transitioned
from interlock.history.fold import RunState
from interlock.testing import ScriptedModel, assert_log, call, choose
from tests.stage import Stage

M = "acme:small"


class Rec(BaseModel):
    mine: str = "mine"
    theirs: str = "theirs"
    items: list[str] = []
    rows: list[list[int]] = [[1]]
    meta: dict[str, Any] = {"k": [1]}
    count: int = 0


@tool(does="read")
def granted(call: Call[None], number: int) -> int:
    return number


@tool(does="destroy")
def ungranted(call: Call[None]) -> None:
    raise AssertionError("must never run")


async def reads_theirs(turn: Turn[Rec]) -> None:
    assert turn.record.theirs is None


async def writes_theirs(turn: Turn[Rec]) -> None:
    turn.record.theirs = "stolen"


async def writes_no_field(turn: Turn[Rec]) -> None:
    turn.record.nothing = 1  # type: ignore[attr-defined]


async def writes_the_wrong_type(turn: Turn[Rec]) -> None:
    turn.record.count = "many"  # type: ignore[assignment]


async def calls_ungranted(turn: Turn[Rec]) -> None:
    await turn.call(ungranted)


async def asks_ungranted(turn: Turn[Rec]) -> None:
    await turn.model("acme:huge", "hello")


async def calls_with_wrong_arguments(turn: Turn[Rec]) -> None:
    await turn.call(granted, "one")  # type: ignore[arg-type]


async def calls_with_too_many(turn: Turn[Rec]) -> None:
    await turn.call(granted, 1, 2)  # type: ignore[call-arg]


async def changes_a_nested_dict(turn: Turn[Rec]) -> None:
    turn.record.meta["k"].append(2)


async def changes_a_nested_list(turn: Turn[Rec]) -> None:
    turn.record.rows[0].append(2)


async def assigns_an_item(turn: Turn[Rec]) -> None:
    turn.record.items[0] = "x"


async def sorts_a_list(turn: Turn[Rec]) -> None:
    turn.record.items.sort()


async def pops_a_list(turn: Turn[Rec]) -> None:
    turn.record.items.pop()


async def asks_too_often(turn: Turn[Rec]) -> None:
    for number in range(99):
        await turn.call(granted, number)


REACHES = [
    reads_theirs,
    writes_theirs,
    writes_no_field,
    writes_the_wrong_type,
    calls_ungranted,
    asks_ungranted,
    calls_with_wrong_arguments,
    calls_with_too_many,
    changes_a_nested_dict,
    changes_a_nested_list,
    assigns_an_item,
    sorts_a_list,
    pops_a_list,
]


@pytest.mark.parametrize("reach", REACHES)
def test_reaching_for_what_is_not_granted_ends_in_error_and_changes_nothing(stage: Stage, reach: Any) -> None:
    writes = ["mine", "items", "rows", "meta", "count"]

    @state(reads=writes, writes=writes, tools=[granted], models=[M])
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.mine = "half done"
        await reach(turn)
        return "ok"

    table = {"s": work.then({"ok": "end", "error": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Rec, table=table), Rec(items=["b", "a"]), model=ScriptedModel(["hello"]))
    assert (played.status, played.result.reason) == ("failed", "error")
    assert played.record == Rec(items=["b", "a"])
    assert_log(played, tool_called=0, model_called=0)
    move = next(event for event in played.events if isinstance(event, Transitioned))
    assert move.why, "the log says why"


def test_more_effects_than_declared_are_not_started(stage: Stage) -> None:
    @state(tools=[granted], calls=3)
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        await asks_too_often(turn)
        return "ok"

    table = {"s": work.then({"ok": "end", "limit_reached": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Rec, table=table), Rec())
    assert_log(played, tool_called=3)
    assert played.result.reason == "limit_reached"


def test_a_model_that_obeys_an_injection_is_refused(stage: Stage) -> None:
    """It calls a tool of the same program that its state isn't granted: refused, logged, told, counted, never run."""
    row = model_state("Read on", model=M, tools=[granted], writes={"done": []})
    model = ScriptedModel([call("ungranted"), choose("done")])
    played = stage.play(Machine("m", Rec, table={"s": row.then({"done": "end"}), "end": final()}), Rec(), model=model)
    assert_log(played, "s > end", move_refused=1, tool_called=0)
    assert "not offered" in model.requests[1].messages[-1].text


def test_a_prompt_s_function_reads_but_does_not_write(stage: Stage) -> None:
    def sly(record: Any) -> str:
        record.mine = "changed by a prompt"
        return "go"

    row = model_state(sly, model=M, writes={"done": []})
    table = {"s": row.then({"done": "end", "error": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Rec, table=table), Rec(), model=[choose("done")])
    assert (played.result.state, played.record.mine) == ("lost", "mine")


def test_a_whole_value_may_be_changed_and_assigned_back(stage: Stage) -> None:
    @state(writes=["meta", "items", "rows"])
    def work(turn: Turn[Rec]) -> Literal["ok"]:
        meta = turn.record.meta
        meta["new"] = 1
        turn.record.meta = meta
        turn.record.items += ["c"]
        turn.record.items.append("d")
        turn.record.rows = [*turn.record.rows, [2]]
        assert turn.record.items == ["a", "c", "d"]
        return "ok"

    table = {"s": work.then({"ok": "end"}), "end": final()}
    played = stage.play(Machine("m", Rec, table=table), Rec(items=["a"]))
    assert played.record.meta == {"k": [1], "new": 1}
    assert played.record.items == ["a", "c", "d"]
    assert played.record.rows == [[1], [2]]
    (move,) = [event for event in played.events if isinstance(event, Transitioned)]
    assert ("add", "items", ["c", "d"]) in move.changes, "appended items alone are stored"


def test_what_is_written_carries_the_origins_of_what_was_read(stage: Stage) -> None:
    @tool(does="read")
    def fetch(call: Call[None]) -> str:
        return "from the web"

    @state(reads=["theirs"], writes=["mine"], tools=[fetch])
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.mine = turn.record.theirs + await turn.call(fetch)
        return "ok"

    table = {"s": work.then({"ok": "end"}), "end": final()}
    played = stage.play(Machine("m", Rec, table=table), Rec())
    state_now = RunState()
    for seq, event in enumerate(played.events, start=1):
        state_now.apply(seq, event)
    assert state_now.cells["mine"][0].origin == "code,tool:fetch,user"
    assert state_now.cells["theirs"][0].origin == "user"


def test_what_a_handler_or_tool_spoils_is_its_own_copy(stage: Stage) -> None:
    """Results and arguments that are changed in place don't change what the log, the record or a later turn says."""

    @tool(does="read")
    def spoils(call: Call[None], given: dict[str, Any]) -> dict[str, Any]:
        given["k"].append("spoilt")
        return {"k": [1]}

    @state(tools=[spoils], writes=["meta"], reads=["meta"])
    async def work(turn: Turn[Rec]) -> Literal["ok"]:
        mine = {"k": [0]}
        got = await turn.call(spoils, mine)
        got["k"].append("spoilt")
        again = await turn.call(spoils, mine)
        turn.record.meta = {"got": again["k"], "mine": mine["k"]}
        return "ok"

    played = stage.play(Machine("m", Rec, table={"s": work.then({"ok": "end"}), "end": final()}), Rec())
    assert played.record.meta == {"got": [1], "mine": [0]}
    assert "spoilt" not in repr(played.events)
