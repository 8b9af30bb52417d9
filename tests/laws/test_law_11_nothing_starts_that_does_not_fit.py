"""Law 11: before each attempt its worst case is held; what doesn't fit doesn't start, and the ceiling isn't passed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from interlock import Call, Limits, Machine, Turn, final, model_state, state, tool
from interlock.agent.model import Message, ModelCall, ModelRequest
from interlock.agent.prices import input_bound
from interlock.agent.scripted import as_reply
from interlock.bootstrap import Prices
from interlock.client import Client
from interlock.errors import EffectFailed, UnknownPrice
from interlock.history.events import AttemptFailed, ModelCalled, ModelReplied, Overrun, ToolCalled, Transitioned
from interlock.machine.limits import Price
from interlock.testing import ModelFailed, ModelReply, ScriptedModel, assert_log, choose
from tests.stage import PRICE, Stage, assert_within_ceiling, folds

M = "acme:small"
MAX_TOKENS = 100
PROMPT = "What is the matter with number 0?"


class Work(BaseModel):
    done: int = 0
    refused: list[str] = []


def bound_of(prompt: str, max_tokens: int = MAX_TOKENS) -> int:
    """Tokens that one call is held at."""
    return input_bound(ModelRequest(M, (Message("user", prompt),)), "hard") + max_tokens


BOUND = bound_of(PROMPT)


def full(request: ModelRequest) -> ModelReply:
    """An answer that costs all that was held for it."""
    return ModelReply(text="k", tokens_in=input_bound(request, "hard"), tokens_out=request.max_tokens)


def parallel(**limits: Any) -> Machine[Work, None]:
    """Ten model calls side by side."""

    @state(models=[M], calls=10, max_tokens=MAX_TOKENS, writes=["done", "refused"], within=600)
    async def many(turn: Turn[Work]) -> Literal["ok"]:
        prompts = [PROMPT.replace("0", str(n)) for n in range(10)]
        ends = await asyncio.gather(*(turn.model(M, prompt) for prompt in prompts), return_exceptions=True)
        refused = [end.outcome for end in ends if isinstance(end, EffectFailed)]
        turn.record.done = len(ends) - len(refused)
        turn.record.refused = refused
        return "ok"

    table = {"s": many.then({"ok": "end"}), "end": final()}
    return Machine("parallel", Work, limits=Limits(**{"warn_at": 1.0, "on_warn": "end", **limits}), table=table)


@pytest.mark.parametrize("delay", [0.0, 1.0])
@pytest.mark.parametrize("spare", [0, 1, 15])
def test_of_ten_parallel_effects_on_an_account_for_three_exactly_three_start(
    stage: Stage, delay: float, spare: int
) -> None:
    """Each spends its full bound. What is left over is too small for a useful answer, so nothing else starts."""
    model = ScriptedModel(full, delay=delay)
    played = stage.play(parallel(tokens=3 * BOUND + spare), Work(), model=model)
    assert len(model.requests) == 3
    assert_log(played, model_called=3, model_replied=3, overrun=0)
    assert played.record.done == 3
    assert played.record.refused == ["budget_spent"] * 7
    assert_within_ceiling(played.events)


def test_the_same_holds_for_money(stage: Stage) -> None:
    cost = PRICE.cost(BOUND - MAX_TOKENS, MAX_TOKENS)
    model = ScriptedModel(full, delay=1.0)
    played = stage.play(parallel(usd=3 * cost / 1e9), Work(), model=model)
    assert len(model.requests) == 3
    assert_within_ceiling(played.events)


def test_what_doesn_t_fit_beside_held_money_waits_for_the_settlement(stage: Stage) -> None:
    """Cheap answers give most of their holds back: in the end all ten are made, never more than three at once."""
    under_way, most = 0, 0

    async def cheap(request: ModelRequest) -> ModelReply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1.0)
        under_way -= 1
        return ModelReply(text="k", tokens_in=1, tokens_out=1)

    played = stage.play(parallel(tokens=3 * BOUND + 20), Work(), model=ScriptedModel(cheap))
    assert played.record.done == 10
    assert most == 3
    assert_within_ceiling(played.events)


def test_calls_are_counted_and_bounded(stage: Stage) -> None:
    model = ScriptedModel(full)
    played = stage.play(parallel(calls=4), Work(), model=model)
    assert len(model.requests) == 4
    assert played.record.refused == ["limit_reached"] * 6
    assert_within_ceiling(played.events)


def test_the_output_is_clamped_to_what_the_account_affords(stage: Stage) -> None:
    """The first call leaves half of an answer: the second is asked for no more than that."""
    model = ScriptedModel(full)
    played = stage.play(sequential(2, tokens=2 * BOUND - 50), Work(), model=model)
    assert [request.max_tokens for request in model.requests] == [MAX_TOKENS, MAX_TOKENS - 50]
    assert played.record.done == 2
    assert_within_ceiling(played.events)


def test_money_clamps_the_output_too(stage: Stage) -> None:
    cost = PRICE.cost(BOUND - MAX_TOKENS, MAX_TOKENS)
    model = ScriptedModel(full)
    played = stage.play(sequential(2, usd=(2 * cost - PRICE.cost(0, 40)) / 1e9), Work(), model=model)
    assert [request.max_tokens for request in model.requests] == [MAX_TOKENS, MAX_TOKENS - 40]
    assert_within_ceiling(played.events)


def sequential(count: int, **limits: Any) -> Machine[Work, None]:
    @state(models=[M], calls=count, max_tokens=MAX_TOKENS, writes=["done"], within=600)
    async def one_by_one(turn: Turn[Work]) -> Literal["ok"]:
        for number in range(count):
            await turn.model(M, PROMPT.replace("0", str(number)))
            turn.record.done += 1
        return "ok"

    table = {"s": one_by_one.then({"ok": "end", "budget_spent": "lost"}), "end": final(), "lost": final("failed")}
    limits = {"warn_at": 1.0, "on_warn": "end", **limits}
    return Machine("sequential", Work, limits=Limits(**limits), table=table)


def test_a_provider_that_bills_more_than_its_bound_is_settled_and_nothing_more_starts(stage: Stage) -> None:
    def dear(request: ModelRequest) -> ModelReply:
        return ModelReply(text="k", tokens_in=9_000, tokens_out=9_000)

    model = ScriptedModel(dear)
    played = stage.play(sequential(4, tokens=10_000), Work(), model=model)
    assert len(model.requests) == 1, "nothing repeated, nothing more started"
    assert_log(played, model_called=1, model_replied=1, overrun=1)
    (overrun,) = [e for e in played.events if isinstance(e, Overrun)]
    assert (overrun.dimension, overrun.excess) == ("tokens", 8_000)
    assert played.result.spent.tokens == 18_000
    assert played.result.reason == "budget_spent"


def test_after_an_overrun_free_tools_don_t_start_either(stage: Stage) -> None:
    called = []

    @tool(does="read")
    def free(call: Call[None]) -> int:
        called.append(1)
        return 1

    @state(models=[M], tools=[free], within=600)
    async def both(turn: Turn[Work]) -> Literal["ok"]:
        await turn.model(M, "hello")
        await turn.call(free)
        return "ok"

    table = {"s": both.then({"ok": "end", "budget_spent": "lost"}), "end": final(), "lost": final("failed")}
    machine = Machine("both", Work, table=table, limits=Limits(tokens=10_000, warn_at=1.0))
    dear = ScriptedModel(lambda request: ModelReply(text="k", tokens_in=19_000, tokens_out=1))
    stage.play(machine, Work(), model=dear, answers=[("go_on",)])
    assert called == []
    assert stage.said().count("tool_called") == 0


def test_a_paid_tool_is_held_at_its_most(stage: Stage) -> None:
    @tool(does="read", usd_max=0.30)
    def dear(call: Call[None], n: int) -> int:
        return n

    @state(tools=[dear], calls=10, writes=["done"])
    async def shop(turn: Turn[Work]) -> Literal["ok"]:
        ends = await asyncio.gather(*(turn.call(dear, n) for n in range(10)), return_exceptions=True)
        turn.record.done = sum(not isinstance(end, BaseException) for end in ends)
        return "ok"

    limits = Limits(usd=1.00, warn_at=1.0)
    played = stage.play(Machine("shop", Work, limits=limits, table={"s": shop.then({"ok": "e"}), "e": final()}), Work())
    assert played.record.done == 3
    assert_within_ceiling(played.events)


@pytest.mark.parametrize("billed", [True, False])
def test_a_failed_attempt_costs_its_worst_case_unless_it_surely_was_not_billed(stage: Stage, billed: bool) -> None:
    model = ScriptedModel([ModelFailed("cut", "broke off", billed=billed), "fine"])
    played = stage.play(sequential(1, tokens=5_000), Work(), model=model)
    (failed,) = [e for e in played.events if isinstance(e, AttemptFailed)]
    called = next(e for e in played.events if isinstance(e, ModelCalled))
    assert failed.tokens == (called.hold_tokens if billed else 0)
    assert failed.nanousd == (called.hold_nanousd if billed else 0)
    assert_within_ceiling(played.events)


def test_estimate_mode_holds_less_and_may_overshoot_once(stage: Stage) -> None:
    """A likely cost is held. The overshoot is at most one round of calls: then nothing more starts."""
    hard = stage.play(sequential(1, tokens=5_000), Work(), model=ScriptedModel(full))
    soft = stage.play(sequential(9, tokens=600, mode="estimate"), Work(), model=ScriptedModel(full))
    holds = [next(e for e in played.events if isinstance(e, ModelCalled)).hold_tokens for played in (hard, soft)]
    assert holds[1] < holds[0]
    spent = soft.result.spent.tokens
    assert 600 < spent <= 600 + BOUND
    assert_log(soft, overrun=1)


def test_estimate_mode_learns_from_what_a_model_bills(stage: Stage) -> None:
    """A model that bills little has less held for its later calls; what was held stands in each intent."""

    def little(request: ModelRequest) -> ModelReply:
        return ModelReply(text="k", tokens_in=request.size_bytes() // 10, tokens_out=1)

    played = stage.play(sequential(9, tokens=50_000, mode="estimate"), Work(), model=ScriptedModel(little))
    held = [event.hold_tokens for event in played.events if isinstance(event, ModelCalled)]
    assert held[0] == held[2] > held[3] == held[-1]


def test_every_call_names_its_price_and_its_output_bound(stage: Stage) -> None:
    played = stage.play(sequential(1), Work(), model=ScriptedModel(full))
    called = next(e for e in played.events if isinstance(e, ModelCalled))
    assert called.price == {"input": PRICE.input, "output": PRICE.output}
    assert called.max_tokens == MAX_TOKENS


def test_cached_tokens_are_priced_as_such(stage: Stage) -> None:
    machine = model_state("go", model=M, writes={"ok": []})
    table = {"s": machine.then({"ok": "end"}), "end": final()}
    prices = {M: Price.per_million(10, 40, 1)}
    reply = ModelReply(calls=choose_call(), tokens_in=1_000, tokens_out=10, cached_in=900)
    played = stage.play(Machine("cached", Work, table=table, prices=prices), Work(), model=[reply])
    assert played.result.spent.nanousd == 100 * 10_000 + 900 * 1_000 + 10 * 40_000


def choose_call() -> tuple[Any, ...]:
    return as_reply(choose("ok")).calls


def test_a_model_that_nobody_prices_is_refused_before_anything_is_written(stage: Stage) -> None:
    async def scenario() -> None:
        world = replace(stage.client().world, price_of=Prices({}))
        with pytest.raises(UnknownPrice, match="prices="):
            await Client(world=world).start(sequential(1), Work())
        assert stage.store.runs() == []

    stage.perform(scenario)


def test_the_holds_of_an_ended_run_are_all_given_back(stage: Stage) -> None:
    """Also those of effects that were under way when the turn ended."""

    @state(models=[M], calls=3, max_tokens=MAX_TOKENS, within=5)
    async def impatient(turn: Turn[Work]) -> Literal["ok"]:
        await asyncio.gather(*(turn.model(M, str(n)) for n in range(3)))
        return "ok"

    table = {"s": impatient.then({"ok": "end", "timeout": "lost"}), "end": final(), "lost": final("failed")}
    played = stage.play(Machine("m", Work, table=table), Work(), model=ScriptedModel(full, delay=60))
    assert played.result.state == "lost"
    account = stage.store.find("@last").account
    assert account.held.tokens == account.held.nanousd == 0
    held = [e.hold_tokens for e in played.events if isinstance(e, ModelCalled)]
    assert account.spent.tokens == sum(held), "charged at the worst case until more is known"


def test_what_was_spent_is_the_sum_of_what_the_events_say(stage: Stage) -> None:
    model = ScriptedModel([ModelFailed("cut", "x"), ModelFailed("outage", "x", billed=False), *["fine"] * 3])
    played = stage.play(sequential(3), Work(), model=model)
    tokens = sum(e.tokens_in + e.tokens_out for e in played.events if isinstance(e, ModelReplied))
    tokens += sum(e.tokens for e in played.events if isinstance(e, AttemptFailed))
    calls = sum(isinstance(e, ModelCalled | ToolCalled) for e in played.events)
    turns = sum(isinstance(e, Transitioned) for e in played.events)
    assert (played.result.spent.tokens, played.result.spent.calls, played.result.spent.turns) == (tokens, calls, turns)
    *_, (_, last) = folds(played.events)
    assert last.held == dict.fromkeys(last.held, 0)


EMOJI = "\N{GRINNING FACE}" * 5_000


@pytest.mark.parametrize("words", ["name", "id"])
def test_a_model_s_own_words_don_t_pass_the_ceiling(stage: Stage, words: str) -> None:
    """What it says is sent back to it, and billed by the byte: also the name of a tool that there isn't, and ids."""

    def billed(request: ModelRequest) -> ModelReply:
        """A token for each byte that is sent; schemas and framing are free."""
        messages, calls = request.messages, [call for message in request.messages for call in message.calls]
        sent = [text for message in messages for text in (message.text, message.name, message.call_id)]
        size = sum(len(text.encode()) for text in [*sent, *(text for call in calls for text in (call.name, call.id))])
        longest = ModelCall("a", EMOJI, {}) if words == "name" else ModelCall(EMOJI, "nothing of the kind", {})
        chosen = longest if len(messages) == 1 else ModelCall("b", "done", {})
        return ModelReply(calls=(chosen,), tokens_in=size, tokens_out=16)

    row = model_state("Go", model=M, writes={"done": []}, within=60, max_tokens=16)
    table = {"work": row.then({"done": "end"}), "end": final()}
    machine = Machine("scene", Work, limits=Limits(turns=9, tokens=21_000, warn_at=1.0), table=table)
    played = stage.play(machine, Work(), model=ScriptedModel(billed))
    assert_within_ceiling(played.events)
    assert_log(played, overrun=0, move_refused=1)
    called = [event for event in played.events if isinstance(event, ModelCalled)]
    replied = [event for event in played.events if isinstance(event, ModelReplied)]
    for intent, reply in zip(called, replied, strict=True):
        assert reply.tokens_in + reply.tokens_out <= intent.hold_tokens
