"""The lock files: exact versions with hashes, no addresses, and room for what pyproject.toml asks for."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ["requirements.lock", "requirements-runtime.lock"]


def releases(lock: str) -> dict[str, tuple[str, int]]:
    """Name -> (version, how many files of it are locked)."""
    found = {}
    for entry in (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        name, version = re.match(r"([a-z0-9-]+)==([^ ;]+)", entry).groups()  # type: ignore[union-attr]
        found[name] = (version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)))
    return found


def wanted(*extras: str) -> set[str]:
    """The names that pyproject.toml asks for, as a lock writes them."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = text["project"]
    lines = [*text["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {re.split(r"[^\w-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_hashes_and_no_address(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")
    assert [name for name, (_, files) in releases(lock).items() if not files] == []


def test_the_locks_hold_what_the_project_asks_for() -> None:
    assert wanted("dev") <= set(releases("requirements.lock"))
    assert wanted() <= set(releases("requirements-runtime.lock"))


def test_what_runs_is_what_was_tested() -> None:
    """`make demo` installs the small lock, `make test` the large one: no version may differ."""
    assert releases("requirements-runtime.lock").items() <= releases("requirements.lock").items()


def test_the_lock_of_the_servers_that_tests_talk_to_holds_hashes_and_no_address() -> None:
    text = (ROOT / "tests" / "agent" / "servers" / "package-lock.json").read_text(encoding="utf-8")
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert "://" not in text
    assert len(packages) > 50
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
