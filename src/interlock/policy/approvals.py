"""Approvals: what a person's yes is bound to, and whether it still is about what is going to be done. Pure decisions.

It is bound to the tenant, the run, the machine's shape, the effect, the tool with its schema, the arguments and the
policy that asks for it. Any of them another: another approval. Knows no wait and no event.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import asdict

from interlock.canonical import Json, fingerprint


class Approver(Struct, frozen=True):
    """Who must say yes (a role), and for how many seconds the question stands, and then the yes."""

    role: str
    within: float


class Bound(Struct, frozen=True):
    """All that one approval is about."""

    tenant: str
    run: str
    shape: str
    effect: int
    tool: str
    schema: str
    args: Mapping[str, Json]
    policy: Mapping[str, Json]

    @property
    def digest(self) -> str:
        return fingerprint(["approval", asdict(self)])


_SAID = {
    "tenant": "it is another tenant's",
    "run": "it is another run's",
    "shape": "the machine has another shape now",
    "effect": "it is another effect's",
    "tool": "it is for another tool",
    "schema": "the tool is declared otherwise now",
    "args": "the arguments are others",
    "policy": "what asks for it is declared otherwise now",
}


def differs(approved: Bound, now: Bound) -> str:
    """Why what was approved isn't what is going to be done, in words; empty when it is."""
    return next((said for name, said in _SAID.items() if getattr(approved, name) != getattr(now, name)), "")
