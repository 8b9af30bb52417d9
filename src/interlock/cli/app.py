"""The program: finds the verb, loads its file alone, and turns whatever ends it into an exit code and at most one line.

Knows no run and no store; every verb is in a file of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from interlock.cli.wording import visible
from interlock.errors import InterlockError, InvalidMachine, UnknownPrice

GOOD, FAILED, MISUSE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141

VERBS: Mapping[str, tuple[str, str]] = {
    "demo": ("demo", "The 2 a.m. drill, offline: real work on a real file while faults are injected."),
    "check": ("check", "Validate a machine, and compute its worst case."),
    "graph": ("graph", "Draw a machine."),
    "run": ("run", "Run a machine here until it ends or waits for somebody."),
    "start": ("start", "Add a run; it lies until a worker takes it."),
    "work": ("work", "A worker, until SIGTERM drains it."),
    "runs": ("runs", "List runs, newest first."),
    "show": ("show", "One run: how it stands, why, and what it cost."),
    "log": ("log", "What one run did, turn by turn."),
    "waiting": ("waiting", "What waits for people and systems."),
    "resolve": ("answers", "Answer a run that waits for a person."),
    "approve": ("approvals", "Say yes to a call that waits for it."),
    "deny": ("approvals", "Say no to it: the call isn't made."),
    "extend": ("answers", "Raise a run's ceilings; one that waits for that goes on."),
    "clear": ("answers", "Say whether an effect in doubt happened."),
    "redo": ("redo", "Make a dead call again."),
    "drop": ("redo", "Take a dead call off the list."),
    "signal": ("answers", "Tell a run something from a system."),
    "pause": ("control", "Start no further effect."),
    "resume": ("control", "Let paused runs go on."),
    "cancel": ("control", "End runs as cancelled."),
    "rollback": ("rollback", "Return a run to where an earlier turn began."),
    "upgrade": ("upgrade", "Move open runs of an older shape to a machine's present one."),
    "replay": ("replay", "Perform a run's turns again on its record, with no outside call."),
    "fork": ("fork", "A new run that goes on from where a turn of another began."),
    "breakers": ("breakers", "Which models and tools are left alone, until when and why."),
    "trip": ("breakers", "Open the breaker of a model or tool."),
    "reset": ("breakers", "Close the breaker of a model or tool."),
    "notices": ("notices", "What is still to be said to whoever is notified, and what can't be."),
    "verify": ("verify", "Is the log whole, and do the rows say what it says?"),
    "anchor": ("verify", "Write down how far each log has come, to keep elsewhere."),
    "doctor": ("doctor", "What is wrong with this store, host or set-up, and the remedy."),
}
"""Verb -> the file it is in, and its line in `--help`, which therefore loads none of them."""


class Verbs(click.Group):
    """A group that loads a verb's file when that verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        home = import_module(f"interlock.cli.{VERBS[name][0]}")
        command: click.Command = getattr(home, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="URL", help="Default: INTERLOCK_STORE, else sqlite:///interlock.db.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.version_option(package_name="interlock", message="%(package)s %(version)s")
@click.pass_context
def interlock(ctx: click.Context, store: str | None, as_json: bool) -> None:
    """Agents as finite state machines, run accountably. Without a command: what needs a person now."""
    if ctx.invoked_subcommand is None:
        status: Any = import_module("interlock.cli.status")
        status.show_status(store, as_json)


def run(args: Sequence[str]) -> int:
    """One command, from its arguments to its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a command
    code = _flushed(ended(list(args)))
    # From here on there is nothing to interrupt, and the interpreter's own ending would print a traceback.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _left_behind():
        os._exit(code)
    return code


def ended(args: list[str]) -> int:
    """The exit code of one command, its one line on stderr said. Leaves the process as it was."""
    try:
        with interlock.make_context("interlock", args) as ctx:
            code = interlock.invoke(ctx)
        return code if isinstance(code, int) else GOOD
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as wrong:
        where = wrong.ctx.command_path if wrong.ctx is not None else "interlock"
        return _say(f"{wrong.format_message()} ({where} --help)", MISUSE)
    except click.ClickException as wrong:
        return _say(wrong.format_message(), wrong.exit_code)
    except InvalidMachine as invalid:
        for finding in invalid.findings:
            click.echo(visible(f"{finding.severity}  {finding}"), err=True)
        return _say(f"machine `{invalid.machine}` is not valid", MISUSE)
    except UnknownPrice as wrong:
        return _say(f"{wrong}; or here: --price IN,OUT", MISUSE)
    except InterlockError as wrong:
        return _say(str(wrong), MISUSE)
    except (KeyboardInterrupt, click.Abort) as stopped:
        click.echo(nl=sys.stderr.isatty(), err=True)  # after the terminal's own ^C
        return _say(str(stopped) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        return _unplugged()
    except OSError as wrong:
        return _say(f"{wrong.filename or 'the output'}: {wrong.strerror or wrong}", FAILED)
    except Exception as bug:
        if os.environ.get("INTERLOCK_DEBUG"):
            raise
        said = f"{type(bug).__name__}: {bug}" if str(bug) else type(bug).__name__
        return _say(f"unexpected {said} (INTERLOCK_DEBUG=1 shows where)", FAILED)


def _say(line: str, code: int) -> int:
    """The one line on stderr."""
    try:
        click.echo(f"interlock: {visible(line)}", err=True)
    except OSError:
        return code
    return code


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _unplugged()
    except OSError as wrong:
        _to_nowhere()
        return _say(f"the output can't be written: {wrong.strerror}", FAILED)
    return code


def _unplugged() -> int:
    """Whoever read our output has gone: quiet, as if SIGPIPE had ended us."""
    _to_nowhere()
    return BROKEN_PIPE


def _to_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _left_behind() -> bool:
    """Is there a thread, with a function that never returns, for which Python would wait for ever?"""
    others = [each for each in threading.enumerate() if each is not threading.current_thread() and not each.daemon]
    for each in others:
        each.join(0.2)
    return any(each.is_alive() for each in others)
