"""The same text for every peer: a turn is 1 KB that a model says and 1 KB that a tool finds. Standard library only."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Coroutine
from typing import Any

_CHANCE = random.Random(7)
_WORDS = ["".join(_CHANCE.choices("abcdefghijklmnopqrstuvwxyz", k=_CHANCE.randint(2, 9))) for _ in range(3000)]
_POOL = [" ".join(_CHANCE.choices(_WORDS, k=341))[:1015] for _ in range(512)]


def said(page: int) -> str:
    return f"{page:08d} {_POOL[page % 512]}"


def found(page: int) -> str:
    return f"{page:08d} {_POOL[(page * 7 + 3) % 512]}"


async def timed(turns: int, work: Coroutine[Any, Any, Any]) -> None:
    """Print turns a second and processor time a turn, as JSON."""
    cpu, began = time.process_time(), time.perf_counter()
    await work
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"turns_s": turns / wall, "cpu_ms": cpu / turns * 1e3}))
