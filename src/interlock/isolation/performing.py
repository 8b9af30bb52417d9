"""Performing: in the child process, loading a tool's function and calling it once. Knows no pipe and no process."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from interlock.canonical import Json, encode
from interlock.engine.raised import told
from interlock.errors import BadInput, NotDone
from interlock.machine.address import Address, found_at
from interlock.machine.tools import Call, Tool

LOADING = "INTERLOCK_ISOLATED_LOADING"
"""Set while the function's module is loaded: a script that isn't guarded would start its work once more in here."""


def load(where: Mapping[str, Any]) -> Callable[..., Any] | dict[str, Json]:
    """The function, else what to say instead."""
    os.environ[LOADING] = where["name"]
    try:
        return found_at(Address(where["module"], where["file"], where["name"]))
    except BaseException as raised:  # SystemExit too: a module may do anything
        return {"unloadable": told(raised)}
    finally:
        os.environ.pop(LOADING, None)


def answer(function: Callable[..., Any], name: str, asked: Mapping[str, Any]) -> bytes:
    """What came of calling it, as one line."""
    tool: Tool[Any, Any, Any] = Tool(function, name, "send", 1.0)
    call: Call[Any] = Call(deps=None, **asked["call"])
    try:
        value = function(call, **tool.revive(asked["args"]))
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except NotDone as said:
        return encode({"not_done": str(said), "retry": said.retry, "retry_after": said.retry_after})
    except BaseException as raised:
        return encode({"raised": told(raised)})
    try:
        return encode({"value": tool.dump(value)})
    except BadInput as wrong:
        return encode({"malformed": str(wrong)})
