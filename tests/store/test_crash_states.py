"""Power may go at any moment: no acknowledged commit is lost, and the file is whole.

Every write and sync of a series of commits is recorded. Then the files are rebuilt as they may be after each prefix of
the record, with unsynced writes kept, dropped or torn, and opened by a fresh store. Without syncs the same test must
find losses, else it would prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import apsw
import pytest
from msgspec.structs import replace

from interlock.clock import ManualClock
from interlock.errors import StoreError
from interlock.history.chain import first_break
from interlock.machine.limits import Amounts
from interlock.store.protocol import Account, Beat, Cell, Commit, Committed, Failed
from interlock.store.sqlite import Durability, SqliteStore
from tests.store.author import NOW, Author, claim, join, running
from tests.store.contract import dump
from tests.store.disk import Act, Deleted, Disk, Files, Noted, Synced, Wrote, fates, left_after

RUNS = 4
ROUNDS = 14
WAYS = 3  # kept, dropped, mixed


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the store had answered for by then, and the mark beside it."""

    counts: dict[str, int]
    mark: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A series of commits, as the disk saw it."""

    before: Files
    acts: list[Act]


def said(author: Author) -> Commit:
    """A commit whose account tells how long the log is after it, so that a half commit shows."""
    commit = author.commit(events=1 + author.seq % 3, cells=(Cell(f"f{author.seq}", -1, author.seq + 1, '["step"]'),))
    return replace(commit, account=Account(Amounts(), spent=Amounts(calls=author.seq)))


def recorded(path: Path, durability: Durability) -> Record:
    acts: list[Act] = []
    disk = Disk(f"recording-{durability}", acts.append)
    store = SqliteStore(path, clock=ManualClock(), durability=durability, vfs=disk.name, page_size=1024)
    store._db.execute("PRAGMA wal_autocheckpoint = 60; PRAGMA wal_checkpoint(TRUNCATE)")
    authors = [running(store, f"a{number}") for number in range(RUNS)]
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = {name: bytearray((path.parent / name).read_bytes()) for name in (path.name, path.name + "-wal")}
    acts.clear()

    def note() -> None:
        mark = path.with_name(path.name + ".epoch").read_bytes()
        acts.append(Noted(Acknowledged({author.run: author.seq for author in authors}, mark)))

    note()
    for turn in range(ROUNDS):
        some = authors[: 1 + turn % RUNS]
        answers = store.write([*map(said, some), *[Beat(some[0].worker, NOW)] * (turn % 5 == 4)])
        assert answers[: len(some)] == [Committed(mail=False)] * len(some)
        note()
    store.close()
    return Record(before, acts)


def points(record: Record, chance: Random, states: int) -> list[int]:
    """Which prefixes to look at: each end of a sync and of an answer, and as many others as time allows."""
    turning = {
        at + step
        for at, act in enumerate(record.acts)
        if isinstance(act, Synced | Noted | Deleted)
        for step in (0, 1)
        if at + step > 0
    }
    others = [at for at in range(1, len(record.acts) + 1) if at not in turning]
    chosen = [*chance.sample(sorted(turning), len(turning)), *chance.sample(others, len(others))]
    return sorted(chosen[: states // WAYS])


def faults(record: Record, folder: Path, chance: Random, states: int) -> list[str]:
    """What is wrong after which crash; one line each."""
    found = []
    for at in points(record, chance, states):
        acts = record.acts[:at]
        by_then = [act.what for act in acts if isinstance(act, Noted)][-1]
        for name, fate in fates(chance):
            path = laid_out(folder, left_after(acts, record.before, fate), by_then.mark)
            wrong = wrong_with(path, by_then)
            if wrong:
                found.append(f"after act {at}, {name}: {wrong}")
    print(f"{len(record.acts)} acts, up to {states} crash states, {len(found)} faults")
    return found


def laid_out(folder: Path, files: Files, mark: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    (folder / "s.db.epoch").write_bytes(mark)
    return folder / "s.db"


def wrong_with(path: Path, by_then: Acknowledged) -> str:
    """What an engineer would find after this crash. Empty: all that was promised is there, and work goes on."""
    try:
        store = SqliteStore(path, clock=ManualClock(), durability="none", create=False)
    except StoreError as wrong:
        return str(wrong)
    try:
        return broken(store) or lost(store, by_then) or stuck(store)
    except (StoreError, apsw.Error) as wrong:
        return str(wrong)
    finally:
        store.close()


def broken(store: SqliteStore) -> str:
    """Half a commit anywhere?"""
    said_of_file = store._db.execute("PRAGMA integrity_check").get
    if said_of_file != "ok":
        return f"integrity: {said_of_file}"
    for row in store.runs():
        log = store.events(row.number)
        gap = first_break(row.id, log, row.seq, row.head)
        if gap is not None:
            return f"{row.id} at {gap.seq}: {gap.why}"
        if row.seq > 1 and row.account.spent.calls != row.seq:
            return f"{row.id}: the account is of another commit than the log"
    return ""


def lost(store: SqliteStore, by_then: Acknowledged) -> str:
    found = {row.id: row.seq for row in store.runs()}
    short = [
        f"{run}: {found.get(run, 0)} of {count}" for run, count in by_then.counts.items() if found.get(run, 0) < count
    ]
    return f"lost {', '.join(short)}" if short else "taken for a restored backup" if store.restored else ""


def stuck(store: SqliteStore) -> str:
    """The dead worker's runs are taken over and go on."""
    leases = claim(store, join(store, "next")).leases
    if [lease.why for lease in leases] != ["dead"] * RUNS:
        return f"claimed {leases}"
    author = Author(leases[0].snapshot.row.id)
    author.holds(leases[0])
    [answer] = store.write([said(author)])
    return "" if answer == Committed(mail=False) else f"a commit after the crash: {answer}"


