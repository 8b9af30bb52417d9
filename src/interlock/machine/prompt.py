"""Prompts as text: `{field}` stands for a field of the record, every other brace is literal. No expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from interlock.canonical import Json, encode

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(text: str) -> list[str]:
    """The field names a prompt mentions, in order, each once."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def fill(text: str, values: Mapping[str, Json]) -> str:
    """The prompt with its fields filled in: strings as they are, everything else as JSON."""

    def one(match: re.Match[str]) -> str:
        value = values[match.group(1)]
        return value if isinstance(value, str) else encode(value).decode("utf-8")

    return _PLACEHOLDER.sub(one, text)
