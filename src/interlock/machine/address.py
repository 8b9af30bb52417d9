"""Address: where another process finds a function: its module, that module's file, its name in there. Calls nothing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from msgspec import Struct


class Address(Struct, frozen=True):
    """`name` is the way from the module to the function, with dots."""

    module: str
    file: str
    name: str


class NoAddress(LookupError):
    """No other process can find the function; the message says why and what to do."""


def address_of(thing: Any, function: Callable[..., Any]) -> Address:
    """Where `thing` lies, which is made of `function` (or is it). Raises `NoAddress`."""
    name = getattr(function, "__qualname__", "")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    if not name or "<" in name:
        raise NoAddress(f"`{name or repr(function)}` can't be found from outside: define it at the top of a module")
    file = getattr(module, "__file__", None)
    if module is None or not file or not os.path.isfile(file):
        raise NoAddress(f"`{name}` is defined in no file: put it in a module")
    found = _walk(module, name)
    if found is not thing and found is not function and getattr(found, "function", None) is not function:
        raise NoAddress(f"`{name}` in {os.path.basename(file)} is something else by now: give it a name of its own")
    return Address(module.__name__, os.path.abspath(file), name)


def found_at(address: Address) -> Callable[..., Any]:
    """The function at an address, its module loaded if need be. Raises `NoAddress`, and whatever loading raises."""
    found = _walk(_loaded(address), address.name)
    function = getattr(found, "function", found)
    if not callable(function):
        raise NoAddress(f"{address.file} has no `{address.name}`")
    return function  # type: ignore[no-any-return] # `callable` says so


def _walk(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _loaded(address: Address) -> ModuleType:
    """As Python imports it, where that gives the same file; else from the file, under the name it had."""
    if address.module != "__main__":
        try:
            spec = importlib.util.find_spec(address.module)
        except (ImportError, ValueError):
            spec = None
        if spec is not None and spec.origin is not None and os.path.abspath(spec.origin) == address.file:
            return importlib.import_module(address.module)
    name = "__isolated__" if address.module == "__main__" else address.module
    spec = importlib.util.spec_from_file_location(name, address.file)
    if spec is None or spec.loader is None:
        raise NoAddress(f"{address.file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
