"""Raised: what code that isn't ours raises, in a form that the loop bears and the log may keep. Knows no run."""

from __future__ import annotations

from interlock.policy.redaction import redacted

RAISED = (Exception, SystemExit)
"""What the code of handlers, tools and prompts may raise and only its own turn ends by. Out of a task, SystemExit would
end the loop, and with it every run of the worker."""


def told(raised: BaseException) -> str:
    """An exception in one line, as the log keeps it."""
    return redacted(f"{type(raised).__name__}: {raised}")[:500]


def bearable(raised: BaseException) -> Exception:
    """What a future can carry from a plain function: it refuses StopIteration, and SystemExit would end the loop."""
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
        return raised
    error = RuntimeError(f"{type(raised).__name__}: {raised}")
    error.__cause__ = raised
    return error
