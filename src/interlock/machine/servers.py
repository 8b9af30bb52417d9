"""Servers of the Model Context Protocol as declared: how one is reached, and which of its tools are used, and how.

A declaration only: no server is asked, so a machine is checked without one. What a tool takes and says of itself comes
from its server; the first time a run uses it, that is *pinned* for the run (`Pin`), and a server that says something
else later is refused. A server's own hints (read-only, destructive) are never believed: what a tool does is said here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry

from interlock.canonical import Json, as_stored, fingerprint
from interlock.errors import BadInput
from interlock.machine.states import caller
from interlock.machine.tools import Does, Tool

ErrorMeans = Literal["doubt", "not_done"]

RESULT_BYTES_MAX = 1_000_000
BINARY_BYTES_MAX = 64_000

_REFERENCE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NO_NAME = re.compile(r"[^A-Za-z0-9_]")
_SHOWN_CHARS_MAX = 200


@dataclass(frozen=True)
class Pin:
    """One tool as its server described it when the run first used it. `digest` is of all that is said here."""

    digest: str
    schema: Mapping[str, Json]
    description: str


@dataclass(frozen=True)
class Server:
    """How one server is reached. Made by `mcp_server`. Equal ones are one connection of a worker."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    folder: str | None = None
    start_within: float = 30.0
    result_bytes_max: int = RESULT_BYTES_MAX
    binary_bytes_max: int = BINARY_BYTES_MAX
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def tool(
        self,
        remote: str,
        *,
        does: Does = "send",
        within: float = 30.0,
        keyed: bool | str = False,
        key_valid_for: float | None = None,
        probe: Callable[..., Any] | None = None,
        undo: Callable[..., Any] | None = None,
        usd_max: float = 0.0,
        trusted: bool = False,
        approve: str | None = None,
        approve_within: float = 86_400.0,
        concurrency: int | None = None,
        rate: tuple[int, float] | None = None,
        error_means: ErrorMeans = "doubt",
        name: str | None = None,
    ) -> Tool[Any, ..., Any]:
        """Declare one of the server's tools, to be granted like any other. What isn't declared is the strictest.

        remote       its name at the server; `name` is what states and models call it (default: the same, with `_` for
                     what is no letter or digit)
        keyed        True: the server recognises `interlock/key` in a call's `_meta`, or the same call again does no
                     harm. A text: the argument that takes the key; the model doesn't see it
        error_means  what an error that the server answers says of a tool that isn't a read: "doubt" (it may have
                     happened) or "not_done" (surely not). An error of a read is told to who asked
        probe, undo  functions of yours: `probe(call, **arguments)`, `undo(call, result, **arguments)`
        The others are those of `@tool`. A call past `within` takes a command's whole process down.
        """
        source = caller()
        return ServerTool(
            function=_not_here,
            name=_NO_NAME.sub("_", remote) if name is None else name,
            does=does,
            within=within,
            keyed=keyed is not False,
            key_valid_for=key_valid_for,
            probe=probe,
            undo=undo,
            usd_max=usd_max,
            trusted=trusted,
            approve=approve,
            approve_within=approve_within,
            concurrency=concurrency,
            rate=rate,
            server=self,
            remote=remote,
            key_argument=keyed if isinstance(keyed, str) else None,
            error_means=error_means,
            file=source.file,
            line=source.line,
        )


def mcp_server(
    name: str,
    *,
    command: Sequence[str] = (),
    url: str = "",
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    folder: str | None = None,
    start_within: float = 30.0,
    result_bytes_max: int = RESULT_BYTES_MAX,
    binary_bytes_max: int = BINARY_BYTES_MAX,
) -> Server:
    """Declare a server of the Model Context Protocol (needs `interlock[mcp]`): `.tool(...)` declares its tools.

    command           starts it and speaks over its standard input and output; or
    url               where it listens (streamable HTTP)
    env, headers      what it is given. `{NAME}` stands for the worker's environment variable NAME, looked up when the
                      server is started or asked, so that no secret is in the machine or the log. A command gets these,
                      PATH, HOME and the like, and nothing else of the worker's environment
    start_within      seconds until it must have started and said what tools it has
    result_bytes_max  a larger result is refused; binary_bytes_max: of images and the like only kind and size are kept
    Each worker starts it when it is first needed, and ends it when it stops.
    """
    source = caller()
    return Server(
        name=name,
        command=tuple(command),
        url=url,
        env=tuple(sorted((env or {}).items())),
        headers=tuple(sorted((headers or {}).items())),
        folder=folder,
        start_within=start_within,
        result_bytes_max=result_bytes_max,
        binary_bytes_max=binary_bytes_max,
        file=source.file,
        line=source.line,
    )


