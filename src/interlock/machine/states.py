"""The kinds of state a table may hold, as declared. Frozen data; how each is performed is the engine's.

A declaration becomes a `Row` of a table with `.then(moves)`: which outcome leads to which state.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, get_args, get_origin, get_type_hints, overload

from typing_extensions import TypeVar

from interlock.machine.outcomes import EngineName
from interlock.machine.prompt import placeholders
from interlock.machine.tools import Tool
from interlock.machine.turn import D, R, Turn
from interlock.machine.window import Window

O = TypeVar("O", bound=str)  # noqa: E741 - the outcome type; one letter like R and D
E = TypeVar("E")  # D where a default can't stand: before O

Prompt = str | Callable[[Any], str]

USE_SECONDS = 60.0
APPROVAL_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a declaration stands, for messages."""

    file: str = ""
    line: int = 0


def caller(depth: int = 2) -> Source:
    """Where the function that called us was called from."""
    frame = sys._getframe(depth)
    return Source(Path(frame.f_code.co_filename).name, frame.f_lineno)


@dataclass(frozen=True, kw_only=True)
class State(Generic[O, R, D]):
    """A declared state, not yet in a table. Made by `@state`, `model_state`, `use`, `ask` or `wait`."""

    within: float
    source: Source

    @property
    def active(self) -> float:
        """Seconds that a turn in it may be active, waits for people not counted."""
        return self.within

    @property
    def kind(self) -> str:
        """One word for drawings and hashes."""
        raise NotImplementedError

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What it may end with, beside the engine's outcomes."""
        raise NotImplementedError

    def then(self, moves: Mapping[O | EngineName, str], *, visits: int | None = None) -> Row[R, D]:
        """A row of a table: each outcome and where it leads. `visits` bounds the turns a run may spend in it."""
        return Row(self, {str(outcome): to for outcome, to in moves.items()}, visits, caller())


@dataclass(frozen=True)
class Row(Generic[R, D]):
    """One state in its table, with its moves."""

    state: State[Any, R, D]
    moves: Mapping[str, str]
    visits: int | None
    source: Source


@dataclass(frozen=True)
class Final:
    """A row that ends the run."""

    status: Literal["completed", "failed"]
    source: Source


def final(status: Literal["completed", "failed"] = "completed") -> Final:
    """A row that ends the run with this status."""
    return Final(status, caller())


@dataclass(frozen=True, kw_only=True)
class CodeState(State[O, R, D]):
    """A handler in Python. An `async def` may use effects; a plain `def` runs in a thread and has none."""

    handler: Callable[[Turn[R, D]], Awaitable[O] | O]
    models: tuple[str, ...] = ()
    tools: tuple[Tool[Any, Any, Any], ...] = ()
    calls: int = 8
    max_tokens: int = 1024
    reads: tuple[str, ...] | None = None
    writes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "code"

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.handler)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The strings of the handler's `Literal`; empty when it declares none (which `check` refuses)."""
        return _declared_outcomes(self.handler)


@dataclass(frozen=True, kw_only=True)
class ModelState(State[str, Any, Any]):
    """A model chooses: one of the declared outcomes with the fields it must write, or calls of granted tools."""

    prompt: Prompt
    models: tuple[str, ...]  # the first that takes the call
    instructions: str = ""
    tools: tuple[Tool[Any, Any, Any], ...] = ()
    writes: Mapping[str, tuple[str, ...]]
    reads: tuple[str, ...] | None = None
    max_tokens: int = 1024
    calls: int = 4
    thread: str | None = None
    window: Window = Window()  # noqa: RUF009 - frozen

    @cached_property
    def has_servers(self) -> bool:
        """Whether it is granted a tool of a server, which says only at run time what the tool takes."""
        return any(tool.is_served for tool in self.tools)

    @property
    def kind(self) -> str:
        return "model"

    @property
    def outcomes(self) -> tuple[str, ...]:
        return (*(("called",) if self.tools else ()), *self.writes)


@dataclass(frozen=True, kw_only=True)
class UseState(State[Literal["done"], Any, Any]):
    """One call of one tool, its arguments taken from record fields."""

    tool: Tool[Any, Any, Any]
    args: Mapping[str, str]
    into: str | None = None
    approve: str | None = None

    @property
    def active(self) -> float:
        """With `approve=`, `within` is the person's time; the call has what any `use` has, or twice the tool's own."""
        return self.within if self.approve is None else max(USE_SECONDS, 2 * self.tool.within)

    @property
    def kind(self) -> str:
        return "use"

    @property
    def outcomes(self) -> tuple[str, ...]:
        return ("done",)


@dataclass(frozen=True, kw_only=True)
class AskState(State[str, Any, Any]):
    """A durable wait for a person, who chooses one of the outcomes and fills its fields."""

    prompt: Prompt
    of: str
    writes: Mapping[str, tuple[str, ...]]

    @property
    def kind(self) -> str:
        return "ask"

    @property
    def outcomes(self) -> tuple[str, ...]:
        return tuple(self.writes)


@dataclass(frozen=True, kw_only=True)
class WaitState(State[str, Any, Any]):
    """A durable wait: for a named signal from a system (`arrived`, with its fields), or for time (`elapsed`)."""

    signal: str | None
    writes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "wait"

    @property
    def outcomes(self) -> tuple[str, ...]:
        return ("elapsed",) if self.signal is None else ("arrived",)


