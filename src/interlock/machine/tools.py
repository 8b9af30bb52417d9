"""Tools as declared: what they do, how a doubt about one is cleared, and the schema a model sees.

A declaration only. Who calls it, when, and what is written down is the engine's.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Generic, Literal, ParamSpec, TypeVar, get_type_hints, overload

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticUndefined

from interlock.canonical import Json, as_stored, encode, fingerprint, in_order
from interlock.errors import BadInput
from interlock.machine.limits import nanousd

D = TypeVar("D")
P = ParamSpec("P")
T = TypeVar("T")

Does = Literal["read", "write", "send", "destroy"]


class Way:
    """How a doubt about a tool call (its intent is committed, its result is not) is cleared."""

    REPEAT = "repeat"  # repeatable: doing it again does no harm
    KEY = "key"  # repeated under the same key, which the other side recognises
    PROBE = "probe"  # a function can tell whether it happened
    PERSON = "person"  # at most once: a person answers


class Call(Struct, Generic[D], frozen=True):
    """What a tool gets beside its arguments. `key` is the same on every attempt of one effect, and never reused."""

    deps: D
    key: str
    run: str
    attempt: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Happened(Generic[T]):
    """What a probe returns when the effect took place, with the result the tool would have returned. Else: None."""

    result: T


@dataclass(frozen=True)
class Tool(Generic[D, P, T]):
    """A function that touches the outside, with its contract. Made by `@tool`."""

    function: Callable[Concatenate[Call[D], P], Awaitable[T] | T]
    name: str
    does: Does
    within: float
    keyed: bool = False
    key_valid_for: float | None = None
    probe: Callable[..., Any] | None = None
    undo: Callable[..., Any] | None = None
    usd_max: float = 0.0
    trusted: bool = False
    approve: str | None = None
    approve_within: float = 86_400.0
    isolate: bool = False
    concurrency: int | None = None
    rate: tuple[int, float] | None = None
    description: str = ""
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    is_served: ClassVar[bool] = False
    """Whether a server carries it out, and says at run time what it takes: see `machine.servers`."""

    @property
    def way(self) -> str:
        """How a doubt about it is cleared."""
        if self.does == "read":
            return Way.REPEAT
        if self.keyed:
            return Way.KEY
        return Way.PROBE if self.probe is not None else Way.PERSON

    @cached_property
    def limited(self) -> bool:
        """Whether its calls are counted across all runs."""
        return self.concurrency is not None or self.rate is not None

    @cached_property
    def nanousd_max(self) -> int:
        """Nano-dollars that one call costs at most."""
        return nanousd(self.usd_max)

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def parameters(self) -> list[inspect.Parameter]:
        """Its parameters without `Call`, with resolved annotations."""
        hints = get_type_hints(self.function, include_extras=True)
        own = list(inspect.signature(self.function).parameters.values())[1:]
        return [p.replace(annotation=hints.get(p.name, Any)) for p in own]

    @cached_property
    def _arguments(self) -> Any:
        columns: dict[str, Any] = {
            p.name: (p.annotation, Field(PydanticUndefined if p.default is p.empty else p.default))
            for p in self.parameters
        }
        config = ConfigDict(extra="forbid", validate_default=True)
        return create_model(f"{self.name}_arguments", __config__=config, **columns)

    @cached_property
    def _result(self) -> TypeAdapter[Any]:
        return TypeAdapter(get_type_hints(self.function, include_extras=True).get("return", Any))

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments, as a model sees it."""
        schema: dict[str, Any] = self._arguments.model_json_schema()
        schema.pop("title", None)
        for column in schema.get("properties", {}).values():
            column.pop("title", None)
        return schema

    @cached_property
    def result_schema(self) -> dict[str, Any]:
        """JSON Schema of the result as it is logged."""
        return self._result.json_schema(mode="serialization")

    @cached_property
    def schema_digest(self) -> str:
        return fingerprint([self.name, self.does, self.description, self.schema])

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Json]:
        """Arguments as JSON by name, checked against the signature. Raises `BadInput`."""
        names = [p.name for p in self.parameters]
        if len(args) > len(names):
            raise BadInput(f"{self.name} takes {len(names)} arguments, got {len(args)}")
        return self.check({**dict(zip(names, args, strict=False)), **kwargs})

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Json]:
        """The arguments as they will be sent and logged. Raises `BadInput` naming each that doesn't fit."""
        try:
            model = self._read(arguments)
            dumped: dict[str, Json] = model.model_dump(mode="json", round_trip=True)
            if dumped != arguments:
                self._read(dumped)  # what can't be read back is said before anything is sent
            stored: dict[str, Json] = as_stored(in_order(model, dumped) if self._takes_sets else dumped)
            return stored
        except ValidationError as wrong:
            raise BadInput(f"{self.name}: {explain(wrong)}") from None
        except (ValueError, BadInput) as wrong:  # ValueError: pydantic's, for what it can't make JSON of
            raise BadInput(f"{self.name}: an argument can't be stored as JSON: {wrong}") from None

    @cached_property
    def _takes_sets(self) -> bool:
        return b'"uniqueItems":true' in encode(self.schema)

    def _read(self, arguments: Mapping[str, Any]) -> BaseModel:
        model: BaseModel = self._arguments.model_validate(dict(arguments), by_alias=True, by_name=True)
        return model

    def revive(self, arguments: Mapping[str, Json]) -> dict[str, Any]:
        """Logged arguments as the Python values the function declares."""
        model = self._read(arguments)
        return {p.name: getattr(model, p.name) for p in self.parameters}

    def dump(self, value: Any) -> Json:
        """A result as JSON. Raises `BadInput` for one that isn't what the function declares."""
        try:
            made = self._result.validate_python(value)
            return as_stored(self._result.dump_python(made, mode="json", round_trip=True))
        except (ValidationError, ValueError, TypeError, BadInput) as wrong:
            reason = explain(wrong) if isinstance(wrong, ValidationError) else str(wrong)
            raise BadInput(f"{self.name} returned what it doesn't declare: {reason}") from None

    def load(self, value: Json) -> T:
        """A logged result as the Python value the function declares."""
        loaded: T = self._result.validate_python(value, by_alias=True, by_name=True)
        return loaded


