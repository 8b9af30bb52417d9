"""Webhooks: a notice as a signed HTTP request, and what a receiver needs to know that it is genuine.

The form is that of Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md):
HMAC-SHA256 over "{webhook-id}.{webhook-timestamp}.{body}" with the bytes of a secret that is written `whsec_` and
base64, sent as `webhook-signature: v1,{base64}`. Knows no store and no run.

    Client(notify=Webhook("https://pager.example/hook", secret=os.environ["INTERLOCK_WEBHOOK_SECRET"]))

    notice = genuine(request.body, request.headers, secret)         # in the receiver; raises `BadInput`
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from interlock.canonical import Json, decode
from interlock.engine.delivery import NotDelivered
from interlock.errors import BadInput

if TYPE_CHECKING:
    import httpx2

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
PREFIX = "whsec_"
TOLERANCE_SECONDS = 300
TIMEOUT_MAX = 30.0
SECRET_SAYS = f'"{PREFIX}" and 24 to 64 random bytes in base64, as `echo {PREFIX}$(openssl rand -base64 32)` makes them'


class Webhook:
    """One receiver of notices, by URL. Its answer's status is read, and nothing else of it; redirects aren't followed.

    url      https, or plain http for this machine only; it is kept in this process alone, like the secret
    secret   `whsec_` and base64; two with a space between them while one replaces the other: both sign
    timeout  seconds that one attempt may take
    Raises `BadInput`.
    """

    def __init__(self, url: str, *, secret: str, timeout: float = 15.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise BadInput("a webhook's address is a URL such as https://pager.example/hook")
        if parts.username or parts.password:
            raise BadInput("a webhook's address holds a password; the receiver knows us by the signature")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise BadInput(f"a webhook to {parts.hostname} needs https; plain http is for this machine only")
        if not 0 < timeout <= TIMEOUT_MAX:
            raise BadInput(f"a webhook's timeout is more than 0 and at most {TIMEOUT_MAX:g} seconds")
        self.host = parts.netloc
        self.timeout = timeout
        self._url = url
        self._local = parts.hostname in LOOPBACK
        self._secrets = tuple(_key(one) for one in secret.split()) or (_key(""),)
        self._http: httpx2.AsyncClient | None = None
        import httpx2  # noqa: F401  dear to load, and few need it: here, so that sending only sends

    def __repr__(self) -> str:
        return f"Webhook(host={self.host!r})"

    async def send(self, id: str, body: bytes, at: int) -> None:
        """One request. Raises `NotDelivered`."""
        import httpx2

        timestamp = at // 1000
        headers = {
            "content-type": "application/json",
            "user-agent": "interlock",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(id, timestamp, body, self._secrets),
        }
        try:
            async with self._client().stream("POST", self._url, content=body, headers=headers) as answer:
                status, again = answer.status_code, answer.headers.get("retry-after", "")
        except httpx2.TimeoutException:
            failure = NotDelivered(f"no answer within {self.timeout:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as wrong:
            failure = NotDelivered(f"{self.host}: {type(wrong).__name__}")
        else:
            if 200 <= status < 300:
                return
            gone = " (it wants no more)" if status == 410 else ""
            failure = NotDelivered(f"{self.host} answered {status}{gone}", status == 410, _seconds(again))
        raise failure  # out here, so that it carries no context: the client's errors hold the request

    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        if self._http is None:
            # An own transport for loopback: a proxy that the environment names can't reach this machine's.
            transport = httpx2.AsyncHTTPTransport() if self._local else None
            self._http = httpx2.AsyncClient(transport=transport, timeout=self.timeout, follow_redirects=False)
        return self._http

    async def aclose(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()


def signature(id: str, timestamp: int, body: bytes, keys: tuple[bytes, ...]) -> str:
    """The `webhook-signature` header: one signature per key, with spaces between them."""
    signed = f"{id}.{timestamp}.".encode() + body
    made = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return " ".join(f"v1,{one}" for one in made)


def genuine(
    body: bytes,
    headers: Mapping[str, str],
    secret: str,
    *,
    now: float | None = None,
    tolerance: float = TOLERANCE_SECONDS,
) -> Json:
    """For receivers: what a notice says, if it was signed with this secret and sent within `tolerance` seconds of `now`
    (seconds since 1970; default: the system's). `body` is what came, byte for byte.

    The same notice may come more than once: keep its `webhook-id`, and do nothing the second time. Raises `BadInput`.
    """
    said = {name.lower(): value for name, value in headers.items()}
    try:
        id, timestamp, given = said["webhook-id"], int(said["webhook-timestamp"]), said["webhook-signature"]
    except (KeyError, ValueError):
        raise BadInput("this is no signed webhook: a header is missing") from None
    if abs((time.time() if now is None else now) - timestamp) > tolerance:
        raise BadInput("this webhook was sent too long ago, or its sender's clock is wrong")
    keys = tuple(_key(one) for one in secret.split())
    expected = signature(id, timestamp, body, keys).split()
    if not any(hmac.compare_digest(one.encode(), each.encode()) for one in given.split() for each in expected):
        raise BadInput("this webhook's signature is not that of its body")
    return decode(body)


def _key(secret: str) -> bytes:
    """The bytes of a secret. The message never repeats it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise BadInput(f"a webhook's secret is {SECRET_SAYS}")
    return key


def _seconds(text: str) -> float:
    """Of a Retry-After in seconds; a date, which few send, is taken for nothing."""
    return float(text) if text.isascii() and text.isdigit() else 0.0
