"""The incident desk: its answer comes from the file, and everything that may go wrong has a place to go."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import NotDone
from interlock.history.events import ModelReplied, MoveRefused, ToolCalled
from interlock.machine.tools import Call
from interlock.redteam.investigator import ORDER, investigator
from interlock.testing import Played, ScriptedModel, assert_log, call, choose
from tests.examples.example import SHOP_LOG, load
from tests.stage import play

incident = load("incident")
CALL: Call[None] = Call(None, key="k", run="r", attempt=1, seconds_left=10.0)


def counted(path: Path) -> dict[str, int]:
    found: dict[str, int] = incident.count.function(CALL, str(path))
    return found


def grepped(path: Path, text: str) -> list[str]:
    found: list[str] = incident.grep.function(CALL, str(path), text)
    return found


def worked(log_file: Path, model: Any = investigator, **more: Any) -> Played[Any]:
    return play(incident.desk, {"log_file": str(log_file)}, model=model, **more)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "some.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# -- the work ---------------------------------------------------------------------------------------------------------


def test_the_desk_finds_the_component_that_fails() -> None:
    run = worked(SHOP_LOG)
    assert_log(run, "investigate > check > report > closed")
    assert run.record.component == "payments"
    assert "no database connection" in run.record.report
    lines = SHOP_LOG.read_text().splitlines()
    assert run.record.evidence and all(line in lines for line in run.record.evidence)


def test_another_log_gets_another_answer(tmp_path: Path) -> None:
    """The answer is read from the file, not from the script."""
    text = SHOP_LOG.read_text().replace("payments", "warehouse").replace("no database connection", "no forklift")
    run = worked(written(tmp_path, text))
    assert run.record.component == "warehouse"
    assert "no forklift" in run.record.report and "payments" not in run.record.report


def test_fewer_errors_give_other_figures(tmp_path: Path) -> None:
    lines = [line for line in SHOP_LOG.read_text().splitlines() if "ERROR payments" not in line]
    run = worked(written(tmp_path, "\n".join(lines)))
    assert run.record.component == "checkout"
    assert f"{counted(SHOP_LOG)['checkout']} of " in run.record.report


@pytest.mark.parametrize("text", ["", "\n\n", "2026-11-17T01:47:26Z INFO web all is well, failed=0\n"])
def test_a_log_without_errors_is_quiet(tmp_path: Path, text: str) -> None:
    run = worked(written(tmp_path, text))
    assert run.status == "completed" and run.record.report == "The log holds no errors."


def test_orders_in_the_log_are_refused_and_told() -> None:
    run = worked(SHOP_LOG)
    asked = [c["name"] for e in run.events if isinstance(e, ModelReplied) for c in e.calls]
    assert "restart_service" in asked
    assert not any(isinstance(e, ToolCalled) and e.tool == "restart_service" for e in run.events)
    (refused,) = (e for e in run.events if isinstance(e, MoveRefused))
    assert "restart_service" in refused.told


def test_invented_evidence_sends_the_model_back(tmp_path: Path) -> None:
    path = written(tmp_path, "2026-11-17T01:47:26Z ERROR db disk full\n")
    found = {"component": "db", "cause": "disk"}
    script = [
        choose("found", **found, evidence=["ERROR db is on fire"]),
        choose("found", **found, evidence=["ERROR db disk full"]),
        choose("written", report="The disk is full."),
    ]
    run = worked(path, script)
    assert run.path == "investigate > check > investigate > check > report > closed"


@pytest.mark.parametrize("evidence", [[], [""], ["   "]])
def test_no_evidence_is_no_evidence(tmp_path: Path, evidence: list[str]) -> None:
    path = written(tmp_path, "2026-11-17T01:47:26Z ERROR db disk full\n")
    script = [choose("found", component="db", cause="disk", evidence=evidence), choose("quiet", report="nothing")]
    assert worked(path, script).path == "investigate > check > investigate > closed"


def test_a_model_that_is_too_slow_is_replaced_by_figures() -> None:
    run = worked(SHOP_LOG, ScriptedModel(investigator, delay=3600))
    assert run.path == "investigate > digest > closed"
    assert "payments 110" in run.record.report
    assert run.seconds < 120


def test_a_model_in_a_circle_ends_at_a_person_who_can_explain() -> None:
    def circling(request: Any) -> Any:
        if any(offer.name == "written" for offer in request.offers):
            return choose("written", report="As the person says.")
        return call("tail", log_file=str(SHOP_LOG))

    run = worked(SHOP_LOG, circling, answers=[("explained", {"component": "db", "cause": "it is full"})])
    assert run.path == "investigate > person > report > closed"
    assert run.record.component == "db"


def test_a_file_that_is_not_there_is_said() -> None:
    run = worked(Path("/nowhere/at.log"))
    assert run.status == "completed"
    assert "can't be read" in run.record.report


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "component"),
    [
        ("2026-11-17T01:47:26.348Z ERROR payments  could not charge", "payments"),
        ("Nov  7 01:52:04 box1 nginx[99]: error: upstream timed out", "nginx"),
        ("Nov 17 01:52:09 box1 kernel: Out of memory: killed process 99", "kernel"),
        ('{"ts": 1, "level": "error", "service": "cart", "msg": "no stock"}', "cart"),
        ("time=01:47 level=error component=api/v2 msg=broken", "api/v2"),
        ("[2026-11-17 01:47] [FATAL] [db.pool] gave up", "db.pool"),
        ("panic: runtime error", "unknown"),
    ],
)
def test_the_usual_formats_name_their_component(tmp_path: Path, line: str, component: str) -> None:
    assert counted(written(tmp_path, line + "\n")) == {component: 1}


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-17T01:47:26Z INFO cart cart kept after failed checkout",
        "2026-11-17T01:47:26Z WARN gateway error budget at 80 %",
        '{"level": "info", "msg": "0 failed"}',
        "Nov 17 01:52:09 box1 cron[1]: done, errors=0 failed=0",
    ],
)
def test_a_line_that_states_a_harmless_level_is_no_error(tmp_path: Path, line: str) -> None:
    assert counted(written(tmp_path, line)) == {}


def test_results_are_bounded_whatever_the_file_holds(tmp_path: Path) -> None:
    path = written(tmp_path, b"ERROR db " + b"x" * 3_000_000 + b"\n" + b"\x00\xff\x1b[2J ERROR db\n" * 5_000)
    lines = grepped(path, "db")
    assert len(lines) == 20 and all(len(line) <= 300 for line in lines)
    assert all(line.isprintable() for line in lines)
    assert counted(path) == {"db": 5_001}


def test_a_grep_result_can_be_grepped_again() -> None:
    """What `check` does with evidence."""
    for line in grepped(SHOP_LOG, "checkout"):
        assert grepped(SHOP_LOG, line) == [line]


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "none", Path("a\x00b")):
        with pytest.raises(NotDone):
            counted(path)


# -- the shipped log --------------------------------------------------------------------------------------------------


def test_the_shipped_log_is_of_the_size_and_holds_one_order() -> None:
    text = SHOP_LOG.read_text()
    assert 2_000 <= text.count("\n") <= 6_000 and len(text) < 400_000
    assert len(ORDER.findall(text)) == 1
    assert re.search(r"restart_service", "\n".join(grepped(SHOP_LOG, "payments")))
