"""Options that many verbs share, the stores they open, and the question before something is changed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import click

from interlock.answering import login_name
from interlock.bootstrap import is_in_memory, open_store, store_url
from interlock.canonical import Json
from interlock.cli.wording import visible
from interlock.client import Client
from interlock.errors import UnknownRun
from interlock.store.protocol import Store

F = TypeVar("F", bound=Callable[..., Any])


class Misuse(click.ClickException):
    """The command can't be carried out as it was given. Nothing was changed."""

    exit_code = 2


class Declined(click.exceptions.Exit):
    """The person said no. Nothing was changed."""

    def __init__(self) -> None:
        click.echo("nothing was changed", err=True)
        super().__init__(1)


def _or_the_programs(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """An option may also stand before the verb."""

    def chosen(ctx: click.Context, _: click.Parameter, given: Any) -> Any:
        return given or ctx.find_root().params.get(name)

    return chosen


def shared(command: F) -> F:
    """`--store` and `--json`."""
    says_json = click.option(
        "--json", "as_json", is_flag=True, callback=_or_the_programs("as_json"), help="JSON, for programs."
    )
    store = click.option(
        "--store",
        metavar="URL",
        callback=_or_the_programs("store"),
        help="Default: INTERLOCK_STORE, else sqlite:///interlock.db.",
    )
    return store(says_json(command))


def acting(command: F) -> F:
    """`--by`, `--reason` and `--yes`: who changes a run, why, and without being asked."""
    by = click.option("--by", metavar="WHO", help="Who says so. Default: your login name.")
    reason = click.option("--reason", metavar="TEXT", default="", help="Why; it is kept in the log.")
    yes = click.option("--yes", is_flag=True, help="Don't ask.")
    return by(reason(yes(command)))


def actor(by: str | None) -> str:
    """Who acts."""
    return by or login_name()


def check_lasting(url: str | None) -> None:
    """Misuse for a store that would be gone when the command ends."""
    if is_in_memory(store_url(url)):
        raise Misuse(f"{store_url(url)}: is gone when the command ends; name a file: --store sqlite:///FILE")


def open_lasting(url: str | None, *, create: bool = True, readonly: bool = False) -> Store:
    """The store that is meant."""
    check_lasting(url)
    return open_store(url, create=create, readonly=readonly)


@contextmanager
def reading(url: str | None) -> Iterator[Store]:
    """A store that exists, for reading."""
    with closing(open_lasting(url, create=False, readonly=True)) as store:
        yield store


@contextmanager
def changing(url: str | None) -> Iterator[Client]:
    """A client of a store that exists."""
    with closing(Client(open_lasting(url, create=False))) as client:
        yield client


def agree(plan: str, yes: bool) -> None:
    """Say what will be done, and ask. Raises `Declined`; misuse where nobody can be asked."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Misuse(f"this would {visible(plan)}; where nobody can be asked, say --yes")
    if not _confirmed(f"This will {visible(plan)}. Go on? [y/N] "):
        raise Declined


def _confirmed(question: str) -> bool:
    """By hand: line editors lose a Ctrl-C that comes just as they start to read."""
    click.echo(question, nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        raise click.Abort
    return answer.strip().lower() in ("y", "yes")


def named(url: str | None) -> str:
    """Which store is meant, as it is shown."""
    return visible(store_url(url))


def print_json(document: Json, *, line: bool = False) -> None:
    """One document; with `line`, one of a stream. ASCII only: nothing in it can touch a terminal."""
    indent = 2 if sys.stdout.isatty() and not line else None
    click.echo(json.dumps(document, ensure_ascii=True, indent=indent))


@contextmanager
def foreign_output_aside(aside: bool = True) -> Iterator[Any]:
    """What a machine's own code prints goes to stderr, so that ours can be read by programs. Yields our stdout."""
    ours = sys.stdout
    if aside:
        sys.stdout = sys.stderr
    try:
        yield ours
    finally:
        sys.stdout = ours


def short_id(store: Store, run_id: str) -> str:
    """The beginning of an id that is enough to name it, at least 4 long."""
    for length in (4, 6, 8, 12):
        try:
            store.find(run_id[:length])
        except UnknownRun:
            continue
        return run_id[:length]
    return run_id


def to_go_on(target: str, run: str, store: str | None) -> str:
    """The command that goes on with a run here; `store` as it was given to this one."""
    where = f" --store {shlex.quote(store)}" if store else ""
    return f"interlock run {target} --run {run}{where}"


def fields_of(sets: tuple[str, ...], form: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """`--set field=value`s as fields. A value is text where the form takes text (or nothing is known and it isn't
    JSON), else JSON. Raises misuse."""
    found: dict[str, Json] = {}
    for each in sets:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise Misuse(f"--set {each}: write field=value")
        found[name] = _value(name, text, (form or {}).get("properties", {}).get(name))
    return found


def _value(name: str, text: str, schema: Json) -> Json:
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except RecursionError:
        raise Misuse(f"--set {name}: is nested too deeply") from None
    except ValueError:
        return text
