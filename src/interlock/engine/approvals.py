"""Approvals: no call of a tool that asks for one without a person's yes to exactly this call. Commits nothing.

    ask (its number is given) > a person decides > the owner notes what was approved > the first intent uses it up

One approval is for one effect with all its attempts. It ends with its turn, when its time is over, or when anything
that it is bound to is another; then a person is asked anew, and the log says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from interlock.canonical import Json
from interlock.engine.desk import Desk
from interlock.engine.journal import Entry
from interlock.engine.live_run import LiveRun
from interlock.engine.prospects import Lead, lead, leads
from interlock.errors import BadInput, EffectFailed
from interlock.history.events import ApprovalRefused, Approved, ToolCalled, WaitEnded, WaitOpened
from interlock.machine.outcomes import EngineOutcome
from interlock.machine.states import APPROVAL_SECONDS, UseState
from interlock.machine.tools import Tool
from interlock.policy.approvals import Approver, Bound, differs
from interlock.store.protocol import InboxItem

APPROVE, DENY, EDIT = "approve", "deny", "edit"
UNUSED = "not used: "


class Approvable(Protocol):
    """What approvals know of a tool's effect."""

    tool: Tool[Any, Any, Any]
    args: Mapping[str, Json]
    proposed: Mapping[str, Json]
    digest: str
    approver: Approver | None
    approval: int | None
    covered: bool


def check_not_refused(desk: Desk, number: int) -> None:
    """Raises `EffectFailed` when a person has said no to this effect, or nobody said anything in time."""
    asked = _last_wait(desk, number)
    if asked is None or (ended := asked[1]) is None:
        return
    if ended.how == "timer":
        raise EffectFailed(EngineOutcome.TIMEOUT, f"nobody approved {asked[0].call['tool']} in time")
    if ended.outcome == DENY:
        because = f": {ended.reason}" if ended.reason else ""
        raise EffectFailed(EngineOutcome.DENIED, f"denied by {ended.by}{because}")


def some_refused(desk: Desk) -> bool:
    """Whether a person has said no in this turn."""
    ends = (ended for opened, _, ended in desk.journal.waits.values() if opened.why == APPROVE)
    return any(ended is not None and (ended.outcome == DENY or ended.how == "timer") for ended in ends)


def answer_binds(desk: Desk, effect: Approvable, number: int) -> None:
    """A person was asked about this effect: what she said holds, also when its tool asks nobody any more."""
    asked = _last_wait(desk, number)
    if effect.approver is None and asked is not None:
        effect.approver = Approver(asked[0].of, APPROVAL_SECONDS)


def cover(effect: Approvable, entry: Entry | None) -> None:
    """A further attempt of an effect: the approval that its first one used up is for this one too."""
    if entry is not None and isinstance(entry.intent, ToolCalled) and entry.intent.approval is not None:
        effect.args, effect.approval, effect.covered = entry.intent.args, entry.intent.approval, True


async def seek(desk: Desk, effect: Approvable, number: int) -> None:
    """Return when the effect may begin now; its approval is then named in it, and its arguments are the approved ones.
    Else a person is asked, and the turn parks. Asked again after every waiting, last right before the intent."""
    run = desk.run
    given = run.state.approvals.get(str(number))
    if given is None:
        check_not_refused(desk, number)
        ask(desk, effect, number)
        await desk.park()
    wait, binding, until, seq = given
    approved = run.event_at(seq)
    assert isinstance(approved, Approved)  # the fold says so
    args = effect.proposed if approved.args is None else approved.args
    why = _spoilt(desk, effect, number, args, binding, until)
    if not why:
        effect.args, effect.approval = args, wait
        return
    desk.add(ApprovalRefused(effect=number, wait=wait, why=why, by=approved.by))
    ask(desk, effect, number)
    await desk.park()


def _spoilt(desk: Desk, effect: Approvable, number: int, args: Mapping[str, Json], binding: str, until: int) -> str:
    """Why an approval that was given doesn't count for what is going to be sent now; empty when it does."""
    if desk.run.now >= until:
        return "expired: it wasn't used in time"
    now = _bound(desk.run, effect, number, args)
    if now.digest != binding:
        asked = _last_wait(desk, number)
        return (asked and differs(_asked_about(desk.run, asked[0], args), now)) or "it is for another call"
    try:
        effect.tool.check(args)  # what somebody made of them
    except BadInput as wrong:
        return f"the arguments don't fit: {wrong}"
    return ""


def ask(desk: Desk, effect: Approvable, number: int) -> None:
    """Ask a person, unless one is being asked, or has said yes: the effect's number is given out by it."""
    asked = _last_wait(desk, number)
    if (asked is not None and asked[1] is None) or str(number) in desk.run.state.approvals:
        return
    run, tool, approver = desk.run, effect.tool, effect.approver
    assert approver is not None  # else nobody is asked
    due = run.now + int(approver.within * 1000)
    if asked is not None and asked[0].due is not None and asked[0].due > run.now:
        due = asked[0].due  # an answer that doesn't count buys no time
    bound = _bound(run, effect, number, effect.proposed)
    most = tool.nanousd_max * run.machine.limits.attempts
    desk.open_wait(
        WaitOpened(
            wait=0,
            kind="person",
            why="approve",
            state="",
            of=approver.role,
            prompt=_prompt(run, number),
            effect=number,
            digest=effect.digest,
            form={APPROVE: {}, DENY: {}, EDIT: {**tool.schema, "required": []}},
            due=due,
            leads={
                **{each: _then(run, most) for each in (APPROVE, EDIT)},
                **leads(run, {DENY: EngineOutcome.DENIED, "timeout": EngineOutcome.TIMEOUT}),
            },
            call={
                "tool": tool.name,
                "does": tool.does,
                "args": dict(effect.proposed),
                "schema": tool.schema_digest,
                "policy": dict(bound.policy),
                "shape": run.machine.shape,
                "attempts": run.machine.limits.attempts,
            },
            binding=bound.digest,
        )
    )


