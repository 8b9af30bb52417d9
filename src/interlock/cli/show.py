"""`interlock show`: one run: how it stands, why, what it cost, and what to do next."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import click

from interlock.canonical import Json
from interlock.cli import breakers
from interlock.cli.calls import headline as dead_headline
from interlock.cli.log import plain
from interlock.cli.options import named, print_json, reading, shared, short_id
from interlock.cli.story import amount, path, repeated_by_retry, tell
from interlock.cli.wording import apart, duration, money, quantity, share, value, visible
from interlock.dead import dead_calls_of
from interlock.handover import HandOver, because, hand_overs
from interlock.history.calls import DEAD
from interlock.history.events import Event, RunStarted, Transitioned
from interlock.policy.breaker import Breaker
from interlock.reading import OpenWait, RunView, read_events, read_run, wait_json
from interlock.store.protocol import Store
from interlock.stuck import Stuck, stuck_run

LAST_LINES = 3

COLOURS = {"completed": "green", "failed": "red", "cancelled": "red", "waiting": "yellow", "paused": "yellow"}


@click.command()
@click.argument("run", metavar="RUN")
@shared
def show(run: str, store: str | None, as_json: bool) -> None:
    """One run: how it stands, why, and what it cost."""
    with reading(store) as found:
        view = read_run(found, run)
        if as_json:
            stuck = stuck_run(found, view.row, int(time.time() * 1000))
            waits = {each.wait.number: each.as_json() for each in hand_overs(found, view)}
            waiting = [waits.get(wait.number) or wait_json(wait) for wait in view.waits]
            stuck_json = None if stuck is None else _stuck_json(stuck)
            print_json({**as_document(view, named(store)), "waiting": waiting, "stuck": stuck_json})
        else:
            print_view(found, view, named(store))


def shut_for(store: Store, history: list[tuple[int, Event]]) -> list[Breaker]:
    """Breakers that stand in the way of what this run calls."""
    shut = breakers.open_breakers(store)
    return breakers.used_by(shut, history) if shut else []


def as_document(view: RunView, store: str) -> dict[str, Json]:
    return {**view.as_json(), "store": store}


def choices(handed: HandOver) -> Iterator[str]:
    """What each answer does, a line each, and what happens without one."""
    width = max((len(choice.answer) for choice in handed.choices), default=0)
    for choice in handed.choices:
        yield f"{visible(choice.answer):{width}}  {choice.does}"
    if handed.unanswered:
        yield f"{'':{width}}  unanswered, {handed.unanswered}"


def print_view(store: Store, view: RunView, store_name: str) -> None:
    """A run as a tired person reads it."""
    width = shutil.get_terminal_size((100, 24)).columns
    history = [(seq, event) for seq, event, _ in read_events(store, view.row.number)]
    short = short_id(store, view.id)
    click.echo(apart("", f"store {store_name}", width).strip().rjust(width))
    head = apart(
        f"{visible(view.row.machine)} {short}  {standing(store, view)}", f"machine {view.row.shape[:4]}", width
    )
    click.secho(head, fg=COLOURS.get(view.status), bold=True)
    for name, text in [
        ("from", _from(view)),
        ("why", _why(view, history)),
        ("stuck", _stuck(store, view)),
        ("spent", spent(view)),
        *(("dead", dead_headline(call, time.time())) for call in dead_calls_of(store, view.id)),
        ("path", path(history)),
        (
            "breaker",
            " | ".join(f"{breakers.short_name(each)} {breakers.standing(each)}" for each in shut_for(store, history)),
        ),
        ("record", _record(view, history)),
        ("retry", done_again(store, view) if any("retry" in wait.form for wait in view.waits) else ""),
        ("next", "  | ".join(next_steps(store, view, short))),
    ]:
        if text:
            click.echo(f"{name:7} {text}")
        if name == "record":
            _print_choices(store, view, history)


def _from(view: RunView) -> str:
    source = view.forked_from
    return f"run {visible(source['run'], 40)}, where its turn {source['turn']} began" if source else ""


def _print_choices(store: Store, view: RunView, history: list[tuple[int, Event]]) -> None:
    """What happened last, and what each answer will do."""
    handed = hand_overs(store, view)
    for number, told in enumerate(tell(history)[-LAST_LINES:] if handed else ()):
        click.echo(f"{'' if number else 'last':7} {plain(told).strip()}")
    for each in handed:
        which = f"wait {each.wait.number}: " if len(handed) > 1 else ""
        for number, line in enumerate(choices(each)):
            click.echo(f"{'' if number else 'choices':7} {which}{line}")


def standing(store: Store, view: RunView) -> str:
    """Its status in words: "WAITING for a person, in `person` 14 min (due in 23 h 46)"."""
    state = f"in `{visible(view.row.state, 60)}`"
    since = _ago(view.row.changed_at)
    match view.status:
        case "waiting" | "paused" if view.row.mail:
            return f"{view.status.upper()} {state} {since}; an answer lies in the inbox until a worker takes the run"
        case "waiting":
            return f"WAITING for {_awaited(view)}, {state} {since}{_due(view)}{_going_back(view)}"
        case "running":
            return f"RUNNING {state} {since}, held by {_worker(store, view)}{_going_back(view)}"
        case "ready":
            return f"READY {state} {since}: lies until a worker takes it"
        case "paused":
            return f"PAUSED {state} {since}{_going_back(view)}"
        case _:
            return f"{view.status.upper()} {state}, {since} ago"


def _stuck(store: Store, view: RunView) -> str:
    stuck = stuck_run(store, view.row, int(time.time() * 1000))
    if stuck is None:
        return ""
    return visible(f"{'stranded: ' if stuck.stranded else ''}{stuck.why}. {stuck.remedy}")


def _stuck_json(stuck: Stuck) -> dict[str, Json]:
    return {"stranded": stuck.stranded, "why": stuck.why, "remedy": stuck.remedy}


def _going_back(view: RunView) -> str:
    return f"; going back to turn {view.state.rollback[0]}" if view.state.rollback else ""


def _awaited(view: RunView) -> str:
    names = {"person": "a person", "signal": "a signal", "time": "time to pass"}
    return " and ".join(dict.fromkeys(names.get(wait.kind, wait.kind) for wait in view.waits)) or "nothing"


def _ago(at_ms: int) -> str:
    return duration(max(0.0, time.time() - at_ms / 1000))


def _due(view: RunView) -> str:
    due = [wait.due for wait in view.waits if wait.due is not None]
    if not due:
        return ""
    left = min(due) / 1000 - time.time()
    return f" (due in {duration(left)})" if left > 0 else " (due)"


def _worker(store: Store, view: RunView) -> str:
    for worker in store.workers():
        if worker.number == view.row.worker:
            return f"{visible(worker.name, 60)}{' (DEAD)' if worker.alive is False else ''}"
    return f"worker {view.row.worker}"


def _why(view: RunView, history: list[tuple[int, Event]]) -> str:
    if view.status == "paused":
        return visible(view.row.reason, 200)
    for wait in view.waits:
        return _reason(wait, history)
    if not view.ended:
        return ""
    for seq, event in reversed(history):
        if isinstance(event, Transitioned):
            said = f": {visible(event.why, 160)}" if event.why else ""
            ended = f"`{visible(event.state, 60)}` ended `{visible(event.outcome, 60)}` at event {seq}{said}"
            return visible(view.row.reason, 200) if view.status == "cancelled" else ended
    return visible(view.row.reason, 200)


def _reason(wait: OpenWait, history: list[tuple[int, Event]]) -> str:
    if wait.why == "approve":
        return because(wait)
    if wait.why == "doubt":
        return f"asks `{visible(wait.of, 40)}`: {because(wait, [event for _, event in history])}"
    asked = f"asks `{visible(wait.of, 40)}`" if wait.of else f"waits for `{visible(wait.signal or wait.why, 40)}`"
    ended = f"the turn ended `{visible(wait.outcome, 60)}`; " if wait.outcome and wait.why != "undo" else ""
    return f"{ended}{asked}: {visible(wait.prompt, 200)}" if wait.prompt else f"{ended}{asked}"


def spent(view: RunView) -> str:
    """What it used of what it may use."""
    account = view.row.account
    used, ceiling, held = account.spent, account.ceiling, account.held
    doubts = ", ".join(str(number) for number in sorted(int(each) for each in view.state.doubts)) or "none"
    parts = [
        f"${money(used.nanousd)} of ${money(ceiling.nanousd)}{share(used.nanousd, ceiling.nanousd)}"
        f", held ${money(held.nanousd)}",
        f"turns {used.turns} of {ceiling.turns}",
        f"{used.active_ms / 1000:.0f} of {ceiling.active_ms / 1000:.0f} s",
        f"{quantity(view.state.tokens_in)} in, {quantity(view.state.tokens_out)} out",
        f"in doubt: {doubts}",
    ]
    return " | ".join(parts)


def _record(view: RunView, history: list[tuple[int, Event]]) -> str:
    order = history[0][1].record if history and isinstance(history[0][1], RunStarted) else {}
    record = {**{name: view.record[name] for name in order if name in view.record}, **view.record}
    return " | ".join(f"{visible(name)} {value(given, 60)}" for name, given in record.items())


def done_again(store: Store, view: RunView) -> str:
    """What answering `retry` does once more, in words; empty when it repeats nothing."""
    return repeated_by_retry(event for _, event, _ in read_events(store, view.row.number, view.row.turn_seq + 1))


def next_steps(store: Store, view: RunView, short: str) -> Iterator[str]:
    """Commands that make sense now, the first in full."""
    first = True
    dead = view.status == "running" and any(w.number == view.row.worker and w.alive is False for w in store.workers())
    for step in _steps(view, short, dead):
        yield f"interlock {step}" if first else step
        first = False


def _steps(view: RunView, short: str, dead: bool) -> Iterator[str]:
    for wait in view.waits:
        yield from _answers(wait, short, len(view.waits) > 1)
    for call in view.state.calls:
        if view.state.calls[call].status == DEAD:
            yield f"redo|drop {short} {call}"
    if view.status == "paused":
        yield f"resume {short}"
    if any(wait.why == "budget" or wait.outcome in ("budget_spent", "limit_reached") for wait in view.waits):
        yield f"extend {short} --usd ..."
    if view.status == "ready" or view.row.mail or dead:
        yield "work TARGET"
    elif view.status == "running":
        yield f"log {short} -f"
    yield f"log {short}"
    if view.ended:
        yield f"fork {short} --at TURN"
        return
    if view.status in ("waiting", "paused") and not view.state.rollback and view.row.turn > 1:
        yield f"rollback {short} --to TURN"
    yield f"cancel {short}"


def _answers(wait: OpenWait, short: str, several: bool) -> Iterator[str]:
    if wait.kind == "signal":
        yield f"signal {short} {visible(wait.signal, 60)}"
    which = f" --wait {wait.number}" if several else ""
    if wait.why == "approve":
        yield f"approve {short}{which}"
        yield f"deny {short}{which}"
    elif wait.why == "doubt":
        yield f"clear {short} {wait.effect} --happened|--did-not"
    elif wait.kind == "person":
        for outcome, form in wait.form.items():
            needed = "".join(f" --set {visible(name)}=..." for name in (form or {}).get("required", []))
            yield f"resolve {short} {visible(outcome)}{needed}{which}"


def ceiling_share(view: RunView) -> tuple[float, str]:
    """The dimension that is most used up, and how far."""
    used, ceiling = view.row.account.spent.as_dict(), view.row.account.ceiling.as_dict()
    shares = [(used[name] / ceiling[name], name) for name in used if ceiling[name] > 0]
    most, name = max(shares, default=(0.0, "turns"))
    return most, f"{amount(name, used[name])} of {amount(name, ceiling[name])}"
