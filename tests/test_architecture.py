"""The arrows between parts: who may import whom, read from the source, never by importing it.

Every import counts, also one inside a function or under TYPE_CHECKING: an import that has to hide is a cycle that the
reader still has to hold in mind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

# Lowest first. A part may import from lines above its own, and inside itself; parts on one line don't know each other.
LINES = [
    ["errors"],
    ["canonical", "clock", "visible"],
    ["machine"],
    ["history"],
    ["policy"],
    ["store.protocol", "agent"],
    ["engine"],
    ["store", "isolation"],  # the rest of store: the concrete ones
    ["bootstrap", "reading", "stuck", "webhook"],
    ["worker", "fitting", "dead", "upgrading"],
    ["deciding", "handover", "forking"],
    ["answering"],
    ["client"],  # `run()` for scripts brings a worker along
    ["testing", "adapters"],
    ["server", "redteam"],
    ["cli"],
    ["__main__"],
]
LINE_OF = {part: number for number, line in enumerate(LINES) for part in line}

# `interlock/__init__.py` shows everybody's names and imports them when asked for. Nobody inside shops there.
ROOT = "interlock"


def read(src: Path) -> dict[str, str]:
    """Module name -> source text."""
    found = {}
    for path in sorted(src.rglob("*.py")):
        parts = path.relative_to(src).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(module: str, is_package: bool, text: str) -> Iterator[tuple[int, str, str | None]]:
    """(line, module, name taken from it) of every import, in functions and under TYPE_CHECKING too."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name, None) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                start = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*start, *([source] if source else [])])
                yield from ((node.lineno, origin, alias.name) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name, None


def edges(modules: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """(importer, line, imported) between our own modules. `from package import module` reaches the module."""
    for module, text in modules.items():
        is_package = any(other.startswith(module + ".") for other in modules)
        for line, origin, name in imports(module, is_package, text):
            if origin == ROOT or origin.startswith(ROOT + "."):
                inner = f"{origin}.{name}"
                yield module, line, inner if inner in modules else origin


def part_of(module: str) -> str | None:
    """The longest entry of LINES that the module lies in."""
    inside = module.removeprefix(ROOT + ".")
    fitting = [part for part in LINE_OF if inside == part or inside.startswith(part + ".")]
    return max(fitting, key=len, default=None)


def objection(importer: str, imported: str) -> str | None:
    """Why this arrow may not be, or None."""
    if importer == ROOT:
        return None
    if imported == ROOT:
        return "imports the shop window; import the module that has the name"
    here, there = part_of(importer), part_of(imported)
    if here is None or there is None:
        return f"{importer if here is None else imported} has no place in LINES"
    if here == there or LINE_OF[there] < LINE_OF[here]:
        return None
    return f"{here} may not know {there}"


def wrong_arrows(modules: Mapping[str, str]) -> list[str]:
    found = []
    for importer, line, imported in edges(modules):
        why = objection(importer, imported)
        if why:
            found.append(f"{importer}:{line} imports {imported}: {why}")
    return found


def cycle(modules: Mapping[str, str]) -> list[str]:
    """The modules of one import cycle, first and last the same; empty when there is none."""
    graph: dict[str, list[str]] = {module: [] for module in modules}
    for importer, _, imported in edges(modules):
        if imported in graph and importer != imported:
            graph[importer].append(imported)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for imported in graph[module]:
            found = walk(imported, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next(filter(None, (walk(module, []) for module in graph)), [])


def test_imports_point_left_only() -> None:
    assert wrong_arrows(read(SRC)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle(read(SRC)) == []


def test_every_module_opens_with_what_it_is() -> None:
    silent = [module for module, text in read(SRC).items() if not ast.get_docstring(ast.parse(text))]
    assert silent == []


@pytest.mark.parametrize(
    "text",
    [
        "from interlock.engine.turn import take",
        "import interlock.engine.turn",
        "from interlock.engine import turn",
        "from ..engine import turn",
        "def late():\n    from interlock.engine import turn",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from interlock.engine.turn import take",
        "import importlib\nimportlib.import_module('interlock.engine.turn')",
    ],
)
def test_a_wrong_arrow_is_seen_however_it_is_written(text: str) -> None:
    modules = {"interlock": "", "interlock.machine": "", "interlock.machine.table": text}
    modules |= {"interlock.engine": "", "interlock.engine.turn": "take = 1"}
    (found,) = wrong_arrows(modules)
    assert "machine may not know engine" in found


@pytest.mark.parametrize(
    ("importer", "imported", "why"),
    [
        ("interlock.worker", "interlock.client", "worker may not know client"),
        ("interlock.engine.turn", "interlock.store.sqlite", "engine may not know store"),
        ("interlock.agent.model", "interlock.store.protocol", "agent may not know store.protocol"),
        ("interlock.engine.turn", "interlock", "shop window"),
        ("interlock.novelty", "interlock.errors", "has no place"),
        ("interlock.engine.turn", "interlock.store.protocol", None),
        ("interlock.store.sqlite", "interlock.engine.turn", None),
        ("interlock.store.sqlite", "interlock.store.rows", None),
        ("interlock", "interlock.cli", None),
    ],
)
def test_each_kind_of_arrow_is_judged(importer: str, imported: str, why: str | None) -> None:
    found = objection(importer, imported)
    assert found is None if why is None else why in str(found)


def test_a_circle_is_seen_also_through_a_deferred_import() -> None:
    modules = {
        "interlock.history": "",
        "interlock.history.events": "def fold():\n    from interlock.history import chain",
        "interlock.history.chain": "from .events import fold",
    }
    assert cycle(modules) == ["interlock.history.events", "interlock.history.chain", "interlock.history.events"]
    assert cycle({**modules, "interlock.history.chain": ""}) == []


def test_the_source_is_really_read() -> None:
    """A wrong path would make every test above pass."""
    assert {"interlock", "interlock.errors", "interlock.machine.table"} <= set(read(SRC))
