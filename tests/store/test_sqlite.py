"""The SQLite store keeps the contract, in a file and in memory. And SQLite's own: whose file, how old, how full.

Raw access goes through apsw: a second SQLite library in one process would not see the locks of the first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from interlock.clock import ManualClock
from interlock.errors import ForeignStore, NewerStore, StoreError
from interlock.store.protocol import Beat, Committed, Failed, Started, Store, Trip
from interlock.store.sqlite import SqliteStore, mounts, open_sqlite
from interlock.store.sqlite.opening import APPLICATION_ID
from interlock.store.sqlite.queries import migrations, queries
from tests.store.author import Author, begin, claim, join, running
from tests.store.contract import StoreContract, dump

WALKS = {"runs", "last_run", "parked_runs", "stray_events"}  # for people: cut at a limit, or for `doctor`, `verify`


def opened(path: Path, **more: Any) -> SqliteStore:
    """A store that needs no disk to be patient with."""
    return SqliteStore(path, clock=ManualClock(), durability=more.pop("durability", "none"), **more)


class TestSqliteFile(StoreContract):
    FORBIDDEN = (
        "UPDATE event SET body = '{}' WHERE seq = 2",
        "UPDATE OR REPLACE event SET seq = 3 WHERE seq = 2",
        "DELETE FROM event WHERE seq = 4",
        "DELETE FROM event",
        "REPLACE INTO event (run, seq, body, hash) VALUES (1, 2, '{}', x'00')",
        "INSERT OR REPLACE INTO event (run, seq, body, hash) VALUES (1, 4, '{}', x'00')",
        "INSERT OR REPLACE INTO event (number, run, seq, body, hash) VALUES (1, 9, 9, '{}', x'00')",
        "INSERT OR IGNORE INTO event (run, seq, body, hash) VALUES (1, 2, '{}', x'00')",
        "INSERT INTO event (run, seq, body, hash) VALUES (1, 2, '{}', x'00') ON CONFLICT DO UPDATE SET body = '{}'",
    )

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE breaker_event SET by = 'bob'",
            "DELETE FROM breaker_event",
            "INSERT OR REPLACE INTO breaker_event (number, what, name, state, at, probe, reason, by) "
            "VALUES (1, 'reset', 'tool:refund', 'closed', 0, 0, '', 'bob')",
        ],
    )
    def test_the_breakers_log_is_only_appended_to(self, store: Store, statement: str) -> None:
        store.write([Trip("tool:refund", 1, "ann", "why")])
        before = store.breaker_log()
        with self.tamper(store, statement):
            pass
        assert store.breaker_log() == before and before[0].by == "ann"

    def open(self, folder: Path) -> SqliteStore:
        return opened(folder / "store.db")

    @contextmanager
    def tamper(self, store: Store, statement: str) -> Iterator[None]:
        assert isinstance(store, SqliteStore)
        raw = store._db if store.path == ":memory:" else apsw.Connection(store.path)
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            raw.execute(statement)
        if raw is not store._db:
            raw.close()
        yield


class TestSqliteMemory(TestSqliteFile):
    def open(self, folder: Path) -> SqliteStore:
        return SqliteStore(":memory:", clock=ManualClock())


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_missing_store_is_named_and_not_created(tmp_path: Path) -> None:
    for more in ({"create": False}, {"readonly": True}):
        with pytest.raises(StoreError, match=r"gone\.db: no store is there"):
            opened(tmp_path / "gone.db", **more)
    assert os.listdir(tmp_path) == []


def test_a_url_and_a_path_name_the_same_store(tmp_path: Path) -> None:
    with_url = open_sqlite(f"sqlite:///{tmp_path}/s.db", clock=ManualClock())
    begin(with_url, Author("a1"))
    assert with_url.url == f"sqlite:///{tmp_path}/s.db"
    with_url.close()
    with_path = open_sqlite(f"{tmp_path}/s.db", clock=ManualClock(), create=False)
    assert with_path.find("a1").id == "a1"
    with_path.close()


def test_a_store_is_made_as_it_was_chosen(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db", durability="power")
    settings = {name: store._db.pragma(name) for name in ("journal_mode", "synchronous", "page_size", "application_id")}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "page_size": 8192, "application_id": 0x694C434B}
    tables = store._db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    assert [name for name, sql in tables if "STRICT" not in sql] == []
    store.close()


def test_durability_crash_only_asks_less_of_the_disk(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db", durability="crash")
    assert store._db.pragma("synchronous") == 1
    store.close()


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("what", ["text", "sqlite", "wal", "short"])
def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path: Path, what: str, readonly: bool) -> None:
    path = tmp_path / "theirs.db"
    if what in ("sqlite", "wal"):
        theirs = apsw.Connection(str(path))
        theirs.execute(f"PRAGMA journal_mode={'wal' if what == 'wal' else 'delete'}")
        theirs.execute("CREATE TABLE theirs (x)")
        theirs.close()
    else:
        path.write_bytes(b"not a database\n" * (1000 if what == "text" else 1))
    before = path.read_bytes()
    with pytest.raises(ForeignStore, match=r"theirs\.db: is .* left as it is"):
        opened(path, readonly=readonly)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["theirs.db"]


@pytest.mark.parametrize("readonly", [False, True])
def test_a_newer_schema_is_refused_untouched(tmp_path: Path, readonly: bool) -> None:
    path = tmp_path / "s.db"
    opened(path).close()
    raw = apsw.Connection(str(path))
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(NewerStore, match="schema 99"):
        opened(path, readonly=readonly)
    assert path.read_bytes() == before


def test_an_older_store_is_brought_up_to_date_by_whoever_writes_and_refused_to_whoever_reads(tmp_path: Path) -> None:
    """As the first release left it, with a worker at work: nothing is lost, and each later schema is laid once."""
    path = tmp_path / "s.db"
    first, *later = migrations()
    raw = apsw.Connection(str(path))
    raw.execute(first.script)
    raw.execute(queries()["note_migration"], (first.number, first.name, first.checksum, 1))
    raw.execute(queries()["name_store"], ("an older store", 1))
    raw.execute("INSERT INTO worker (name, host, pid, joined_at, beat_at) VALUES ('old', 'host', 1, 1, 1)")
    raw.execute(f"PRAGMA user_version = {first.number}; PRAGMA application_id = {APPLICATION_ID}")
    raw.close()
    assert later
    with pytest.raises(StoreError, match=f"has schema 1, this interlock reads {later[-1].number}"):
        opened(path, readonly=True)
    with closing(opened(path)) as store:
        assert store.identity()[0] == "an older store"
        assert isinstance(store.write([Author().start()])[0], Started)
    raw = apsw.Connection(str(path))
    applied = [number for number, _ in raw.execute(queries()["migrations"])]
    raw.close()
    assert applied == [each.number for each in migrations()]
    with closing(opened(path, readonly=True)) as store:
        assert len(store.runs()) == 1


def test_no_new_store_is_made_beside_the_log_of_one_that_was_taken_away(tmp_path: Path) -> None:
    """Whoever removes the file of a killed worker's store and forgets its log would get old pages in the new file."""
    path, kept = tmp_path / "s.db", tmp_path / "kept.db"
    with closing(opened(path)) as store:
        assert isinstance(store.write([Author().start()])[0], Started)
        kept.write_bytes(path.read_bytes())
        log = Path(f"{path}-wal").read_bytes()
    for left in tmp_path.glob("s.db*"):
        left.unlink()
    Path(f"{path}-wal").write_bytes(log)
    with pytest.raises(StoreError, match="is not there, but a part of it still lies in"):
        opened(path)
    assert not path.exists() and Path(f"{path}-wal").read_bytes() == log
    kept.rename(path)
    with closing(opened(path)) as store:
        assert len(store.runs()) == 1


