"""The rules of a valid machine."""

from __future__ import annotations

from typing import Any

from interlock.errors import Finding
from interlock.machine.definition import Definition


def errors_of(machine: Definition[Any, Any]) -> list[Finding]:
    return []
