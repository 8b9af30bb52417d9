"""Law 15: dependencies and keys never reach the log; what is stored is JSON and revives nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, final, model_state, run, state, tool, use
from interlock.errors import NotDone
from interlock.machine.limits import Price
from interlock.testing import ScriptedModel, call, choose
from tests.stage import Stage

M = "acme:small"
CANARY = "sk-canary-3f9a1c77"


class Shop:
    """A client that knows a secret, and shows it to whoever prints it."""

    def __init__(self) -> None:
        self.key = CANARY

    def __repr__(self) -> str:
        return f"<Shop {self.key}>"

    def charge(self, cents: int) -> str:
        return f"charged {cents}"


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    yield Shop()


class Holds(BaseModel):
    value: dict[str, Any] = {}
    alone: Any = None


class Rec(BaseModel):
    cents: int = 5
    said: str = ""


@tool(does="write", keyed=True)
def charge(call: Call[Shop], cents: int) -> str:
    """Charge the customer."""
    return call.deps.charge(cents)


@tool(does="read")
def returns_the_client(call: Call[Shop]) -> str:
    shop: Any = call.deps
    return shop  # type: ignore[no-any-return]  # a bug in a tool


@state(tools=[charge, returns_the_client], writes=["said"])
async def code(turn: Turn[Rec, Shop]) -> Literal["ok", "bug"]:
    turn.record.said = await turn.call(charge, turn.record.cents)
    assert turn.deps.key == CANARY
    return "ok" if turn.number < 9 else "bug"


@state(writes=["said"])
async def careless(turn: Turn[Rec, Shop]) -> Literal["ok"]:
    said: Any = turn.deps
    turn.record.said = said
    return "ok"


def shopping() -> Machine[Rec, Shop]:
    ask_it = model_state("Charge {cents}", model=M, tools=[charge], writes={"done": []})
    table = {
        "ask_it": ask_it.then({"done": "code"}),
        "code": code.then({"ok": "use_it", "bug": "end"}),
        "use_it": use(charge, args={"cents": "cents"}, into="said").then({"done": "wrong"}),
        "wrong": use(returns_the_client, args={}, into="said").then({"done": "end", "error": "careless"}),
        "careless": careless.then({"ok": "end", "error": "end"}),
        "end": final(),
    }
    return Machine("shopping", Rec, deps=open_shop, table=table)


@pytest.mark.replay_differs("its handlers read their dependencies, which no replay opens")
def test_dependencies_are_in_no_byte_of_the_store(file_stage: Stage) -> None:
    """Not in results, prompts, schemas, failures, or in what a careless handler or tool tries to store."""
    model = ScriptedModel([call("charge", cents=3), choose("done")])
    played = file_stage.play(shopping(), Rec(), model=model)
    assert (played.status, played.path) == ("completed", "ask_it > code > use_it > wrong > careless > end")
    assert CANARY.encode() not in file_stage.raw()
    assert CANARY not in repr(model.requests)
    assert b"charged 5" in file_stage.raw(), "the test looks where things are"


def test_an_api_key_is_in_no_byte_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real provider client with a key, at an address where nobody listens: the failure is logged, the key is not."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    row = model_state("go", model="openai:gone@http://127.0.0.1:9/v1", writes={"done": []})
    table = {"s": row.then({"done": "end", "retries_spent": "lost"}), "end": final(), "lost": final("failed")}
    prices = {"openai:gone": Price(0, 0)}
    machine = Machine("m", Rec, table=table, prices=prices, limits=Limits(attempts=1))
    result = run(machine, Rec(), store=f"sqlite:///{tmp_path}/store.db")
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert result.state == "lost"
    assert b"attempt_failed" in raw
    assert CANARY.encode() not in raw


def test_stored_data_revives_nothing(stage: Stage) -> None:
    """What looks like an object, a pickle or a reference comes back as the plain data it was."""
    hostile: dict[str, Any] = {
        "py/object": "os.system",
        "__class__": "Shop",
        "$ref": "#/x",
        "$payload": "00" * 32,
        "nested": [{"$payload": "ff" * 32}, {"$payload": {"$payload": "x"}}, "cos\nsystem\n(S'id'\ntR."],
    }

    @state(writes=["alone"])
    def work(turn: Turn[Holds]) -> Literal["ok"]:
        turn.record.alone = {"$payload": turn.record.value["$payload"]}
        return "ok"

    table = {"s": work.then({"ok": "end"}), "end": final()}
    played = stage.play(Machine("m", Holds, table=table), Holds(value=hostile))
    assert played.record.value == hostile
    assert played.record.alone == {"$payload": "00" * 32}


@tool(does="read", within=5)
async def asks(call: Call[Shop]) -> str:
    raise ConnectionError(f"401 for https://shop.example/orders?key={call.deps.key}&page=2")


@tool(does="read", within=5)
async def gives_up(call: Call[Shop]) -> str:
    raise NotDone(f"refused: Authorization: Bearer {call.deps.key}")


@state(tools=[asks], within=20)
async def through_a_tool(turn: Turn[Rec, Shop]) -> Literal["ok"]:
    await turn.call(asks)
    return "ok"


@state(tools=[gives_up], within=20)
async def through_a_careful_tool(turn: Turn[Rec, Shop]) -> Literal["ok"]:
    await turn.call(gives_up)
    return "ok"


@state(within=20)
async def by_itself(turn: Turn[Rec, Shop]) -> Literal["ok"]:
    raise RuntimeError(f"https://shop:{turn.deps.key}@shop.example answered 500")


@pytest.mark.parametrize("raises", [through_a_tool, through_a_careful_tool, by_itself])
def test_what_a_client_says_of_its_own_address_hides_the_key(file_stage: Stage, raises: Any) -> None:
    """Exceptions are logged and asked about, and clients quote the address or header that they sent."""
    table = {"s": raises.then({"ok": "end"}), "end": final()}
    played = file_stage.play(Machine("m", Rec, deps=open_shop, limits=Limits(attempts=1), table=table), Rec())
    assert CANARY.encode() not in file_stage.raw()
    (asked,) = played.result.waits
    assert "[hidden]" in asked.prompt, "and says that there was one"
