"""Law 16: a turn's cost doesn't grow with the run: values are stored once, lists are appended to, windows bounded."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, final, model_state, state, tool
from interlock.agent.model import ModelRequest
from interlock.history.payloads import INLINE_BYTES_MAX
from interlock.machine.window import WINDOW_BYTES
from interlock.store.protocol import Commit
from interlock.testing import ScriptedModel, call, choose
from interlock.worker import Worker
from tests.laws.test_law_02_one_commit_is_one_fact import Between
from tests.stage import Stage

M = "acme:small"


class Rec(BaseModel):
    items: list[str] = []
    text: str = ""
    other: str = ""


def weights(stage: Stage, machine: Machine[Rec, None], model: Any = ()) -> dict[int, int]:
    """Bytes written by each turn: events, cells, live state and payloads."""
    store = Between(stage.store)

    async def scenario() -> None:
        client = stage.client(model, store=store)  # type: ignore[arg-type]
        async with Worker(client, [machine], name="w"):
            handle = await client.start(machine, Rec())
            assert (await handle.result()).status == "completed"

    stage.perform(scenario)
    found: dict[int, int] = {}
    for commit in store.commits:
        found[commit.row.turn] = found.get(commit.row.turn, 0) + weight(commit)
    return found


def weight(commit: Commit) -> int:
    events = sum(len(event.body) + len(event.hash) for event in commit.events)
    cells = sum(len(cell.field) + len(cell.path) + 8 for cell in commit.cells)
    return events + cells + len(commit.row.live) + sum(len(body) for _, body in commit.payloads)


@tool(does="read")
def page(call: Call[None], number: int) -> str:
    return f"{number:06d} " + "prose " * 300


def test_a_list_grows_by_appending_and_bytes_per_turn_stay_the_same(stage: Stage) -> None:
    @state(writes=["items"], tools=[page])
    async def work(turn: Turn[Rec]) -> Literal["more", "done"]:
        turn.record.items.append(await turn.call(page, turn.number))
        return "more" if turn.number < 310 else "done"

    table = {"s": work.then({"more": "s", "done": "end"}), "end": final()}
    found = weights(stage, Machine("m", Rec, limits=Limits(turns=400), table=table))
    assert abs(found[300] - found[10]) <= 60, f"turn 10: {found[10]} bytes, turn 300: {found[300]}"


def test_a_conversation_s_bytes_per_turn_stay_the_same(stage: Stage) -> None:
    row = model_state("Read on", model=M, tools=[page], writes={"done": ["text"]})
    limits = Limits(turns=400, tokens=10**9, usd=10**3)

    def brain(request: ModelRequest) -> Any:
        number = len(model.requests)
        return call("page", number=number) if number < 310 else choose("done", text="read")

    model = ScriptedModel(brain)
    found = weights(
        stage, Machine("m", Rec, limits=limits, table={"s": row.then({"done": "end"}), "end": final()}), model
    )
    assert abs(found[300] - found[10]) <= 100, f"turn 10: {found[10]} bytes, turn 300: {found[300]}"
    assert max(request.size_bytes() for request in model.requests) <= WINDOW_BYTES


def test_the_window_shrinks_seldom_so_that_the_prefix_stays(stage: Stage) -> None:
    """Between two shrinks each request begins with all of the one before: a provider's cache hits."""
    row = model_state("Read on", model=M, tools=[page], writes={"done": ["text"]})

    def brain(request: ModelRequest) -> Any:
        number = len(model.requests)
        return call("page", number=number) if number < 200 else choose("done", text="read")

    model = ScriptedModel(brain)
    machine = Machine(
        "m",
        Rec,
        limits=Limits(turns=400, tokens=10**9, usd=10**3),
        table={"s": row.then({"done": "end"}), "end": final()},
    )
    assert stage.play(machine, Rec(), model=model).status == "completed"
    pairs = list(zip(model.requests, model.requests[1:], strict=False))
    breaks = [two for one, two in pairs if two.messages[: len(one.messages)] != one.messages]
    assert 1 <= len(breaks) <= 12
    assert all(request.messages[0] == model.requests[0].messages[0] for request in model.requests)
    for request in breaks:
        assert request.messages[1].role == "assistant", "no answer without its call"


def test_a_large_value_is_stored_once_by_content(stage: Stage) -> None:
    large = "x" * (INLINE_BYTES_MAX + 1)

    @state(writes=["text", "other", "items"])
    def work(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.text = large
        turn.record.other = large
        turn.record.items.append(large)
        return "ok"

    store = Between(stage.store)
    machine = Machine("m", Rec, table={"s": work.then({"ok": "end"}), "end": final()})

    async def scenario() -> None:
        client = stage.client(store=store)  # type: ignore[arg-type]
        async with Worker(client, [machine], name="w"):
            handle = await client.start(machine, Rec())
            assert (await handle.result()).record.items == [large]

    stage.perform(scenario)
    assert len({digest for commit in store.commits for digest, _ in commit.payloads}) == 1
    assert sum(len(event.body) for commit in store.commits for event in commit.events) < 3_000
    assert stage.client().verify() == []


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX // 2, INLINE_BYTES_MAX, INLINE_BYTES_MAX * 3])
def test_records_of_any_size_come_back_and_verify(stage: Stage, size: int) -> None:
    """Together large, each small; one large; all large."""

    @state(writes=["text", "other", "items"])
    def work(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.text = "a" * size
        turn.record.other = "b" * size
        turn.record.items.extend(["c" * 9_000] * 6)
        return "ok"

    machine = Machine("m", Rec, table={"s": work.then({"ok": "end"}), "end": final()})
    played = stage.play(machine, Rec(text="q" * size, other="r" * size))
    assert played.record == Rec(text="a" * size, other="b" * size, items=["c" * 9_000] * 6)


def test_what_a_model_or_tool_said_is_not_stored_again_in_the_record(stage: Stage) -> None:
    """The record points at the event in which the value stands."""
    row = model_state("go", model=M, writes={"done": ["text"]})
    machine = Machine("m", Rec, table={"s": row.then({"done": "end"}), "end": final()})
    stage.play(machine, Rec(), model=[choose("done", text="only-once-" * 50)])
    bodies = b"".join(stored.body for stored in stage.store.events(1))
    assert bodies.count(b"only-once-" * 50) == 1
