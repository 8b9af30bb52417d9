"""The loopback provider itself: it strikes whom the plan says, records what came, and lets go of everyone in time."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from typing import Any

import pytest

from interlock.agent.model import Message, ModelFailed, ModelRequest
from interlock.agent.scripted import ScriptedModel, call
from interlock.redteam import faults
from interlock.redteam.faults import Fault, Plan
from interlock.redteam.provider import LoopbackProvider

REQUEST = ModelRequest("m", (Message("user", "hi"),))


def post(provider: LoopbackProvider, body: Any = None, path: str = "/v1/chat/completions") -> tuple[int, Any, Any]:
    """(status, headers, JSON) of one request by the standard library's client."""
    stated = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} if body is None else body
    connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=10)
    try:
        connection.request("POST", path, stated if isinstance(stated, str) else json.dumps(stated))
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


def statuses(plan: list[Fault], count: int) -> list[int]:
    with LoopbackProvider(lambda _: "fine", faults=plan) as provider:
        return [post(provider)[0] for _ in range(count)]


def test_a_fault_strikes_as_often_as_it_says_and_then_work_goes_on() -> None:
    assert statuses([faults.storm(3)], 5) == [503, 503, 503, 200, 200]


def test_a_fault_strikes_from_the_request_it_names() -> None:
    assert statuses([faults.overloaded(at=3)], 4) == [200, 200, 529, 200]


def test_faults_follow_each_other_in_the_order_of_the_plan() -> None:
    assert statuses([faults.rate_limited(2), faults.storm(1)], 4) == [429, 429, 503, 200]


def test_a_fault_may_choose_its_requests() -> None:
    plan = Plan([faults.storm(2, when=lambda request: "refund" in request.messages[-1].text)])
    refund = ModelRequest("m", (Message("user", "a refund"),))
    struck = [plan.strike(number, request) for number, request in enumerate((REQUEST, refund, REQUEST, refund, refund))]
    assert [fault is not None for fault in struck] == [False, True, False, True, False]


def test_a_fault_injected_while_it_runs_strikes_the_next_request() -> None:
    with LoopbackProvider(lambda _: "fine") as provider:
        before = post(provider)[0]
        provider.inject(faults.storm(1))
        assert (before, post(provider)[0], post(provider)[0]) == (200, 503, 200)


def test_retry_after_goes_out_in_the_form_that_carries_it() -> None:
    with LoopbackProvider(lambda _: "fine", faults=[faults.storm(1), faults.storm(1, retry_after=0.5)]) as provider:
        whole, fraction = post(provider)[1], post(provider)[1]
    assert whole["Retry-After"] == "1" and whole["retry-after-ms"] is None
    assert fraction["retry-after-ms"] == "500" and fraction["Retry-After"] is None


def test_requests_are_recorded_with_time_body_and_fate() -> None:
    with LoopbackProvider(lambda _: "fine", faults=[faults.storm(1)]) as provider:
        post(provider)
        post(provider)
        first, second = provider.requests
        assert provider.count == 2
    assert (first.number, first.ended, first.fault and first.fault.name) == (1, "failed", "status 503")
    assert (second.number, second.ended, second.fault) == (2, "answered", None)
    assert 0 <= first.at <= second.at
    assert second.body["messages"] == [{"role": "user", "content": "hi"}]
    assert second.request.messages == (Message("user", "hi"),)


def test_a_scripted_model_can_be_the_brain_and_keeps_its_requests() -> None:
    brain = ScriptedModel([call("look", id="A")])
    with LoopbackProvider(brain) as provider:
        answer = post(provider)[2]
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"id":"A"}'}
    assert [request.messages[0].text for request in brain.requests] == ["hi"]


