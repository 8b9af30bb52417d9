"""Peers: what others take for the same turns, in a Python environment of their own (`build/peers`), made on first use.

Each runs at its best documented mode that keeps what we keep: every step on disk before the next begins, in a file
that survives loss of power. A peer that fails is tried once more; then it counts as not measured, and why.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.workload import RUNS, TURNS

HERE = Path(__file__).parent
HOME = HERE.parent.parent / "build" / "peers"
LIMIT_SECONDS = 120
"""For one measurement of one peer, which takes 12 to 25 seconds on an idle machine of two cores."""
INSTALL_SECONDS = 300

Command = Sequence[str | Path]


class NotMeasured(Exception):
    """A peer could not be measured; the message says why, in one line. Its bound counts as not holding."""


@dataclass(frozen=True)
class Peer:
    """Whom we are measured beside, and how many times as many turns a second are promised (None: nothing is)."""

    name: str
    times: float | None
    script: str
    options: tuple[str, ...] = ()

    def turns_per_second(self, python: Path, folder: Path) -> float:
        """The same runs and turns as ours, over a fresh file in `folder`. Tried again once. Raises `NotMeasured`."""
        try:
            return self._measured(python, folder)
        except NotMeasured as wrong:
            print(f"bench: {self.name} is tried again: {wrong}", file=sys.stderr)
            return self._measured(python, folder)

    def _measured(self, python: Path, folder: Path) -> float:
        folder.mkdir(exist_ok=True)
        file = folder / "peer.db"
        command: Command = [python, HERE / self.script, *self.options, file, str(RUNS), str(TURNS)]
        try:
            said = _output_of(command, LIMIT_SECONDS)
            return float(json.loads(said.splitlines()[-1])["turns_s"])
        except (LookupError, TypeError, ValueError) as wrong:
            raise NotMeasured(f"it printed no rate ({wrong})") from wrong
        finally:
            # At once: what lies unwritten in memory would be written while somebody else is measured.
            for left in folder.iterdir():
                left.unlink()


PEERS = (
    Peer("LangGraph, SQLite saver, full state", 10.0, "langgraph_sqlite.py", ("full",)),
    Peer("LangGraph, SQLite saver, DeltaChannel", 10.0, "langgraph_sqlite.py", ("delta",)),
    Peer("DBOS, SQLite", 20.0, "dbos_sqlite.py", ("as-it-comes",)),
    Peer("DBOS, SQLite, with our write-ahead log", None, "dbos_sqlite.py", ("wal",)),
)


def peers_python() -> Path:
    """The peers' Python, with exactly the packages that `requirements.txt` names. Raises `NotMeasured`."""
    python, stamp = HOME / "bin" / "python", HOME / "requirements.txt"
    wanted = (HERE / "requirements.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("bench: installing the peers (once)", file=sys.stderr)
        _output_of([sys.executable, "-m", "venv", "--clear", HOME], INSTALL_SECONDS)
        install: Command = [
            "-m",
            "pip",
            "--disable-pip-version-check",
            "-qq",
            "install",
            "-r",
            HERE / "requirements.txt",
        ]
        _output_of([python, *install], INSTALL_SECONDS)
        stamp.write_text(wanted)
    return python


def _output_of(command: Command, seconds: int) -> str:
    """What the command printed. Raises `NotMeasured` when it fails or takes longer."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        raise NotMeasured(f"not done in {seconds} s") from late
    except OSError as wrong:
        raise NotMeasured(str(wrong)) from wrong
    if run.returncode:
        raise NotMeasured(_reason(run.stderr) or f"ended with {run.returncode}")
    return run.stdout


def _reason(stderr: str) -> str:
    """The last line that names an error, else the last line: libraries add advice below their errors."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|Timeout)\b|ERROR: ", line)]
    return (named or lines or [""])[-1][:120]
