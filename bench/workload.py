"""The workload: a turn is one model call and one reading tool call, with 2.05 KB of new text between them.

The model and the tool answer at once from memory, so that what is measured is the engine and its store. How many runs
of how many turns are measured at once is said here, for us and for the peers.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from interlock import Call, Limits, Machine, Price, final, model_state, tool
from interlock.agent.model import Model, ModelCall, ModelReply, ModelRequest
from interlock.machine.table import AnyMachine

RUNS, TURNS = 200, 20
MODEL = "bench:reader"
TEXT_BYTES = 1024
_CHANCE = random.Random(7)
_WORDS = ["".join(_CHANCE.choices("abcdefghijklmnopqrstuvwxyz", k=_CHANCE.randint(2, 9))) for _ in range(3000)]
_POOL = [" ".join(_CHANCE.choices(_WORDS, k=TEXT_BYTES // 3))[: TEXT_BYTES - 9] for _ in range(512)]


def said(page: int) -> str:
    """1 KB that the model says on this page: prose-like, another on every page."""
    return f"{page:08d} {_POOL[page % 512]}"


def found(page: int) -> str:
    """1 KB that the tool finds on this page."""
    return f"{page:08d} {_POOL[(page * 7 + 3) % 512]}"


class Case(BaseModel):
    topic: str


@tool(does="read", within=30)
async def read_page(call: Call[None], page: int) -> str:
    """Read one page."""
    return found(page)


class Reader:
    """A model that reads page after page, and closes the case after the last. `seen` is told each page that it asks
    for, before it answers; what `seen` gives back is awaited, if anything."""

    def __init__(self, pages: int, seen: Callable[[int], Awaitable[None] | None] | None = None) -> None:
        self.pages = pages
        self._seen = seen

    def find(self, name: str) -> Model:
        return self

    async def reply(self, request: ModelRequest) -> ModelReply:
        page = _page_of(request) + 1
        if page > self.pages:
            choice = ModelCall(f"call_{page}", "read_all", {})
        else:
            choice = ModelCall(f"call_{page}", read_page.name, {"page": page})
        reply = ModelReply(said(page), (choice,), tokens_in=400, tokens_out=300, finish="tool_call")
        until = self._seen(page) if self._seen is not None else None
        if until is not None:
            await until
        return reply


def _page_of(request: ModelRequest) -> int:
    """The page that was read last, as the conversation says."""
    last = request.messages[-1]
    return int(last.text[:8]) if last.role == "tool" else 0


def machine(turns: int) -> AnyMachine:
    """One model state that calls its tool again and again."""
    reading = model_state(
        "Read every page on {topic}.",
        model=MODEL,
        tools=[read_page],
        writes={"read_all": []},
        max_tokens=800,
    )
    table: dict[str, Any] = {
        "reading": reading.then({"called": "reading", "read_all": "closed"}),
        "closed": final("completed"),
        "failed": final("failed"),
    }
    limits = Limits(turns=turns + 1, seconds=86_400, warn_at=1.0)
    return Machine(
        "bench", Case, limits=limits, table=table, otherwise="failed", prices={MODEL: Price.per_million(1, 2)}
    )
