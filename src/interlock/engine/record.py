"""The record as a handler sees it: the fields of its class, within the state's grants, changes noted one by one.

Assignment and list `append`/`extend` are changes; nested values are frozen (a change in place is found at the end of
the turn and refused). Knows no store and no event.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from interlock.canonical import Json, encode
from interlock.engine.live_run import Write
from interlock.errors import BadInput, FrozenValue
from interlock.machine.tools import explain
from interlock.policy.grants import Grant


@cache
def _adapters(record: type[BaseModel]) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(_annotated(info)) for name, info in record.model_fields.items()}


def _annotated(info: FieldInfo) -> Any:
    return Annotated[info.annotation, info] if info.metadata else info.annotation


def load_field(record: type[BaseModel], name: str, value: Json) -> Any:
    """A field's stored JSON as the Python value its annotation declares."""
    return _adapters(record)[name].validate_python(value)


def dump_field(record: type[BaseModel], name: str, value: Any) -> Json:
    """A field's new value as JSON, checked against its annotation. Raises `BadInput`."""
    adapter = _adapters(record)[name]
    try:
        return adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError as wrong:
        raise BadInput(f"record field `{name}`: {explain(wrong)}") from None


def field_schema(record: type[BaseModel], name: str) -> dict[str, Json]:
    """JSON Schema of one field, as models and people are offered it."""
    schema: dict[str, Json] = _adapters(record)[name].json_schema()
    schema.pop("title", None)
    description = record.model_fields[name].description
    return {**schema, "description": description} if description else schema


def dump_record(record: type[BaseModel], values: Any) -> dict[str, Json]:
    """A whole record as JSON by field. Raises `BadInput` naming each field that doesn't fit."""
    try:
        made = values if isinstance(values, record) else record.model_validate(values)
    except ValidationError as wrong:
        raise BadInput(f"{record.__name__}: {explain(wrong)}") from None
    dumped: dict[str, Json] = made.model_dump(mode="json")
    return dumped


class Items(list[Any]):
    """A list of the record: it can be read, appended to and extended; anything else is refused."""

    def __init__(self, values: Iterable[Any], draft: RecordDraft, name: str) -> None:
        super().__init__(values)
        self._draft = draft
        self._name = name

    def append(self, item: Any) -> None:
        self.extend([item])

    def extend(self, items: Iterable[Any]) -> None:
        taken = list(items)
        super().extend(self._draft._append(self._name, taken))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise FrozenValue(f"record list `{self._name}` takes append and extend; else assign the whole field")

    __setitem__ = __delitem__ = __imul__ = insert = pop = remove = clear = sort = reverse = _refuse

    def __iadd__(self, items: Iterable[Any]) -> Items:  # type: ignore[misc]  # list's own is as loose
        self.extend(items)
        return self


class RecordDraft:
    """Stands in for an instance of the record class during one turn."""

    __slots__ = ("_added", "_fields", "_grant", "_reads", "_record", "_set", "_stored")

    def __init__(self, record: type[BaseModel], stored: dict[str, Json], grant: Grant) -> None:
        put = object.__setattr__
        put(self, "_record", record)
        put(self, "_stored", stored)
        put(self, "_grant", grant)
        put(self, "_fields", {})  # name -> the Python value handed out
        put(self, "_set", {})  # name -> JSON
        put(self, "_added", {})  # name -> list of JSON items
        put(self, "_reads", set())

    def __getattr__(self, name: str) -> Any:
        if name not in self._record.model_fields:
            raise AttributeError(f"{self._record.__name__} has no field `{name}`")
        self._grant.may_read(name)
        self._reads.add(name)
        if name not in self._fields:
            value = load_field(self._record, name, deepcopy(self._current(name)))  # theirs to spoil, not ours
            self._fields[name] = Items(value, self, name) if type(value) is list else value
        return self._fields[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._record.model_fields:
            raise AttributeError(f"{self._record.__name__} has no field `{name}`")
        self._grant.may_write(name)
        if isinstance(value, Items) and value is self._fields.get(name):
            return  # `record.items += [...]` assigns back the list that has noted its own change
        self._set[name] = dump_field(self._record, name, list(value) if isinstance(value, Items) else value)
        self._added.pop(name, None)
        self._fields.pop(name, None)

    def __repr__(self) -> str:
        return f"<{self._record.__name__} draft, changed: {[*self._set, *self._added]}>"

    def _current(self, name: str) -> Json:
        whole = self._set.get(name, self._stored.get(name))
        return [*(whole or []), *self._added[name]] if name in self._added else whole

    def _append(self, name: str, items: list[Any]) -> list[Any]:
        self._grant.may_write(name)
        dumped = dump_field(self._record, name, items)
        self._added.setdefault(name, []).extend(dumped)
        loaded: list[Any] = load_field(self._record, name, dumped)
        return loaded

    # -- at the end of the turn ---------------------------------------------------------------------------------------

    def writes(self) -> list[Write]:
        """The turn's changes. Raises `FrozenValue` when a nested value was changed in place."""
        for name, value in self._fields.items():
            self._check_frozen(name, value)
        found = [Write("set", name, value) for name, value in self._set.items() if self._changes(name, value)]
        for name, items in self._added.items():
            if items and name in self._set:
                found = [Write("set", name, self._current(name)) if w.name == name else w for w in found]
            elif items:
                found.append(Write("add", name, items))
        return found

    def _changes(self, name: str, value: Json) -> bool:
        return name in self._added or encode(value) != encode(self._stored.get(name))

    def _check_frozen(self, name: str, value: Any) -> None:
        stored = self._current(name)
        nested = isinstance(stored, dict) or (
            isinstance(stored, list) and any(isinstance(i, dict | list) for i in stored)
        )
        if not nested:
            return
        held = list(value) if isinstance(value, Items) else value
        if encode(dump_field(self._record, name, held)) != encode(stored):
            raise FrozenValue(f"`record.{name}` was changed in place: assign the whole field instead")

    def reads(self) -> set[str]:
        """The fields the handler looked at."""
        return set(self._reads)
