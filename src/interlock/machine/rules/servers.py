"""Rules on servers: that each can be reached as declared, and carries no secret in its declaration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from interlock.machine.rules.remark import AnyDefinition, Remark, is_name, is_time, is_whole, tool_uses
from interlock.machine.servers import Server, ServerTool
from interlock.machine.states import Source

_SECRET_NAMES = ("token", "secret", "password", "authorization", "api_key", "apikey", "api-key", "credential")


def server(machine: AnyDefinition) -> Iterator[Remark]:
    """Each server is one, has one way to it, and its secrets are references."""
    seen: dict[str, Server] = {}
    for tool, state in tool_uses(machine):
        if not isinstance(tool, ServerTool):
            continue
        declared = tool.server
        here = Source(declared.file, declared.line)
        if seen.setdefault(declared.name, declared) != declared:
            other = seen[declared.name]
            said = f"another server of this name stands at {other.file}:{other.line}: name one of them otherwise"
            yield Remark(f"server `{declared.name}`: {said}", state, here)
        if seen[declared.name] is declared:
            problems = [*_way(declared), *_given(declared), *_bounds(declared)]
            yield from (Remark(f"server `{declared.name}`: {problem}", state, here) for problem in problems)
        if tool.error_means not in ("doubt", "not_done"):
            said = f'`error_means={tool.error_means!r}` is neither "doubt" nor "not_done"'
            yield Remark(f"tool `{tool.name}`: {said}", state, Source(tool.file, tool.line))


def _way(declared: Server) -> Iterator[str]:
    if not is_name(declared.name):
        yield "its name is none; use letters, digits and `_`, no digit first, at most 64"
    if bool(declared.command) == bool(declared.url):
        yield "it is reached in one way: give it `command=[...]` or `url=`"
    parts: tuple[object, ...] = declared.command  # whatever was passed
    if not all(isinstance(part, str) and part and "\0" not in part for part in parts):
        yield "`command` is a list of texts: the program, then its arguments"
    if declared.url:
        yield from _address(declared.url)


def _address(url: object) -> Iterator[str]:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        yield f"`url={url!r}` is no address: write it as `https://host/mcp`"
    elif parts.username or parts.password:
        yield "its address carries a password: put it into `headers=`, as a reference to the environment"


def _given(declared: Server) -> Iterator[str]:
    if declared.url and declared.env:
        yield "`env` is for a command; what is reached by `url=` takes `headers=`"
    if declared.command and declared.headers:
        yield "`headers` are for an address; a command takes `env=`"
    for kind, given in (("env", dict(declared.env)), ("headers", dict(declared.headers))):
        yield from _values(kind, given)


def _values(kind: str, given: Mapping[str, object]) -> Iterator[str]:
    for name, value in given.items():
        if not isinstance(value, str) or "\0" in value or "\n" in value or "\r" in value:
            yield f"`{kind}[{name!r}]` is no text of one line"
        elif _looks_secret(name, value):
            yield (
                f"`{kind}[{name!r}]` looks like a secret: keep it in the environment and write `{{NAME}}` for it, "
                "so that it is in no source and no log"
            )


def _looks_secret(name: str, value: str) -> bool:
    """A value without a reference, under a name that says what it is."""
    return bool(value) and "{" not in value and any(word in name.lower() for word in _SECRET_NAMES)


def _bounds(declared: Server) -> Iterator[str]:
    if not is_time(declared.start_within):
        yield f"`start_within={declared.start_within!r}`: give it seconds above 0, not infinite"
    if not is_whole(declared.result_bytes_max, 1) or not is_whole(declared.binary_bytes_max, 0):
        yield "its bounds of results are whole numbers of bytes"
