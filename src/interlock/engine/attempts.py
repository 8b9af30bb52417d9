"""Attempts: the kinds of effect, each with its intent, its worst case, and how one try of it is performed.

A kind neither commits nor retries: `effects` does that once for all kinds.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from msgspec import Struct
from msgspec.structs import replace

from interlock.agent.model import RETRYABLE, Model, ModelCall, ModelFailed, ModelReply, ModelRequest, readable
from interlock.agent.prices import Bulk
from interlock.agent.servers import ServerCall, ServerFailed
from interlock.canonical import Json, copied, fingerprint
from interlock.clock import Clock
from interlock.engine.live_run import LiveRun, leave_evidence
from interlock.engine.raised import RAISED, told
from interlock.engine.world import Apart, Offload
from interlock.errors import BadInput, NotDone
from interlock.history.events import ModelCalled, ModelReplied, ToolCalled, ToolReturned
from interlock.machine.limits import Price
from interlock.machine.servers import ServerTool
from interlock.machine.tools import Call, Tool, Way
from interlock.policy.accounts import Admission, Hold, hold_for_model, hold_for_tool
from interlock.policy.approvals import Approver
from interlock.policy.breaker import model_breaker, tool_breaker
from interlock.policy.grants import tool_origin
from interlock.policy.redaction import redacted


@dataclass(slots=True)
class AttemptError(Exception):
    """One attempt brought no result. `happened` None: nobody knows. `billed` False: it surely cost nothing. `sent`
    False: surely nothing left."""

    kind: str
    message: str
    retry: bool
    happened: bool | None = None
    billed: bool = True
    retry_after: float | None = None
    sent: bool = True


class Sending:
    """Whether one attempt is sent: decided once, by whoever comes first. The sender asks immediately before, on the
    thread that sends; who gives up on the attempt decides that it never is."""

    __slots__ = ("_before", "_clock", "_decided")

    def __init__(self, clock: Clock, before: float) -> None:
        self._clock = clock
        self._before = before  # on the clock that counts suspend
        self._decided = threading.Lock()

    def begin(self) -> None:
        """Now or never: raises when it is too late. Whoever slept past that moment must not send, as somebody may be
        clearing the doubt by now."""
        if self._clock.boottime() >= self._before or not self._decided.acquire(blocking=False):
            raise unsent()

    def give_up(self) -> bool:
        """Nobody waits for its result any more. Whether it is certain that it wasn't sent, and never will be."""
        return self._decided.acquire(blocking=False)


def unsent() -> AttemptError:
    return AttemptError("unsent", "too late to send", True, happened=False, billed=False, sent=False)


