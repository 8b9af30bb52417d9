"""Moves: what a model is offered in a state, and what its reply means there. Pure.

A reply holds calls of granted tools, or exactly one declared outcome with its fields. Anything else is illegal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from pydantic import BaseModel

from interlock.agent.model import Offer
from interlock.canonical import Json
from interlock.engine.live_run import Write
from interlock.engine.record import dump_field, field_schema, set_from
from interlock.errors import BadInput
from interlock.history.events import ModelReplied
from interlock.machine.states import ModelState
from interlock.machine.tools import Tool


class Chosen(Struct, frozen=True):
    """One declared outcome; its fields stand in the reply's event."""

    outcome: str
    writes: tuple[Write, ...]


class Calling(Struct, frozen=True):
    """Calls of granted tools: (call id, tool, checked arguments)."""

    calls: tuple[tuple[str, Tool[Any, Any, Any], dict[str, Json]], ...]


class Illegal(Struct, frozen=True):
    """Why the reply is no move, and what the model is told."""

    why: str
    told: str


Move = Chosen | Calling | Illegal


def form_of(record: type[BaseModel], fields: tuple[str, ...]) -> dict[str, Json]:
    """JSON Schema of the fields that an outcome must write: every one required, nothing else allowed."""
    columns: dict[str, Json] = {}
    definitions: dict[str, Json] = {}
    for name in fields:
        schema = field_schema(record, name)
        definitions.update(schema.pop("$defs", {}))
        columns[name] = schema
    form: dict[str, Json] = {
        "type": "object",
        "properties": columns,
        "required": list(fields),
        "additionalProperties": False,
    }
    return {**form, "$defs": definitions} if definitions else form


def offers_of(record: type[BaseModel], state: ModelState) -> tuple[Offer, ...]:
    """Exactly the granted tools and the declared outcomes."""
    tools = [Offer(tool.name, tool.description, tool.schema) for tool in state.tools]
    outcomes = [
        Offer(outcome, f"End this step as `{outcome}`.", form_of(record, fields))
        for outcome, fields in state.writes.items()
    ]
    return (*tools, *outcomes)


def read_move(record: type[BaseModel], state: ModelState, reply: ModelReplied, seq: int) -> Move:
    """What the reply (event `seq`) means in this state."""
    names = [str(call["name"]) for call in reply.calls]
    tools = {tool.name: tool for tool in state.tools}
    outcomes = [name for name in names if name in state.writes]
    strangers = [name for name in names if name not in tools and name not in state.writes]
    if not names:
        return _illegal(state, "the reply chose nothing" + (" (cut at max_tokens)" if reply.finish == "length" else ""))
    if strangers:
        return _illegal(state, f"`{strangers[0][:80]}` is not offered here")
    if outcomes and len(names) > 1:
        return _illegal(state, "an outcome must be the only choice of a reply")
    if outcomes:
        return _chosen(record, state, reply, seq)
    if len(names) > state.calls:
        return _illegal(state, f"{len(names)} calls in one reply, at most {state.calls} are allowed")
    return _calling(state, tools, reply)


def _illegal(state: ModelState, why: str) -> Illegal:
    choices = ", ".join([*(tool.name for tool in state.tools), *state.writes])
    return Illegal(why, f"Refused: {why}. Choose among: {choices}.")


def _chosen(record: type[BaseModel], state: ModelState, reply: ModelReplied, seq: int) -> Move:
    call = reply.calls[0]
    outcome, args = str(call["name"]), call["args"]
    fields = state.writes[outcome]
    if not isinstance(args, Mapping) or set(args) != set(fields):
        return _illegal(state, f"`{outcome}` takes exactly the fields {', '.join(fields) or '(none)'}")
    writes = []
    for name in fields:
        try:
            value = dump_field(record, name, args[name])
        except BadInput as wrong:
            return _illegal(state, str(wrong))
        writes.append(set_from(name, value, args[name], seq, "calls", 0, "args", name))
    return Chosen(outcome, tuple(writes))


def _calling(state: ModelState, tools: Mapping[str, Tool[Any, Any, Any]], reply: ModelReplied) -> Move:
    calls = []
    for call in reply.calls:
        tool = tools[str(call["name"])]
        if not isinstance(call["args"], Mapping):
            return _illegal(state, f"the arguments of {tool.name} are not a JSON object")
        try:
            calls.append((str(call["id"]), tool, tool.check(call["args"])))
        except BadInput as wrong:
            return _illegal(state, str(wrong))
    return Calling(tuple(calls))
