"""Targets: `module:machine` and `file.py:machine`, loaded from where they lie, and a line for each way it goes wrong.

The only place that runs a user's code to have a machine. What that code prints goes to stderr.
"""

from __future__ import annotations

import importlib.util
import linecache
import os
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType

from interlock.cli.options import Misuse, foreign_output_aside
from interlock.errors import InvalidMachine
from interlock.machine.table import AnyMachine, Machine


class NoTarget(Misuse):
    """The target can't be had; the message says why."""


def load(target: str) -> AnyMachine:
    """The machine that a target names. Raises `NoTarget`, and `InvalidMachine` with its findings."""
    home, colon, name = target.rpartition(":")
    if not colon or not home or not name:
        raise NoTarget(f"{target}: {_remedy(target)}")
    with foreign_output_aside(), _blaming(home):
        module = _module(home)
    return _machine(module, home, name)


def load_all(targets: tuple[str, ...]) -> list[AnyMachine]:
    """Several machines, each with a name of its own."""
    machines = [load(target) for target in targets]
    for number, machine in enumerate(machines):
        if machine.name in {other.name for other in machines[:number]}:
            raise NoTarget(f"two targets are machines called `{machine.name}`: a worker can have one of each name")
    return machines


def _remedy(target: str) -> str:
    bare = target.rstrip(":")
    if bare.endswith(".py") and Path(bare).is_file():
        return f"name the machine too: {bare}:MACHINE"
    return "write module:machine or file.py:machine"


def _machine(module: ModuleType, home: str, name: str) -> AnyMachine:
    found = getattr(module, name, None)
    if isinstance(found, Machine):
        return found
    there = [each for each, value in vars(module).items() if isinstance(value, Machine)]
    machines = f"the machines there: {', '.join(there)}" if there else "there is no machine in it"
    if not hasattr(module, name):
        raise NoTarget(f"{home} has no `{name}`; {machines}")
    raise NoTarget(f"{home}:{name} is no Machine but a {type(found).__name__}; {machines}")


# -- modules ----------------------------------------------------------------------------------------------------------


def _module(home: str) -> ModuleType:
    _visible_from(os.getcwd())
    if not (home.endswith(".py") or os.sep in home):
        return import_module(home)
    path = Path(home).absolute()
    if path.is_dir():
        raise NoTarget(f"{home}: is a folder; name a file in it")
    if not path.is_file():
        raise NoTarget(f"{home}: no such file")
    _visible_from(str(path.parent))
    return _from_file(path)


def _visible_from(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _from_file(path: Path) -> ModuleType:
    """The file as a module under its own name, or under a longer one where that name belongs to another module."""
    name = path.stem
    have = sys.modules.get(name)
    if have is not None and getattr(have, "__file__", None) == str(path):
        return have
    if have is not None or name in sys.stdlib_module_names:
        name = f"{name}_of_{path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NoTarget(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# -- blame ------------------------------------------------------------------------------------------------------------


class _blaming:
    """Makes one line, with file and line number, of whatever a user's module raises."""

    def __init__(self, home: str) -> None:
        self.home = home

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, at: TracebackType | None) -> None:
        if wrong is None or isinstance(wrong, KeyboardInterrupt | InvalidMachine | Misuse):
            return
        linecache.checkcache()
        raise NoTarget(self._line(wrong)) from wrong

    def _line(self, wrong: BaseException) -> str:
        match wrong:
            case SyntaxError():
                return f"{_near(wrong.filename or self.home)}:{wrong.lineno or 0}: syntax error: {wrong.msg}"
            case UnicodeDecodeError() | ValueError() if not list(_frames(wrong)):
                return f"{self.home}: is no Python source: {wrong}"
            case ModuleNotFoundError() if wrong.name and self.home.partition(".")[0] == wrong.name.partition(".")[0]:
                return f"{self.home}: no such module (looked in {os.getcwd()} and where Python looks)"
            case ImportError() if "relative import" in str(wrong):
                return f"{self._place(wrong)}: it imports from its own package: name it as package.module:machine"
            case SystemExit():
                return f"{self._place(wrong)}: it ends the program (SystemExit) when it is loaded"
            case _:
                said = f"{type(wrong).__name__}: {wrong}" if str(wrong) else type(wrong).__name__
                return f"{self._place(wrong)}: {said}"

    def _place(self, wrong: BaseException) -> str:
        frames = list(_frames(wrong))
        return f"{_near(frames[-1].filename)}:{frames[-1].lineno}" if frames else self.home


def _frames(wrong: BaseException) -> Iterator[traceback.FrameSummary]:
    """Where in the user's own code it happened: neither here nor in an installed package."""
    for frame in traceback.extract_tb(wrong.__traceback__):
        inside = os.sep + "interlock" + os.sep in frame.filename or "site-packages" in frame.filename
        if not inside and not frame.filename.startswith("<") and not frame.filename.startswith(sys.base_prefix):
            yield frame


def _near(path: str) -> str:
    """A path as one would write it from here."""
    try:
        inside = os.path.relpath(path)
    except ValueError:
        return path
    return path if inside.startswith("..") else inside
