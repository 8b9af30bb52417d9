"""The support desk of the examples: its ways to an end."""

from __future__ import annotations

from interlock.agent.model import ModelFailed
from interlock.agent.scripted import ScriptedModels
from interlock.testing import ScriptedModel, assert_log, call, choose
from tests.examples.example import load
from tests.stage import play

support = load("support").support
CASE = {"question": "Where is my money?", "order_id": "A-17"}


def test_what_is_owed_is_paid_once_and_answered() -> None:
    script = [
        call("order_lines", order_id="A-17"),
        choose("owed", facts=["broken on arrival"], refund_cents=2400),
        "You get 24.00 EUR back.",
    ]
    run = play(support, CASE, model=script, answers=[("approve", {})])
    assert_log(run, "look_up > pay > answer > closed", tool_called=2)
    assert run.record.receipt == "2400 cents paid back for A-17"
    assert run.record.reply == "You get 24.00 EUR back."


def test_a_refund_that_finance_denies_is_not_paid() -> None:
    script = [choose("owed", facts=["broken"], refund_cents=2400), "Sorry."]
    run = play(support, CASE, model=script, answers=[("deny", {})])
    assert_log(run, "look_up > pay > answer > closed", tool_called=0)
    assert run.record.receipt == ""


def test_when_the_first_model_fails_the_second_answers() -> None:
    down = ScriptedModel(lambda request: ModelFailed("outage", "503", billed=False))
    up = ScriptedModel([choose("nothing", facts=["none"]), "Nothing is owed."])
    models = ScriptedModels({"openai:gpt-5-mini": down, "anthropic:claude-haiku-4-5": up})
    run = play(support, CASE, model=models)
    assert_log(run, "look_up > answer > closed")
    assert run.record.reply == "Nothing is owed."


def test_without_facts_a_person_takes_over() -> None:
    run = play(support, CASE, model=[choose("nothing", facts=[]), "?"], answers=[("handled", {"reply": "Sorry."})])
    assert_log(run, "look_up > answer > person > closed")
    assert run.record.reply == "Sorry."
