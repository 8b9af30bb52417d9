"""Bad input: one clear line, the right exit code, nothing lost, nothing made, no traceback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from interlock.cli import app
from tests.cli.terminal import Terminal

BROKEN = {
    "no_import.py": ("import nothere", ["no_import.py:1", "nothere"]),
    "unclosed.py": ("x = (\n", ["unclosed.py:1: syntax error"]),
    "raises.py": ("y = 1\nz = x\n", ["raises.py:2", "NameError"]),
    "exits.py": ("raise SystemExit(0)", ["exits.py:1", "SystemExit"]),
    "binary.py": ("\x00\x01", ["syntax error"]),
    "relative.py": ("from .shop import x", ["package.module:machine"]),
    "empty.py": ("", ["no machine in it"]),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_broken_file(terminal: Terminal, file: str) -> None:
    text, words = BROKEN[file]
    (terminal.folder / file).write_text(text)
    for verb in (["check"], ["run", "--input", "{}"]):
        terminal.here(verb[0], f"{terminal.folder / file}:machine", *verb[1:]).refused(*words)


def test_a_target_that_is_not_there(terminal: Terminal) -> None:
    terminal.here("check", "nosuch.py:note").refused("nosuch.py: no such file")
    terminal.here("check", "nosuch_module:note").refused("no such module")
    terminal.here("check", str(terminal.file)).refused("name the machine too")
    terminal.here("check", terminal.target("notes")).refused("no `notes`", "note, sleeper")
    terminal.here("check", terminal.target("not_a_machine")).refused("is no Machine but a int")
    terminal.here("check", f"{terminal.folder}{os.sep}:note").refused("is a folder")
    terminal.here("work", terminal.target("note"), terminal.target("note")).refused("two targets")


def test_an_invalid_machine_is_refused_with_all_its_findings(terminal: Terminal) -> None:
    text = (
        terminal.file.read_text().replace("turns=10", "turns=-1").replace('writes=["size", "items"]', 'writes=["sise"]')
    )
    terminal.file.write_text(text)
    done = terminal.here("check", terminal.target("note"))
    assert done.code == 1 and "`turns` must be a whole number from 1 up, not -1" in done.out
    done = terminal.here("run", terminal.target("note"), "--input", '{"name": "a"}')
    assert done.code == 2 and "not in Note; did you mean `size`?" in done.err and "Traceback" not in done.err
    assert not (terminal.folder / "runs.db").exists()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ('{"name":', "is not JSON"),
        ("[1]", "is a JSON object"),
        ("{}", "`name`: Field required"),
        ('{"name": "a", "sise": 3}', "Note has no field `sise`; did you mean `size`?"),
        ('{"name": "a", "size": "many"}', "`size`"),
        ('{"name": "a", "size": NaN}', "NaN is no JSON"),
        ("@nofile.json", "nofile.json: No such file"),
        ("[" * 100_000, "--input"),
    ],
)
def test_input_that_does_not_fit_makes_no_store(terminal: Terminal, given: str, word: str) -> None:
    for verb in ("run", "start"):
        terminal.here(verb, terminal.target("note"), "--input", given).refused(word)
    assert not list(terminal.folder.glob("runs.db*"))


def test_a_model_that_cannot_be_asked_is_refused_before_anything_starts(terminal: Terminal) -> None:
    args = ["run", terminal.target("thinker"), "--input", '{"name": "a"}']
    terminal.run(*args).refused("OPENAI_API_KEY")
    terminal.run("work", terminal.target("thinker")).refused("OPENAI_API_KEY")
    terminal.here(*args, "--model", "nobody:m").refused("no provider is called 'nobody'")
    terminal.here(*args, "--model", "openai:mine@http://127.0.0.1:9/v1").refused("--price IN,OUT")
    for price in ("1", "a,b", "-1,2", "1,2,3,4", "nan,1"):
        terminal.here(*args, "--price", price).refused("--price")
    assert not list(terminal.folder.glob("runs.db*"))


@pytest.mark.parametrize(
    "args",
    [
        ["nosuch"],
        ["show"],
        ["show", "x", "--bad"],
        ["runs", "--since", "soon"],
        ["runs", "--limit", "0"],
        ["extend", "x", "--usd", "-1", "--yes"],
        ["extend", "x", "--usd", "nan", "--yes"],
        ["extend", "x", "--yes"],
        ["clear", "x", "1", "--yes"],
        ["clear", "x", "one", "--happened", "--yes"],
        ["clear", "x", "1", "--happened", "--result", "{", "--yes"],
        ["clear", "x", "1", "--happened", "--result", "[" * 100_000, "--yes"],
        ["resolve", "x", "y", "--set", "novalue", "--yes"],
        ["pause"],
        ["pause", "x", "--all"],
        ["verify", "--anchor", "nofile"],
    ],
)
def test_misuse_is_one_line(terminal: Terminal, args: list[str]) -> None:
    terminal.played()
    terminal.here(*args).refused()


def test_reading_and_answering_never_make_a_store(terminal: Terminal) -> None:
    verbs = [
        [],
        ["runs"],
        ["waiting"],
        ["show", "x"],
        ["log", "x"],
        ["verify"],
        ["anchor"],
        ["resolve", "x", "y", "--yes"],
    ]
    for args in verbs:
        terminal.here(*args).refused("runs.db: no store is there: `interlock run` or `start` makes one")
    terminal.here("run", terminal.target("note"), "--run", "x").refused("no store is there")
    assert terminal.here("doctor").code == 0
    assert not list(terminal.folder.glob("runs.db*"))


def test_a_run_that_is_not_there_or_not_alone(terminal: Terminal) -> None:
    for _ in range(20):
        terminal.started()
    for verb in ("show", "log", "verify"):
        terminal.here(verb, "zzzz").refused("no run `zzzz`")
        terminal.here(verb, "").refused()
    first = {each["run"][0] for each in terminal.here("runs", "--json").json["runs"]}
    assert len(first) < 20
    shared = next(letter for letter in first if sum(r["run"][0] == letter for r in _runs(terminal)) > 1)
    terminal.here("show", shared).refused("more than one run")


def _runs(terminal: Terminal) -> list[dict[str, str]]:
    found: list[dict[str, str]] = terminal.here("runs", "--json").json["runs"]
    return found


def test_answers_that_do_not_fit_are_refused_at_the_door(terminal: Terminal) -> None:
    run = terminal.played()
    for args, word in [
        (["resolve", run, "nosuch"], "handled, drop"),
        (["resolve", run, "handled"], "required"),
        (["resolve", run, "handled", "--set", "said=x", "--set", "size=much"], "size"),
        (["resolve", run, "drop", "--set", "said=x"], "said"),
        (["resolve", run, "drop", "--wait", "7"], "wait 7"),
        (["clear", run, "1", "--happened"], "asks nothing about effect 1"),
        (["resolve", run, "handled", "--set", "size=" + "[" * 150 + "]" * 150], "deep"),
        (["signal", run, "x", "--set", "size=" + "[" * 150 + "]" * 150], "deep"),
        (["signal", run, "x", "--set", "size=" + "[" * 100_000], "deep"),
    ]:
        terminal.here(*args, "--yes").refused(word)
    assert terminal.shown(run)["status"] == "waiting"
    assert terminal.here("resolve", run, "drop", "--yes").code == 0
    terminal.here("resolve", run, "drop", "--yes").refused()
    assert terminal.here("run", terminal.target("note"), "--run", run, "--json").code == 1
    terminal.here("resolve", run, "drop", "--yes").refused("waits for no person")
    terminal.here("pause", run, "--yes").refused("has ended")


def test_where_nobody_can_be_asked_yes_must_be_said(terminal: Terminal) -> None:
    run = terminal.played()
    before = terminal.here("log", run, "--json").out
    for args in (["cancel", run], ["resolve", run, "drop"], ["extend", run, "--usd", "1"], ["signal", run, "x"]):
        terminal.run(*args).refused("say --yes")
    assert terminal.here("log", run, "--json").out == before and terminal.shown(run)["status"] == "waiting"


def test_an_answer_that_does_not_fit_is_refused_before_anybody_is_asked(terminal: Terminal) -> None:
    """Nobody says yes to what is then refused. (Nobody can be asked here: what fits is refused for that.)"""
    run, ended = terminal.played(), terminal.played(name="abc")
    for args, word in [
        (["resolve", run, "nosuch"], "takes handled, drop, not 'nosuch'"),
        (["resolve", run, "handled"], "required"),
        (["resolve", run, "drop", "--wait", "7"], "wait 7"),
        (["resolve", ended, "drop"], "waits for no person"),
        (["clear", run, "1", "--happened"], "asks nothing about effect 1"),
        (["extend", ended, "--turns", "1"], "has ended"),
        (["extend", run, "--usd", "1e11"], "figures from 0 up"),
        (["signal", ended, "bell"], "has ended"),
    ]:
        done = terminal.here(*args)
        done.refused(word)
        assert "--yes" not in done.err, args
    terminal.here("resolve", run, "drop").refused("--yes")


def test_an_empty_key_is_refused_before_a_store_is_made(terminal: Terminal) -> None:
    """A variable that wasn't set would make one run of all that come."""
    for verb in ("run", "start"):
        for key in ("", " "):
            terminal.here(verb, terminal.target("note"), "--input", '{"name": "a"}', "--key", key).refused(
                "key is empty"
            )
    assert not list(terminal.folder.glob("runs.db*"))


