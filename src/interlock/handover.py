"""Hand-over: all that somebody needs who is asked: where the run stands and why, what it did last, what it cost, what
it knows, and what each answer will do. Changes nothing, and needs no machine's code: what an answer leads to stands in
the wait. Words in it are safe to show; data (record, arguments, events) is as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from interlock.canonical import Json
from interlock.history import events as e
from interlock.history.events import Event, to_json
from interlock.machine.limits import Amounts, dollars
from interlock.machine.tools import Way
from interlock.reading import OpenWait, RunView, read_events, read_run, wait_json
from interlock.store.protocol import Store
from interlock.visible import visible

LAST = 12
"""How many events back somebody is told of."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: the fields it takes (those it must have are `required`), what it does, in words, and at most for how
    much. `to`: the state it leads to, "" when the turn goes on, None when a person is asked again. `ends`: the status
    that the run ends with by it."""

    answer: str
    fields: tuple[str, ...]
    required: tuple[str, ...]
    does: str
    to: str | None
    ends: str | None
    nanousd_max: int

    def as_json(self) -> dict[str, Json]:
        return {
            "answer": self.answer,
            "fields": list(self.fields),
            "required": list(self.required),
            "does": self.does,
            "to": self.to,
            "ends": self.ends,
            "usd_max": float(dollars(self.nanousd_max)),
        }


@dataclass(frozen=True, slots=True)
class HandOver:
    """What one open wait hands over to a person (or a system, for a signal). `because`: why, in words. `unanswered`:
    what happens when nobody answers by its due time. `last`: the events before, as (number, event). Money in
    nano-dollars, times in ms since 1970."""

    wait: OpenWait
    machine: str
    status: str
    state: str
    turn: int
    because: str
    choices: tuple[Choice, ...]
    unanswered: str
    spent: Amounts
    ceiling: Amounts
    in_doubt: tuple[int, ...]
    record: Mapping[str, Json]
    last: tuple[tuple[int, Event], ...]

    @property
    def run(self) -> str:
        return self.wait.run

    def as_json(self) -> dict[str, Json]:
        """The wait as everywhere, and all of this."""
        return {
            **wait_json(self.wait),
            "machine": self.machine,
            "status": self.status,
            "state": self.state,
            "turn": self.turn,
            "because": self.because,
            "choices": [choice.as_json() for choice in self.choices],
            "unanswered": self.unanswered,
            "cost": {"usd": float(dollars(self.spent.nanousd)), "usd_of": float(dollars(self.ceiling.nanousd))},
            "account": {"spent": self.spent.as_dict(), "ceiling": self.ceiling.as_dict()},
            "in_doubt": list(self.in_doubt),
            "record": dict(self.record),
            "last": [{"seq": seq, "type": event.TYPE, **to_json(event)} for seq, event in self.last],
        }


def hand_over(store: Store, wait: OpenWait, view: RunView | None = None) -> HandOver:
    """What an open wait hands over. Reads the run's last events, and those of its turn."""
    view = view or read_run(store, wait.run)
    row = view.row
    turn = [event for _, event, _ in read_events(store, row.number, row.turn_seq + 1)]
    last = [(seq, event) for seq, event, _ in read_events(store, row.number, max(1, row.seq - LAST + 1))]
    return HandOver(
        wait=wait,
        machine=row.machine,
        status=view.status,
        state=row.state,
        turn=row.turn,
        because=because(wait, turn),
        choices=tuple(_choices(wait, turn)),
        unanswered=_unanswered(wait),
        spent=row.account.spent,
        ceiling=row.account.ceiling,
        in_doubt=tuple(sorted(int(number) for number in view.state.doubts)),
        record=view.record,
        last=tuple(last),
    )


def hand_overs(store: Store, view: RunView) -> list[HandOver]:
    """Those of one run: everything it waits for that isn't time."""
    return [hand_over(store, wait, view) for wait in view.waits if wait.kind != "time"]


# -- in words --------------------------------------------------------------------------------------------------------


def call_in_full(tool: object, args: Mapping[str, Json]) -> str:
    """A call with every argument by name and nothing cut: who decides about it must see all of it."""
    shown = ", ".join(f"{visible(name)}={visible(json.dumps(each, ensure_ascii=False))}" for name, each in args.items())
    return f"{visible(tool)}({shown})"


def because(wait: OpenWait, turn: Sequence[Event] = ()) -> str:
    """Why somebody is asked, in one line. `turn`: the events of the run's turn."""
    said = visible(wait.prompt)
    match wait.why:
        case "approve":
            asked = f"`{visible(wait.of)}` is asked to approve {call_in_full(wait.call['tool'], wait.call['args'])}"
            return f"{asked}. {said}" if said else asked
        case "doubt":
            calls = [each for each in turn if isinstance(each, e.ToolCalled) and each.effect == wait.effect]
            return f"{said}{_asked_about(wait.run, calls[-1], turn) if calls else ''}"
        case "escalated":
            return f"`{visible(wait.state)}` ended `{visible(wait.outcome)}`: {said}"
        case _:
            return said or (f"waits for the signal `{visible(wait.signal)}`" if wait.signal else "")


