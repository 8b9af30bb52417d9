"""Redaction: what looks like a credential is hidden, what a person needs to understand a failure stays."""

from __future__ import annotations

import time

import pytest

from interlock.policy.redaction import HIDDEN, redacted

CREDENTIALS = {
    "a parameter": ("401 for https://shop.example/orders?key=3f9a1c77&page=2", "3f9a1c77"),
    "another parameter": ("GET /v1?page=2&access_token=abc.def-ghi failed", "abc.def-ghi"),
    "a password in an address": ("can't connect to postgres://app:hunter2@db/orders", "hunter2"),
    "a header": ("headers={'Authorization': 'Bearer abcdef123456'}", "abcdef123456"),
    "a header in words": ("authorization: Basic dXNlcjpwYXNz was refused", "dXNlcjpwYXNz"),
    "a scheme alone": ("sent bearer abcdef123456", "abcdef123456"),
    "JSON": ('{"api_key": "abcdef123456", "page": 2}', "abcdef123456"),
    "an argument": ("connect(user='app', password='correct horse')", "correct"),
    "a key by its looks": ("no such key sk-proj-abcdef123456", "sk-proj-abcdef123456"),
    "a token by its looks": ("rejected eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJ", "SflKxwRJ"),
}

ORDINARY = [
    "KeyError: 'order_id'",
    "no order A-17: key 'ticket-1' is taken",
    "unexpected token: <!doctype",
    "503 from https://shop.example:8443/orders?page=2&limit=10 after 3 tries",
    "mail to ann@shop.example bounced",
    "the task-runner is at risk-averse settings",
    "",
]


@pytest.mark.parametrize("what", CREDENTIALS)
def test_what_looks_like_a_credential_is_hidden(what: str) -> None:
    text, secret = CREDENTIALS[what]
    assert secret not in redacted(text)
    assert HIDDEN in redacted(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_what_doesn_t_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_the_name_of_what_was_hidden_stays() -> None:
    assert redacted("GET /orders?key=3f9a1c77&page=2: 401") == f"GET /orders?key={HIDDEN}&page=2: 401"


@pytest.mark.parametrize("text", ["-" * 10**6, "a-" * 10**6, "key" * 10**6, "://" * 10**6, 'key" ' * 10**6])
def test_no_text_takes_long(text: str) -> None:
    begun = time.perf_counter()
    redacted(text)
    assert time.perf_counter() - begun < 1
