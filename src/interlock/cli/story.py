"""Story: a run's events told turn by turn: what was done, what it cost, and what came of it. Pure; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from interlock.canonical import Json
from interlock.cli.wording import by_when, duration, money, quantity, value, visible
from interlock.handover import done_in, doubted_in
from interlock.history import events as e
from interlock.history.fold import RunState
from interlock.machine.tools import Way


@dataclass(slots=True)
class Deed:
    """One effect of a turn. `what` is the same for equal effects; `detail` is how it went this time."""

    what: str
    detail: str = ""
    began: int = 0
    failures: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)  # whom it passed over, and why

    def __str__(self) -> str:
        last = " ".join(part for part in (self.what, self.detail, _counted(self.failures)) if part)
        return "; fallback ".join([*self.before, last])


@dataclass(slots=True)
class Told:
    """One turn, or several equal ones in a row. `outcome` is empty while it goes on."""

    first: int
    last: int
    at: int
    state: str
    deeds: list[Deed]
    cost: int
    total: int
    outcome: str = ""
    to: str = ""
    status: str = ""
    why: str = ""
    print: str | None = None
    times: int = 1

    @property
    def did(self) -> str:
        if self.times == 1:
            return "; ".join(str(deed) for deed in self.deeds)
        same = ", same result" if self.print is not None else ""
        return "; ".join(f"{deed.what} {self.times}x" for deed in self.deeds) + same

    @property
    def then(self) -> str:
        return f"{self.outcome} > {self.to}" + (f" ({self.status})" if self.status else "") if self.outcome else "..."

    @property
    def numbers(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(slots=True)
class Note:
    """Something that happened to the run from outside: who and why."""

    at: int
    text: str


Line = Told | Note


class Story:
    """Takes events one by one, and tells a line when there is one to tell."""

    def __init__(self) -> None:
        self.state = RunState()
        self._deeds: dict[int, Deed] = {}
        self._at = 0
        self._before = 0  # spent when the turn began

    def take(self, seq: int, event: e.Event) -> Iterator[Line]:
        """The lines that event `seq` ends."""
        state, turn = self.state.state, self.state.turn
        self.state.apply(seq, event)
        if not self._at and not isinstance(event, e.RunStarted):
            self._at = event.at
        tell = _DEEDS.get(type(event))
        if tell is not None:
            tell(self._deeds, event)
        note = _NOTES.get(type(event))
        if note is not None and (text := note(event)):
            yield Note(event.at, text)
        if isinstance(event, e.Transitioned):
            yield self._told(event, turn, state)
            self._deeds, self._at, self._before = {}, 0, self._total
        elif self.state.turn != turn:  # a rollback begins or ends, or an upgrade
            if self._deeds:
                yield self._cut_off(event, turn, state)
            self._deeds, self._at, self._before = {}, 0, self._total

    @property
    def _total(self) -> int:
        return self.state.spent["nanousd"]

    def _told(self, event: e.Transitioned, turn: int, state: str) -> Told:
        told = Told(turn, turn, self._at, state, self._done(), self._total - self._before, self._total)
        told.outcome, told.to, told.status = event.outcome, event.to, event.status or ""
        told.why, told.print = event.why, event.print
        if event.by:
            told.deeds.append(Deed(f"answered by {visible(event.by, 40)}"))
        return told

    def _cut_off(self, event: e.Event, turn: int, state: str) -> Told:
        """A turn that ended without an outcome: a rollback began, or this was it, or the run was upgraded."""
        began = isinstance(event, e.RollbackBegun)
        told = Told(turn, turn, self._at, state if began else "(rollback)", self._done(), 0, self._total)
        told.cost, told.outcome = self._total - self._before, "rolled back"
        told.to = f"turn {event.to}" if isinstance(event, e.RollbackBegun) else self.state.state
        if isinstance(event, e.RollbackGivenUp):
            told.outcome = "given up"
        if isinstance(event, e.Upgraded):
            told.state, told.outcome = state, "upgraded"
        return told

    def _done(self) -> list[Deed]:
        return [self._deeds[number] for number in sorted(self._deeds)]

    def unfinished(self) -> Told | None:
        """The turn that goes on, if it has begun."""
        if not self._at or self.state.status in ("completed", "failed", "cancelled"):
            return None
        turn = self.state.turn
        return Told(turn, turn, self._at, self.state.state, self._done(), self._total - self._before, self._total)


def tell(history: Iterable[tuple[int, e.Event]]) -> list[Line]:
    """The whole story, equal turns in a row as one line."""
    story = Story()
    lines: list[Line] = []
    for seq, event in history:
        for line in story.take(seq, event):
            if isinstance(line, Told) and lines and _joins(lines[-1], line):
                _join(lines[-1], line)
            else:
                lines.append(line)
    last = story.unfinished()
    return [*lines, last] if last is not None else lines


def _joins(before: Line, line: Told) -> bool:
    if not isinstance(before, Told) or before.state != line.state or before.to != line.state:
        return False
    same = [deed.what for deed in before.deeds] == [deed.what for deed in line.deeds]
    return same and bool(line.deeds) and before.print == line.print and not any(d.failures for d in line.deeds)


def _join(before: Any, line: Told) -> None:
    before.last, before.times = line.last, before.times + 1
    before.cost, before.total = before.cost + line.cost, line.total
    before.outcome, before.to, before.status, before.why = line.outcome, line.to, line.status, line.why


def path(history: Iterable[tuple[int, e.Event]]) -> str:
    """The states visited: "look_up x5 > person"."""
    steps: list[list[Any]] = []
    for _, event in history:
        for state in _visited(event):
            if steps and steps[-1][0] == state:
                steps[-1][1] += 1
            else:
                steps.append([state, 1])
    return " > ".join(visible(state, 60) if times == 1 else f"{visible(state, 60)} x{times}" for state, times in steps)


def _visited(event: e.Event) -> tuple[str, ...]:
    if isinstance(event, e.RunStarted | e.RolledBack | e.Upgraded):
        return (event.state,)
    return (event.to,) if isinstance(event, e.Transitioned) else ()


def repeated_by_retry(turn: Iterable[e.Event]) -> str:
    """What taking a turn anew would do once more: the writes and sends that happened in it, or may have, in words."""
    events = list(turn)
    done = [_once_more(intent, "happened") for intent in done_in(events)]
    return "; ".join([*done, *(_once_more(intent, "may have happened") for intent in doubted_in(events))])


def _once_more(intent: e.ToolCalled, happened: str) -> str:
    key = ", under a new key" if intent.way == Way.KEY else ""
    return f"{call_text(intent.tool, intent.args)} {happened} in this turn and will be called again{key}"


# -- what each event adds to its turn ---------------------------------------------------------------------------------


def model_name(name: str) -> str:
    """Without its provider and address."""
    return visible(name.split("@http", 1)[0].rpartition(":")[2], 40)


def call_text(tool: str, args: Json) -> str:
    shown = ", ".join(value(each, 30) for each in args.values()) if isinstance(args, dict) else ""
    return visible(f"{tool}({shown})", 80)


def _counted(words: list[str]) -> str:
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return ", ".join(word if count == 1 else f"{word} x{count}" for word, count in counts.items())


def _model_called(deeds: dict[int, Deed], event: e.ModelCalled) -> None:
    name = model_name(event.model)
    deed = deeds.setdefault(event.effect, Deed(name))
    if not deed.began:
        deed.before = [_passed_over(passed) for passed in event.passed]
    elif deed.what != name:
        deeds[event.effect] = deed = Deed(name, before=[str(deed)])
    deed.began = event.at
    _probing(deed, event)


def _passed_over(passed: Mapping[str, Json]) -> str:
    return f"{model_name(str(passed.get('name')))} {visible(passed.get('why'), 30)}"


def _probing(deed: Deed, event: e.ModelCalled | e.ToolCalled) -> None:
    if event.probe:
        deed.failures.append("probe of its breaker")


def _call_prevented(deeds: dict[int, Deed], event: e.CallPrevented) -> None:
    first, *others = [_passed_over(passed) for passed in event.passed] or [visible(event.outcome, 30)]
    deed = deeds.setdefault(event.effect, Deed(first))
    deed.failures.extend([*others, "not called"] if not deed.began else ["not called again"])


def _model_replied(deeds: dict[int, Deed], event: e.ModelReplied) -> None:
    if (deed := deeds.get(event.effect)) is not None:
        deed.detail = f"{quantity(event.tokens_in)}>{quantity(event.tokens_out)} {_took(deed, event.at)}"


def _tool_called(deeds: dict[int, Deed], event: e.ToolCalled) -> None:
    deed = deeds.setdefault(event.effect, Deed(call_text(event.tool, event.args)))
    deed.began = event.at
    _probing(deed, event)


def _tool_returned(deeds: dict[int, Deed], event: e.ToolReturned) -> None:
    if (deed := deeds.get(event.effect)) is not None:
        deed.detail = _took(deed, event.at)


def _took(deed: Deed, at: int) -> str:
    return duration((at - deed.began) / 1000).replace(" ", "")


def _attempt_failed(deeds: dict[int, Deed], event: e.AttemptFailed) -> None:
    if (deed := deeds.get(event.effect)) is not None:
        deed.failures.append(visible(event.kind, 30) + (" (in doubt)" if event.doubt else ""))


def _move_refused(deeds: dict[int, Deed], event: e.MoveRefused) -> None:
    if (deed := deeds.get(event.effect)) is not None:
        deed.failures.append(f"refused: {visible(event.why, 80)}")


_DEEDS: dict[type[e.Event], Callable[[dict[int, Deed], Any], None]] = {
    e.ModelCalled: _model_called,
    e.ModelReplied: _model_replied,
    e.ToolCalled: _tool_called,
    e.ToolReturned: _tool_returned,
    e.AttemptFailed: _attempt_failed,
    e.MoveRefused: _move_refused,
    e.CallPrevented: _call_prevented,
}


# -- what happens to a run from outside -------------------------------------------------------------------------------


def amount(dimension: str, given: int) -> str:
    """An amount of one dimension of an account."""
    match dimension:
        case "nanousd":
            return f"${money(given)}"
        case "active_ms":
            return duration(given / 1000)
        case _:
            return f"{quantity(given)} {dimension}"


def _because(reason: str) -> str:
    return f": {visible(reason, 160)}" if reason else ""


def _by(who: str) -> str:
    return f" by {visible(who, 40)}" if who else ""


def _trimmed(event: e.ContextTrimmed) -> str:
    first, last = event.left_out
    what = f"{event.messages} messages ({event.bytes} bytes, events {first} to {last})"
    done = "summed up and left out" if event.how == "summarised" else "left out"
    return f"window full: {what} {done}{_because(event.why)}"


def _started(event: e.RunStarted) -> str:
    if event.forked_from:
        source = f"{visible(event.forked_from['run'], 40)} where its turn {event.forked_from['turn']} began"
        return f"forked{_by(event.by)} from {source}" + (f" under key {visible(event.key, 60)}" if event.key else "")
    return f"started{_by(event.by)}" + (f" under key {visible(event.key, 60)}" if event.key else "")


def _wait_opened(event: e.WaitOpened) -> str:
    due = f" until {by_when(event.due, event.at)}" if event.due else ""
    match event.kind:
        case "person" if event.why == "approve":
            asked = call_text(str(event.call["tool"]), event.call["args"])
            return f"asks `{visible(event.of, 40)}` to approve {asked}{due}{_because(event.prompt)}"
        case "person":
            return f"waits for a person of `{visible(event.of, 40)}`{due}{_because(event.prompt)}"
        case "signal":
            return f"waits for the signal `{visible(event.signal, 40)}`{due}"
        case _:
            return f"waits{due} ({event.why})"


def _wait_ended(event: e.WaitEnded) -> str:
    if event.how in ("timer", "cancel", "rollback", "upgrade"):
        return "the wait was over" if event.how == "timer" else ""
    outcome = f" `{visible(event.outcome, 40)}`" if event.outcome else ""
    return f"answered{outcome}{_by(event.by)}{_because(event.reason)}"


def _approved(event: e.Approved) -> str:
    changed = "" if event.args is None else f" with {value(event.args, 60)}"
    return f"effect {event.effect} approved{changed}, until {by_when(event.until, event.at)}"


def _approval_refused(event: e.ApprovalRefused) -> str:
    about = "" if event.effect is None else f" of effect {event.effect}"
    return f"APPROVAL{about}{_by(event.by)} REFUSED{_because(event.why)}"


def _doubt_cleared(event: e.DoubtCleared) -> str:
    if event.way in (Way.REPEAT, Way.KEY):  # whether it happened, nobody knows then
        return f"doubt about effect {event.effect}: called again{', under its key' if event.way == Way.KEY else ''}"
    happened = "it happened" if event.happened else "it did not happen"
    return f"doubt about effect {event.effect} cleared by {visible(event.by or event.way, 40)}: {happened}"


def _worker(name: str) -> str:
    """By name; logs of before this was kept have a number."""
    return f"worker {name}" if name.isdigit() else visible(name, 40)


def _extended(event: e.Extended) -> str:
    more = ", ".join(amount(name, given) for name, given in event.more.items())
    return f"extended by {more}{_by(event.by)}{_because(event.reason)}"


def _rollback_begun(event: e.RollbackBegun) -> str:
    plan = [
        f"{what} {', '.join(map(str, effects))}"
        for what, effects in (("undoes", event.undo), ("keeps", event.accept), ("first clears", event.doubts))
        if effects
    ]
    return "; ".join([f"ROLLBACK to turn {event.to}{_by(event.by)}{_because(event.reason)}", *plan])


def _rolled_back(event: e.RolledBack) -> str:
    undone = f"; undone: {', '.join(map(str, event.undone))}" if event.undone else ""
    stays = f"; stays as it is: {', '.join(map(str, event.accepted))}" if event.accepted else ""
    return f"back where turn {event.to} began, in `{visible(event.state, 40)}`{undone}{stays}"


def _rollback_given_up(event: e.RollbackGivenUp) -> str:
    undone = ", ".join(map(str, event.undone)) or "nothing"
    said = f"rollback to turn {event.to} GIVEN UP{_by(event.by)}{_because(event.reason)}"
    return f"{said}; effect {event.effect} could not be undone; undone: {undone}"


def _upgraded(event: e.Upgraded) -> str:
    gone = f", now `{visible(event.state, 40)}`"
    return f"UPGRADED to shape {event.shape[:4]}{gone}{_by(event.by)}{_because(event.reason)}"


def _warned(event: e.Warned) -> str:
    return f"{amount(event.dimension, event.spent)} of {amount(event.dimension, event.ceiling)} spent"


_NOTES: dict[type[e.Event], Callable[[Any], str]] = {
    e.RunStarted: _started,
    e.ContextTrimmed: _trimmed,
    e.WaitOpened: _wait_opened,
    e.WaitEnded: _wait_ended,
    e.Approved: _approved,
    e.ApprovalRefused: _approval_refused,
    e.DoubtCleared: _doubt_cleared,
    e.CallRedone: lambda event: (
        f"dead call of effect {event.effect} done again as effect {event.again}{_by(event.by)}{_because(event.reason)}"
    ),
    e.RedoRefused: lambda event: f"effect {event.effect} could not be done again{_because(event.why)}",
    e.CallDropped: lambda event: f"dead call of effect {event.effect} dropped{_by(event.by)}{_because(event.reason)}",
    e.EvidenceRecorded: lambda event: f"late result of effect {event.effect} kept as evidence",
    e.ToolPinned: lambda event: (
        f"`{visible(event.tool, 40)}` of server `{visible(event.server, 40)}` is pinned as {event.digest[:4]}"
    ),
    e.ToolRefused: lambda event: (
        f"`{visible(event.tool, 40)}` REFUSED, {visible(event.why, 20)}{_because(event.message)}"
    ),
    e.Warned: _warned,
    e.Overrun: lambda event: f"OVERRUN by {amount(event.dimension, event.excess)} at effect {event.effect}",
    e.Extended: _extended,
    e.Paused: lambda event: f"paused{_by(event.by)}{_because(event.reason)}",
    e.Resumed: lambda event: f"resumed{_by(event.by)}{_because(event.reason)}",
    e.Cancelled: lambda event: f"cancelled{_by(event.by)}{_because(event.reason)}",
    e.RollbackBegun: _rollback_begun,
    e.RolledBack: _rolled_back,
    e.RollbackGivenUp: _rollback_given_up,
    e.Upgraded: _upgraded,
    e.SignalArrived: lambda event: f"signal `{visible(event.name, 40)}` arrived{_by(event.by)}",
    e.AnswerDropped: lambda event: f"{event.kind} not used{_because(event.why)}",
    e.TakenOver: lambda event: (
        f"{_worker(event.worker)} took over from {visible(event.previous, 40)} ({event.why}), fence {event.fence}"
    ),
    e.GivenBack: lambda event: f"{_worker(event.worker)} gave it back{_because(event.why)}",
    e.ContentChanged: lambda event: f"the machine's content is now {event.content[:4]}",
    e.Diverged: lambda event: f"DIVERGED{_because(event.why)}",
}