def _asked_about(run: str, intent: e.ToolCalled, turn: Iterable[Event]) -> str:
    """What somebody needs who looks outside whether a call happened: the call, its key, and how it went wrong."""
    key = f", under key {run}-{intent.effect}" if intent.way == Way.KEY else ""
    said = [each.message for each in turn if isinstance(each, e.AttemptFailed) and each.effect == intent.effect]
    last = f"; the last attempt: {visible(said[-1], 200)}" if said and said[-1] else ""
    return f": {call_in_full(intent.tool, intent.args)}{key}{last}"


def _choices(wait: OpenWait, turn: list[Event]) -> Iterator[Choice]:
    for answer, form in wait.form.items():
        lead = wait.leads.get(answer, {})
        schema = form if isinstance(form, dict) else {}
        fields = tuple(schema.get("properties", {"result": {}} if "result" in schema else {}))
        yield Choice(
            answer=answer,
            fields=fields,
            required=tuple(schema.get("required", ())),
            does=_does(wait, answer, lead, turn),
            to=lead.get("to"),
            ends=lead.get("ends"),
            nanousd_max=lead.get("nanousd_max", 0),
        )


def _does(wait: OpenWait, answer: str, lead: Mapping[str, Json], turn: list[Event]) -> str:
    goes = _goes(lead)
    match wait.why, answer:
        case "approve", "approve":
            called = call_in_full(wait.call["tool"], wait.call["args"])
            return f"{called} is called, once{_attempts(wait)}{_most(lead)}; then {goes}"
        case "approve", "edit":
            changed = "what you change (approve --set), else as asked"
            return f"{visible(wait.call['tool'])} is called with {changed}{_most(lead)}; then {goes}"
        case "approve", "deny":
            return f"{visible(wait.call['tool'])} is not called; the turn ends `denied`: {goes}"
        case "doubt", "happened":
            return f"effect {wait.effect} counts as done, with the result you give, and isn't called again; {goes}"
        case "doubt", "did_not":
            return f"effect {wait.effect} counts as not done, and is called again if attempts are left; {goes}"
        case "budget", "go_on":
            return f"{goes}, up to its ceiling{_most(lead)}"
        case "budget", "end":
            return f"the turn ends `budget_spent`: {goes}"
        case "escalated", "retry":
            again = "; ".join(call_in_full(done.tool, done.args) for done in done_in(turn))
            warned = f"; this happened in it and will be called again, as another effect: {again}" if again else ""
            perhaps = "; ".join(call_in_full(call.tool, call.args) for call in doubted_in(turn))
            doubts = (
                f"; nobody knows whether this happened in it, and it will be called again: {perhaps}" if perhaps else ""
            )
            return f"the turn is taken again in `{visible(wait.state)}`{_most(lead)}{warned}{doubts}"
        case "undo", _:
            return {"retry": "it is tried again", "accept": "it stays as it is, and the rollback goes on"}.get(
                answer, "the rollback ends here, and a person is asked what now"
            )
        case _:
            return f"{goes}{_most(lead)}"


def _goes(lead: Mapping[str, Json]) -> str:
    """Where it leads."""
    if "to" not in lead:
        return "the run goes on"
    if lead["to"] is None:
        return "a person is asked what now"
    if lead["to"] == "":
        return "the turn goes on"
    if "ends" in lead:
        return f"the run ends {lead['ends']} in `{visible(lead['to'])}`"
    return f"the run goes on in `{visible(lead['to'])}`"


def _attempts(wait: OpenWait) -> str:
    tries = wait.call.get("attempts", 1)
    return f" ({tries} attempts at most)" if tries > 1 else ""


def _most(lead: Mapping[str, Json]) -> str:
    most = lead.get("nanousd_max", 0)
    return f", for ${dollars(most):f} at most" if most else ""


def _unanswered(wait: OpenWait) -> str:
    if wait.due is None:
        return ""
    return f"the turn ends `timeout`: {_goes(wait.leads.get('timeout', {}))}"


def done_in(turn: Iterable[Event]) -> list[e.ToolCalled]:
    """The writes and sends that a turn has finished. Taken anew, it asks under new effect numbers, so under new keys:
    nothing outside tells such a call from a first."""
    intents: dict[int, e.ToolCalled] = {}
    done: dict[int, e.ToolCalled] = {}
    for event in turn:
        if isinstance(event, e.ToolCalled) and event.way != Way.REPEAT and event.undoes is None:
            intents[event.effect] = event
        elif isinstance(event, e.ToolReturned) or (isinstance(event, e.DoubtCleared) and event.happened):
            done.update({number: intents[number] for number in (event.effect,) if number in intents})
    return list(done.values())


def doubted_in(turn: Iterable[Event]) -> list[e.ToolCalled]:
    """The writes and sends of a turn that nobody knows of whether they happened. Taken anew, it asks for them as well,
    beside what clears the doubt."""
    intents: dict[int, e.ToolCalled] = {}
    doubted: dict[int, e.ToolCalled] = {}
    for event in turn:
        if isinstance(event, e.ToolCalled) and event.undoes is None:
            intents[event.effect] = event
        elif isinstance(event, e.AttemptFailed) and event.doubt and event.effect in intents:
            doubted[event.effect] = intents[event.effect]
        elif isinstance(event, e.ToolReturned | e.DoubtCleared):
            doubted.pop(event.effect, None)
    return list(doubted.values())
