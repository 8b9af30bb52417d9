"""The context window: what a model is sent is bounded, what is left out is named, and the record never is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from interlock import Call, InvalidMachine, Limits, Machine, Price, Window, final, model_state, tool
from interlock.agent.model import Message, ModelCall, ModelFailed, ModelReply, ModelRequest
from interlock.agent.prices import bulk_of
from interlock.engine.trimming import SUMMARISE
from interlock.history import events as e
from interlock.machine.window import WINDOW_BYTES, WINDOW_BYTES_MAX
from interlock.machine.worst_case import worst_turn
from interlock.testing import ScriptedModel, call, choose
from tests.laws.stage import Cable, dies_at, on_stage
from tests.laws.stage import Stage as Crashing
from tests.stage import Stage

M = "acme:small"


class Rec(BaseModel):
    goal: str = "find the leak"
    facts: list[str] = ["the pump is in the cellar"]
    text: str = ""


@tool(does="read")
def page(call: Call[None], number: int) -> str:
    return f"page {number:03d} " + "prose " * 300


def reading(window: Window | None, turns: int = 40, **more: Any) -> Machine[Rec, None]:
    row = model_state("Read on: {goal}", model=M, tools=[page], writes={"done": ["text"]}, window=window, **more)
    table = {"s": row.then({"done": "end", "overflow": "lost"}), "end": final(), "lost": final("failed")}
    return Machine("m", Rec, limits=Limits(turns=400, tokens=10**9, usd=10**3), table=table)


def pages(count: int, summary: Any = "SUMMARY") -> ScriptedModel:
    """A model that reads page after page, and sums up when it is asked to."""
    asked = 0

    def brain(request: ModelRequest) -> Any:
        nonlocal asked
        if request.instructions == SUMMARISE:
            return summary(request) if isinstance(summary, Callable) else summary  # type: ignore[arg-type]
        asked += 1
        return call("page", number=asked) if asked < count else choose("done", text="read")

    return ScriptedModel(brain)


def own(model: ScriptedModel) -> list[ModelRequest]:
    return [request for request in model.requests if request.instructions != SUMMARISE]


def trimmings(stage: Any) -> list[e.ContextTrimmed]:
    return [event for event in stage.events() if isinstance(event, e.ContextTrimmed)]


@pytest.mark.parametrize("size", [6_000, 20_000, WINDOW_BYTES, WINDOW_BYTES_MAX])
def test_no_call_sends_more_than_the_window(stage: Stage, size: int) -> None:
    model = pages(150)
    assert stage.play(reading(Window(bytes=size)), Rec(), model=model).status == "completed"
    assert max(bulk_of(request).tokens_max for request in model.requests) <= size
    assert trimmings(stage)


def test_what_was_left_out_is_named_and_is_exactly_what_is_no_longer_sent(stage: Stage) -> None:
    model = pages(40)
    stage.play(reading(Window(bytes=20_000)), Rec(), model=model)
    said = trimmings(stage)
    assert said
    requests = own(model)
    cuts = [
        (before, after)
        for before, after in pairwise(requests)
        if after.messages[: len(before.messages)] != before.messages
    ]
    assert len(cuts) == len(said)
    for (before, after), event in zip(cuts, said, strict=True):
        # the last reply and its result came in between, so they are not of `before`
        gone = [message for message in before.messages[1:] if message not in after.messages]
        assert event.messages == len(gone)
        assert event.bytes == sum(message.size_bytes() for message in gone)
        first, last = event.left_out
        assert first <= last < event.start


def test_the_first_prompt_and_the_pinned_fields_are_never_left_out(stage: Stage) -> None:
    model = pages(60)
    stage.play(reading(Window(bytes=20_000, pin=["facts"])), Rec(), model=model)
    requests = own(model)
    assert all(request.messages[0] == Message("user", "Read on: find the leak") for request in requests)
    noted = [request for request in requests if "What is known" in "".join(m.text for m in request.messages[1:2])]
    assert len(noted) > 20
    assert all("the pump is in the cellar" in request.messages[1].text for request in noted)
    assert all(sum("What is known" in message.text for message in request.messages) <= 1 for request in requests)


def test_between_two_trimmings_each_request_begins_with_the_one_before(stage: Stage) -> None:
    model = pages(100)
    stage.play(reading(Window(bytes=20_000, pin=["facts"])), Rec(), model=model)
    requests = own(model)
    pairs = list(pairwise(requests))
    breaks = [after for before, after in pairs if after.messages[: len(before.messages)] != before.messages]
    assert len(breaks) == len(trimmings(stage)) <= 25


def test_a_summary_stands_in_for_what_is_left_out(stage: Stage) -> None:
    model = pages(60, summary=lambda request: f"SUMMARY of {len(request.messages[0].text)}")
    assert stage.play(reading(Window(bytes=20_000, over="summarise")), Rec(), model=model).status == "completed"
    said = trimmings(stage)
    assert said and all(event.how == "summarised" for event in said)
    summaries = [request for request in model.requests if request.instructions == SUMMARISE]
    assert len(summaries) == len(said)
    assert all(request.max_tokens <= 512 and not request.offers for request in summaries)
    assert all("SUMMARY of" in request.messages[0].text for request in summaries[1:]), "a summary sums up the last one"
    assert "SUMMARY of" in own(model)[-1].messages[1].text


@pytest.mark.parametrize(
    "failure",
    [
        ModelFailed("rejected", "no"),
        ModelFailed("outage", "503", billed=False),
        ModelFailed("overflow", "too long", billed=False),
        "  ",
    ],
)
def test_a_summary_that_fails_costs_only_the_summary(stage: Stage, failure: Any) -> None:
    model = pages(40, summary=failure)
    assert stage.play(reading(Window(bytes=20_000, over="summarise")), Rec(), model=model).status == "completed"
    said = trimmings(stage)
    assert said and all(event.how == "dropped" and event.why.startswith("no summary") for event in said)


def test_overflow_is_an_outcome_where_the_state_says_so(stage: Stage) -> None:
    model = pages(60)
    ended = stage.play(reading(Window(bytes=20_000, over="overflow")), Rec(), model=model)
    assert ended.status == "failed"
    assert not trimmings(stage)
    assert [event for event in stage.events() if isinstance(event, e.Transitioned)][-1].outcome == "overflow"


@pytest.mark.parametrize("over", ["drop", "summarise"])
def test_what_can_t_be_made_to_fit_overflows_and_the_record_stays(stage: Stage, over: Any) -> None:
    """One result that is larger than the window alone."""

    @tool(does="read")
    def book(call: Call[None]) -> str:
        return "x" * 30_000

    row = model_state("Read", model=M, tools=[book], writes={"done": ["text"]}, window=Window(bytes=20_000, over=over))
    table = {"s": row.then({"done": "end", "overflow": "lost"}), "end": final(), "lost": final("failed")}
    machine = Machine("m", Rec, limits=Limits(turns=9, tokens=10**9, usd=10**3), table=table)
    ended = stage.play(machine, Rec(), model=ScriptedModel([call("book"), choose("done", text="")]))
    assert (ended.status, ended.record) == ("failed", Rec())


def test_the_record_survives_any_trimming(stage: Stage) -> None:
    model = pages(60)
    ended = stage.play(reading(Window(bytes=8_000)), Rec(facts=["a", "b"]), model=model)
    assert ended.record == Rec(facts=["a", "b"], text="read")


@pytest.mark.parametrize("over", ["drop", "summarise"])
@pytest.mark.parametrize("fate", ["lose", "die"])
def test_a_worker_that_takes_over_sends_what_the_first_would_have_sent(over: Any, fate: str) -> None:
    """Killed at every commit: the requests of the run, turn by turn, are those of an undisturbed one."""
    machine = reading(Window(bytes=8_000, over=over, pin=["facts"]))

    def requests_of(kill_at: int) -> dict[int, tuple[Message, ...]]:
        model = by_content(14)

        async def act(stage: Crashing) -> None:
            first = await stage.worker(machine, fail=dies_at(kill_at, fate))
            handle = await stage.client.start(machine, Rec())
            cable = first.world.committer
            assert isinstance(cable, Cable)
            await stage.until(lambda: cable.cut or stage.status() == "completed")
            if cable.cut:
                await stage.kill(first)
                await stage.worker(machine)
            await stage.until(lambda: stage.status() in ("completed", "waiting"))
            assert (await handle.result(until_waiting=True)).status == "completed"

        on_stage(act, model)
        return {number_of(request): request.messages for request in own(model)}

    undisturbed = requests_of(10_000)
    assert len(undisturbed) == 14
    for kill_at in range(1, 30):
        assert requests_of(kill_at) == undisturbed, f"killed at commit {kill_at}"


def number_of(request: ModelRequest) -> int:
    """Which turn's request it is: the page that was read last."""
    results = [message.text for message in request.messages if message.role == "tool"]
    return int(results[-1].split()[1]) if results else 0