def _then(run: LiveRun, most: int) -> Lead:
    """Where the run goes when the call has been made: a `use` is done by it, another state goes on."""
    uses = isinstance(run.machine.row(run.state.state).state, UseState)
    return lead(run, run.machine.destination(run.state.state, "done") if uses else "", most)


def _prompt(run: LiveRun, number: int) -> str:
    """Why somebody is asked again, if so."""
    for _, event in reversed(run.journal):
        if isinstance(event, ApprovalRefused) and event.effect == number:
            return f"Asked again: {event.why}."
    return ""


def decided(run: LiveRun, item: InboxItem) -> bool:
    """Take in a decision about an approval; False: it is about something else."""
    body = item.body
    wait = run.state.waiting.get(str(body["wait"]))
    if "approval" not in body and (wait is None or wait[1] != APPROVE):
        return False
    said = {"by": body["by"], "reason": body.get("reason", "")}
    opened = None if wait is None else run.event_at(wait[2])
    if not isinstance(opened, WaitOpened) or opened.why != APPROVE:
        _refuse(run, item, None, "replayed, or another's: nothing here waits for it")
    elif any(row.number == opened.wait for row in run.world.store.snapshot(run.number).waits):
        _refuse(run, item, None, "it was left without closing its wait, which goes on")
    elif body.get("approval") != opened.binding:
        run.add(WaitEnded(wait=opened.wait, how="decision", inbox=item.id, **said))
        _refuse(run, item, opened.effect, "borrowed: it was given for another call", taken=True)
    else:
        run.add(WaitEnded(wait=opened.wait, how="decision", outcome=body["outcome"], fields=body.get("fields", {}),
                          inbox=item.id, **said))  # fmt: skip
        _note(run, item, opened)
    return True


def not_said(run: LiveRun, wait: int, seq: int) -> None:
    """A wait that was closed by what says nothing: if it was about an approval, none was given."""
    opened = run.event_at(seq)
    if isinstance(opened, WaitOpened) and opened.why == APPROVE:
        why = "what was said can't be read"
        run.add(ApprovalRefused(effect=opened.effect, wait=wait, why=why, by="unknown"))


def _note(run: LiveRun, item: InboxItem, opened: WaitOpened) -> None:
    """What exactly was approved, if anything was."""
    body = item.body
    if body["outcome"] == DENY:
        return
    if body["outcome"] not in (APPROVE, EDIT):
        _refuse(run, item, opened.effect, f"no answer `{body['outcome']}` here", taken=True)
        return
    asked = dict(opened.call["args"])
    args = {**asked, **body.get("fields", {})} if body["outcome"] == EDIT else asked
    assert opened.effect is not None and opened.due is not None  # of every wait for an approval
    run.add(
        Approved(
            effect=opened.effect,
            wait=opened.wait,
            binding=_asked_about(run, opened, args).digest,
            until=item.left_at + opened.due - opened.at,
            args=args if body["outcome"] == EDIT else None,
            by=body["by"],
            reason=body.get("reason", ""),
        )
    )


def _refuse(run: LiveRun, item: InboxItem, effect: int | None, why: str, taken: bool = False) -> None:
    inbox = None if taken else item.id
    run.add(
        ApprovalRefused(
            effect=effect, wait=item.body["wait"], why=why, by=str(item.body["by"]), body=item.body, inbox=inbox
        )
    )


def void(run: LiveRun, why: str) -> None:
    """The turn has ended: what was approved in it and not used counts no more."""
    for effect, (wait, *_) in list(run.state.approvals.items()):
        run.add(ApprovalRefused(effect=int(effect), wait=wait, why=f"{UNUSED}{why}"))


def _bound(run: LiveRun, effect: Approvable, number: int, args: Mapping[str, Json]) -> Bound:
    tool, approver = effect.tool, effect.approver
    assert approver is not None  # only what asks for an approval is bound
    policy: dict[str, Json] = {"role": approver.role, "does": tool.does}
    schema, shape = tool.schema_digest, run.machine.shape
    return Bound(run.tenant, run.id, shape, number, tool.name, schema, dict(args), policy)


def _asked_about(run: LiveRun, opened: WaitOpened, args: Mapping[str, Json]) -> Bound:
    """What was asked about then, with these arguments."""
    call = opened.call
    assert opened.effect is not None  # of every wait for an approval
    tool, schema, policy = call["tool"], call["schema"], dict(call["policy"])
    return Bound(run.tenant, run.id, call["shape"], opened.effect, tool, schema, dict(args), policy)


def _last_wait(desk: Desk, effect: int) -> tuple[WaitOpened, WaitEnded | None] | None:
    found = [
        (opened, ended)
        for opened, _, ended in desk.journal.waits.values()
        if opened.why == APPROVE and opened.effect == effect
    ]
    return found[-1] if found else None