def explain(wrong: ValidationError) -> str:
    """A pydantic error in one line, without the offending value (it may be a secret)."""
    return "; ".join(f"`{'.'.join(map(str, e['loc'])) or 'value'}`: {e['msg']}" for e in wrong.errors())


class Declare:
    """What `@tool(...)` returns: types the function's own parameters into the tool."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        self._name = name
        self._settings = settings

    @overload
    def __call__(self, function: Callable[Concatenate[Call[D], P], Awaitable[T]]) -> Tool[D, P, T]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Call[D], P], T]) -> Tool[D, P, T]: ...
    def __call__(self, function: Callable[Concatenate[Call[D], P], Any]) -> Tool[D, P, Any]:
        return Tool(
            function=function,
            name=self._name or function.__name__,
            description=inspect.getdoc(function) or "",
            file=Path(function.__code__.co_filename).name,
            line=function.__code__.co_firstlineno,
            **self._settings,
        )


def tool(
    *,
    does: Does = "send",
    within: float = 30.0,
    keyed: bool = False,
    key_valid_for: float | None = None,
    probe: Callable[..., Any] | None = None,
    undo: Callable[..., Any] | None = None,
    usd_max: float = 0.0,
    trusted: bool = False,
    approve: str | None = None,
    approve_within: float = 86_400.0,
    isolate: bool = False,
    concurrency: int | None = None,
    rate: tuple[int, float] | None = None,
    name: str | None = None,
) -> Declare:
    """Declare a function as a tool. Its first parameter is the `Call`; the others are what a model may fill.

    does      "read", "write", "send" (data leaves) or "destroy". Undeclared means the strictest: "send"
    within    seconds one attempt may take
    keyed     the other side recognises `call.key`, so an attempt in doubt is repeated under the same key, for
              `key_valid_for` seconds (None: for ever)
    probe     `probe(call, **arguments)` tells whether it took place: `Happened(result)` or None
    undo      `undo(call, result, **arguments)` takes it back when the run is rolled back: it gets a call under a key of
              its own, what the tool returned (None where nobody knows) and the arguments it had. Its `call.key` must be
              recognised by the other side: an undo in doubt is done again under the same key
    usd_max   the most one attempt can cost, held before it starts
    trusted   its results may steer the run as the user's own words may
    approve   the role whose yes every call of it needs: a person sees the call and its arguments, and decides. A turn
              whose call is denied ends `denied`; after `approve_within` seconds without an answer, `timeout`
    isolate   every call has a process of its own, killed with all it started at its deadline, or when nobody waits any
              more. JSON goes in and out; `call.deps` is None there. Starting it takes some tenths of a second
    concurrency, rate
              at most so many calls under way at once, and so many, `(times, seconds)`, begun within any stretch of
              seconds; counted by the tool's name over all runs and workers of a store. A call waits for its turn
    A plain `def` runs in a thread, which can't be killed; an `async def` must not block.
    """

    return Declare(
        name,
        does=does,
        within=within,
        keyed=keyed,
        key_valid_for=key_valid_for,
        probe=probe,
        undo=undo,
        usd_max=usd_max,
        trusted=trusted,
        approve=approve,
        approve_within=approve_within,
        isolate=isolate,
        concurrency=concurrency,
        rate=rate,
    )