def by_content(count: int) -> ScriptedModel:
    """Pages by what it was sent, under ids of their own, so that a repeated call gets the same answer."""

    def brain(request: ModelRequest) -> Any:
        if request.instructions == SUMMARISE:
            return f"SUMMARY of {len(request.messages[0].text)}"
        number = number_of(request) + 1
        chosen = ("page", {"number": number}) if number < count else ("done", {"text": "read"})
        return ModelReply(calls=(ModelCall(f"c{number}", *chosen),), finish="tool_call")

    return ScriptedModel(brain)


def test_the_worst_case_counts_the_window_and_the_summary() -> None:
    price = Price.per_million(1, 1)
    plain, summing = Window(bytes=10_000), Window(bytes=10_000, over="summarise", summary_tokens=100)
    limits = {"max_tokens": 1_000, "calls": 1}
    used = [worst_turn(reading(window, **limits), "s", lambda _: price) for window in (plain, summing)]
    attempts = Limits().attempts
    assert used[1].calls - used[0].calls == attempts
    assert used[1].tokens - used[0].tokens == attempts * (10_000 + 100)
    assert used[0].tokens == attempts * (1 + Limits().illegal_moves) * (10_000 + 1_000)


def test_a_window_that_can_t_be_is_refused_where_it_stands() -> None:
    for window, said in [
        (Window(bytes=100), "`bytes` must be a whole number from 4000"),
        (Window(bytes=10**7), "to 190000"),
        (Window(over="forget"), '"drop", "summarise" or "overflow"'),  # type: ignore[arg-type]
        (Window(summary_tokens=0), "`summary_tokens` must be"),
        (Window(pin=["fact"]), "did you mean `facts`?"),
        (20_000, "write Window(bytes=...)"),
    ]:
        with pytest.raises(InvalidMachine) as refused:
            reading(window)  # type: ignore[arg-type]
        assert said in str(refused.value), str(refused.value)
        assert "test_context_window.py:" in str(refused.value)


def test_what_is_pinned_is_read() -> None:
    row = model_state("Go", model=M, writes={"done": []}, window=Window(pin=["facts"]))
    assert row.reads == ("facts",)  # type: ignore[attr-defined]
