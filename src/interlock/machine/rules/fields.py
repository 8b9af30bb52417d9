"""Rules on the record and on every mention of its fields: reads, writes, arguments, prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from interlock.machine.prompt import placeholders
from interlock.machine.rules.remark import AnyDefinition, AnyRow, Remark, columns, doubles, near, rows
from interlock.machine.states import AskState, CodeState, ModelState, State, UseState, WaitState
from interlock.machine.window import Window


def record(machine: AnyDefinition) -> Iterator[Remark]:
    """The record is a pydantic model whose every field can be stored as JSON and read back."""
    kind: object = machine.record
    if not isinstance(kind, type) or not issubclass(kind, BaseModel) or issubclass(kind, RootModel):
        yield Remark(
            f"the record {kind!r} is no pydantic model with fields: derive it from BaseModel", source=machine.source
        )
        return
    for problem in _record_problems(kind):
        yield Remark(f"the record `{kind.__name__}` {problem}", source=machine.source)


def field(machine: AnyDefinition) -> Iterator[Remark]:
    """Every field that a state reads, writes or passes on is one of the record's, named once."""
    known = columns(machine)
    if known is None:
        return
    for state, row in rows(machine):
        for verb, names in mentions(row):
            for name in names:
                if name not in known:
                    message = f"{verb} `{name}`: not in {machine.record.__name__}; {near(name, known)}"
                    yield Remark(message, state, row.state.source)
            if not verb.startswith("passes"):
                for name in doubles(names):
                    yield Remark(f"{verb} `{name}` twice: name it once", state, row.state.source)


def writable(machine: AnyDefinition) -> Iterator[Remark]:
    """A field that a state writes can be assigned."""
    known = columns(machine) or {}
    for state, row in rows(machine):
        for name in dict.fromkeys(name for verb, names in mentions(row) if verb in WRITES for name in names):
            if name in known and (known[name].frozen or machine.record.model_config.get("frozen")):
                message = f"writes `{name}`, which {machine.record.__name__} declares frozen: unfreeze it"
                yield Remark(message, state, row.state.source)


def prompt(machine: AnyDefinition) -> Iterator[Remark]:
    """A prompt mentions fields that exist and that its state reads; as a function it takes the record alone."""
    known = columns(machine)
    for state, row in rows(machine):
        if known is None or not isinstance(row.state, ModelState | AskState):
            continue
        reads = row.state.reads if isinstance(row.state, ModelState) else None
        for problem in _prompt_problems(row.state.prompt, machine.record.__name__, known, reads):
            yield Remark(problem, state, row.state.source)


WRITES = ("writes", "puts its result into")


def mentions(row: AnyRow) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each place where a row names fields: what it does with them, and their names."""
    state = row.state
    if isinstance(state, CodeState | WaitState):
        yield "writes", state.writes
    if isinstance(state, ModelState | AskState):
        yield from (("writes", names) for names in state.writes.values())
    if isinstance(state, ModelState) and isinstance(state.window, Window):
        yield "pins", tuple(state.window.pin)
    if isinstance(state, CodeState | ModelState) and state.reads is not None:
        said = [*_mentioned(state), *_pinned(state)]
        if list(state.reads) != list(dict.fromkeys(said)):  # else they come from there, and those rules speak
            yield "reads", state.reads
    if isinstance(state, UseState):
        yield "passes on", tuple(state.args.values())
        yield "puts its result into", () if state.into is None else (state.into,)


def _mentioned(state: State[Any, Any, Any]) -> list[str]:
    return placeholders(state.prompt) if isinstance(state, ModelState) and isinstance(state.prompt, str) else []


def _pinned(state: State[Any, Any, Any]) -> list[str]:
    return list(state.window.pin) if isinstance(state, ModelState) and isinstance(state.window, Window) else []


def _prompt_problems(
    prompt: str | Callable[[Any], str], record: str, known: Mapping[str, FieldInfo], reads: tuple[str, ...] | None
) -> Iterator[str]:
    if not isinstance(prompt, str):
        if not _takes_one(prompt):
            yield "has a prompt that can't be called with the record alone: give it one parameter"
        return
    for name in placeholders(prompt):
        if name not in known:
            yield f"mentions `{{{name}}}` in its prompt: not in {record}; {near(name, known)}"
        elif reads is not None and name not in reads:
            yield f"mentions `{{{name}}}` in its prompt but doesn't read it: add it to `reads=`"


def _takes_one(function: object) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True


@lru_cache(maxsize=256)  # of a class, so machines that share one share the answer; it takes milliseconds
def _record_problems(record: type[BaseModel]) -> tuple[str, ...]:
    unresolved = _unresolved(record)
    if unresolved is not None:
        return (f"has types that can't be resolved ({unresolved}): import them beside it",)
    return (*_settings(record), *_unstorable(record), *_bad_defaults(record))


def _unresolved(record: type[BaseModel]) -> str | None:
    try:
        record.model_rebuild()
    except (NameError, PydanticUserError) as wrong:
        return str(wrong).splitlines()[0]
    return None


def _settings(record: type[BaseModel]) -> Iterator[str]:
    config = record.model_config
    if config.get("extra") == "allow":
        yield 'takes undeclared fields, which nobody can be granted: drop `extra="allow"`'
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    for name, column in record.model_fields.items():
        if column.validation_alias is not None and not by_name:
            yield f"reads `{name}` by an alias only, so the store can't: set `validate_by_name=True`"


def _unstorable(record: type[BaseModel]) -> Iterator[str]:
    if _schema_problem(record) is None:
        return
    for name, column in record.model_fields.items():
        problem = _schema_problem(_part(record, {name: column}))
        if problem is not None:
            yield f"has `{name}`, which can't be stored as JSON ({problem}): use plain types or pydantic models"


def _schema_problem(record: type[BaseModel]) -> str | None:
    try:
        record.model_json_schema(mode="validation")
        record.model_json_schema(mode="serialization")
    except Exception as wrong:  # a user's own type may raise anything here
        return str(wrong).splitlines()[0]
    return None


def _bad_defaults(record: type[BaseModel]) -> Iterator[str]:
    """Defaults that pydantic would never let in as values; each would fail when the run is read back."""
    for name, column in record.model_fields.items():
        if column.is_required() or column.default_factory is not None:
            continue
        try:
            part = _part(record, {name: column}, validate_default=True)
            part.model_validate(part().model_dump(mode="json", by_alias=True))
        except ValidationError as wrong:
            yield f"has a default of `{name}` that doesn't fit its type ({wrong.errors()[0]['msg']}): mend it"
        except (PydanticSerializationError, PydanticUserError):
            continue  # its type can't be stored, and that was said


def _part(
    record: type[BaseModel], fields: Mapping[str, FieldInfo], *, validate_default: bool = False
) -> type[BaseModel]:
    config = ConfigDict(**{**record.model_config, "validate_default": validate_default, "extra": "ignore"})
    columns: dict[str, Any] = {name: (column.annotation, column) for name, column in fields.items()}
    made: type[BaseModel] = create_model(record.__name__, __config__=config, **columns)
    return made