def test_no_acknowledged_commit_is_lost_with_the_power(tmp_path: Path, seed: int) -> None:
    record = recorded(tmp_path / "s.db", "power")
    assert sum(isinstance(act, Synced) for act in record.acts) > ROUNDS
    assert any(isinstance(act, Wrote) and act.file == "s.db" for act in record.acts), "checkpoints happen in between"
    assert faults(record, tmp_path / "after", Random(seed), states=420) == []


def test_without_syncs_the_same_test_finds_losses(tmp_path: Path, seed: int) -> None:
    record = recorded(tmp_path / "s.db", "none")
    found = faults(record, tmp_path / "after", Random(seed), states=150)
    assert any("lost" in line for line in found)


def test_durability_crash_may_lose_the_last_commits_but_never_halves_one(tmp_path: Path, seed: int) -> None:
    record = recorded(tmp_path / "s.db", "crash")
    found = faults(record, tmp_path / "after", Random(seed), states=150)
    # A loss beyond the mark is called what it looks like, and parks the runs.
    assert found and all(": lost" in line for line in found)
    assert not any("kept" in line for line in found), "while the system lives, what was written is there"


# -- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [apsw.FullError, apsw.IOError], ids=["full", "broken"])
def test_a_disk_that_fails_at_any_moment_of_a_commit_leaves_a_whole_store(
    tmp_path: Path, failure: type[apsw.Error]
) -> None:
    """The write that met it answers `Failed` and has changed nothing; the same write goes through afterwards."""
    countdown = [-1]

    def told(act: Act) -> None:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise failure("no more room")

    disk = Disk(f"failing-{failure.__name__}", told)
    store = SqliteStore(tmp_path / "s.db", clock=ManualClock(), vfs=disk.name)
    author, failed = running(store), 0
    for step in range(1, 40):
        commit, before = said(author), dump(store)
        countdown[0] = step % 13 + 1
        [answer] = store.write([commit])
        countdown[0] = -1
        if isinstance(answer, Failed):
            failed += 1
            assert isinstance(answer.error, StoreError) and "s.db: the disk" in str(answer.error)
            assert dump(store) == before
            assert store.write([commit]) == [Committed(mail=False)]
        assert broken(store) == ""
    assert failed > 10
    store.close()
    again = SqliteStore(tmp_path / "s.db", clock=ManualClock())
    assert (again.find("a1").seq, again.restored, broken(again)) == (author.seq, False, "")
    again.close()