def test_a_store_in_memory_is_refused_by_every_verb_that_opens_one(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = terminal.target("note")
    for args in (
        ["run", machine, "--input", '{"name": "a"}'],
        ["start", machine, "--input", '{"name": "a"}'],
        ["work", machine],
        ["cancel", "x", "--yes"],
        ["doctor"],
        ["demo"],
        ["runs"],
        [],
    ):
        terminal.here(*args, store="sqlite:///:memory:").refused("is gone when the command ends", "sqlite:///FILE")
    monkeypatch.setenv("INTERLOCK_STORE", "sqlite:///:memory:")
    assert app.ended(["runs"]) == 2


@contextmanager
def somebody_else() -> Iterator[None]:
    """Not who made the files: where everything is permitted to us, we are nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_store_that_one_may_not_read_is_said_to_be_denied(terminal: Terminal, open_folder: Path, closed: str) -> None:
    store = f"sqlite:///{open_folder / 'runs.db'}"
    assert terminal.here("start", terminal.target("note"), "--input", '{"name": "a"}', store=store).code == 0
    mine = os.geteuid() != 0
    path, mode = (open_folder / "runs.db", 0o600) if closed == "file" else (open_folder, 0o700)
    os.chmod(path, 0o000 if mine else mode)
    with somebody_else():
        done = terminal.here("show", "@last", store=store)
    done.refused("runs.db: permission denied")
    assert "read-only" not in done.err


def test_a_key_belongs_to_one_input(terminal: Terminal) -> None:
    args = ["start", terminal.target("note"), "--key", "k", "--json", "--input"]
    first = terminal.here(*args, '{"name": "a"}').json
    assert first["new"] is True and first["key"] == "k"
    again = terminal.here(*args, '{"name": "a"}').json
    assert again["new"] is False and again["run"] == first["run"]
    terminal.here(*args, '{"name": "b"}').refused("key 'k' belongs to run")


def test_a_run_goes_on_only_with_its_own_machine(terminal: Terminal) -> None:
    run = terminal.started()
    terminal.here("run", terminal.target("sleeper"), "--run", run).refused("machine note")
    terminal.file.with_name("later.py").write_text(
        terminal.file.read_text().replace('"drop": "lost"', '"drop": "closed"')
    )
    terminal.here("run", f"{terminal.file.with_name('later.py')}:note", "--run", run).refused("shape")
    terminal.here("run", terminal.target("note")).refused("--input", "--run")


def test_a_store_that_is_not_ours_is_left_as_it_is(terminal: Terminal, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    db = apsw.Connection(str(foreign))
    db.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    db.close()
    text = tmp_path / "text.db"
    text.write_text("dear diary")
    for file in (foreign, text):
        before = file.read_bytes()
        store = f"sqlite:///{file}"
        terminal.here("show", "@last", store=store).refused("interlock")
        terminal.here("run", terminal.target("note"), "--input", '{"name": "a"}', store=store).refused("left as it is")
        assert file.read_bytes() == before
        done = terminal.here("doctor", "--json", store=store)
        assert done.code == 1 and "left as it is" in str(done.json["findings"])
    terminal.here("runs", store="postgres://somewhere").refused("sqlite:///")
    terminal.here("runs", store=f"sqlite:///{tmp_path}/no/such.db").refused("doesn't exist")


def test_a_newer_schema_is_refused_and_not_touched(terminal: Terminal, tmp_path: Path) -> None:
    run = terminal.played()
    db = apsw.Connection(str(tmp_path / "runs.db"))
    db.execute("PRAGMA user_version=99; PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = (tmp_path / "runs.db").read_bytes()
    terminal.here("show", run).refused("Upgrade interlock")
    terminal.here("run", terminal.target("note"), "--run", run).refused("Upgrade interlock")
    terminal.here("cancel", run, "--yes").refused("Upgrade interlock")
    assert (tmp_path / "runs.db").read_bytes() == before


def test_a_damaged_store_fails_verify_which_does_not_send_people_to_verify(terminal: Terminal) -> None:
    """Exit 1: the check was carried out, and found something."""
    terminal.played()
    file = terminal.folder / "runs.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    done = terminal.here("verify")
    assert done.code == 1 and "BROKEN" in done.out and "damaged" in done.out and "FAILED" in done.out, done
    assert "interlock verify" not in done.out + done.err and "Traceback" not in done.err
    document = terminal.here("verify", "--json")
    assert document.code == 1 and document.json["ok"] is False and "damaged" in document.json["broken"][0]["why"]
    terminal.here("runs").refused("damaged", "Restore a backup")
