"""Wording: figures and times as a person reads them in one line; foreign text goes through `visible`. Knows no run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from interlock.visible import visible as visible  # where every verb finds it


def value(given: Any, width: int = 40) -> str:
    """A JSON value, short."""
    return visible(json.dumps(given, ensure_ascii=False), width)


def money(nanousd: int) -> str:
    """Dollars without the sign, with as many digits as say something."""
    usd = nanousd / 1e9
    if nanousd == 0:
        return "0"
    if abs(usd) >= 0.1:
        return f"{usd:.2f}"
    return f"{usd:.3f}" if abs(usd) >= 0.001 else f"{usd:.9f}".rstrip("0")


def quantity(number: int) -> str:
    """812, 14.1k, 2.3M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if abs(number) >= size:
            text = f"{number / size:.1f}"
            return f"{text.removesuffix('.0')}{letter}"
    return str(number)


def duration(seconds: float) -> str:
    """84 ms, 2.1 s, 61 s, 14 min, 23 h 46, 3 d 4 h."""
    if seconds < 0:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s".replace(".0 s", " s") if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d}" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def clock(at_ms: int) -> str:
    """Local time of day."""
    return datetime.fromtimestamp(at_ms / 1000).strftime("%H:%M:%S")


def moment(at_ms: int) -> str:
    """Local date and time."""
    return datetime.fromtimestamp(at_ms / 1000).strftime("%Y-%m-%d %H:%M:%S")


def by_when(at_ms: int, told_ms: int) -> str:
    """A time to come, as it is told at another: with its date, unless that day is the same."""
    same = datetime.fromtimestamp(at_ms / 1000).date() == datetime.fromtimestamp(told_ms / 1000).date()
    return clock(at_ms) if same else moment(at_ms)


def share(part: int, whole: int) -> str:
    """ " (4 %)", or nothing where nothing may be used."""
    return f" ({part / whole * 100:.0f} %)" if whole else ""


def columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as aligned lines."""
    table = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def apart(left: str, right: str, width: int) -> str:
    """One line with something at either end, or two blanks between where there's no room."""
    return left + " " * max(2, width - len(left) - len(right)) + right
