"""The machines that the laws of effects are tried on, and the outside world their tools touch: a list of lines."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from interlock import Call, Machine, ask, final, tool
from interlock.machine.limits import Limits
from interlock.machine.tools import Happened

MODEL = "test:model"


class Case(BaseModel):
    """A record with room for anything."""

    n: int = 0
    text: str = ""
    items: list[str] = []


@dataclass
class Outside:
    """What really happened. Tools append (tool, key, argument) when their effect takes place."""

    lines: list[tuple[str, str, int]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    at: list[tuple[float, str]] = field(default_factory=list)

    def happens(self, name: str, call: Call[Any], n: int) -> None:
        self.lines.append((name, call.key, n))

    def times(self, name: str, n: int | None = None) -> int:
        """How often a tool's effect took place (under different keys, for one whose other side knows keys)."""
        found = [line for line in self.lines if line[0] == name and n in (None, line[2])]
        return len(set(found)) if name == "keyed" else len(found)


class Tools:
    """One tool of each way of clearing a doubt, on one outside world. `delay` seconds before the effect and after it;
    `fault(name, attempt)` may raise before or after it happened."""

    def __init__(
        self, before: float = 0.0, after: float = 0.0, within: float = 5.0, valid: float | None = None
    ) -> None:
        self.outside = outside = Outside()
        self.before, self.after = before, after
        self.slow: set[int] = set()  # arguments whose call never answers, though its effect takes place
        self.probing: list[Any] = []  # what the probe says next: an exception, or None for the truth

        async def act(name: str, call: Call[None], n: int) -> str:
            outside.calls[name] += 1
            outside.at.append((asyncio.get_running_loop().time(), name))
            await asyncio.sleep(self.before)
            outside.happens(name, call, n)
            await asyncio.sleep(self.after)
            if n in self.slow:
                self.slow.discard(n)
                await asyncio.sleep(1e5)
            return f"{name} {n}"

        async def probe(call: Call[None], n: int) -> Happened[str] | None:
            outside.at.append((asyncio.get_running_loop().time(), "probe"))
            said = self.probing.pop(0) if self.probing else None
            if said is not None:
                raise said
            happened = any(line[:2] == ("probed", call.key) for line in outside.lines)
            return Happened(f"probed {n}") if happened else None

        @tool(does="read", within=within)
        async def read(call: Call[None], n: int) -> str:
            return await act("read", call, n)

        @tool(does="write", keyed=True, key_valid_for=valid, within=within)
        async def keyed(call: Call[None], n: int) -> str:
            return await act("keyed", call, n)

        @tool(does="write", probe=probe, within=within)
        async def probed(call: Call[None], n: int) -> str:
            return await act("probed", call, n)

        @tool(does="send", within=within)
        async def once(call: Call[None], n: int) -> str:
            return await act("once", call, n)

        self.read, self.keyed, self.probed, self.once = read, keyed, probed, once
        self.all = (read, keyed, probed, once)


def machine(handler: Any, moves: dict[str, str] | None = None, *, visits: int | None = None, **limits: Any) -> Any:
    """A machine of one code state, which may end `done`; a person takes over what else it ends with."""
    table = {
        "work": handler.then({"done": "closed", **(moves or {})}, visits=visits),
        "person": ask("What now?", of="support", writes={"again": [], "stop": []}, within=1e6).then(
            {"again": "work", "stop": "lost", "timeout": "lost"}
        ),
        "closed": final("completed"),
        "lost": final("failed"),
    }
    if "person" not in (moves or {}).values():
        del table["person"]
    if "lost" not in (moves or {}).values() and "person" not in table:
        del table["lost"]
    return Machine("scene", Case, limits=Limits(**{"turns": 20, "warn_at": 1.0, **limits}), table=table)
