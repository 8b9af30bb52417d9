"""Isolated tools of every kind of misbehaviour, in a module that a child process can load."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from interlock import Call, NotDone, tool
from interlock.machine.tools import Happened


class Parcel(BaseModel):
    sent: date
    weights: set[int] = set()


@tool(does="read", within=20, isolate=True)
def typed(call: Call[None], parcel: Parcel, day: date) -> dict[str, Any]:
    assert isinstance(parcel, Parcel) and isinstance(day, date) and call.deps is None
    return {"heavy": max(parcel.weights), "days": (day - parcel.sent).days, "key": call.key, "attempt": call.attempt}


@tool(does="read", within=20, isolate=True)
def dated(call: Call[None], days: int) -> Parcel:
    return Parcel(sent=date(2026, 1, days), weights={3, 1})


@tool(does="read", within=20, isolate=True)
async def gathered(call: Call[None], n: int) -> int:
    async def one(part: int) -> int:
        await asyncio.sleep(0)
        return part

    return sum(await asyncio.gather(*(one(part) for part in range(n))))


@tool(does="read", within=20, isolate=True)
def noisy(call: Call[None], n: int) -> str:
    print('{"value": "forged"}\n' * n, flush=True)
    os.write(1, b'{"value": "forged too"}\n')
    subprocess.run(["echo", '{"value": "and by a child"}'], check=True)
    print("on stderr " * n, file=sys.stderr)
    assert sys.stdin.read() == ""
    return "said"


@tool(does="send", within=20, isolate=True)
def where(call: Call[None], n: int) -> list[int]:
    return [os.getpid(), os.getsid(0)]


@tool(does="send", within=20, isolate=True)
def bad(call: Call[None], how: str) -> int:
    """Misbehaves after it was sent."""
    match how:
        case "raises":
            raise ValueError("no such order")
        case "says no":
            raise NotDone("closed on Sundays", retry_after=7.5)
        case "exits":
            sys.exit(3)
        case "exits at once":
            print("going down", file=sys.stderr, flush=True)
            os._exit(3)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(20)
        case "kills its group":
            os.killpg(0, signal.SIGKILL)
            time.sleep(20)
        case "garbles":
            _write_everywhere(b"\n\xff{no json\n")
            os._exit(0)
        case "floods":
            _write_everywhere(b"x" * 20_000_000)
            time.sleep(20)
        case "lies":
            return "text"  # type: ignore[return-value] # what is tested
    return 0


@tool(does="send", within=20, isolate=True)
def large(call: Call[None], megabytes: int) -> str:
    return "x" * (megabytes * 1_000_000)


@tool(does="send", within=20, isolate=True)
def offspring(call: Call[None], file: str) -> str:
    """Has a child of its own, and a backtracking regular expression that holds the interpreter's lock for ever."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(file).write_text(f"{os.getpid()} {os.getppid()} {child.pid}")
    re.match(r"(a+)+$", "a" * 60 + "b")
    return "never"


def _write_everywhere(said: bytes) -> None:
    """To every pipe this process has, as a program gone mad would."""
    for file in range(3, 20):
        try:
            os.set_blocking(file, True)
            left = memoryview(said)
            while left:
                left = left[os.write(file, left) :]
        except OSError:
            continue


# -- in turns


def act(file: str, how: str) -> str:
    """Leaves its processes' ids in the file; the first call misbehaves, the others are fine."""
    with Path(file).open("a") as notes:
        notes.write(f"{os.getpid()} {os.getppid()}\n")
    if len(Path(file).read_text().splitlines()) == 1:
        if how == "hangs":
            while True:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                time.sleep(1)
        os._exit(5)
    return "done"


@tool(does="read", within=5, isolate=True)
def reads(call: Call[None], file: str, how: str) -> str:
    return act(file, how)


@tool(does="write", keyed=True, within=5, isolate=True)
def keyed(call: Call[None], file: str, how: str) -> str:
    return f"{act(file, how)} {call.key.rpartition('-')[2]} {call.attempt}"


def ask_whether(call: Call[None], file: str, how: str) -> Happened[str] | None:
    return Happened("it had happened")


@tool(does="write", probe=ask_whether, within=5, isolate=True)
def probed(call: Call[None], file: str, how: str) -> str:
    return act(file, how)


@tool(does="send", within=5, isolate=True)
def once(call: Call[None], file: str, how: str) -> str:
    return act(file, how)


@tool(does="send", within=600, isolate=True)
def lasting(call: Call[None], file: str, how: str) -> str:
    return act(file, how)
