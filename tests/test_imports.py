"""What `import interlock` and `interlock --help` load and leave behind: nothing heavy, nothing at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("pydantic_ai", "mcp", "opentelemetry", "openai", "anthropic", "genai_prices")

SHOW_LOADED = "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"

HELP = """
import sys
from interlock.cli import main
sys.argv = ["interlock", "--help"]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in an empty folder, with an empty home and no settings of interlock's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("INTERLOCK_", "COVERAGE_"))}
    env |= {"HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("code", ["import interlock", HELP], ids=["import", "help"])
def test_nothing_heavy_is_loaded(code: str, tmp_path: Path) -> None:
    loaded = set(python(code + SHOW_LOADED, tmp_path).stderr.split())
    assert "interlock" in loaded
    assert loaded.isdisjoint(HEAVY), f"loaded: {sorted(loaded & set(HEAVY))}"


@pytest.mark.parametrize("code", ["import interlock", "import interlock.testing"])
def test_importing_prints_nothing_and_leaves_no_file(code: str, tmp_path: Path) -> None:
    done = python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.rglob("*")) == []


def test_help_leaves_no_file(tmp_path: Path) -> None:
    assert "Usage" in python(HELP, tmp_path).stdout
    assert list(tmp_path.rglob("*")) == []


def test_every_public_name_can_be_had_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    """The names are looked up on first use, so a misspelt entry would show only to the user who needs it."""
    python(
        "import interlock\n"
        "for name in interlock.__all__: getattr(interlock, name)\n"
        "assert set(interlock.__all__) <= set(dir(interlock))\n"
        "assert not hasattr(interlock, 'no_such_name')\n",
        tmp_path,
    )
