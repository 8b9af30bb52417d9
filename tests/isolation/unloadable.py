"""A module that loads once, here, and never again in a child process."""

from __future__ import annotations

import os
import sys

from interlock import Call, tool
from interlock.isolation import LOADING

match os.environ.get(LOADING):
    case "raises":
        raise RuntimeError("no database")
    case "exits":
        sys.exit("not in here")
    case "dies":
        os._exit(7)


@tool(does="send", within=20, isolate=True)
def raises(call: Call[None], n: int) -> int:
    return n


@tool(does="send", within=20, isolate=True)
def exits(call: Call[None], n: int) -> int:
    return n


@tool(does="send", within=20, isolate=True)
def dies(call: Call[None], n: int) -> int:
    return n


def vanishing(call: Call[None], n: int) -> int:
    """Isn't there when the module is loaded for it."""
    return n


if os.environ.get(LOADING) == "vanishing":
    del vanishing
else:
    vanishing = tool(does="send", within=20, isolate=True)(vanishing)  # type: ignore[assignment]
