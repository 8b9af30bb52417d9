"""Approvals under SIGKILL: `python -m tests.laws.approval_child FOLDER` prints one JSON line per crash.

As `crash_child`, whose points, outside world and forking it uses; here a worker may also die before and after each
answer of a person, and what it calls needs one. The person answers once each; whoever resumes answers what is left.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Call, Client, Machine, Turn, Worker, final, state, tool, use
from interlock.agent.scripted import ScriptedModel
from interlock.bootstrap import open_store
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.reading import read_events
from interlock.store.protocol import Answer, Commit, Leave, Store, Write
from tests.laws import crash_child
from tests.laws.audit import audit
from tests.laws.crash_child import TIMING, WITHIN, Points, forked, happens, world


class Order(BaseModel):
    cents: int = 500
    receipts: list[str] = []


@tool(does="write", keyed=True, within=WITHIN, approve="finance")
async def pay(call: Call[None], cents: int) -> str:
    happens("pay", call.key)
    return f"paid {cents}"


@tool(does="send", within=WITHIN)
async def letter(call: Call[None], cents: int) -> str:
    happens("letter", call.key)
    return f"told of {cents}"


@state(tools=[pay], writes=["receipts"])
async def halves(turn: Turn[Order]) -> Literal["done"]:
    turn.record.receipts = list(await asyncio.gather(turn.call(pay, 250), turn.call(pay, 250)))
    return "done"


till = Machine("till", Order, limits=Limits(turns=9, warn_at=1.0), table={
    "pay": halves.then({"done": "tell"}),
    "tell": use(letter, args={"cents": "cents"}, approve="support", within=3600).then({"done": "end"}),
    "end": final("completed"),
})  # fmt: skip


@dataclass
class Watched:
    """A store whose commits and answers are points."""

    store: Store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        kinds = [kind.__name__.lower() for kind in (Commit, Leave) if any(isinstance(w, kind) for w in batch)]
        for kind in kinds:
            crash_child.POINTS.pass_by(f"before a {kind}")
        answers = self.store.write(batch)
        for kind in kinds:
            crash_child.POINTS.pass_by(f"after a {kind}")
        return answers


async def work(path: Path) -> None:
    """Start the run, or find it, and work until it has ended; say yes to what is asked, and the truth about doubts."""
    watched: Any = Watched(open_store(f"sqlite:///{path}"))
    async with Client(watched, models=ScriptedModel([]), timing=TIMING) as client:
        run = await client.start(till, Order(), key="the one", by="test")
        async with Worker(client, [till], watch=False):
            give_up = time.monotonic() + 20
            while not (view := run.show()).ended:
                assert time.monotonic() < give_up, view.as_json()
                for wait in view.waits if view.status == "waiting" else ():
                    if wait.why == "approve":
                        await client.approve(run.id, wait=wait.number, by="ann")
                    elif wait.kind == "person" and wait.effect is not None:
                        happened = ("letter", f"{run.id}-{wait.effect}") in world()
                        result = "told of 500" if happened else None
                        await client.clear(run.id, wait.effect, happened=happened, result=result, by="ann")
                await asyncio.sleep(0.01)


def check(path: Path) -> None:
    """What must be true after the run was resumed. Raises AssertionError."""
    store = open_store(f"sqlite:///{path}", create=False)
    audit(store)
    [row] = store.runs()
    log = [event for _, event, _ in read_events(store, row.number)]
    assert row.status == "completed", row.status
    keys = Counter(key for name, key in set(world()) if name == "pay")
    letters = [key for name, key in world() if name == "letter"]
    assert len(keys) == 2 and len(letters) == 1, world()
    asked = [event for event in log if isinstance(event, e.WaitOpened) and event.why == "approve"]
    given = [event for event in log if isinstance(event, e.Approved)]
    assert len(asked) == len(given) == 3, "each was asked for once, and each yes counted"
    assert not any(isinstance(event, e.ApprovalRefused) for event in log)
    store.close()


def begin(folder: Path, fatal: int) -> None:
    crash_child.POINTS, crash_child.WORLD = Points(fatal), folder / "world.txt"
    asyncio.run(work(folder / "s.db"))
    (folder / "points.json").write_text(json.dumps(crash_child.POINTS.names))


def crash(folder: Path, fatal: int) -> dict[str, Any]:
    """Die at this point, then resume and look."""
    folder.mkdir()
    (_, killed), resumed = forked(lambda: begin(folder, fatal)), forked(lambda: begin(folder, 0))
    verdict = forked(lambda: (setattr(crash_child, "WORLD", folder / "world.txt"), check(folder / "s.db")))
    return {"fatal": fatal, "killed": killed == 9, "resumed": resumed == (0, 0), "holds": verdict == (0, 0)}


def main(folder: Path) -> None:
    (folder / "dry").mkdir()
    assert forked(lambda: begin(folder / "dry", 0)) == (0, 0), "the run does not even work undisturbed"
    names = json.loads((folder / "dry" / "points.json").read_text())
    print(json.dumps({"points": names}), flush=True)
    for at in range(1, len(names) + 1):
        print(json.dumps(crash(folder / str(at), at)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