def test_a_tools_answer_bears_the_tools_name_for_the_brain() -> None:
    """On the wire it bears only the call's id."""
    asked = {"id": "c9", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    with LoopbackProvider(lambda request: request.messages[-1].name) as provider:
        answer = post(
            provider,
            {
                "model": "m",
                "messages": [
                    {"role": "assistant", "content": None, "tool_calls": [asked]},
                    {"role": "tool", "tool_call_id": "c9", "content": "late"},
                ],
            },
        )[2]
    assert answer["choices"][0]["message"]["content"] == "look"


@pytest.mark.parametrize("body", ["{no json", "[]", {"model": "m"}, {"messages": []}])
def test_a_request_that_makes_no_sense_is_a_400(body: Any) -> None:
    with LoopbackProvider(lambda _: "fine") as provider:
        assert post(provider, body)[0] == 400
        assert post(provider)[0] == 200


def test_nothing_else_is_served() -> None:
    with LoopbackProvider(lambda _: "fine") as provider:
        assert post(provider, path="/v1/embeddings")[0] == 404
        assert provider.count == 0


def test_it_listens_on_loopback_only() -> None:
    with LoopbackProvider(lambda _: "fine") as provider:
        assert provider.base_url == f"http://127.0.0.1:{provider.port}/v1"


@pytest.mark.parametrize("fault", [faults.delay(30), faults.hang()], ids=lambda fault: fault.name)
def test_closing_the_server_ends_a_delay(fault: Fault) -> None:
    """Nobody waits 30 seconds for a test or a demo to end."""
    provider = LoopbackProvider(lambda _: "fine", faults=[fault])
    provider.start()
    failed: list[BaseException] = []
    client = threading.Thread(target=_post_into, args=(provider, failed))
    client.start()
    _until(lambda: provider.count == 1)
    before = time.monotonic()
    provider.close()
    client.join(5)
    assert time.monotonic() - before < 2 and not client.is_alive() and failed


def _post_into(provider: LoopbackProvider, failed: list[BaseException]) -> None:
    try:
        post(provider)
    except (OSError, http.client.HTTPException) as error:
        failed.append(error)


def test_a_client_that_leaves_ends_its_delay_and_its_brain() -> None:
    """Work for somebody who has left is cancelled."""
    ended: list[str] = []

    async def brain(request: ModelRequest) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "late"

    with LoopbackProvider(brain) as provider:
        connection = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": []}))
        _until(lambda: provider.count == 1)
        connection.close()
        _until(lambda: ended == ["cancelled"])
        assert provider.requests[0].ended == "gone"


def test_a_short_delay_answers_late_and_right() -> None:
    with LoopbackProvider(lambda _: "fine", faults=[faults.delay(0.1)]) as provider:
        before = time.monotonic()
        assert post(provider)[0] == 200
        assert time.monotonic() - before >= 0.1


def test_closing_twice_and_closing_unstarted_is_harmless() -> None:
    LoopbackProvider(lambda _: "fine").close()
    with LoopbackProvider(lambda _: "fine") as provider:
        pass
    provider.close()


def test_a_brain_that_fails_by_its_own_fault_is_a_500_that_says_so() -> None:
    """A bug in a script must not look like a provider that hangs."""

    def brain(request: ModelRequest) -> str:
        raise ZeroDivisionError("a bug")

    with LoopbackProvider(brain) as provider:
        status, _, body = post(provider)
    assert status == 500 and "ZeroDivisionError" in body["error"]["message"]


def test_a_used_up_script_is_refused_over_the_wire() -> None:
    with LoopbackProvider([]) as provider:
        status, _, body = post(provider)
    assert status == 400 and "used up" in body["error"]["message"]


def test_many_clients_are_answered_at_once() -> None:
    """40 requests of 0.1 s each take far less than 4 s."""
    with LoopbackProvider(ScriptedModel(lambda _: "fine", delay=0.1)) as provider:
        before = time.monotonic()
        clients = [threading.Thread(target=post, args=(provider,)) for _ in range(40)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(10)
        assert provider.count == 40 and time.monotonic() - before < 2.5


def test_a_failure_of_the_brain_keeps_its_retry_after() -> None:
    with LoopbackProvider([ModelFailed("rate_limited", "slow down", retry_after=9)]) as provider:
        assert post(provider)[1]["Retry-After"] == "9"


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.005)
