"""The crash sweep's own program: `python -m tests.laws.crash_child FOLDER` prints one JSON line per crash.

A warm parent, which has imported everything and opened nothing, forks a worker for every crash point. The worker counts
its points (before and after each commit, at the start and end of each effect) and kills itself with SIGKILL at one.
Then a second one resumes the run, with a person at hand who answers what only the outside world can tell. That world is
a real file: every tool appends a line when its effect takes place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from interlock import Call, Client, Machine, Turn, Worker, final, model_state, state, tool, use
from interlock.agent.model import ModelReply, ModelRequest
from interlock.agent.scripted import ScriptedModel, call, choose
from interlock.bootstrap import open_store
from interlock.engine.timing import Timing
from interlock.errors import WaitClosed
from interlock.history import events as e
from interlock.machine.limits import Limits, Price
from interlock.machine.tools import Happened
from interlock.reading import read_events
from interlock.store.protocol import Answer, Commit, Reserve, Store, Write
from tests.laws.audit import audit

MODEL = "test:model"
TIMING = Timing(linger=0.001, send_window=0.2, grace=0.05, lease=1.0, poll=0.02)
WITHIN = 0.4
AT_ONCE = 2


class Points:
    """Counts the places where a worker may die, and dies at one of them."""

    def __init__(self, fatal: int = 0) -> None:
        self.names: list[str] = []
        self._fatal = fatal

    def pass_by(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


POINTS = Points()
WORLD = Path()


def happens(name: str, key: str) -> None:
    """The effect itself: one line in one write, which either took place or didn't."""
    POINTS.pass_by(f"{name} starts")
    file = os.open(WORLD, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{name} {key}\n".encode())
    os.close(file)
    POINTS.pass_by(f"{name} ends")


def world() -> list[tuple[str, str]]:
    lines = WORLD.read_text().splitlines() if WORLD.exists() else []
    return [(line.split(" ")[0], line.split(" ")[1]) for line in lines]


class Case(BaseModel):
    found: str = ""
    items: list[str] = []
    n: int = 3


@tool(does="read", within=WITHIN, concurrency=1, rate=(50, 1))
async def look(call: Call[None], n: int) -> str:
    happens("look", call.key)
    return f"seen {n}"


@tool(does="write", keyed=True, within=WITHIN)
def put(call: Call[None], n: int) -> str:
    happens("put", call.key)
    return f"put {n}"


async def was_charged(call: Call[None], n: int) -> Happened[str] | None:
    return Happened(f"charged {n}") if ("charge", call.key) in world() else None


@tool(does="write", probe=was_charged, within=WITHIN)
async def charge(call: Call[None], n: int) -> str:
    happens("charge", call.key)
    return f"charged {n}"


@tool(does="send", within=WITHIN)
async def mail(call: Call[None], n: int) -> str:
    happens("mail", call.key)
    return f"sent {n}"


@state(tools=[put, charge, look], writes=["items"])
async def together(turn: Turn[Case]) -> Literal["done"]:
    turn.record.items = list(await asyncio.gather(turn.call(put, 1), turn.call(charge, 1), turn.call(look, 1)))
    return "done"


@state(models=[MODEL], tools=[mail], writes=["items"])
async def tell(turn: Turn[Case]) -> Literal["done"]:
    draft = await turn.model(MODEL, "draft")
    turn.record.items.append(f"{await turn.random():.6f} {draft.text}")
    turn.record.items.append(await turn.call(mail, 2))
    return "done"


desk = Machine("desk", Case, limits=Limits(turns=12, warn_at=1.0), prices={MODEL: Price.per_million(1, 4)}, table={
    "search": model_state("find it", model=MODEL, tools=[look], writes={"found": ["found"]}).then(
        {"called": "search", "found": "together"}),
    "together": together.then({"done": "send"}),
    "send": use(mail, args={"n": "n"}, into="found").then({"done": "tell"}),
    "tell": tell.then({"done": "bill"}),
    "bill": use(charge, args={"n": "n"}).then({"done": "end"}),
    "end": final("completed"),
})  # fmt: skip


def brain(request: ModelRequest) -> Any:
    POINTS.pass_by("model starts")
    said: Any
    if not request.offers:
        said = ModelReply(text="hello", tokens_in=9, tokens_out=4)
    elif any(message.role == "tool" for message in request.messages):
        said = choose("found", found="it")
    else:
        said = call("look", n=0)
    POINTS.pass_by("model ends")
    return said


@dataclass
class Watched:
    """A store whose commits are points, and so is each place taken for a call of a tool with limits."""

    store: Store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        kinds = {Commit: "a commit", Reserve: "a reservation"}
        names = {kinds[type(write)] for write in batch if type(write) in kinds}
        for name in names:
            POINTS.pass_by(f"before {name}")
        answers = self.store.write(batch)
        for name in names:
            POINTS.pass_by(f"after {name}")
        return answers


async def work(path: Path) -> None:
    """Start the run, or find it, and work until it has ended; answer doubts from the truth."""
    watched: Any = Watched(open_store(f"sqlite:///{path}"))
    async with Client(watched, models=_Models(), timing=TIMING) as client:
        run = await client.start(desk, Case(), key="the one", by="test")
        async with Worker(client, [desk], watch=False):
            give_up = time.monotonic() + 20
            while not (view := run.show()).ended:
                assert time.monotonic() < give_up, view.as_json()
                for wait in view.waits:
                    assert wait.why in ("doubt", "retry"), view.as_json()
                    if wait.kind == "person" and wait.effect is not None and view.status == "waiting":
                        await answer(client, run.id, wait.effect)
                await asyncio.sleep(0.01)


class _Models:
    def find(self, name: str) -> Any:
        return ScriptedModel(brain)


async def answer(client: Client, run: str, effect: int) -> None:
    """A person looks at the world and says what she sees. Somebody may have been first."""
    happened = ("mail", f"{run}-{effect}") in world()
    try:
        await client.clear(run, effect, happened=happened, result="sent ?" if happened else None, by="ann")
    except WaitClosed:
        return


def check(path: Path) -> None:
    """What must be true after the run was resumed. Raises AssertionError."""
    store = open_store(f"sqlite:///{path}", create=False)
    audit(store)
    [row] = store.runs()
    assert row.status == "completed", row.status
    lines = Counter(world())
    log = [event for _, event, _ in read_events(store, row.number)]
    for (name, key), times in lines.items():
        intents = [event for event in log if isinstance(event, e.ToolCalled) and key == f"{row.id}-{event.effect}"]
        assert times <= len(intents), f"{name} {key} happened {times} times for {len(intents)} intents"
        assert times == 1 or name in ("look", "put"), f"{name} {key} happened {times} times"
    effects = Counter(name for name, _ in lines)
    assert effects == {"look": 2, "put": 1, "charge": 2, "mail": 2}, effects
    store.close()


# -- crashing ---------------------------------------------------------------------------------------------------------


def forked(job: Any) -> tuple[int, int]:
    """Run a job in a child process; (exit code, signal)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    return code, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def begin(folder: Path, fatal: int) -> None:
    global POINTS, WORLD
    POINTS, WORLD = Points(fatal), folder / "world.txt"
    asyncio.run(work(folder / "s.db"))
    (folder / "points.json").write_text(json.dumps(POINTS.names))


def crash(folder: Path, fatal: Sequence[int]) -> dict[str, Any]:
    """Die at these points, one life each, then resume and look."""
    folder.mkdir()
    ends = [forked(lambda at=at: begin(folder, at)) for at in (*fatal, 0)]
    verdict = forked(lambda: (globals().update(WORLD=folder / "world.txt"), check(folder / "s.db")))
    return {
        "fatal": list(fatal),
        "killed": [sig == signal.SIGKILL for _, sig in ends[:-1]],
        "resumed": ends[-1] == (0, 0),
        "holds": verdict == (0, 0),
    }


def scenes(folder: Path, lives: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Each in a process of its own, two at a time."""
    running: dict[int, Path] = {}
    for index, fatal in enumerate(lives):
        while len(running) >= AT_ONCE:
            yield _reaped(running)
        result = folder / f"{index}.json"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                result.write_text(json.dumps(crash(folder / str(index), fatal)))
                code = 0
            finally:
                os._exit(code)
        running[child] = result
    while running:
        yield _reaped(running)


def _reaped(running: dict[int, Path]) -> dict[str, Any]:
    child, _ = os.wait()
    made: dict[str, Any] = json.loads(running.pop(child).read_text())
    return made


def main(folder: Path, twice: Sequence[str]) -> None:
    (folder / "dry").mkdir()
    assert forked(lambda: begin(folder / "dry", 0)) == (0, 0), "the run does not even work undisturbed"
    names = json.loads((folder / "dry" / "points.json").read_text())
    print(json.dumps({"points": names}), flush=True)
    lives = [[at] for at in range(1, len(names) + 1)] + [[int(n) for n in pair.split(",")] for pair in twice]
    for scene in scenes(folder, lives):
        print(json.dumps(scene), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
