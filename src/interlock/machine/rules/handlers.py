"""Rules on code states: what a handler declares, and what its source shows that it returns."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from interlock.machine.rules.annotations import Unresolved, resolved, shown
from interlock.machine.rules.remark import AnyDefinition, Remark, columns, near, rows
from interlock.machine.states import CodeState
from interlock.machine.turn import Turn

Found = tuple[int, object]
"""A value that a handler returns: the line, counted from its first, and the constant (`_UNKNOWN` when it is none)."""
_UNKNOWN = object()


def returns(machine: AnyDefinition) -> Iterator[Remark]:
    """A handler declares its outcomes as a `Literal` of strings."""
    for state, code in _codes(machine):
        remedy = 'annotate it `-> Literal["sent", "unsure"]` with its outcomes'
        try:
            hint = resolved(code.handler).get("return")
        except Unresolved as wrong:
            yield Remark(f"has annotations that can't be resolved ({wrong}): import them beside it", state, code.source)
            continue
        if hint is None:
            yield Remark(f"doesn't say what it returns: {remedy}", state, code.source)
        elif get_origin(hint) is not Literal or not all(isinstance(value, str) for value in get_args(hint)):
            yield Remark(f"returns `{shown(hint)}`, no literal strings: {remedy}", state, code.source)


def returned(machine: AnyDefinition) -> Iterator[Remark]:
    """What a handler's source returns is what it declares, and the other way round."""
    for state, code in _codes(machine):
        outcomes = code.outcomes
        found = returned_values(code.handler) if outcomes else []
        constants = [value for _, value in found]
        for line, value in found:
            if value is not _UNKNOWN and value not in outcomes:
                hint = near(value, outcomes) if isinstance(value, str) else "return one of its outcomes"
                place = replace(code.source, line=code.source.line + line)
                yield Remark(f"returns {value!r}, which it doesn't declare; {hint}", state, place)
        if found and _UNKNOWN not in constants:
            for outcome in (each for each in outcomes if each not in constants):
                yield Remark(f"declares `{outcome}` but never returns it: remove it, or return it", state, code.source)


def handler(machine: AnyDefinition) -> Iterator[Remark]:
    """A handler takes one `Turn`, over this machine's record."""
    known = columns(machine)
    for state, code in _codes(machine):
        if inspect.isgeneratorfunction(code.handler) or inspect.isasyncgenfunction(code.handler):
            yield Remark("yields: a handler returns its one outcome", state, code.source)
        if len(inspect.signature(code.handler).parameters) != 1:
            yield Remark("must take one parameter, the turn: `async def answer(turn: Turn[Case])`", state, code.source)
            continue
        wanted = turn_arguments(code.handler)
        if known is None or not wanted or not isinstance(wanted[0], type):
            continue
        if not issubclass(machine.record, wanted[0]):
            message = (
                f"takes a `Turn` over `{shown(wanted[0])}`, but the record is `{shown(machine.record)}`: name that"
            )
            yield Remark(message, state, code.source)


def bounds(machine: AnyDefinition) -> Iterator[Remark]:
    """A plain `def` has no effects, so a grant of models or tools to it is a mistake."""
    for state, code in _codes(machine):
        if not code.is_async and (code.models or code.tools):
            yield Remark("is a plain `def`, which can't use models or tools: write `async def`", state, code.source)


def turn_arguments(handler: Callable[..., Any]) -> tuple[Any, ...]:
    """The arguments of the handler's `Turn[...]`; empty where it doesn't say."""
    try:
        hints = resolved(handler)
    except Unresolved:
        return ()
    first = next(iter(inspect.signature(handler).parameters), "")
    hint = hints.get(first)
    return get_args(hint) if get_origin(hint) is Turn else ()


def returned_values(handler: Callable[..., Any]) -> list[Found]:
    """Every value its `return` statements give, read from the source; empty when there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(handler)))
    except (OSError, TypeError, SyntaxError):
        return []
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    found = [_constants(node) for node in _own_returns(tree.body[0])]
    return [each for some in found for each in some]


def _own_returns(function: ast.AST) -> Iterator[ast.Return]:
    """The `return` statements of a function, not those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield from _own_returns(node)


def _constants(node: ast.Return) -> list[Found]:
    return [(node.lineno - 1, value) for value in _values(node.value)]


def _values(node: ast.expr | None) -> list[object]:
    if node is None:
        return [None]
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [*_values(node.body), *_values(node.orelse)]
    return [_UNKNOWN]


def _codes(machine: AnyDefinition) -> Iterator[tuple[str, CodeState[Any, Any, Any]]]:
    return ((name, row.state) for name, row in rows(machine) if isinstance(row.state, CodeState))
