"""Fitting: whether what somebody gives fits what is asked for, found out before anything is written. Changes nothing.

For everyone who starts or answers runs: the client, the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from pydantic import AliasChoices, AliasPath, BaseModel

from interlock.canonical import Json, as_stored
from interlock.errors import BadInput, WaitClosed
from interlock.machine.limits import DIMENSIONS, Amounts, nanousd
from interlock.machine.rules.remark import near
from interlock.reading import OpenWait, RunView

EXTENSION_MAX = 10**9
"""The most of anything that one extension adds: a billion dollars, in nano-dollars, fits a 64-bit integer."""


def check_key(key: str | None) -> None:
    """Raises `BadInput` for an empty key: a variable that wasn't set would make one run of all that come."""
    check_words(key=key)
    if key is not None and not key.strip():
        raise BadInput("the key is empty: name what the run is for, or give no key")


def check_words(**words: str | None) -> None:
    """Raises `BadInput` for a name or reason that isn't text: it would be in the log for good."""
    for name, said in words.items():
        if said is not None and not isinstance(said, str):
            raise BadInput(f"{name} is text, not {said!r}")


def check_switch(name: str, seconds: float | None, **words: str | None) -> None:
    """Raises `BadInput` for what is no breaker's name, or no time to open one for."""
    check_words(name=name, **words)
    kind, _, of = name.partition(":")
    if kind not in ("model", "tool") or not of:
        raise BadInput(f"a breaker is named model:PROVIDER:NAME or tool:NAME, not {name!r}")
    if seconds is not None and not 0 < seconds <= SECONDS_MAX:
        raise BadInput(f"a breaker is opened for up to {SECONDS_MAX} seconds, or until it is reset, not {seconds!r}")


SECONDS_MAX = 10**9
"""Thirty years: whoever asks for more has mistaken the unit."""


def check_names(record: type[BaseModel], given: Mapping[str, Any]) -> None:
    """Raises `BadInput` for a field that the record doesn't have, which pydantic would drop without a word.

    Nothing is refused where the class itself says what becomes of others: by `extra=`, or by a validator that sees what
    was given before its fields do.
    """
    rules = record.__pydantic_decorators__.model_validators.values()
    if record.model_config.get("extra") is not None or any(rule.info.mode != "after" for rule in rules):
        return
    known = list(dict.fromkeys(_names_of(record)))
    for name in given:
        if name not in known:
            raise BadInput(f"{record.__name__} has no field `{name}`; {near(str(name), known)}")


def _names_of(record: type[BaseModel]) -> Iterator[str]:
    """Every name under which a field may be given."""
    for name, field in record.model_fields.items():
        yield name
        alias = field.validation_alias
        for each in alias.choices if isinstance(alias, AliasChoices) else (alias,):
            if isinstance(each, AliasPath):
                yield str(each.path[0])
            elif each is not None:
                yield each


def wait_for_answer(view: RunView, number: int | None = None) -> OpenWait:
    """The wait that an answer is for: the only one for a person, or the one of this number. Raises `WaitClosed`,
    `BadInput`."""
    waits = [w for w in view.waits if w.kind == "person" and number in (None, w.number)]
    if not waits:
        raise WaitClosed(f"run {view.id} waits for no person{'' if number is None else f' in wait {number}'}")
    if len(waits) > 1:
        raise BadInput(f"run {view.id} has several open waits: name one ({', '.join(str(w.number) for w in waits)})")
    return waits[0]


def wait_for_approval(view: RunView, number: int | None = None) -> OpenWait:
    """The wait in which a call is to be approved or denied. Raises `WaitClosed`, `BadInput`."""
    waits = [w for w in view.waits if w.why == "approve" and number in (None, w.number)]
    if not waits:
        which = "" if number is None else f" in wait {number}"
        raise WaitClosed(f"run {view.id} asks for no approval{which}; see `interlock show {view.id}`")
    if len(waits) > 1:
        named = ", ".join(f"{w.number} ({w.call['tool']})" for w in waits)
        raise BadInput(f"run {view.id} asks for several approvals: name one with --wait: {named}")
    return waits[0]


def check_answer(wait: OpenWait, outcome: str, fields: Mapping[str, Json] | None) -> dict[str, Json]:
    """The fields as the run will find them. Raises `BadInput` for an outcome that the wait doesn't take, or fields that
    this outcome doesn't."""
    form = wait.form.get(outcome)
    if form is None:
        raise BadInput(f"run {wait.run} takes {', '.join(wait.form)}, not {outcome!r}")
    said = as_said(outcome, fields)
    _check_form(outcome, form, said)
    return said


def extension(*, usd: float = 0, tokens: int = 0, turns: int = 0, calls: int = 0, seconds: float = 0) -> dict[str, int]:
    """What ceilings are raised by, dimension by dimension. Raises `BadInput`."""
    whole = all(type(amount) is int for amount in (turns, calls, tokens))
    if not whole or not all(0 <= amount <= EXTENSION_MAX for amount in (usd, tokens, turns, calls, seconds)):
        raise BadInput("extend by figures from 0 up: usd, seconds; tokens, turns, calls in whole numbers")
    given = Amounts(turns, calls, tokens, nanousd(usd), int(seconds * 1000)).as_dict()
    more = {name: given[name] for name in DIMENSIONS if given[name]}
    if not more:
        raise BadInput("say by how much to extend, above 0: usd, tokens, turns, calls or seconds")
    return more


def as_said(what: str, fields: Mapping[str, Json] | None) -> dict[str, Json]:
    """Fields as the run will find them in its inbox. Raises `BadInput` for what is not JSON, or nested too deeply."""
    try:
        stored: dict[str, Json] = as_stored(dict(fields or {}))
    except BadInput as wrong:
        raise BadInput(f"{what}: what goes with it {wrong}") from None
    return stored


def _check_form(outcome: str, form: Json, fields: dict[str, Json]) -> None:
    """Raises `BadInput` for the first field that the form's schema refuses."""
    schema = form or {"type": "object", "additionalProperties": False}
    if "properties" not in schema and schema.get("type") != "object":
        schema = {"type": "object", "properties": form, "additionalProperties": False}
    for wrong in jsonschema.Draft202012Validator(schema).iter_errors(fields):
        where = ".".join(str(part) for part in wrong.absolute_path)
        raise BadInput(f"{outcome}: {where + ': ' if where else ''}{wrong.message[:300]}")
