"""README and docs/: examples run, links lead somewhere, and the glossary has every word once.

The Python blocks of one page are one program, run from top to bottom in an empty folder without a network. A block
whose fence says `not run: ...` is shown only, and says why.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from interlock.agent.model import ModelReply
from interlock.agent.scripted import call, choose
from interlock.cli.app import VERBS
from interlock.machine.outcomes import RESERVED
from interlock.redteam.provider import LoopbackProvider

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("examples/*.md")])

# Every word that has one meaning here. A line of the glossary opens with it in bold.
WORDS = """
machine, state, outcome, record, run, task, turn, effect, attempt, event, account, ceiling, hold, settle, doubt,
clear, grant, origin, breaker, lease, fallback, fence, token, key, inbox, wait, park, escalate, resolve, signal,
status, rollback, compensation, fork, replay, upgrade, orchestrator, worker, host, stranded, approval, window,
notice, pin, server, call, dead call, queue, reserve
""".replace("\n", " ").strip()

STATUSES = ("ready", "running", "waiting", "paused", "completed", "failed", "cancelled")

FENCE = re.compile(r"^(?P<mark>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=mark)[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")

# The page is run under its own name, so that tracebacks and `inspect` find its lines.
RUN_PAGE = (
    "import runpy, sys; from tests import loopback; loopback.only(); runpy.run_path(sys.argv[1], run_name='__main__')"
)


class Block(NamedTuple):
    line: int
    info: str
    body: str


def blocks(text: str, language: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        if found["info"].split(maxsplit=1)[:1] == [language]:
            yield Block(text.count("\n", 0, found.start()) + 2, found["info"], found["body"])


def program(text: str) -> str:
    """The page's Python, each line under the number it has on the page."""
    lines: list[str] = []
    for block in blocks(text, "python"):
        if "not run:" not in block.info:
            lines += [""] * (block.line - 1 - len(lines)) + block.body.splitlines()
    return "\n".join(lines)