def test_a_changed_migration_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "s.db").close()
    raw = apsw.Connection(str(tmp_path / "s.db"))
    raw.execute("UPDATE migration SET checksum = 'other'")
    raw.close()
    with pytest.raises(StoreError, match=r"another 0001_first\.sql"):
        opened(tmp_path / "s.db")


def test_a_folder_or_a_missing_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        opened(tmp_path)
    with pytest.raises(StoreError, match="doesn't exist"):
        opened(tmp_path / "no" / "s.db")


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()
    store = opened(tmp_path / "s.db")
    begin(store, Author("a1"))
    store.close()


def test_a_store_half_made_is_made_anew(tmp_path: Path) -> None:
    """A crash while a store is made leaves a file beside its place, which stands in nobody's way."""
    (tmp_path / "s.db.new").write_bytes(b"half a database")
    opened(tmp_path / "s.db").close()
    assert not (tmp_path / "s.db.new").exists()


def test_a_damaged_file_is_called_damaged(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    for number in range(40):
        begin(store, Author(f"a{number}"))
    store.close()
    body = bytearray((tmp_path / "s.db").read_bytes())
    for page in range(2, len(body) // 8192):
        body[page * 8192 : page * 8192 + 4000] = b"\xff" * 4000
    (tmp_path / "s.db").write_bytes(body)
    with pytest.raises(StoreError, match="damaged"):
        damaged = opened(tmp_path / "s.db")
        damaged.runs()


# -- reading only -----------------------------------------------------------------------------------------------------


def test_reading_writes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    author = running(store)
    reader = opened(tmp_path / "s.db", readonly=True)
    store.write([author.commit()])
    assert reader.find("a1").seq == 2, "what others commit is seen"
    assert dump(reader) == dump(store)
    assert [row.alive for row in reader.workers()] == [True]
    [answer] = reader.write([author.commit()])
    assert isinstance(answer, Failed) and "reading only" in str(answer.error)
    reader.close()
    assert store.write([]) == []
    store.close()


AS_NOBODY = """
import os, sys
from interlock.clock import ManualClock
from interlock.errors import StoreError
from interlock.store.sqlite import SqliteStore
SqliteStore(":memory:", clock=ManualClock()).close()  # everything that is loaded late is loaded now
if os.getuid() == 0:
    os.setuid(65534)  # the superuser may write anywhere
try:
    print(SqliteStore(sys.argv[1], clock=ManualClock(), readonly=True).find("a1").id)
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_read_only_folder_is_read_as_it_stands_or_not_at_all(closed: bool) -> None:
    """With no log beside the file it is whole; with one, a reader who can't share it must not guess."""
    with tempfile.TemporaryDirectory() as folder:  # not below the test's own folder, which others may not enter
        path = Path(folder) / "s.db"
        store = opened(path)
        begin(store, Author("a1"))
        if closed:
            store.close()
        (Path(folder) / "s.db-shm").unlink(missing_ok=True)  # as in a copy of the file and its log
        for name in os.listdir(folder):
            (Path(folder) / name).chmod(0o444)
        Path(folder).chmod(0o555)
        before = sorted(os.listdir(folder))
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, check=True)
        assert ("a1" if closed else "its folder is read-only and part of the store still lies in") in done.stdout
        assert sorted(os.listdir(folder)) == before
        Path(folder).chmod(0o755)
        store.close()


# -- surroundings -----------------------------------------------------------------------------------------------------


MOUNTS = [
    "/dev/sda1 / ext4 rw 0 0",
    "server:/home /home nfs4 rw 0 0",
    "tmpfs /home/me/fast tmpfs rw 0 0",
    "//nas/x /mnt/my\\040share cifs rw 0 0",
    "me@host: /mnt/ssh fuse.sshfs rw 0 0",
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/s.db", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/fast/x", "tmpfs"),
        ("/homework", "ext4"),
        ("/mnt/my share/x", "cifs"),
        ("/mnt/ssh", "fuse.sshfs"),
    ],
)
def test_the_innermost_mount_says_what_a_path_lies_on(path: str, kind: str) -> None:
    assert mounts.kind_of(path, MOUNTS) == kind
    assert (kind in mounts.NETWORK) == (kind in ("nfs4", "cifs", "fuse.sshfs"))


