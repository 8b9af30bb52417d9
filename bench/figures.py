"""Figures: one measured value beside its bound and, where there is one, the floor or rival it is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """`bound` with `sense` says what must hold of `value`, or of `ratio` (value / floor) when there is a floor.
    `bound` None: printed for the reader, nothing to hold. `value` None: it could not be measured, `missing` says why,
    and a bound does not hold: what nobody saw proves nothing."""

    name: str
    value: float | None
    unit: str
    sense: Literal["<=", ">=", "="] = "<="
    bound: float | None = None
    floor: float | None = None
    missing: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.value is None or self.floor is None else self.value / self.floor

    @property
    def holds(self) -> bool | None:
        if self.bound is None:
            return None
        compared = self.value if self.ratio is None else self.ratio
        if compared is None:
            return False
        match self.sense:
            case "<=":
                return compared <= self.bound
            case ">=":
                return compared >= self.bound
            case "=":
                return round(compared, 2) == self.bound

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "ratio": self.ratio, "holds": self.holds}

    def as_row(self) -> list[str]:
        said = {True: "holds", False: "DOES NOT HOLD", None: ""}[self.holds]
        if self.value is None:
            return [self.name, "", self._bound, "", "", f"{said}, not measured: {self.missing}".removeprefix(", ")]
        return [
            self.name,
            f"{_short(self.value)} {self.unit}",
            self._bound,
            _short(self.floor),
            _short(self.ratio),
            said,
        ]

    @property
    def _bound(self) -> str:
        return "" if self.bound is None else f"{self.sense} {_short(self.bound)}{'' if self.floor is None else ' x'}"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def table(figures: Sequence[Figure]) -> str:
    rows = [["figure", "value", "bound", "beside", "ratio", ""], *(figure.as_row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def write(figures: Sequence[Figure], path: Path) -> None:
    keep = ("name", "value", "unit", "bound", "floor", "ratio", "holds")
    rows = [{key: figure.as_json()[key] for key in keep} for figure in figures]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
