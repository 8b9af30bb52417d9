"""Events: what happened, past tense, one frozen class each. The event body is the message; nothing repeats it.

A stored event is one JSON object: `type`, `at` (ms since 1970, the store's clock), `ms` (active milliseconds since the
event before, on the worker's monotonic clock), `turn`, then the fields below that differ from their default. So a
default, once released, never changes; nor do fields: a second version of an event is a type of its own, which an
older interlock refuses by name. Knows no store and no machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec.structs import replace

from interlock.canonical import Json, decode, encode

E = TypeVar("E", bound="Event")

Change = tuple[str, str, Json]
"""One change of the record: (`set` | `add`, field, value), or (`set@` | `add@`, field, [seq, path...]) where the
value already stands in event `seq` of the same run. `add` takes a list of items to append."""


def _in_snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    gc=False,
    tag_field="type",
    tag=_in_snake_case,
):
    """The root of all events. `TYPE`: the name under which a class is stored. `payloads`: how many of a stored event's
    values lie outside it."""

    TYPE: ClassVar[str]

    at: int = 0
    ms: int = 0
    turn: int = 0
    payloads: int = 0

    def __init_subclass__(cls, **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.TYPE = _in_snake_case(cls.__name__)


class RunStarted(Event, frozen=True, kw_only=True):
    """`forked_from`: the run (and its turn, the event before it, and that event's hash) whose history this one takes
    for its own up to there; `threads` are then the conversations as they stood, `origins` where the fields came from.
    """

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
    forked_from: Mapping[str, Json] = {}
    threads: Mapping[str, Json] = {}
    origins: Mapping[str, str] = {}


class ModelCalled(Event, frozen=True, kw_only=True):
    """The intent of one attempt at a model call, with what is held for it. `prompt` is what was added to the
    conversation by this call (None: nothing; the conversation so far is sent again). `passed`: models that go before
    this one and weren't asked, each with why (quota, auth, retries_spent, open). `probe`: the number of the probe of
    its breaker that this call is; 0: none."""

    effect: int
    digest: str
    attempt: int = 1
    model: str
    thread: str | None = None
    prompt: str | None = None
    max_tokens: int
    price: Mapping[str, int]
    hold_tokens: int
    hold_nanousd: int
    send_within_ms: int = 5_000
    timeout_ms: int = 60_000
    passed: tuple[Mapping[str, Json], ...] = ()  # {"name", "why", "reason", "until"}
    probe: int = 0

    @property
    def send_before(self) -> int:
        """Sent by then or not at all (ms since 1970)."""
        return self.at + self.send_within_ms


class ContextTrimmed(Event, frozen=True, kw_only=True):
    """A conversation had outgrown its window: `messages` of it (`bytes` in all), which stand in events `left_out`
    (first and last), are no longer sent. It goes on from event `start`; its first prompt stays. `how`: dropped or
    summarised. `note` is told to the model in their place: the summary, and the record fields that are pinned. `why`:
    what kept it from being summarised."""

    thread: str
    start: int
    left_out: tuple[int, int]
    messages: int
    bytes: int
    how: str = "dropped"
    note: str = ""
    why: str = ""


class ModelReplied(Event, frozen=True, kw_only=True):
    effect: int
    attempt: int = 1
    text: str = ""
    calls: tuple[Mapping[str, Json], ...] = ()  # {"id", "name", "args"}
    tokens_in: int
    tokens_out: int
    cached_in: int = 0
    nanousd: int
    finish: str = ""


class ToolCalled(Event, frozen=True, kw_only=True):
    """The intent of one attempt at a tool call. `answers` is the id of the model's call it carries out. The key it
    is sent under is `<run id>-<effect>`. `probe`: as of a model's call. `undo`: its tool says how it is taken back.
    `undoes`: this call takes that effect back, by the undo of its tool; `args` are those of the effect. `redoes`: the
    dead call that a person had done again by this one. `reserved_at`: when the store let it begin, of a tool whose
    calls are limited."""

    effect: int
    digest: str
    attempt: int = 1
    tool: str
    way: str
    args: Mapping[str, Json]
    answers: str | None = None
    undo: bool = False
    undoes: int | None = None
    hold_nanousd: int = 0
    send_within_ms: int = 5_000
    timeout_ms: int = 30_000
    approval: int | None = None  # the wait in which a person approved this effect; its first attempt uses it up
    probe: int = 0
    redoes: int | None = None
    reserved_at: int = 0

    @property
    def send_before(self) -> int:
        """Sent by then or not at all (ms since 1970)."""
        return self.at + self.send_within_ms


class ToolReturned(Event, frozen=True, kw_only=True):
    effect: int
    attempt: int = 1
    value: Json = None
    nanousd: int = 0
    origin: str = "tool"


class AttemptFailed(Event, frozen=True, kw_only=True):
    """An attempt that brought no result. `sent` False: surely nothing left. `doubt`: it may have happened.
    What it is charged is provisional when `doubt` (its worst case until known). `dead`: the call stays on the queue
    until a person redoes or drops it."""

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
    dead: bool = False


class CallPrevented(Event, frozen=True, kw_only=True):
    """Attempt `attempt` of an effect was not made, nor will another be: it didn't fit what the account had left, or
    whatever could have done it was passed over, each for a reason (as in `ModelCalled`). The turn is told `outcome`."""

    effect: int
    digest: str
    attempt: int = 1
    outcome: str
    passed: tuple[Mapping[str, Json], ...] = ()
    why: str = ""


class DoubtCleared(Event, frozen=True, kw_only=True):
    """`way`: repeat, key, probe, person or evidence. `happened`: it took place, with `value` as its result."""

    effect: int
    way: str
    happened: bool
    value: Json = None
    by: str = ""
    reason: str = ""
    inbox: str | None = None


class EvidenceRecorded(Event, frozen=True, kw_only=True):
    """A result that came too late to be used. It corrects a provisional charge by `tokens` and `nanousd` (signed)."""

    effect: int
    attempt: int
    value: Json = None
    tokens: int = 0
    nanousd: int = 0
    inbox: str | None = None


class ToolPinned(Event, frozen=True, kw_only=True):
    """What a server says of a tool that this run uses for the first time; from now on it is held to that. `hints` are
    the server's own words on what the tool does: kept, and never believed."""

    tool: str
    server: str
    remote: str  # its name at the server
    digest: str
    schema: Mapping[str, Json]
    description: str = ""
    output: Mapping[str, Json] | None = None
    hints: Mapping[str, Json] = {}


class ToolRefused(Event, frozen=True, kw_only=True):
    """A tool could not be offered or called for the first time. `why`: changed, vanished, invalid, outage or unset."""

    tool: str
    server: str
    why: str
    message: str = ""
    pinned: str = ""
    found: str = ""


class CallRedone(Event, frozen=True, kw_only=True):
    """A person had a dead call done again: as effect `again`, under a new key. `more`: what it may use is added to the
    run's ceilings, so that it takes nothing from the run."""

    effect: int
    again: int
    more: Mapping[str, int] = {}
    by: str
    reason: str = ""
    inbox: str | None = None


class RedoRefused(Event, frozen=True, kw_only=True):
    """A redone call could not be made: it is dead as before."""

    effect: int
    why: str


class CallDropped(Event, frozen=True, kw_only=True):
    """A person decided that a dead call isn't made any more."""

    effect: int
    by: str
    reason: str = ""
    inbox: str | None = None


class ValueNoted(Event, frozen=True, kw_only=True):
    """Time, chance or a finished sleep, as a handler was told it."""

    digest: str
    kind: str
    value: Json = None


class MoveRefused(Event, frozen=True, kw_only=True):
    """What a model said that is no legal move, and what it was told."""

    effect: int
    why: str
    told: str


class Transitioned(Event, frozen=True, kw_only=True):
    """The end of a turn: the outcome, where it leads, and what it wrote. `status` when it ended the run.
    `counts`: the turn counts against the limit. `by`: the person whose answer this is."""

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


class WaitOpened(Event, frozen=True, kw_only=True):
    """A durable wait. `kind`: person, signal or time. `why`: ask, wait, escalated, budget, doubt, approve, retry,
    sleep, queue, undo (what a rollback can't take back). `form`: each outcome that may be answered with its fields'
    schema. `leads`: what becomes of each, as it was when the wait was opened. `call`: what is to be approved;
    `binding`: what an approval of it is bound to."""

    wait: int
    kind: str
    why: str
    state: str
    of: str = ""
    prompt: str = ""
    outcome: str | None = None  # the engine's outcome that led here, when escalated
    effect: int | None = None
    digest: str | None = None  # of the sleep that waits, or of the call that is to be approved
    signal: str | None = None
    form: Mapping[str, Json] = {}
    due: int | None = None
    leads: Mapping[str, Mapping[str, Json]] = {}
    call: Mapping[str, Json] = {}
    binding: str | None = None


class WaitEnded(Event, frozen=True, kw_only=True):
    """A wait was closed, once: by `decision`, `signal`, `timer`, `extend`, `evidence`, `rollback`, `upgrade`, `cancel`,
    or because somebody `cleared` the doubt that it asks about."""

    wait: int
    how: str
    outcome: str | None = None
    fields: Mapping[str, Json] = {}
    by: str = ""
    reason: str = ""
    inbox: str | None = None


class Approved(Event, frozen=True, kw_only=True):
    """A person said yes in `wait` to one effect, and to nothing else: what `binding` says. It counts until `until`,
    once. `args`: what she made of the arguments, when she changed them; the binding is then to these."""

    effect: int
    wait: int
    binding: str
    until: int
    args: Mapping[str, Json] | None = None
    by: str = ""
    reason: str = ""


class ApprovalRefused(Event, frozen=True, kw_only=True):
    """A yes (or no) that doesn't count: replayed, expired, borrowed, or given to a call that is another by now. What it
    was given for isn't done by it. `effect` None: it names nothing that this run asks about."""

    wait: int
    why: str
    effect: int | None = None
    by: str = ""
    body: Json = None
    inbox: str | None = None


class Warned(Event, frozen=True, kw_only=True):
    """Spending crossed the warning share of a ceiling."""

    dimension: str
    spent: int
    ceiling: int


class Overrun(Event, frozen=True, kw_only=True):
    """An attempt settled above its hold and the account above its ceiling. The account starts nothing more."""

    effect: int
    dimension: str
    excess: int


class Extended(Event, frozen=True, kw_only=True):
    more: Mapping[str, int]
    by: str
    reason: str = ""
    inbox: str | None = None


class Paused(Event, frozen=True, kw_only=True):
    by: str
    reason: str = ""
    inbox: str | None = None


class Resumed(Event, frozen=True, kw_only=True):
    """A person let a paused or parked run go on. `released`: it had been parked by a restored store."""

    by: str
    reason: str = ""
    released: bool = False
    inbox: str | None = None


class Cancelled(Event, frozen=True, kw_only=True):
    by: str
    reason: str = ""
    inbox: str | None = None


class RollbackBegun(Event, frozen=True, kw_only=True):
    """A person takes the run back to where turn `to` began. The turn that was under way is over, without an outcome;
    a turn of the rollback's own begins. `undo`: effects that are taken back, in this order; `accept`: those that stay
    as they are, by the person's word; `doubts`: those of which nobody knows yet whether they happened."""

    to: int
    undo: tuple[int, ...] = ()
    accept: tuple[int, ...] = ()
    doubts: tuple[int, ...] = ()
    by: str = ""
    reason: str = ""
    inbox: str | None = None


class RolledBack(Event, frozen=True, kw_only=True):
    """The run stands where turn `to` began, after event `since`, in a new turn. What is restored is said in full:
    `cells` are places in the log, field by field ([item, event, path, origin]); `threads` are the conversations as
    they stood; `signals` those that had not been taken then. Numbers, spending and visits go on."""

    to: int
    since: int
    state: str
    cells: Mapping[str, Json] = {}
    threads: Mapping[str, Json] = {}
    prints: Mapping[str, Json] = {}
    signals: Mapping[str, Json] = {}
    wrapping: bool = False
    undone: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()


class RollbackGivenUp(Event, frozen=True, kw_only=True):
    """A person ended a rollback that could not go on: `effect` could not be taken back. The run stays in its state, for
    a person to decide. `undone`: what had been taken back by then."""

    to: int
    effect: int
    undone: tuple[int, ...] = ()
    by: str = ""
    reason: str = ""


class Upgraded(Event, frozen=True, kw_only=True):
    """The run moved to another shape of its machine. The turn that was under way is over, without an outcome, and
    begins anew in `state`. `states`: how old states are called now. `carried`: old fields whose value stands where it
    stood, with the field's new name; `values` are new or converted, each with its origin. Every other field is gone."""

    shape: str
    content: str
    state: str
    states: Mapping[str, str] = {}
    carried: Mapping[str, str] = {}
    values: Mapping[str, Json] = {}
    origins: Mapping[str, str] = {}
    by: str = ""
    reason: str = ""


class SignalArrived(Event, frozen=True, kw_only=True):
    """A signal from a system. It is kept until a wait for it takes it."""

    name: str
    fields: Mapping[str, Json] = {}
    by: str = ""
    inbox: str | None = None


class AnswerDropped(Event, frozen=True, kw_only=True):
    """Something left in the inbox that no longer fits what the run is doing. Kept, so that nothing said is lost."""

    kind: str
    body: Json = None
    why: str = ""
    inbox: str | None = None


class TakenOver(Event, frozen=True, kw_only=True):
    """A worker claimed a run that another still held: dead, or past its lease or deadline."""

    worker: str
    previous: str
    fence: int
    why: str


class GivenBack(Event, frozen=True, kw_only=True):
    """A worker gave the run back because the store refused, again and again, what came of it."""

    worker: str
    why: str


class ContentChanged(Event, frozen=True, kw_only=True):
    """The machine's content (prompt, code, model, price) is another since the run's last turn."""

    content: str


class Diverged(Event, frozen=True, kw_only=True):
    """A turn entered again no longer asked for recorded effects. `effects`: their numbers."""

    effects: tuple[int, ...]
    why: str


TYPES: dict[str, type[Event]] = {kind.TYPE: kind for kind in Event.__subclasses__()}

_Any: Any = reduce(or_, TYPES.values())  # a union that msgspec tells apart by `type`
from_bytes: Callable[[bytes], Event] = msgspec.json.Decoder(_Any).decode
"""The event of stored bytes, without a look at references and at what only the standard library can read: see
`payloads.event_in`. Raises `msgspec.DecodeError`."""


def stamped(event: E, at: int, ms: int, turn: int) -> E:
    """The same event, with when it happened."""
    return replace(event, at=at, ms=ms, turn=turn)


def to_json(event: Event) -> dict[str, Json]:
    """The object that is stored; fields at their default are left out."""
    body: dict[str, Json] = decode(encode(event))
    return body


def from_json(body: Mapping[str, Json]) -> Event:
    """The event of a stored object. Raises ValueError for a type or fields that this code doesn't know."""
    try:
        event: Event = msgspec.convert(body, _Any)
    except (msgspec.ValidationError, RecursionError) as wrong:
        raise ValueError(f"{wrong}: written by a newer interlock, or damaged") from None
    return event
