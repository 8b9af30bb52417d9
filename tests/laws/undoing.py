"""Tools that can be undone and one that can't, on an outside world that keeps a list; and machines that use them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Call, Machine, Turn, ask, final, model_state, state, tool, use
from interlock.agent.model import ModelCall, ModelReply, ModelRequest
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.machine.window import Window

MODEL = "test:model"


class Case(BaseModel):
    n: int = 0
    text: str = ""
    items: list[str] = []
    tags: dict[str, Any] = {}


@dataclass
class Outside:
    """What really happened: one line per deed and key, as a world that recognises keys keeps it."""

    lines: dict[str, tuple[str, Any]] = field(default_factory=dict)  # key -> (deed, argument)
    calls: list[tuple[str, str]] = field(default_factory=list)  # every call that came, repeated or not

    def happens(self, name: str, call: Call[Any], argument: Any) -> None:
        self.calls.append((name, call.key))
        self.lines.setdefault(call.key, (name, argument))

    def done(self, name: str) -> list[Any]:
        return [argument for deed, argument in self.lines.values() if deed == name]

    @property
    def deeds(self) -> list[tuple[str, Any]]:
        return list(self.lines.values())


class Tools:
    """`pay` and `book` can be undone, `mail` can't, `look` reads. What `faults` holds for a name is raised or slept by
    its next calls, one each: before the deed, or after it when it comes as ("after", fault)."""

    def __init__(self, within: float = 5.0, usd_max: float = 0.0) -> None:
        self.outside = outside = Outside()
        self.faults: dict[str, list[Any]] = {}

        async def act(name: str, call: Call[Any], argument: Any) -> None:
            fault = self.faults.get(name, []).pop(0) if self.faults.get(name) else None
            after = isinstance(fault, tuple)
            if fault is not None and not after:
                await self._fail(fault)
            outside.happens(name, call, argument)
            if isinstance(fault, tuple):
                await self._fail(fault[1])

        async def unpay(call: Call[None], result: str, n: int) -> str:
            await act("unpay", call, (n, result))
            return f"paid back {n}"

        async def unbook(call: Call[None], result: str | None, n: int) -> None:
            await act("unbook", call, (n, result))

        @tool(does="write", keyed=True, undo=unpay, within=within, usd_max=usd_max)
        async def pay(call: Call[None], n: int) -> str:
            await act("pay", call, n)
            return f"paid {n}"

        @tool(does="write", undo=unbook, within=within)
        async def book(call: Call[None], n: int) -> str:
            await act("book", call, n)
            return f"booked {n}"

        @tool(does="send", within=within)
        async def mail(call: Call[None], n: int) -> str:
            await act("mail", call, n)
            return f"sent {n}"

        @tool(does="read", within=within)
        async def look(call: Call[None], n: int) -> str:
            await act("look", call, n)
            return f"seen {n}"

        self.pay, self.book, self.mail, self.look = pay, book, mail, look

    async def _fail(self, fault: Any) -> None:
        if isinstance(fault, Exception):
            raise fault
        await asyncio.sleep(fault)


def steps(tools: Tools, **limits: Any) -> Any:
    """pay (turn 1) > book and pay again (2) > mail (3) > a person (4), who may have any of it again."""

    @state(tools=[tools.pay], writes=["text", "items", "n"], within=3600)
    async def first(turn: Turn[Case]) -> Literal["done"]:
        turn.record.items.append(await turn.call(tools.pay, turn.record.n))
        turn.record.text = "first"
        return "done"

    @state(tools=[tools.book, tools.pay], writes=["items", "tags"], within=3600)
    async def second(turn: Turn[Case]) -> Literal["done"]:
        turn.record.items.append(await turn.call(tools.book, 2))
        turn.record.items.append(await turn.call(tools.pay, 3))
        turn.record.tags = {"at": 2, "deep": {"er": [1, 2]}}
        return "done"

    return Machine("steps", Case, limits=Limits(**{"turns": 30, "warn_at": 1.0, **limits}), table={
        "first": first.then({"done": "second"}),
        "second": second.then({"done": "third"}),
        "third": use(tools.mail, args={"n": "n"}, into="text", within=3600).then({"done": "person"}),
        "person": ask("Right?", of="desk", writes={"again": ["n"], "yes": []}, within=1e6).then(
            {"again": "first", "yes": "closed", "timeout": "lost"}),
        "closed": final("completed"),
        "lost": final("failed"),
    })  # fmt: skip


def talk(tools: Tools, thread: str | None = None, **limits: Any) -> Any:
    """A conversation that reads and pays, then a person, then the same conversation again."""
    asked = model_state(
        "Look after {text}.", model=MODEL, tools=[tools.look, tools.pay], thread=thread, max_tokens=64,
        writes={"found": ["text"]}, within=3600,
    )  # fmt: skip
    return Machine("talk", Case, limits=Limits(**{"turns": 30, "warn_at": 1.0, "usd": 5, "tokens": 10**6, **limits}),
        table={
            "asked": asked.then({"called": "asked", "found": "person"}),
            "person": ask("Right?", of="desk", writes={"more": [], "yes": []}, within=1e6).then(
                {"more": "asked", "yes": "closed", "timeout": "lost"}),
            "closed": final("completed"),
            "lost": final("failed"),
        })  # fmt: skip


def doubtful(tools: Tools) -> Any:
    """A mail that nobody knows of, then a person."""
    return Machine("doubtful", Case, limits=Limits(turns=9, warn_at=1.0), table={
        "mail": use(tools.mail, args={"n": "n"}, within=100).then(
            {"done": "person", "in_doubt": "person", "timeout": "person"}),
        "person": ask("Well?", of="desk", writes={"yes": []}, within=1e6).then({"yes": "closed", "timeout": "closed"}),
        "closed": final("completed"),
    })  # fmt: skip


def brain(request: ModelRequest) -> ModelReply:
    """Reads page after page, and sums up when it is asked to: what it says depends on what it is sent, and on nothing
    else, ids of calls included."""
    if not request.offers:
        return ModelReply(text=f"summary of {len(request.messages)}", tokens_in=9, tokens_out=4)
    seen = [int(m.text.split()[1]) for m in request.messages if m.role == "tool"]
    page = max(seen, default=0) + 1
    return ModelReply(calls=(ModelCall(f"id{page:04}", "look", {"n": page}),), tokens_in=9, tokens_out=4)


def reader(window: Window, thread: str | None = None) -> Any:
    """Reads on and on, in a window that is soon too small."""

    @tool(does="read", within=5)
    async def look(call: Call[None], n: int) -> str:
        await asyncio.sleep(0.2)  # or else a run is done before anybody looks
        return f"page {n:04} {'x' * 300}"

    read = model_state(
        "Read about {text}.", model=MODEL, tools=[look], writes={"found": ["text"]}, max_tokens=64, thread=thread,
        window=window, reads=["text", "items"], within=3600,
    )  # fmt: skip
    limits = Limits(turns=500, warn_at=1.0, usd=50, tokens=10**8, calls=10**4, repeats=None)
    return Machine("reader", Case, limits=limits, table={
        "read": read.then({"called": "read", "found": "closed"}), "closed": final("completed"),
    })  # fmt: skip


def requests_by_turn(log: Sequence[e.Event], requests: Sequence[ModelRequest]) -> dict[int, list[ModelRequest]]:
    """What each turn of a run sent, when `requests` are all that it sent, in order."""
    turns = [event.turn for event in log if isinstance(event, e.ModelCalled)]
    found: dict[int, list[ModelRequest]] = {}
    for turn, request in zip(turns, requests, strict=False):
        found.setdefault(turn, []).append(request)
    return found