@lru_cache(maxsize=4096)  # asked for every turn, and resolving annotations is slow
def _declared_outcomes(handler: Callable[..., Any]) -> tuple[str, ...]:
    try:
        hint = get_type_hints(handler).get("return")
    except Exception:  # an unresolvable annotation is reported by `check`, not raised here
        return ()
    return tuple(get_args(hint)) if get_origin(hint) is Literal else ()


class Declare:
    """What `@state(...)` returns: types the handler's outcomes into the state."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    @overload
    def __call__(self, handler: Callable[[Turn[R, E]], Awaitable[O]]) -> State[O, R, E]: ...
    @overload
    def __call__(self, handler: Callable[[Turn[R, E]], O]) -> State[O, R, E]: ...
    def __call__(self, handler: Callable[[Turn[R, E]], Any]) -> State[Any, R, E]:
        code = handler.__code__
        source = Source(Path(code.co_filename).name, code.co_firstlineno)
        return CodeState(handler=handler, source=source, **self._settings)


def state(
    *,
    models: Sequence[str] = (),
    tools: Sequence[Tool[Any, Any, Any]] = (),
    calls: int = 8,
    max_tokens: int = 1024,
    reads: Sequence[str] | None = None,
    writes: Sequence[str] = (),
    within: float = 60.0,
) -> Declare:
    """A state in Python: `@state(...) async def answer(turn: Turn[Case]) -> Literal["sent", "unsure"]`.

    models, tools  what it may use; reads, writes  which fields (`reads=None`: all)
    calls          the most effects of one turn; max_tokens: the most a model may write in one call
    within         seconds the turn may be active before it ends `timeout`
    """
    return Declare(
        models=tuple(models),
        tools=tuple(tools),
        calls=calls,
        max_tokens=max_tokens,
        reads=None if reads is None else tuple(reads),
        writes=tuple(writes),
        within=within,
    )


def model_state(
    prompt: Prompt,
    *,
    model: str | Sequence[str],
    writes: Mapping[str, Sequence[str]],
    tools: Sequence[Tool[Any, Any, Any]] = (),
    instructions: str = "",
    reads: Sequence[str] | None = None,
    max_tokens: int = 1024,
    calls: int = 4,
    within: float = 60.0,
    thread: str | None = None,
    window: Window | None = None,
) -> State[str, Any, Any]:
    """A state a model decides: it is offered the outcomes of `writes` (each with the fields it must fill) and the
    granted tools, nothing else.

    prompt   text with `{field}` placeholders, or a function of the record
    model    its name, or several in order: the first choice, then those that are asked when it is unavailable
    calls    tool calls one reply may make; their results end the turn `called`
    thread   a conversation shared by name; without it, it lives while the state leads to itself
    window   how much of the conversation is sent, and what becomes of the rest
    within   seconds the turn may be active before it ends `timeout`
    """
    return ModelState(
        prompt=prompt,
        models=model_names(model),
        instructions=instructions,
        tools=tuple(tools),
        writes={outcome: tuple(names) for outcome, names in writes.items()},
        reads=_reads(prompt, reads, window),
        max_tokens=max_tokens,
        calls=calls,
        within=within,
        thread=thread,
        window=window or Window(),
        source=caller(),
    )


def model_names(model: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as several."""
    return (model,) if isinstance(model, str) else tuple(model)


def use(
    tool: Tool[Any, Any, Any],
    *,
    args: Mapping[str, str],
    into: str | None = None,
    approve: str | None = None,
    within: float | None = None,
) -> State[Literal["done"], Any, Any]:
    """A state that calls one tool: `args` maps each parameter to a record field, `into` names the field that takes
    the result. Ends `done`.

    approve  the role whose yes the call needs: a person sees it with its arguments, and what she approves is what is
             called. Ends `denied` when she says no
    within   seconds the turn may be active (60) before it ends `timeout`; with `approve=`, those that the person has
             (a day)
    """
    if within is None:
        within = USE_SECONDS if approve is None else APPROVAL_SECONDS
    return UseState(tool=tool, args=dict(args), into=into, approve=approve, within=within, source=caller())


def ask(
    prompt: Prompt, *, of: str, writes: Mapping[str, Sequence[str]], within: float = 86_400.0
) -> State[str, Any, Any]:
    """A state that waits for a person of role `of`, who answers one of the outcomes in `writes` with its fields.
    Ends `timeout` when nobody did within so many seconds."""
    fields = {outcome: tuple(names) for outcome, names in writes.items()}
    return AskState(prompt=prompt, of=of, writes=fields, within=within, source=caller())


def wait(
    signal: str | None = None, *, seconds: float | None = None, writes: Sequence[str] = (), within: float = 86_400.0
) -> State[str, Any, Any]:
    """A state that waits for the signal `signal` (ends `arrived`, with the fields in `writes`, or `timeout` after
    `within` seconds), or for `seconds` to pass (ends `elapsed`)."""
    due = within if seconds is None else seconds
    if (signal is None) == (seconds is None):
        due = -1.0  # both or neither: `check` refuses it where it stands
    return WaitState(signal=signal, writes=tuple(writes), within=due, source=caller())


def _reads(prompt: Prompt, reads: Sequence[str] | None, window: Window | None) -> tuple[str, ...] | None:
    """What is pinned is read: it is told to the model."""
    if reads is None:
        if not isinstance(prompt, str):
            return None
        reads = tuple(placeholders(prompt))
    return tuple(dict.fromkeys([*reads, *(window.pin if isinstance(window, Window) else ())]))
