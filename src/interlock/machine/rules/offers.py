"""Rules on states that a model or a person decides: there is something to choose, and it is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from interlock.machine.rules.remark import AnyDefinition, Remark, doubles, is_name, is_whole, rows
from interlock.machine.states import AskState, CodeState, ModelState, State, WaitState
from interlock.machine.window import Window


def offer(machine: AnyDefinition) -> Iterator[Remark]:
    """What a state offers and may use is stated, and has a bound."""
    for state, row in rows(machine):
        for problem in _problems(row.state):
            yield Remark(problem, state, row.state.source)


def _problems(state: State[Any, Any, Any]) -> Iterator[str]:
    if isinstance(state, ModelState | AskState) and not state.writes:
        yield 'offers no outcome: add `writes={"answered": ["reply"]}`'
    if isinstance(state, ModelState | CodeState):
        yield from _bounds(state)
        yield from _models(state)
    if isinstance(state, ModelState) and state.thread is not None and not is_name(state.thread):
        yield f"has `thread={state.thread!r}`: give it a name, or leave it out"
    if isinstance(state, ModelState):
        yield from _window(state.window)
    if isinstance(state, AskState) and not _says(state.of):
        yield 'asks nobody: name a role, such as `of="support"`'
    if isinstance(state, WaitState) and state.signal is not None and not _says(state.signal):
        yield 'waits for a signal without a name: `wait("paid")`'


def _bounds(state: ModelState | CodeState[Any, Any, Any]) -> Iterator[str]:
    if not is_whole(state.max_tokens, 1):
        yield f"has `max_tokens={state.max_tokens!r}`: give a whole number from 1 up"
    if not is_whole(state.calls, 1):
        yield f"has `calls={state.calls!r}`: give a whole number from 1 up"


def _window(window: object) -> Iterator[str]:
    if not isinstance(window, Window):
        yield f"has `window={window!r}`: write Window(bytes=...)"
        return
    yield from window.problems()


def _models(state: ModelState | CodeState[Any, Any, Any]) -> Iterator[str]:
    if isinstance(state, ModelState) and not state.models:
        yield 'names no model: write its provider and name, such as "openai:gpt-5-mini"'
    for name in doubles([name for name in state.models if _says(name)]):
        yield f"names the model {name!r} twice: a list is the first choice, then others; leave one out"
    for name in state.models:
        if not _says(name):
            yield f'names the model {name!r}: write its provider and name, such as "openai:gpt-5-mini"'


def _says(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip())
