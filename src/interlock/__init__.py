"""interlock: agents as finite state machines, run accountably.

    machine/   what may happen        history/  what has happened      policy/  what is permitted
    store/     where it lasts         agent/    who acts               engine/  what makes it happen
    worker     claims and advances runs         client   starts, reads and answers them
    testing    for users' own tests             cli/     one command per verb

The names below are the public ones; each is loaded when it is first used, so that `import interlock` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.client import Client, Result, run
    from interlock.errors import (
        BadInput,
        EffectFailed,
        InterlockError,
        InvalidMachine,
        KeyTaken,
        NotDone,
        NotGranted,
        StoreError,
        UnknownRun,
        WaitClosed,
    )
    from interlock.machine.limits import Limits, Price
    from interlock.machine.servers import mcp_server
    from interlock.machine.states import ask, final, model_state, state, use, wait
    from interlock.machine.table import Machine
    from interlock.machine.tools import Call, Happened, tool
    from interlock.machine.turn import Reply, Turn
    from interlock.machine.window import Window
    from interlock.webhook import Webhook
    from interlock.worker import Worker

_HOMES = {
    "interlock.client": ("Client", "Result", "run"),
    "interlock.errors": (
        "BadInput",
        "EffectFailed",
        "InterlockError",
        "InvalidMachine",
        "KeyTaken",
        "NotDone",
        "NotGranted",
        "StoreError",
        "UnknownRun",
        "WaitClosed",
    ),
    "interlock.machine.limits": ("Limits", "Price"),
    "interlock.machine.servers": ("mcp_server",),
    "interlock.machine.states": ("ask", "final", "model_state", "state", "use", "wait"),
    "interlock.machine.table": ("Machine",),
    "interlock.machine.tools": ("Call", "Happened", "tool"),
    "interlock.machine.turn": ("Reply", "Turn"),
    "interlock.machine.window": ("Window",),
    "interlock.webhook": ("Webhook",),
    "interlock.worker": ("Worker",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BadInput",
    "Call",
    "Client",
    "EffectFailed",
    "Happened",
    "InterlockError",
    "InvalidMachine",
    "KeyTaken",
    "Limits",
    "Machine",
    "NotDone",
    "NotGranted",
    "Price",
    "Reply",
    "Result",
    "StoreError",
    "Turn",
    "UnknownRun",
    "WaitClosed",
    "Webhook",
    "Window",
    "Worker",
    "ask",
    "final",
    "mcp_server",
    "model_state",
    "run",
    "state",
    "tool",
    "use",
    "wait",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'interlock' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
