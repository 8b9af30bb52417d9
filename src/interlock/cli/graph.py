"""`interlock graph`: a machine, drawn."""

from __future__ import annotations

import click

from interlock.cli import target
from interlock.cli.options import print_json, shared
from interlock.machine import draw

DRAWINGS = {"mermaid": draw.mermaid, "table": draw.table}


@click.command()
@click.argument("machine", metavar="TARGET")
@click.option("--format", "form", type=click.Choice(list(DRAWINGS)), default="table", show_default=True)
@shared
def graph(machine: str, form: str, store: str | None, as_json: bool) -> None:
    """Draw a machine."""
    found = target.load(machine)
    drawing = DRAWINGS[form](found)
    if as_json:
        edges = [{"from": start, "outcome": outcome, "to": to} for start, outcome, to in draw.edges(found)]
        print_json({"machine": found.name, "format": form, "drawing": drawing, "edges": edges})
    else:
        click.echo(drawing, nl=False)