def references(text: str) -> Iterator[str]:
    """The environment variables that a declared value stands for."""
    return (found[1] for found in _REFERENCE.finditer(text))


def resolved(text: str, environment: Mapping[str, str]) -> str:
    """The value with its references looked up. Raises KeyError for a variable that isn't set."""
    return _REFERENCE.sub(lambda found: environment[found[1]], text)


@dataclass(frozen=True, kw_only=True)
class ServerTool(Tool[Any, ..., Any]):
    """A tool that a server carries out. What it takes is known once it is pinned."""

    is_served: ClassVar[bool] = True

    server: Server
    remote: str
    key_argument: str | None = None
    error_means: ErrorMeans = "doubt"
    pin: Pin | None = None

    def pinned(self, pin: Pin) -> ServerTool:
        """The same tool with what it takes."""
        return replace(self, pin=pin, description=pin.description)

    @property
    def said(self) -> Json:
        """All that is declared of it beside a tool's own terms, as plain values: part of a machine's content."""
        server = self.server
        reached = [server.name, list(server.command), server.url, list(server.env), list(server.headers)]
        bounds = [server.folder, server.start_within, server.result_bytes_max, server.binary_bytes_max]
        return [*reached, *bounds, self.remote, self.key_argument, self.error_means]

    # `cached_property` and not fields: a tool's parameters are the server's to say.

    @cached_property
    def is_async(self) -> bool:
        return True

    @cached_property
    def parameters(self) -> list[Any]:
        return []

    @cached_property
    def schema(self) -> dict[str, Any]:
        """As a model sees it: without the argument that takes the key."""
        return {"type": "object"} if self.pin is None else _without(self.pin.schema, self.key_argument)

    @cached_property
    def result_schema(self) -> dict[str, Any]:
        return {}

    @cached_property
    def schema_digest(self) -> str:
        return fingerprint([self.name, self.does, self.pin.digest if self.pin is not None else ""])

    @cached_property
    def _validator(self) -> Validator:
        return validator_of(self.schema)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Json]:
        if args:
            raise BadInput(f"{self.name} takes its arguments by name: it is a server's, which may reorder them")
        return self.check(kwargs)

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Json]:
        if self.pin is None:
            raise BadInput(f"{self.name}: nobody has asked `{self.server.name}` yet what it takes")
        try:
            stored: dict[str, Json] = as_stored(dict(arguments))
        except BadInput as wrong:
            raise BadInput(f"{self.name}: an argument can't be stored as JSON: {wrong}") from None
        problems = [_problem(error) for error in self._validator.iter_errors(stored)]
        if self.key_argument in stored:
            problems.append(f"`{self.key_argument}` is not yours to give")
        if problems:
            raise BadInput(f"{self.name}: {'; '.join(problems[:5])}")
        return stored

    def revive(self, arguments: Mapping[str, Json]) -> dict[str, Any]:
        return dict(arguments)

    def dump(self, value: Any) -> Json:
        try:
            return as_stored(value)
        except BadInput as wrong:
            raise BadInput(f"{self.name} returned what can't be stored: {wrong}") from None

    def load(self, value: Json) -> Any:
        return value


def validator_of(schema: Mapping[str, Json]) -> Validator:
    """A validator by the draft that the schema names, else the newest; it fetches nothing that a schema refers to."""
    made: Validator = validator_for(schema, Draft202012Validator)(schema, registry=Registry())
    return made


def _not_here(call: Any, **arguments: Any) -> Any:
    raise NotImplementedError("a server carries this tool out")


def _without(schema: Mapping[str, Json], name: str | None) -> dict[str, Json]:
    if name is None:
        return dict(schema)
    left = {key: value for key, value in schema.get("properties", {}).items() if key != name}
    required = [each for each in schema.get("required", ()) if each != name]
    return {**schema, "properties": left, "required": required}


def _problem(error: ValidationError) -> str:
    """In a few words, without the offending value: it may be a secret."""
    where = ".".join(map(str, error.absolute_path)) or "value"
    names_only = error.validator in ("required", "additionalProperties", "dependentRequired")
    said = error.message if names_only else f"doesn't fit `{error.validator}: {error.validator_value!r}`"
    return f"`{where}`: {said}"[:_SHOWN_CHARS_MAX]
