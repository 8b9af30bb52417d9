"""What a run is given on the command line: its record, its models, their prices; all checked before anything starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from interlock.agent.model import Models
from interlock.agent.prices import price_of
from interlock.bootstrap import Prices
from interlock.canonical import Json
from interlock.cli.options import Misuse
from interlock.errors import UnknownPrice
from interlock.fitting import check_names
from interlock.machine.limits import Price
from interlock.machine.states import CodeState, ModelState, Row
from interlock.machine.table import AnyMachine
from interlock.machine.worst_case import ceiling_of


def record_of(machine: AnyMachine, given: str) -> dict[str, Json]:
    """The record that `--input` gives. Raises misuse for what isn't a JSON object, `BadInput` for a field that the
    record doesn't have."""
    text = _text(given)
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise Misuse("--input: is nested too deeply") from None
    except ValueError as wrong:
        raise Misuse(f"--input: is not JSON: {wrong}") from None
    if not isinstance(found, dict):
        raise Misuse(f"--input: the record {machine.record.__name__} is a JSON object, not {text[:40]!r}")
    check_names(machine.record, found)
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _text(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return sys.stdin.read() if given == "@-" else Path(given[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        said = wrong.strerror if isinstance(wrong, OSError) else "is not UTF-8"
        raise Misuse(f"--input: {given[1:]}: {said}") from None


def models_of(machine: AnyMachine) -> list[str]:
    """Every model that a machine names, in the order of its table."""
    return list(dict.fromkeys(_models(machine)))


def _models(machine: AnyMachine) -> Iterator[str]:
    for row in machine.table.values():
        if isinstance(row, Row) and isinstance(row.state, CodeState | ModelState):
            yield from row.state.models


def find_models(machine: AnyMachine, models: Models, model: str | None) -> None:
    """Raises `UnknownModel` for the first that can't be asked: no such provider, no package, no key."""
    named = models_of(machine)
    for name in [model] if model and named else named:
        models.find(name)


def check_prices(machine: AnyMachine, stated: Mapping[str, Price], model: str | None) -> None:
    """Raises `UnknownPrice` when a run of this machine couldn't be given a ceiling."""
    priced = Prices(stated)
    ceiling_of(machine, lambda name: priced(model or name, machine.prices))


def prices(machines: list[AnyMachine], model: str | None, price: str | None) -> dict[str, Price]:
    """What `--price IN,OUT` says: the price of `--model`, else of every model that nobody else prices."""
    if price is None:
        return {}
    stated = _price(price)
    if model is not None:
        return {model: stated}
    return {name: stated for machine in machines for name in models_of(machine) if not _is_known(machine, name)}


def _is_known(machine: AnyMachine, name: str) -> bool:
    try:
        price_of(name, machine.prices)
    except UnknownPrice:
        return False
    return True


def _price(text: str) -> Price:
    parts = text.split(",")
    try:
        amounts = [Decimal(part.strip()) for part in parts]
        if len(amounts) not in (2, 3) or not all(amount.is_finite() and amount >= 0 for amount in amounts):
            raise InvalidOperation
    except InvalidOperation:
        raise Misuse(
            f"--price {text}: write IN,OUT or IN,OUT,CACHED in dollars per million tokens, e.g. 0.25,2"
        ) from None
    return Price.per_million(*amounts)
