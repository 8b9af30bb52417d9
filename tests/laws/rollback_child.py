"""`python -m tests.laws.rollback_child FOLDER`: a run is ordered back to its first turn, and its worker is killed with
SIGKILL at one point of the rollback (before and after each commit, at the start and end of each undo), once for each
point; then another goes on. Real processes, a real store file, a real outside world. One JSON line per life.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from interlock import Call, Client, Machine, Worker, ask, final, tool, use
from interlock.bootstrap import open_store
from interlock.engine.timing import Timing
from interlock.errors import WaitClosed
from interlock.history import events as e
from interlock.machine.limits import Limits
from interlock.reading import read_events
from interlock.store.protocol import Answer, Commit, InboxItem, Leave, Store, Write
from tests.laws import crash_child
from tests.laws.audit import audit
from tests.laws.crash_child import Points, forked, world

TIMING = Timing(linger=0.001, send_window=0.2, grace=0.05, lease=1.0, poll=0.02)
WITHIN = 0.4


class Case(BaseModel):
    n: int = 1
    said: list[str] = []
    last: str = ""


def happens(name: str, key: str) -> None:
    crash_child.happens(name, key)


async def unput(call: Call[None], result: str | None, n: int) -> str:
    happens("unput", call.key)
    return f"took {result} back"


def unbook(call: Call[None], result: str | None, n: int) -> None:
    happens("unbook", call.key)


@tool(does="write", keyed=True, undo=unput, within=WITHIN)
async def put(call: Call[None], n: int) -> str:
    happens("put", call.key)
    return f"put {n}"


@tool(does="write", undo=unbook, within=WITHIN)
def book(call: Call[None], n: int) -> str:
    happens("book", call.key)
    return f"booked {n}"


@tool(does="send", within=WITHIN)
async def mail(call: Call[None], n: int) -> str:
    happens("mail", call.key)
    return f"sent {n}"


desk = Machine("desk", Case, limits=Limits(turns=30, warn_at=1.0), table={
    "put": use(put, args={"n": "n"}, into="last").then({"done": "book"}),
    "book": use(book, args={"n": "n"}, into="last").then({"done": "mail"}),
    "mail": use(mail, args={"n": "n"}, into="last").then({"done": "person"}),
    "person": ask("Right?", of="desk", writes={"yes": []}, within=1e6).then({"yes": "end", "timeout": "end"}),
    "end": final("completed"),
})  # fmt: skip


@dataclass
class Watched:
    """A store whose commits are points, from the order to go back until the run has gone back."""

    store: Store
    over: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        commits = [write for write in batch if isinstance(write, Commit)]
        if not commits or self.over:
            return self.store.write(batch)
        crash_child.POINTS.pass_by("before a commit")
        answers = self.store.write(batch)
        crash_child.POINTS.pass_by("after a commit")
        if any(b'"rolled_back"' in event.body for commit in commits for event in commit.events):
            self.over = True
            crash_child.POINTS = Points()  # what comes now is swept elsewhere
        return answers


async def work(path: Path) -> None:
    """Do the turns, order the rollback, and work until the run has ended; answer doubts from the truth."""
    points, crash_child.POINTS = crash_child.POINTS, Points()
    watched = Watched(open_store(f"sqlite:///{path}"), over=True)
    made: Any = watched
    async with Client(made, timing=TIMING) as client:
        run = await client.start(desk, Case(), key="the one", by="test")
        async with Worker(client, [desk], watch=False) as worker:
            await until(lambda: run.show().status == "waiting" and worker.busy == 0, client, run.id)
            crash_child.POINTS, watched.over = points, False
            await order(client, run.id)
            await until(lambda: gone_back(client, run.id) and run.show().row.state == "person", client, run.id)
            await client.resolve(run.id, "yes", by="ann")
            await until(lambda: run.show().ended, client, run.id)
    (path.parent / "points.json").write_text(json.dumps(points.names))


def gone_back(client: Client, run: str) -> bool:
    row = client.store.find(run)
    return any(isinstance(event, e.RolledBack) for _, event, _ in read_events(client.store, row.number))


async def order(client: Client, run: str) -> None:
    """Once, however often it is said: an inbox id counts once."""
    if gone_back(client, run):
        return
    item = InboxItem(f"{run}/rollback/the order", "rollback", {"to": 1, "accept": [3], "by": "ann", "reason": ""})
    await client.world.committer.submit(Leave(run, item, client.world.clock.now_ms()))
    client._tell_workers()


async def until(true: Any, client: Client, run: str) -> None:
    give_up = time.monotonic() + 20
    while not true():
        view = client.show(run)
        assert time.monotonic() < give_up, view.as_json()
        for wait in view.waits:
            if wait.why == "doubt" and wait.kind == "person" and wait.effect is not None and view.status == "waiting":
                await answer(client, run, wait.effect)
        await asyncio.sleep(0.01)


async def answer(client: Client, run: str, effect: int) -> None:
    """A person looks at the world and says what she sees. Somebody may have been first."""
    happened = any(key == f"{run}-{effect}" for _, key in world())
    try:
        await client.clear(run, effect, happened=happened, result="?" if happened else None, by="ann")
    except WaitClosed:
        return


def check(path: Path) -> None:
    """What must be true after another worker went on. Raises AssertionError."""
    store = open_store(f"sqlite:///{path}", create=False)
    audit(store)
    [row] = store.runs()
    log = [event for _, event, _ in read_events(store, row.number)]
    assert row.status == "completed" and sum(isinstance(event, e.RollbackBegun) for event in log) == 1
    [back] = [event for event in log if isinstance(event, e.RolledBack)]
    assert (back.undone, back.accepted) == ((2, 1), (3,)), back
    lines = Counter(world())
    for (name, key), times in lines.items():
        assert times == 1 or name in ("put", "unput", "unbook"), f"{name} {key} happened {times} times"
    assert Counter(name for name, _ in lines) == {"put": 2, "book": 2, "mail": 2, "unput": 1, "unbook": 1}, lines
    store.close()


# -- crashing ---------------------------------------------------------------------------------------------------------


def begin(folder: Path, fatal: int) -> None:
    crash_child.POINTS, crash_child.WORLD = Points(fatal), folder / "world.txt"
    asyncio.run(work(folder / "s.db"))


def verdict(folder: Path) -> None:
    crash_child.WORLD = folder / "world.txt"
    check(folder / "s.db")


def crash(folder: Path, fatal: Sequence[int]) -> dict[str, Any]:
    """Die at this point of the rollback, then resume and look."""
    folder.mkdir()
    ends = [forked(lambda at=at: begin(folder, at)) for at in (*fatal, 0)]
    return {
        "fatal": list(fatal),
        "killed": [sign == 9 for _, sign in ends[:-1]],
        "resumed": ends[-1] == (0, 0),
        "holds": forked(lambda: verdict(folder)) == (0, 0),
    }


def main(folder: Path) -> None:
    crash_child.crash = crash  # the lives, two at a time, are the other sweep's
    (folder / "dry").mkdir()
    assert forked(lambda: begin(folder / "dry", 0)) == (0, 0), "the run does not even work undisturbed"
    assert forked(lambda: verdict(folder / "dry")) == (0, 0), "it does not even hold undisturbed"
    names = json.loads((folder / "dry" / "points.json").read_text())
    print(json.dumps({"points": names}), flush=True)
    for scene in crash_child.scenes(folder, [[at] for at in range(1, len(names) + 1)]):
        print(json.dumps(scene), flush=True)


if __name__ == "__main__":
    os.environ.pop("INTERLOCK_STORE", None)
    main(Path(sys.argv[1]))
