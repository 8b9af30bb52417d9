"""A terminal for tests of commands: a folder with machines in it, and commands run there, for real or in here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from interlock.cli import app

SRC = Path(__file__).resolve().parents[2] / "src"

MACHINES = '''
"""Machines to be run by commands."""

import asyncio
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, ask, final, model_state, state, tool, use, wait
from interlock.errors import NotDone

MODEL = "openai:gpt-5-mini"


class Note(BaseModel):
    name: str
    size: int = 0
    said: str = ""
    items: list[str] = []


@tool(does="read", within=10)
async def look(call: Call[None], name: str) -> int:
    print("a tool prints")
    return len(name)


@tool(does="write", within=0.2)
async def send(call: Call[None], name: str) -> str:
    await asyncio.sleep(60)
    return name


@state(tools=[look], calls=2, writes=["size", "items"], within=30)
async def measure(turn: Turn[Note]) -> Literal["small", "large"]:
    turn.record.size = await turn.call(look, name=turn.record.name)
    turn.record.items.append("seen")
    return "large" if turn.record.size > 5 else "small"


@state(writes=["size"], within=30)
async def slow(turn: Turn[Note]) -> Literal["done"]:
    await asyncio.sleep(float(turn.record.name))
    return "done"


@state(writes=["items"], within=30)
async def grow(turn: Turn[Note]) -> Literal["more", "done"]:
    await asyncio.sleep(0.005)  # so that each turn is a commit of its own
    turn.record.items.append("x" * 20_000 + str(len(turn.record.items)))
    return "more" if len(turn.record.items) < 30 else "done"


look_up = model_state("How long is {name}?", model=MODEL, tools=[look], writes={"known": ["size"]}, max_tokens=100)

person = ask("Too large: {name}. What now?", of="ops", writes={"handled": ["said", "size"], "drop": []}, within=3600)
ends = {"closed": final("completed"), "lost": final("failed")}

note = Machine("note", Note, limits=Limits(turns=10, usd=0.5), table={
    "measure": measure.then({"small": "closed", "large": "person"}),
    "person": person.then({"handled": "closed", "drop": "lost", "timeout": "lost"}),
    **ends,
})
sleeper = Machine("sleeper", Note, limits=Limits(turns=3), table={
    "slow": slow.then({"done": "closed"}), "closed": final("completed"),
})
grower = Machine("grower", Note, limits=Limits(turns=60, repeats=None), table={
    "grow": grow.then({"more": "grow", "done": "closed"}), "closed": final("completed"),
})
thinker = Machine("thinker", Note, limits=Limits(turns=5), table={
    "look_up": look_up.then({"called": "look_up", "known": "closed"}), "closed": final("completed"),
})
doubter = Machine("doubter", Note, limits=Limits(turns=5), table={
    "send": use(send, args={"name": "name"}, within=30).then({"done": "closed"}), "closed": final("completed"),
})
called = Machine("called", Note, limits=Limits(turns=5), table={
    "wait": wait(signal="bell", within=3600, writes=["said"]).then({"arrived": "closed", "timeout": "lost"}), **ends,
})


@tool(does="write", keyed=True, within=10)
async def restart(call: Call[None], name: str) -> str:
    return call.key


@tool(does="send", within=10)
async def page(call: Call[None], name: str) -> str:
    return name


@state(tools=[look, restart, page], calls=4, within=30)
async def mend(turn: Turn[Note]) -> Literal["done"]:
    await turn.call(look, name=turn.record.name)
    await turn.call(restart, name=turn.record.name)
    await turn.call(page, name=turn.record.name)
    raise RuntimeError("it is still down")


@tool(does="write", keyed=True, undo=lambda call, result, name: print("an undo prints"), within=10)
def book(call: Call[None], name: str) -> str:
    return f"{name} booked"


booker = Machine("booker", Note, limits=Limits(turns=20), table={
    "book": use(book, args={"name": "name"}, into="said", within=30).then({"done": "page"}),
    "page": use(page, args={"name": "name"}, within=30).then({"done": "person"}),
    "person": person.then({"handled": "closed", "drop": "lost", "timeout": "lost"}),
    **ends,
})


@tool(does="write", keyed=True, within=10)
async def pay(call: Call[None], name: str) -> str:
    if not Path(__file__).with_name("open").exists():
        raise NotDone("the shop is \\x1b[31mclosed", retry=True)
    return f"paid {name}"


payer = Machine("payer", Note, limits=Limits(turns=5, attempts=1), table={
    "pay": use(pay, args={"name": "name"}, within=30).then({"done": "closed", "error": "lost"}), **ends,
})


mender = Machine("mender", Note, limits=Limits(turns=5), table={
    "mend": mend.then({"done": "closed"}), "closed": final("completed"),
})
not_a_machine = 3
'''


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    def refused(self, *words: str) -> None:
        """Misuse: exit 2, one clear line on stderr, nothing on stdout."""
        assert self.code == 2, self
        said = self.err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("interlock: ") and "Traceback" not in self.err, self
        assert self.out == "", self
        for word in words:
            assert word in self.err, self


class Terminal:
    """Commands in a folder: `here` in this process, `run` and `begin` as programs."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.store = f"sqlite:///{folder / 'runs.db'}"
        self.file = folder / "machines.py"
        self.file.write_text(MACHINES)

    def target(self, machine: str) -> str:
        return f"{self.file}:{machine}"

    def here(self, *args: str, store: str | None = None) -> Done:
        """In this process: quick, for what needs no process of its own."""
        self._capsys.readouterr()
        code = app.ended(
            [*args[:1], "--store", store or self.store, *args[1:]] if args else ["--store", store or self.store]
        )
        out, err = self._capsys.readouterr()
        return Done(code, out, err)

    def started(self, machine: str = "note", name: str = "abcdef") -> str:
        """The id of a new run that waits for a worker."""
        done = self.here("start", self.target(machine), "--input", json.dumps({"name": name}), "--json")
        assert done.code == 0, done
        return str(done.json["run"])

    def played(self, machine: str = "note", name: str = "abcdef") -> str:
        """The id of a run that was run until it ended or waits."""
        done = self.here("run", self.target(machine), "--input", json.dumps({"name": name}), "--json")
        assert done.code in (0, 1, 3), done
        return str(done.json["run"])

    def shown(self, run: str) -> Any:
        return self.here("show", run, "--json").json

    def begin(self, *args: str, environ: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        """As a program, in the folder."""
        env = {name: text for name, text in os.environ.items() if not name.startswith(("INTERLOCK_", "OPENAI_"))}
        env |= {"PYTHONPATH": str(SRC), "INTERLOCK_STORE": self.store, **(environ or {})}
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "interlock", *args], cwd=self.folder, env=env, text=True, **{**settings, **more}
        )

    def run(self, *args: str, **more: Any) -> Done:
        return ended(self.begin(*args, **more))


def ended(process: subprocess.Popen[str]) -> Done:
    """What a program said, and its exit code."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it didn't end: {out} {err}") from None
    return Done(process.returncode, out or "", err or "")


def until_it_says(process: subprocess.Popen[str], word: str) -> str:
    """What a program has written to its output when it has written `word`."""
    assert process.stdout is not None
    give_up = time.monotonic() + 30
    said = ""
    while word not in said and time.monotonic() < give_up:
        said += process.stdout.readline()
    return said


def interrupted(process: subprocess.Popen[str], word: str, sign: signal.Signals = signal.SIGINT) -> Done:
    """Send a signal once the program has said `word`."""
    said = until_it_says(process, word)
    process.send_signal(sign)
    done = ended(process)
    return Done(done.code, said + done.out, done.err)
