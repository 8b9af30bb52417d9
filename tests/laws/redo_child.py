"""Dead calls under SIGKILL: `python -m tests.laws.redo_child FOLDER` prints one JSON line per crash.

As `crash_child`, whose points, outside world and forking it uses. The only call of the run fails for good, and the run
with it; a person then has it done again, and says the truth of what is in doubt. A worker may die before and after each
commit and each word of that person, and before and after the call happens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from interlock import Call, Client, InterlockError, Machine, Worker, final, tool, use
from interlock.agent.scripted import ScriptedModel
from interlock.bootstrap import open_store
from interlock.errors import NotDone
from interlock.history import events as e
from interlock.history.calls import DEAD, IN_DOUBT
from interlock.machine.limits import Limits
from interlock.reading import RunView, read_events
from interlock.store.protocol import Answer, Commit, Leave, Store, Write
from tests.laws import crash_child
from tests.laws.audit import audit
from tests.laws.crash_child import TIMING, WITHIN, Points, forked, happens, world

OPEN = ("shop", "open")


class Order(BaseModel):
    cents: int = 500


@tool(does="send", within=WITHIN)
async def repair(call: Call[None], cents: int) -> str:
    if OPEN not in world():
        raise NotDone("the shop is closed", retry=True)
    happens("repair", call.key)
    return f"repaired for {cents}"


bench = Machine("bench", Order, limits=Limits(turns=9, attempts=1, warn_at=1.0), table={
    "repair": use(repair, args={"cents": "cents"}, within=60).then(
        {"done": "end", "error": "lost", "retries_spent": "lost"}),
    "end": final("completed"),
    "lost": final("failed"),
})  # fmt: skip


@dataclass
class Watched:
    """A store whose commits, and what people leave, are points."""

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


def open_shop() -> None:
    with crash_child.WORLD.open("a") as file:
        file.write(" ".join(OPEN) + "\n")


async def say(client: Client, view: RunView) -> None:
    """What a person does who looks at the run and at the world."""
    doubts = [int(n) for n, call in view.state.calls.items() if call.status == IN_DOUBT]
    for effect in doubts if view.ended or view.status == "waiting" else ():
        happened = ("repair", f"{view.id}-{effect}") in world()
        await client.clear(view.id, effect, happened=happened, result="seen" if happened else None, by="ann")
    for effect, call in view.state.calls.items():
        if call.status == DEAD and view.ended:
            if OPEN not in world():
                open_shop()
            await client.redo(view.id, int(effect), by="ann")


async def work(path: Path) -> None:
    """Start the run, or find it, and work until it has ended and nothing is on its queue."""
    watched: Any = Watched(open_store(f"sqlite:///{path}"))
    async with Client(watched, models=ScriptedModel([]), timing=TIMING) as client:
        run = await client.start(bench, Order(), key="the one", by="test")
        async with Worker(client, [bench], watch=False):
            give_up = time.monotonic() + 20
            while not (view := run.show()).ended or view.state.calls or view.row.mail:
                assert time.monotonic() < give_up, view.as_json()
                with suppress(InterlockError):  # somebody was first: an earlier life of hers
                    await say(client, view)
                await asyncio.sleep(0.01)


def check(path: Path) -> None:
    """What must be true after the run was resumed. Raises AssertionError."""
    store = open_store(f"sqlite:///{path}", create=False)
    audit(store)
    [row] = store.runs()
    log = [event for _, event, _ in read_events(store, row.number)]
    assert row.status == "failed", row.status
    assert store.snapshot(row.number).calls == ()
    done = [line for line in world() if line != OPEN]
    assert len(done) == 1 and done[0][1] != f"{row.id}-1", done
    known = [event for event in log if isinstance(event, e.ToolReturned)]
    known += [event for event in log if isinstance(event, e.DoubtCleared) and event.happened]  # type: ignore[misc]
    assert [f"{row.id}-{event.effect}" for event in known] == [done[0][1]], "its result is in the log, once"
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
