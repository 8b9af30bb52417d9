"""Peers: what others take for the same turns, in a Python environment of their own (`build/peers`), made on first use.

They are slow, so they get fewer runs and a time limit; what is compared is turns a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
HOME = HERE.parent.parent / "build" / "peers"
LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Peer:
    """What was measured, and how many times as many turns a second are promised."""

    name: str
    turns_per_second: float
    times: float


CASES = (
    ("LangGraph, SQLite saver, full state", 10.0, "langgraph_sqlite.py", ("full",)),
    ("LangGraph, SQLite saver, DeltaChannel", 10.0, "langgraph_sqlite.py", ("delta",)),
    ("DBOS, SQLite", 20.0, "dbos_sqlite.py", ()),
)
RUNS, TURNS = 50, 20


def measured_peers(folder: Path) -> Iterator[Peer]:
    """Each peer's turns a second, over a file in `folder`. Raises `CalledProcessError` when one can't be run."""
    python = _python()
    for number, (name, times, script, options) in enumerate(CASES):
        file = folder / f"peer{number}.db"
        command = [str(python), str(HERE / script), *options, str(file), str(RUNS), str(TURNS)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        if run.returncode:
            sys.exit(f"bench: {name} failed\n{run.stderr[-2000:]}")
        yield Peer(name, json.loads(run.stdout.splitlines()[-1])["turns_s"], times)


def _python() -> Path:
    """The peers' Python, with exactly the packages that `requirements.txt` names."""
    python, stamp = HOME / "bin" / "python", HOME / "requirements.txt"
    wanted = (HERE / "requirements.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("bench: installing the peers (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True)
        install = ["-m", "pip", "--disable-pip-version-check", "-qq", "install", "-r", str(HERE / "requirements.txt")]
        subprocess.run([str(python), *install], check=True)
        stamp.write_text(wanted)
    return python
