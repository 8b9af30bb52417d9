"""The signed request itself, against a real server: what is sent, what counts as delivered, what is refused."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from interlock.engine.delivery import NotDelivered
from interlock.errors import BadInput
from interlock.webhook import Webhook, genuine
from tests.notices.receiver import OTHER_SECRET, SECRET, Receiver

BODY = b'{"type":"run.waiting","data":{}}'


def send(webhook: Webhook, *, at: float | None = None, times: int = 1) -> None:
    async def go() -> None:
        try:
            for _ in range(times):
                await webhook.send("r1-7-ab", BODY, int((time.time() if at is None else at) * 1000))
        finally:
            await webhook.aclose()

    asyncio.run(go())


def failure(webhook: Webhook) -> NotDelivered:
    with pytest.raises(NotDelivered) as failed:
        send(webhook)
    return failed.value


def test_what_is_sent_is_genuine_and_nothing_else_is() -> None:
    with Receiver() as receiver:
        send(Webhook(receiver.url, secret=SECRET))
        (heard,) = receiver.heard
    assert genuine(heard.body, heard.headers, SECRET) == {"type": "run.waiting", "data": {}}
    assert heard.path == "/hook?team=desk" and heard.id == "r1-7-ab"
    for tampered in (
        (heard.body.replace(b"waiting", b"failing"), heard.headers, SECRET),
        (heard.body, {**heard.headers, "webhook-id": "r1-8-ab"}, SECRET),
        (heard.body, {**heard.headers, "webhook-timestamp": str(int(time.time()) + 1)}, SECRET),
        (heard.body, {**heard.headers, "webhook-signature": "v1,AAAA"}, SECRET),
        (heard.body, {name: value for name, value in heard.headers.items() if name != "webhook-signature"}, SECRET),
        (heard.body, heard.headers, OTHER_SECRET),
    ):
        with pytest.raises(BadInput):
            genuine(*tampered)


def test_the_signature_is_the_one_that_other_implementations_make() -> None:
    """The known answer that the reference libraries of Standard Webhooks are tested with."""
    headers = {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,bm9uZSBvZiBvdXJz v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    said = genuine(b'{"test": 2432232314}', headers, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", now=1614265330)
    assert said == {"test": 2432232314}


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_request_sent_again_by_somebody_else_is_refused(seconds: int) -> None:
    with Receiver() as receiver:
        send(Webhook(receiver.url, secret=SECRET), at=1_700_000_000)
        (heard,) = receiver.heard
    assert genuine(heard.body, heard.headers, SECRET, now=1_700_000_299)
    with pytest.raises(BadInput, match="too long ago"):
        genuine(heard.body, heard.headers, SECRET, now=1_700_000_000 + seconds)


def test_two_secrets_both_sign_while_one_replaces_the_other() -> None:
    with Receiver() as receiver:
        send(Webhook(receiver.url, secret=f"{SECRET} {OTHER_SECRET}"))
        (heard,) = receiver.heard
    assert genuine(heard.body, heard.headers, SECRET) and genuine(heard.body, heard.headers, OTHER_SECRET)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_delivered_whatever_the_body_says(status: int) -> None:
    with Receiver() as receiver:
        receiver.answers, receiver.body = [status], b"" if status == 204 else b'{"error": "no"}' * 1000
        send(Webhook(receiver.url, secret=SECRET))
        assert len(receiver.heard) == 1


@pytest.mark.parametrize(("status", "final"), [(400, False), (404, False), (410, True), (429, False), (500, False)])
def test_any_other_status_is_a_failure_and_410_is_the_last(status: int, final: bool) -> None:
    with Receiver() as receiver:
        receiver.answers = [status]
        failed = failure(Webhook(receiver.url, secret=SECRET))
    assert failed.final == final and str(status) in failed.why


def test_the_wait_that_a_receiver_asks_for_is_read() -> None:
    with Receiver() as receiver:
        receiver.answers, receiver.headers = [503], {"retry-after": "120"}
        assert failure(Webhook(receiver.url, secret=SECRET)).retry_after == 120


def test_a_redirect_is_a_failure_and_not_followed() -> None:
    """Else whoever answers there would get the notice, and the signature with it."""
    with Receiver() as receiver, Receiver() as other:
        receiver.answers, receiver.headers = [307], {"location": other.url}
        assert "307" in failure(Webhook(receiver.url, secret=SECRET)).why
        assert not other.heard and len(receiver.heard) == 1


def test_a_receiver_that_never_answers_is_given_up() -> None:
    with Receiver() as receiver:
        receiver.answers = [None]
        assert failure(Webhook(receiver.url, secret=SECRET, timeout=0.3)).why == "no answer within 0.3 s"


def test_nobody_there_is_a_failure_that_names_the_host_and_no_secret() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    failed = failure(Webhook(f"http://127.0.0.1:{port}/hook/T0K3N", secret=SECRET))
    assert failed.why == f"127.0.0.1:{port}: ConnectError"
    assert failed.__cause__ is None and failed.__context__ is None, "the client's error holds the request"


def test_a_webhook_shows_neither_its_secret_nor_the_path_of_its_address() -> None:
    webhook = Webhook("https://hooks.example/services/T0K3N", secret=SECRET)
    assert repr(webhook) == "Webhook(host='hooks.example')"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://pager.example/hook", "needs https"),
        ("http://127.0.0.1.pager.example/hook", "needs https"),
        ("ftp://pager.example/hook", "is a URL such as"),
        ("pager.example", "is a URL such as"),
        ("https://me:T0K3N@pager.example/hook", "holds a password"),
    ],
)
def test_an_address_that_cant_be_trusted_is_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as refused:
        Webhook(url, secret=SECRET)
    assert "T0K3N" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://pager.example/x", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]/x"]
)
def test_https_anywhere_and_plain_http_on_this_machine_are_taken(url: str) -> None:
    Webhook(url, secret=SECRET)


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!"]
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(BadInput, match="24 to 64 random bytes") as refused:
        Webhook("https://pager.example/hook", secret=secret)
    assert "hunter2" not in str(refused.value)
