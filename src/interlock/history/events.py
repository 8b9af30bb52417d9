"""Events: what happened, past tense, one frozen class each. The event body is the message; nothing repeats it.

A stored event is one JSON object: `type`, `v` (the version of its type, when it isn't 1), `at` (ms since 1970, the
store's clock), `ms` (active milliseconds since the event before, on the worker's monotonic clock), `turn`, then the
fields below that differ from their default. So a default, once released, changes with the version only.
Knows no store and no machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, TypeVar, dataclass_transform

from interlock.canonical import Json

E = TypeVar("E")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def fact(kind: type[E]) -> type[E]:
    """A dataclass that is frozen for the type checkers only: at run time a frozen one takes six times as long to make,
    and a turn makes five, a verified log tens of thousands."""
    return dataclass(slots=True, kw_only=True)(kind)


Change = tuple[str, str, Json]
"""One change of the record: (`set` | `add`, field, value), or (`set@` | `add@`, field, [seq, path...]) where the
value already stands in event `seq` of the same run. `add` takes a list of items to append."""


@fact
class Event:
    """The root of all events."""

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1

    at: int = 0
    ms: int = 0
    turn: int = 0


@fact
class RunStarted(Event):
    TYPE = "run_started"
    machine: str
    shape: str
    content: str
    state: str
    record: Mapping[str, Json]
    ceiling: Mapping[str, int]
    mode: str
    warn_at: float
    on_warn: str
    wrap_up: float = 0.0
    key: str | None = None
    tenant: str = ""
    parent: str | None = None
    by: str = ""


@fact
class ModelCalled(Event):
    """The intent of one attempt at a model call, with what is held for it. `prompt` is what was added to the
    conversation by this call (None: nothing; the conversation so far is sent again)."""

    TYPE = "model_called"
    effect: int
    digest: str
    attempt: int = 1
    model: str
    thread: str | None = None
    window: int | None = None  # the conversation is sent from this event on (its first prompt always is)
    prompt: str | None = None
    max_tokens: int
    price: Mapping[str, int]
    hold_tokens: int
    hold_nanousd: int
    send_within_ms: int = 5_000
    timeout_ms: int = 60_000

    @property
    def send_before(self) -> int:
        """Sent by then or not at all (ms since 1970)."""
        return self.at + self.send_within_ms


@fact
class ModelReplied(Event):
    TYPE = "model_replied"
    effect: int
    attempt: int = 1
    text: str = ""
    calls: tuple[Mapping[str, Json], ...] = ()  # {"id", "name", "args"}
    tokens_in: int
    tokens_out: int
    cached_in: int = 0
    nanousd: int
    finish: str = ""


@fact
class ToolCalled(Event):
    """The intent of one attempt at a tool call. `answers` is the id of the model's call it carries out. The key it
    is sent under is `<run id>-<effect>`."""

    TYPE = "tool_called"
    effect: int
    digest: str
    attempt: int = 1
    tool: str
    way: str
    args: Mapping[str, Json]
    answers: str | None = None
    hold_nanousd: int = 0
    send_within_ms: int = 5_000
    timeout_ms: int = 30_000

    @property
    def send_before(self) -> int:
        """Sent by then or not at all (ms since 1970)."""
        return self.at + self.send_within_ms


@fact
class ToolReturned(Event):
    TYPE = "tool_returned"
    effect: int
    attempt: int = 1
    value: Json = None
    nanousd: int = 0
    origin: str = "tool"


@fact
class AttemptFailed(Event):
    """An attempt that brought no result. `sent` False: surely nothing left. `doubt`: it may have happened.
    What it is charged is provisional when `doubt` (its worst case until known)."""

    TYPE = "attempt_failed"
    effect: int
    attempt: int = 1
    kind: str
    message: str = ""
    sent: bool = True
    doubt: bool = False
    tokens: int = 0
    nanousd: int = 0
    retry_at: int | None = None
    final: bool = False  # no further attempt: the effect itself failed


@fact
class DoubtCleared(Event):
    """`way`: repeat, key, probe, person or evidence. `happened`: it took place, with `value` as its result."""

    TYPE = "doubt_cleared"
    effect: int
    way: str
    happened: bool
    value: Json = None
    by: str = ""
    reason: str = ""
    inbox: str | None = None


@fact
class EvidenceRecorded(Event):
    """A result that came too late to be used. It corrects a provisional charge by `tokens` and `nanousd` (signed)."""

    TYPE = "evidence_recorded"
    effect: int
    attempt: int
    value: Json = None
    tokens: int = 0
    nanousd: int = 0
    inbox: str | None = None


@fact
class ValueNoted(Event):
    """Time, chance or a finished sleep, as a handler was told it."""

    TYPE = "value_noted"
    digest: str
    kind: str
    value: Json = None


@fact
class MoveRefused(Event):
    """What a model said that is no legal move, and what it was told."""

    TYPE = "move_refused"
    effect: int
    why: str
    told: str


@fact
class Transitioned(Event):
    """The end of a turn: the outcome, where it leads, and what it wrote. `status` when it ended the run.
    `counts`: the turn counts against the limit. `by`: the person whose answer this is."""

    TYPE = "transitioned"
    state: str
    outcome: str
    to: str
    status: str | None = None
    changes: tuple[Change, ...] = ()
    origin: str = ""
    why: str = ""
    print: str | None = None  # fingerprint of the turn: equal ones in a row mean no progress
    counts: bool = True
    by: str = ""


@fact
class WaitOpened(Event):
    """A durable wait. `kind`: person, signal or time. `why`: ask, wait, escalated, budget, doubt, retry, sleep.
    `form`: each outcome that may be answered with the JSON schema of its fields."""

    TYPE = "wait_opened"
    wait: int
    kind: str
    why: str
    state: str
    of: str = ""
    prompt: str = ""
    outcome: str | None = None  # the engine's outcome that led here, when escalated
    effect: int | None = None
    digest: str | None = None  # of the sleep that waits
    signal: str | None = None
    form: Mapping[str, Json] = field(default_factory=dict)
    due: int | None = None


@fact
class WaitEnded(Event):
    """A wait was closed, once: by `decision`, `signal`, `timer` or `cancel`."""

    TYPE = "wait_ended"
    wait: int
    how: str
    outcome: str | None = None
    fields: Mapping[str, Json] = field(default_factory=dict)
    by: str = ""
    reason: str = ""
    inbox: str | None = None


@fact
class Warned(Event):
    """Spending crossed the warning share of a ceiling."""

    TYPE = "warned"
    dimension: str
    spent: int
    ceiling: int


@fact
class Overrun(Event):
    """An attempt settled above its hold and the account above its ceiling. The account starts nothing more."""

    TYPE = "overrun"
    effect: int
    dimension: str
    excess: int


@fact
class Extended(Event):
    TYPE = "extended"
    more: Mapping[str, int]
    by: str
    reason: str = ""
    inbox: str | None = None


@fact
class Paused(Event):
    TYPE = "paused"
    by: str
    reason: str = ""
    inbox: str | None = None


@fact
class Resumed(Event):
    """A person let a paused or parked run go on. `released`: it had been parked by a restored store."""

    TYPE = "resumed"
    by: str
    reason: str = ""
    released: bool = False
    inbox: str | None = None


@fact
class Cancelled(Event):
    TYPE = "cancelled"
    by: str
    reason: str = ""
    inbox: str | None = None


@fact
class SignalArrived(Event):
    """A signal from a system. It is kept until a wait for it takes it."""

    TYPE = "signal_arrived"
    name: str
    fields: Mapping[str, Json] = field(default_factory=dict)
    by: str = ""
    inbox: str | None = None


@fact
class AnswerDropped(Event):
    """Something left in the inbox that no longer fits what the run is doing. Kept, so that nothing said is lost."""

    TYPE = "answer_dropped"
    kind: str
    body: Json = None
    why: str = ""
    inbox: str | None = None


@fact
class TakenOver(Event):
    """A worker claimed a run that another still held: dead, or past its lease or deadline."""

    TYPE = "taken_over"
    worker: str
    previous: str
    fence: int
    why: str


@fact
class ContentChanged(Event):
    """The machine's content (prompt, code, model, price) is another since the run's last turn."""

    TYPE = "content_changed"
    content: str


@fact
class Diverged(Event):
    """A turn entered again no longer asked for recorded effects. `effects`: their numbers."""

    TYPE = "diverged"
    effects: tuple[int, ...]
    why: str


TYPES: dict[str, type[Event]] = {kind.TYPE: kind for kind in Event.__subclasses__()}

_TUPLES = {"changes", "calls", "effects"}  # JSON has lists only; these fields are tuples


def _columns(kind: type[Event]) -> list[tuple[str, Any]]:
    plain = [
        (f.name, None if f.default is MISSING else f.default) for f in fields(kind) if f.default_factory is MISSING
    ]
    made: list[tuple[str, Any]] = [(f.name, {}) for f in fields(kind) if f.default_factory is not MISSING]
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return [(name, _REQUIRED if name in required else default) for name, default in [*plain, *made]]


_REQUIRED = object()
_COLUMNS: dict[type[Event], list[tuple[str, Any]]] = {kind: _columns(kind) for kind in TYPES.values()}
_VALUES = {kind: attrgetter(*(name for name, _ in columns)) for kind, columns in _COLUMNS.items()}
_TUPLES_OF = {kind: [f.name for f in fields(kind) if f.name in _TUPLES] for kind in TYPES.values()}


def stamped(event: E, at: int, ms: int, turn: int) -> E:
    """The same event, with when it happened. Written in place: until now only its maker knows it."""
    event.at, event.ms, event.turn = at, ms, turn  # type: ignore[attr-defined]
    return event


def to_json(event: Event) -> dict[str, Json]:
    """The object that is stored; fields at their default are left out."""
    kind = type(event)
    body: dict[str, Json] = {"type": kind.TYPE}
    if kind.VERSION > 1:
        body["v"] = kind.VERSION
    for (name, default), value in zip(_COLUMNS[kind], _VALUES[kind](event), strict=True):
        if value is not default and value != default:
            body[name] = value
    return body


def from_json(body: Mapping[str, Json]) -> Event:
    """The event of a stored object. Raises ValueError for a type or version that this code doesn't know."""
    values = dict(body)
    kind = TYPES.get(values.pop("type"))
    version = values.pop("v", 1)
    if kind is None or version > kind.VERSION:
        raise ValueError(f"event type {body['type']} v{version} is unknown here: written by a newer interlock")
    for name in _TUPLES_OF[kind]:
        if name in values:
            values[name] = tuple(tuple(item) if name == "changes" else item for item in values[name])
    return kind(**values)