def execute(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    page = folder / "page.py"
    page.write_text(program(text), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", RUN_PAGE, str(page)],
        cwd=folder,
        env=env | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def commands(text: str) -> Iterator[str]:
    """`interlock VERB` of every console line."""
    for block in blocks(text, "console"):
        yield from re.findall(r"^\$ interlock ([a-z]+)", block.body, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names that a page's headings answer to."""
    titles = re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    found = []
    for link in LINK.finditer(FENCE.sub("", text)):
        path, _, anchor = link["target"].partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            found.append(f"{page.name}: {link['target']} isn't there")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8") if path else text):
            found.append(f"{page.name}: {link['target']} has no such heading")
    return found


def defined(glossary: str) -> Counter[str]:
    return Counter(word for line in re.findall(r"^\*\*(.+?)\*\*", glossary, re.MULTILINE) for word in line.split(", "))


@pytest.fixture(scope="module")
def glossary() -> str:
    return (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [p for p in PAGES if program(p.read_text(encoding="utf-8"))], ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    done = execute(page.read_text(encoding="utf-8"), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def support_file(tmp_path: Path) -> Path:
    """The README's example, saved as it says."""
    file = tmp_path / "support.py"
    file.write_text(program((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
    return file


def test_a_command_that_loads_the_readmes_example_performs_nothing(support_file: Path) -> None:
    done = shown(support_file, "check", "support.py:support")
    assert done.returncode == 0, done.stderr
    assert [file for file in support_file.parent.iterdir() if file.suffix == ".db"] == []


# A model that looks up the same thing again and again, so that its run is handed to `person`; then one that is done.
CIRCLES = [call("order_lines", order_id="A-17")] * 3
OWED = [call("order_lines", order_id="A-17"), choose("owed", facts=["broken"], refund_cents=2400)]


@pytest.mark.parametrize(("replies", "code"), [(OWED, 0), (CIRCLES, 3)], ids=["owed", "circles"])
def test_the_commands_of_the_readme_go_together_from_top_to_bottom(
    support_file: Path, replies: list[ModelReply], code: int
) -> None:
    """With the model that `--model` names; those of the second block, where the run of the first waits in `person`."""
    first, second = (block.body for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "console"))
    with LoopbackProvider(replies) as provider:
        there = ["--model", provider.model_name("gpt-5-mini")]
        for line in (first if code == 0 else first + second).splitlines():
            args = shlex.split(line.removeprefix("$ interlock "))
            done = shown(support_file, *args, *(there if args[0] == "run" else []))
            expected = code if "--input" in args else 0
            assert done.returncode == expected, f"{line}: {done.stdout} {done.stderr}"
    assert "COMPLETED" in shown(support_file, "show", "@last").stdout


def shown(file: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A command as a reader types it beside the file; there nobody asks him, and `resolve` needs a `--yes`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
    env |= {"PYTHONPATH": str(ROOT / "src")}
    asks = ["--yes"] if args[0] == "resolve" else []
    return subprocess.run(
        [sys.executable, "-m", "interlock", *args, *asks],
        cwd=file.parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_python_of_the_readme_is_strictly_typed(tmp_path: Path) -> None:
    """The first example that anybody copies; the same settings as for the package itself."""
    page = tmp_path / "readme.py"
    page.write_text(program((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(page)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    complaints = [line for line in done.stdout.splitlines() if line.startswith(str(page))]
    assert (complaints, done.stderr) == ([], "")


def test_every_command_that_a_page_shows_exists() -> None:
    shown = {verb for page in PAGES for verb in commands(page.read_text(encoding="utf-8"))}
    for verb in sorted(shown):
        code = f"import sys; sys.argv = ['interlock', {verb!r}, '--help']; from interlock.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"interlock {verb}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_the_readme_sets_up_with_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    setup = next(blocks(text, "sh")).body
    assert [line.split("#")[0].strip() for line in setup.splitlines()] == ["make demo", "make test"]


def test_the_glossary_has_every_word_once(glossary: str) -> None:
    assert defined(glossary) == Counter(dict.fromkeys(WORDS.split(", "), 1))


def test_the_glossary_is_in_order(glossary: str) -> None:
    assert list(defined(glossary)) == sorted(defined(glossary))


def test_the_glossary_marks_what_is_planned(glossary: str) -> None:
    """A word that has no command yet isn't explained as if one could have it."""
    planned = set(re.findall(r"^\*\*(\w+)\*\* \*\(planned\)\*", glossary, re.MULTILINE))
    assert {"fork", "replay", "rollback"} - set(VERBS) <= planned
    assert not planned & set(VERBS)


def test_the_glossary_names_every_status_and_every_reserved_outcome(glossary: str) -> None:
    missing = [name for name in (*STATUSES, *sorted(RESERVED)) if f"`{name}`" not in glossary]
    assert missing == []


def test_a_page_whose_python_fails_is_found_with_its_line(tmp_path: Path) -> None:
    done = execute("# Page\n\n```python\nx = 1\n```\n\nand\n\n```python\nassert x == 2\n```\n", tmp_path)
    assert done.returncode != 0
    assert "line 10" in done.stderr


def test_a_page_runs_without_a_network(tmp_path: Path) -> None:
    done = execute("```python\nimport socket\nsocket.create_connection(('192.0.2.1', 9), 1)\n```\n", tmp_path)
    assert "tests use loopback only" in done.stderr


def test_a_block_that_is_only_shown_is_not_run() -> None:
    assert program("```python not run: needs a key\nassert False\n```\n") == ""


def test_a_broken_link_is_found() -> None:
    text = "[a](docs/nowhere.md) [b](docs/glossary.md#nowhere) [c](docs/glossary.md) [d](#here)\n# Here\n"
    assert len(broken_links(ROOT / "README.md", text)) == 2
