"""Version: the two digests of a machine, shape and content."""

from __future__ import annotations

from typing import Any

from interlock.canonical import fingerprint
from interlock.machine.definition import Definition


def shape_of(machine: Definition[Any, Any]) -> str:
    return fingerprint([machine.name, list(machine.table)])


def content_of(machine: Definition[Any, Any]) -> str:
    return fingerprint([machine.name, list(machine.table)])
