"""The named statements of `queries.sql` and the numbered migrations, read from their files once. Knows no database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

RUN_COLUMNS = """run.number, run.id, run.machine, run.shape, run.content, run.tenant, run.key, run.status, run.reason,
run.state, run.turn, run.seq, run.head, run.turn_seq, run.fence, run.worker, run.wake_at, run.deadline_at, run.mail,
run.created_at, run.changed_at, CAST(run.live AS BLOB),
ceiling_turns, ceiling_calls, ceiling_tokens, ceiling_nanousd, ceiling_active_ms,
spent_turns, spent_calls, spent_tokens, spent_nanousd, spent_active_ms,
held_turns, held_calls, held_tokens, held_nanousd, held_active_ms
FROM run JOIN account ON account.number = run.account"""

WAIT_COLUMNS = """wait.run, wait.number, wait.kind, wait.why, wait.seq, wait.of, wait.signal, wait.due, wait.opened_at,
wait.closed"""

BREAKER_COLUMNS = """name, state, failures, window_at, window_calls, window_failed, changed_at, until, probe, sent,
reason, by"""
CALL_COLUMNS = """call.effect, call.status, call.tool, call.way, call.attempt, call.seq, call.until, call.due,
call.failed, call.limited, call.redoes, call.run, call.fence, call.reserved, call.asked"""

UNFINISHED = """EXISTS (SELECT 1 FROM call WHERE call.run = run.number AND call.redoes IS NOT NULL
AND call.status IN ('under way', 'due'))"""

_PARTS = {
    "run": RUN_COLUMNS,
    "wait": WAIT_COLUMNS,
    "breaker": BREAKER_COLUMNS,
    "call": CALL_COLUMNS,
    "unfinished": UNFINISHED,
}

_BLOCK = re.compile(r"^-- (\w+) --\n", re.MULTILINE)
_COMMENT = re.compile(r"--[^\n]*")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum` leaves out comments and blank space."""

    number: int
    name: str
    script: str
    checksum: str


@cache
def queries() -> Mapping[str, str]:
    """Every statement by its name."""
    blocks = _BLOCK.split(_text("queries.sql"))[1:]
    return {name: _filled(sql) for name, sql in zip(blocks[::2], blocks[1::2], strict=True)}


@cache
def migrations() -> tuple[Migration, ...]:
    """Every schema file, in order."""
    names = sorted(entry.name for entry in files(__package__).iterdir() if re.match(r"\d{4}_.*\.sql$", entry.name))
    return tuple(_migration(name) for name in names)


def _migration(name: str) -> Migration:
    script = _text(name)
    statements = " ".join(_COMMENT.sub("", script).split())
    return Migration(int(name[:4]), name, script, hashlib.sha256(statements.encode()).hexdigest())


def _filled(sql: str) -> str:
    bare = " ".join(_COMMENT.sub("", sql).split())
    for name, part in _PARTS.items():
        bare = bare.replace(f"{{{name}}}", part)
    return bare


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