def test_a_database_tool_that_holds_the_file_is_waited_for_then_named(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    author = running(store)
    other = apsw.Connection(str(tmp_path / "s.db"))
    other.execute("BEGIN IMMEDIATE")
    store._db.set_busy_timeout(50)
    commit = author.commit()
    [answer] = store.write([commit])
    assert isinstance(answer, Failed) and "locked out" in str(answer.error)
    other.execute("ROLLBACK")
    other.close()
    assert store.write([commit]) == [Committed(mail=False)]
    store.close()


def test_a_full_disk_fails_writes_until_there_is_room(tmp_path: Path) -> None:
    """Nothing of a failed batch stays, and the same writes go through once there is space."""
    store = opened(tmp_path / "s.db")
    author, other = running(store), Author("a2")
    pages = store._db.pragma("page_count")
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    before = dump(store)
    big = author.event(text="x" * 200_000)
    commit, start = replace(author.commit(told=(big,)), after=1), other.start()
    [failed] = store.write([commit])
    assert isinstance(failed, Failed) and "disk is full" in str(failed.error)
    assert dump(store) == before
    store._db.execute("PRAGMA max_page_count = 1000000")
    done, started = store.write([commit, start])
    assert done == Committed(mail=False) and isinstance(started, Started)
    store.close()


@pytest.mark.parametrize("name", [name for name in queries() if name not in WALKS])
def test_no_statement_of_the_hot_path_walks_through_a_table(name: str) -> None:
    """What a claim, a commit or a resume costs mustn't grow with the runs that have ended."""
    store = SqliteStore(":memory:", clock=ManualClock())
    sql = queries()[name]
    marks = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=0)
    plan = [step for *_, step in store._db.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * marks)]
    store.close()
    assert [step for step in plan if re.fullmatch(r"SCAN (run|event|wait|cell|inbox|account)", step)] == []


def test_doctor_names_a_dead_worker_that_holds_runs(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    running(store)
    store.close()
    again = opened(tmp_path / "s.db")
    assert [finding.rule for finding in again.check() if finding.rule == "worker"] == ["worker"]
    [lease] = claim(again, join(again)).leases
    assert lease.why == "dead"
    assert [finding.rule for finding in again.check() if finding.rule == "worker"] == []
    again.close()


def test_a_store_that_is_locked_out_waits_once_for_a_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each half of each half: meanwhile nobody else may write."""
    store = SqliteStore(tmp_path / "s.db", clock=ManualClock(), durability="crash")
    store._db.set_busy_timeout(1)
    begun: list[int] = []
    begin = store._writes.begin
    monkeypatch.setattr(store._writes, "begin", lambda: (begun.append(1), begin()))
    with closing(apsw.Connection(str(tmp_path / "s.db"))) as shell:
        shell.execute("BEGIN IMMEDIATE")
        answers = store.write([Beat(worker=1, at=0)] * 256)
        shell.execute("ROLLBACK")
    assert [type(answer) for answer in answers] == [Failed] * 256 and len(begun) == 1
    store.close()