class Effect(Protocol):
    """One thing to be done outside, however many attempts it takes."""

    @property
    def name(self) -> str: ...
    @property
    def way(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def unapproved(self) -> bool:
        """Somebody must say yes before it begins, and hasn't."""
        ...

    @property
    def limited(self) -> bool:
        """Whether it waits for a place among others of its kind."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds that one attempt may take."""
        ...

    @property
    def candidates(self) -> tuple[str, ...]:
        """The breakers of what can do it, in the order in which they are tried; the effect is at one of them."""
        ...

    at: int
    probing: int  # the number of its breaker's probe that the next attempt is; 0: none
    passed: tuple[Mapping[str, Json], ...]

    def turn_to(self, run: LiveRun, at: int) -> None:
        """Have it done by another of the candidates."""
        ...

    def hold(self, run: LiveRun) -> Hold | Admission: ...
    def intent(self, effect: int, attempt: int, hold: Hold, send_within_ms: int) -> ModelCalled | ToolCalled: ...
    async def perform(
        self, run: LiveRun, effect: int, attempt: int, hold: Hold, sending: Sending
    ) -> ModelReplied | ToolReturned:
        """One attempt, if `sending` lets it begin. Raises `AttemptError`."""
        ...


class ModelEffect(Struct):
    """Asking a model once: the first of `models` that takes the call. `model`, `request` and `price` are those of the
    one that it is at."""

    model: Model
    request: ModelRequest
    price: Price
    digest: str
    bulk: Bulk  # the request's
    models: tuple[str, ...]
    thread: str | None = None
    prompt: str | None = None
    way: str = Way.REPEAT
    unapproved: ClassVar[bool] = False
    at: int = 0
    probing: int = 0
    passed: tuple[Mapping[str, Json], ...] = ()
    limited: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.request.model

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple([model_breaker(model) for model in self.models])

    def turn_to(self, run: LiveRun, at: int) -> None:
        name = self.models[at]
        self.at, self.model, self.request = at, run.world.models.find(name), replace(self.request, model=name)
        self.price = run.world.price_of(name, run.machine.prices)

    @property
    def timeout(self) -> float:
        return self.request.timeout

    def hold(self, run: LiveRun) -> Hold | Admission:
        hard = run.state.mode == "hard"
        tokens_in = self.bulk.tokens_max if hard else run.world.estimates.tokens(self.name, self.bulk)
        return hold_for_model(run.state, tokens_in, self.request.max_tokens, self.price)

    def intent(self, effect: int, attempt: int, hold: Hold, send_within_ms: int) -> ModelCalled:
        return ModelCalled(
            effect=effect,
            digest=self.digest,
            attempt=attempt,
            model=self.name,
            thread=self.thread,
            prompt=self.prompt if attempt == 1 else None,
            max_tokens=hold.max_tokens,
            price=_price_json(self.price),
            hold_tokens=hold.tokens,
            hold_nanousd=hold.nanousd,
            send_within_ms=send_within_ms,
            timeout_ms=int(self.timeout * 1000),
            passed=self.passed,
            probe=self.probing,
        )

    async def perform(self, run: LiveRun, effect: int, attempt: int, hold: Hold, sending: Sending) -> ModelReplied:
        request = self.request
        if hold.max_tokens != request.max_tokens:
            request = replace(request, max_tokens=hold.max_tokens)
        sending.begin()
        try:
            reply = await self.model.reply(request)
        except ModelFailed as failed:
            raise AttemptError(
                failed.kind, failed.message, failed.kind in RETRYABLE, None, failed.billed, failed.retry_after
            ) from failed
        except RAISED as bug:  # a model of somebody's own: recorded, so that the turn, entered again, ends as it did
            raise AttemptError("bug", told(bug), False) from bug
        try:
            replied = self._replied(effect, attempt, reply)
        except RAISED as wrong:
            raise AttemptError("bug", told(wrong), False) from wrong
        if run.state.mode != "hard":
            run.world.estimates.settle(self.name, self.bulk, reply.tokens_in)
        return replied

    def _replied(self, effect: int, attempt: int, reply: ModelReply) -> ModelReplied:
        return ModelReplied(
            effect=effect,
            attempt=attempt,
            text=reply.text,
            calls=tuple([_call_json(call) for call in _told_apart(reply.calls)]),
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            cached_in=reply.cached_in,
            nanousd=self.price.cost(reply.tokens_in, reply.tokens_out, reply.cached_in),
            finish=reply.finish,
        )


def _told_apart(calls: tuple[ModelCall, ...]) -> tuple[ModelCall, ...]:
    """The calls of one reply, each under an id of its own: an answer names the call it answers."""
    if len({call.id for call in calls}) == len(calls):
        return calls
    return tuple([replace(call, id=f"{call.id}_{at}") for at, call in enumerate(calls, 1)])


def _call_json(call: ModelCall) -> dict[str, Json]:
    return {"id": call.id, "name": call.name, "args": readable(call.args)}


def _price_json(price: Price) -> dict[str, int]:
    written = {"input": price.input, "output": price.output}
    return written if price.cached_input is None else {**written, "cached_input": price.cached_input}


class ToolEffect(Struct):
    """Calling a tool once."""

    tool: Tool[Any, Any, Any]
    args: Mapping[str, Json]
    deps: Any
    offload: Offload
    answers: str | None = None
    digest: str = ""
    approver: Approver | None = None  # who must say yes, when it isn't the tool that says so
    approval: int | None = None  # the wait in which somebody did
    proposed: Mapping[str, Json] = {}  # the arguments as they were asked for, before a person made others of them
    covered: bool = False  # by an approval that its first attempt has used up
    at: int = 0
    probing: int = 0
    passed: tuple[Mapping[str, Json], ...] = ()
    undoes: int | None = None  # the effect that this one takes back
    redoes: int | None = None
    reserved_at: int = 0

    def __post_init__(self) -> None:
        self.digest = self.digest or fingerprint(["tool", self.tool.name, dict(self.args)])
        if self.tool.approve is not None and self.approver is None:
            self.approver = Approver(self.tool.approve, self.tool.approve_within)
        self.proposed, self.covered = self.args, self.approval is not None

    @property
    def unapproved(self) -> bool:
        return self.approver is not None and not self.covered

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def way(self) -> str:
        return self.tool.way

    @property
    def limited(self) -> bool:
        return self.tool.limited

    @property
    def timeout(self) -> float:
        return self.tool.within

    @property
    def candidates(self) -> tuple[str, ...]:
        return (tool_breaker(self.name),)

    def turn_to(self, run: LiveRun, at: int) -> None:
        """There is no other."""

    def dump(self, value: Any) -> Json:
        return self.tool.dump(value)

    def hold(self, run: LiveRun) -> Hold | Admission:
        return hold_for_tool(run.state, self.tool.nanousd_max)

    def intent(self, effect: int, attempt: int, hold: Hold, send_within_ms: int) -> ToolCalled:
        return ToolCalled(
            effect=effect,
            digest=self.digest,
            attempt=attempt,
            tool=self.name,
            way=self.way,
            args=dict(self.args),
            answers=self.answers,
            undo=self.undoes is None and self.tool.undo is not None,
            undoes=self.undoes,
            hold_nanousd=hold.nanousd,
            send_within_ms=send_within_ms,
            timeout_ms=int(self.timeout * 1000),
            approval=self.approval,
            probe=self.probing,
            redoes=self.redoes,
            reserved_at=self.reserved_at,
        )

    async def perform(self, run: LiveRun, effect: int, attempt: int, hold: Hold, sending: Sending) -> ToolReturned:
        call = self.call(run, effect, attempt)

        def late(value: Any) -> None:  # a plain function ended after its time: what it says is evidence, not a result
            with contextlib.suppress(BadInput):
                leave_evidence(run.world, run.id, run.fence, self._returned(effect, attempt, value, hold.nanousd))

        try:
            value = await self.act(run, call, sending, late)
        except AttemptError:
            raise
        except NotDone as said:
            raise AttemptError("not_done", redacted(str(said)), said.retry, False, False, said.retry_after) from said
        except asyncio.CancelledError as stray:
            if _being_cancelled():
                raise
            raise AttemptError("raised", "CancelledError, though nobody cancelled it", True, None, True) from stray
        except RAISED as raised:
            # Its author says nothing about what happened: a read is tried again, anything else is a doubt.
            raise AttemptError("raised", told(raised), True, None, True) from raised
        try:
            return self._returned(effect, attempt, value, hold.nanousd)
        except BadInput as wrong:
            raise AttemptError("malformed", str(wrong), False, True, True) from wrong

    async def act(self, run: LiveRun, call: Call[Any], sending: Sending, late: Callable[[Any], None]) -> Any:
        """What is done outside: by a server, in a process of its own, or here."""
        if isinstance(self.tool, ServerTool):
            return await self._served(self.tool, run, call, sending, late)
        if self.tool.isolate and run.world.isolate is not None:
            return await self._apart(run.world.isolate(self.tool, call, copied(self.args)), sending, late)

        def send(**arguments: Any) -> Any:
            sending.begin()
            return self.tool.function(call, **arguments)

        return await self.invoke(send, self.tool.is_async, late)

    async def _served(
        self, tool: ServerTool, run: LiveRun, call: Call[Any], sending: Sending, late: Callable[[Any], None]
    ) -> Any:
        """Have the tool's server carry it out, if it still is what the run has pinned."""
        pin = run.state.pins.get(tool.name)
        if pin is None:
            raise AttemptError("changed", f"the run has never asked what {tool.name} is", False, False, False)
        arguments = dict(self.args) if tool.key_argument is None else {**self.args, tool.key_argument: call.key}
        asked = ServerCall(tool.remote, str(pin[0]), arguments, call.key, self.timeout)
        try:
            return await run.world.servers.call(tool.server, asked, sending.begin, late)
        except ServerFailed as failed:
            raise _of_server(failed, tool) from failed

    def _returned(self, effect: int, attempt: int, value: Any, nanousd: int) -> ToolReturned:
        origin = tool_origin(self.tool.name, self.tool.trusted)
        return ToolReturned(effect=effect, attempt=attempt, value=self.dump(value), nanousd=nanousd, origin=origin)

    def call(self, run: LiveRun, effect: int, attempt: int) -> Call[Any]:
        return Call(deps=self.deps, key=f"{run.id}-{effect}", run=run.id, attempt=attempt, seconds_left=self.timeout)

    async def probe(self, run: LiveRun, effect: int, attempt: int) -> Any:
        """What the tool's probe says: `Happened(result)` or None. Raises whatever it raises."""
        probe = self.tool.probe
        assert probe is not None  # only checkable tools are probed
        ask = partial(probe, self.call(run, effect, attempt))
        return await self.invoke(ask, inspect.iscoroutinefunction(probe))

    async def invoke(
        self, function: Callable[..., Any], is_async: bool, late: Callable[[Any], None] | None = None
    ) -> Any:
        arguments = self.tool.revive(copied(self.args))
        if is_async:
            return await function(**arguments)
        return await self._offloaded(lambda: function(**arguments), late)

    async def _apart(self, process: Apart, sending: Sending, late: Callable[[Any], None]) -> Any:
        try:
            return await self._offloaded(lambda: process.result(sending.begin), late)
        finally:
            process.kill()

    async def _offloaded(self, function: Callable[[], Any], late: Callable[[Any], None] | None) -> Any:
        future = self.offload(function, late)
        try:
            return await future
        except asyncio.CancelledError:
            if late is not None and _succeeded(future):  # it returned in the moment in which it was given up
                late(future.result())
            raise


def _of_server(failed: ServerFailed, tool: ServerTool) -> AttemptError:
    """What a server's failure means for an attempt. Whether an error that it answers is one is the tool's to say."""
    happened, retry, sent = failed.happened, failed.retry, failed.happened is not False
    if failed.kind == "tool_error":
        happened = False if tool.error_means == "not_done" else None
        retry = happened is None and tool.way == Way.KEY  # the same again, as that clears the doubt
    billed = happened is not False
    return AttemptError(failed.kind, failed.message, retry, happened, billed, failed.retry_after, sent)


def _being_cancelled() -> bool:
    """Whether somebody has cancelled the task that we are in; else a CancelledError is its own function's bug."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _succeeded(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
