"""The record as a handler sees it: the fields of its class, within the state's grants, changes noted one by one.

Assignment and list `append`/`extend` are changes; nested values are frozen (a change in place is found at the end of
the turn and refused). Knows no store and no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

from msgspec.structs import replace
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from interlock.canonical import Json, as_stored, encode, in_order, same
from interlock.engine.live_run import Write
from interlock.errors import BadInput, FrozenValue
from interlock.machine.tools import explain
from interlock.policy.grants import Grant

R = TypeVar("R", bound=BaseModel)


@cache
def _adapters(record: type[BaseModel]) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(_annotated(info)) for name, info in record.model_fields.items()}


def _annotated(info: FieldInfo) -> Any:
    return Annotated[info.annotation, info] if info.metadata else info.annotation


def load_field(record: type[BaseModel], name: str, value: Json) -> Any:
    """A field's stored JSON as the Python value its annotation declares."""
    return _adapters(record)[name].validate_python(value, by_alias=True, by_name=True)


@cache
def _has_sets(record: type[BaseModel], name: str) -> bool:
    return b'"uniqueItems":true' in encode(_adapters(record)[name].json_schema())


def dump_field(record: type[BaseModel], name: str, value: Any) -> Json:
    """A field's new value as it will be stored, checked against its annotation. Raises `BadInput`."""
    adapter = _adapters(record)[name]
    try:
        made = adapter.validate_python(value, by_alias=True, by_name=True)
        return _stored(record, name, made, adapter.dump_python(made, mode="json", round_trip=True))
    except ValidationError as wrong:
        raise BadInput(f"record field `{name}`: {explain(wrong)}") from None
    except (ValueError, BadInput) as wrong:  # ValueError: pydantic's, for what it can't make JSON of
        raise BadInput(f"record field `{name}` can't be stored as JSON: {wrong}") from None


def _stored(record: type[BaseModel], name: str, made: Any, dumped: Json) -> Json:
    ordered = in_order(made, dumped) if _has_sets(record, name) else dumped
    stored = as_stored(ordered)
    if stored is not ordered:  # numbers that are none got names, which not every annotation reads back
        load_field(record, name, stored)
    return stored


def field_schema(record: type[BaseModel], name: str) -> dict[str, Json]:
    """JSON Schema of one field, as models and people are offered it."""
    schema: dict[str, Json] = _adapters(record)[name].json_schema()
    schema.pop("title", None)
    description = record.model_fields[name].description
    return {**schema, "description": description} if description else schema


def dump_record(record: type[BaseModel], values: Any) -> dict[str, Json]:
    """A whole record by field, as it will be stored. Raises `BadInput` naming each field that doesn't fit."""
    try:
        # An instance is looked at again too: pydantic lets anything be assigned to it.
        ready = isinstance(values, record)
        given = values.model_dump(round_trip=True, by_alias=False, warnings=False) if ready else values
        made = load_record(record, given)
        dumped: dict[str, Json] = made.model_dump(mode="json", round_trip=True, by_alias=False)
        known = record.model_fields
        return {
            name: _stored(record, name, getattr(made, name), value) if name in known else as_stored(value)
            for name, value in dumped.items()
        }
    except ValidationError as wrong:
        raise BadInput(f"{record.__name__}: {explain(wrong)}") from None
    except (ValueError, BadInput) as wrong:
        raise BadInput(f"{record.__name__} can't be stored as JSON: {wrong}") from None


def load_record(record: type[R], values: Any) -> R:
    """A record of stored values, which go by the names of its fields. Raises `ValidationError`."""
    return record.model_validate(values, by_alias=True, by_name=True)


def set_from(name: str, value: Json, given: Json, seq: int, *path: str | int) -> Write:
    """A field set to what was made of `given`, which stands in event `seq` at `path`: the log points there if the two
    are stored alike."""
    return Write("set", name, value, at=(seq, path) if same(value, given) else None)


@cache
def _has_validators(record: type[BaseModel]) -> bool:
    rules = record.__pydantic_decorators__
    return bool(rules.field_validators or rules.model_validators or rules.validators or rules.root_validators)


def fitting(record: type[BaseModel], stored: Mapping[str, Json], writes: Sequence[Write]) -> tuple[Write, ...]:
    """A turn's changes as the record's own validators leave them. Raises `BadInput` for a record they would refuse.

    Only a class that has validators costs this look at the whole record.
    """
    if not writes or not _has_validators(record):
        return tuple(writes)
    whole = dict(stored)
    for write in writes:
        whole[write.name] = write.value if write.how == "set" else [*(whole.get(write.name) or []), *write.value]
    made = dump_record(record, whole)
    return tuple(
        write
        if same(made[write.name], whole[write.name])
        else replace(write, how="set", value=made[write.name], at=None)
        for write in writes
    )


@cache
def _grows_freely(record: type[BaseModel], name: str) -> bool:
    """Whether what may be appended depends on the items alone: so it is in a bare `list[...]`, or one that may be None.
    Anything else may bound the whole list."""
    info = record.model_fields[name]
    return not info.metadata and _is_bare_list(info.annotation)


def _is_bare_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        lists = [each for each in get_args(annotation) if each is not NoneType]
        return len(lists) == 1 and _is_bare_list(lists[0])
    return annotation is list or get_origin(annotation) is list


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

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)  # a copy is the handler's own list: what is done to it is no change of the record

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
        # A bound on the list is a bound on all of it, which costs a look at all of it.
        before: list[Json] = [] if _grows_freely(self._record, name) else self._current(name)
        whole = dump_field(self._record, name, [*before, *items])
        if before and not same(whole[: len(before)], before):
            raise FrozenValue(f"record list `{name}` is rearranged by its own type: assign the whole field")
        self._added.setdefault(name, []).extend(whole[len(before) :])
        loaded: list[Any] = load_field(self._record, name, whole)
        return loaded[len(before) :]

    # -- at the end of the turn; no public methods: a record may have a field of any public name

    def _changes_made(self) -> list[Write]:
        """The turn's changes. Raises `FrozenValue` when a nested value was changed in place."""
        for name, value in self._fields.items():
            self._check_frozen(name, value)
        found = [Write("set", name, value) for name, value in self._set.items() if self._changes(name, value)]
        for name, items in self._added.items():
            if items and name in self._set:
                found = [Write("set", name, self._current(name)) if w.name == name else w for w in found]
            elif items:
                found.append(Write("add", name, items))
        return list(fitting(self._record, self._stored, found))

    def _changes(self, name: str, value: Json) -> bool:
        return name in self._added or not same(value, self._stored.get(name))

    def _check_frozen(self, name: str, value: Any) -> None:
        stored = self._current(name)
        nested = isinstance(stored, dict) or (
            isinstance(stored, list)
            and (not isinstance(value, Items) or any(isinstance(i, dict | list) for i in stored))
        )
        if not nested:
            return
        held = list(value) if isinstance(value, Items) else value
        if not same(dump_field(self._record, name, held), stored):
            raise FrozenValue(f"`record.{name}` was changed in place: assign the whole field instead")


def changes_of(draft: RecordDraft) -> list[Write]:
    """What the handler changed. Raises `FrozenValue` when a nested value was changed in place, `BadInput` when the
    record's own validators refuse what it became."""
    return draft._changes_made()


def fields_read(draft: RecordDraft) -> set[str]:
    """The fields the handler looked at."""
    return set(draft._reads)
