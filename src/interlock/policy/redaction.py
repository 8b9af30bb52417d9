"""Redaction: what looks like a credential, taken out of text that nobody wrote for the log. Pure.

A net, not a promise: secrets belong in `deps`, which never reach the log. But a client's exception may quote the
address or the header that it was sent with, and exceptions are logged.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"

TEXT_CHARS_MAX = 4_000
"""What lies further on is cut off unread: an exception may quote a whole page."""

_CREDENTIAL = re.compile(
    r"""
      (?P<address> ://[^/\s:@]*: ) [^/\s@]+ (?=@)                          # https://user:PASSWORD@host
    | (?P<name> (?<![\w-]) [\w-]{0,40} (?:
            (?: key|token|secret|password|passwd|pwd|auth|credential|signature|sig ) ["']? \s* =
          | (?: api[_-]?key|(?:access|auth|refresh)[_-]?token|secret|password|passwd|authorization ) ["']? \s* :
      ) \s* ["']? ) (?: (?:bearer|basic) \s+ )? [^\s"'&;,]{6,}             # ?key=VALUE, "api_key": "VALUE"
    | (?P<scheme> \b bearer \s+ ) [^\s"',;]{6,}                            # Bearer VALUE
    | \b (?: sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[abprs] ) [_-] [\w-]{8,}   # what says itself that it is one
    | \b eyJ[\w-]{8,} \. [\w-]+ \. [\w-]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text with what looks like a credential hidden; of what is named, its name stays."""
    return _CREDENTIAL.sub(lambda found: (found["address"] or found["name"] or found["scheme"] or "") + HIDDEN,
                           text[:TEXT_CHARS_MAX])  # fmt: skip
