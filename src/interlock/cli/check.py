"""`interlock check`: is the machine valid, and what is the most that one run of it can use?"""

from __future__ import annotations

from dataclasses import replace

import click

from interlock.bootstrap import Prices
from interlock.canonical import Json
from interlock.cli import inputs, target
from interlock.cli.options import print_json, shared
from interlock.cli.wording import duration, money, quantity, visible
from interlock.errors import Finding, InvalidMachine
from interlock.machine.limits import dollars
from interlock.machine.report import Report, report_of
from interlock.machine.table import AnyMachine


@click.command()
@click.argument("machine", metavar="TARGET")
@click.option("--model", metavar="MODEL", help="Instead of every model that the machine names.")
@click.option("--price", metavar="IN,OUT", help="Dollars per million tokens of models without a known price.")
@click.option("--connect", is_flag=True, help="Also start or reach the servers of its tools, and ask what they have.")
@shared
@click.pass_context
def check(
    ctx: click.Context,
    machine: str,
    model: str | None,
    price: str | None,
    connect: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Validate a machine, and compute its worst case. Exit 1 when it isn't valid."""
    try:
        found = target.load(machine)
    except InvalidMachine as invalid:
        report, name = Report(invalid.findings, None, None), invalid.machine
    else:
        report, name = _report(found, model, price), found.name
        if connect:
            report = replace(report, findings=(*report.findings, *_of_servers(found)))
    if as_json:
        print_json(as_document(name, report))
    else:
        _print(name, report)
    ctx.exit(0 if report.ok else 1)


def _of_servers(machine: AnyMachine) -> list[Finding]:
    from interlock.cli.connect import findings_of_servers  # seldom asked for

    return findings_of_servers(machine)


def _report(machine: AnyMachine, model: str | None, price: str | None) -> Report:
    priced = Prices(inputs.prices([machine], model, price))
    return report_of(machine, lambda name: priced(model or name, machine.prices))


def as_document(name: str, report: Report) -> dict[str, Json]:
    return {
        "ok": report.ok,
        "machine": name,
        "findings": [_finding(each) for each in report.findings],
        "worst_case": _worst(report),
        "ceiling": report.ceiling.as_dict() if report.ceiling else None,
    }


def _finding(each: Finding) -> dict[str, Json]:
    return {
        "rule": each.rule,
        "severity": each.severity,
        "state": each.state,
        "message": each.message,
        "file": each.file,
        "line": each.line,
    }


def _worst(report: Report) -> dict[str, Json] | None:
    worst = report.worst
    if worst is None:
        return None
    return {
        "turns": worst.turns,
        "calls": worst.calls,
        "tokens": worst.tokens,
        "usd": float(dollars(worst.nanousd)),
        "seconds": worst.active_ms / 1000,
        "path": worst.path,
        "exact": worst.exact,
    }


def _print(name: str, report: Report) -> None:
    for finding in report.findings:
        here = "; or here: --price IN,OUT" if finding.rule == "price" else ""
        said = visible(f"{finding.severity:7} {finding}{here}")
        click.secho(said, fg="red" if finding.severity == "error" else "yellow")
    errors = sum(finding.severity == "error" for finding in report.findings)
    if report.worst is not None and report.ceiling is not None:
        click.echo(f"worst   {_worst_line(report)}")
    verdict = "ok" if report.ok else f"FAILED, {errors} error{'s' if errors > 1 else ''}"
    click.secho(f"{visible(name)}: {verdict}", fg="green" if report.ok else "red", bold=True)


def _worst_line(report: Report) -> str:
    worst, ceiling = report.worst, report.ceiling
    assert worst is not None and ceiling is not None  # asked before
    parts = [
        f"{worst.turns} of {ceiling.turns} turns",
        f"{worst.calls} of {ceiling.calls} calls",
        f"{quantity(worst.tokens)} of {quantity(ceiling.tokens)} tokens",
        f"${money(worst.nanousd)} of ${money(ceiling.nanousd)}",
        f"{duration(worst.active_ms / 1000)} of {duration(ceiling.active_ms / 1000)}",
        f"by {worst.path}",
    ]
    over = [one for one in ("tokens", "nanousd", "calls") if getattr(worst, one) > getattr(ceiling, one)]
    stopped = " | a run is stopped at its ceiling before that" if over else ""
    return " | ".join(parts) + stopped
