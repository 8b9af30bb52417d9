"""What lies beside the file: the writer's lock, the locks of living workers, and the mark that gives a backup away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from interlock.clock import ManualClock
from interlock.errors import StoreError
from interlock.history.chain import first_break
from interlock.store.protocol import Beat, Beaten, Committed, Failed, Join, Part, Stale
from interlock.store.sqlite import RESTORED, SqliteStore
from interlock.store.sqlite.locks import WriterLock
from tests.store.author import MACHINE, NOW, Author, begin, claim, join, leave, running, status

COMMITS = 600
ROOT = Path(__file__).parents[2]


def opened(path: Path, readonly: bool = False) -> SqliteStore:
    return SqliteStore(path, clock=ManualClock(), durability="none", readonly=readonly)


@contextmanager
def process(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Another Python with this source tree; ended at the latest when the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


SETUP = """
import sys
from pathlib import Path
from tests.store.test_lock_and_epoch import *
path = Path(sys.argv[1])
"""

HOLD_A_RUN = (
    SETUP
    + """
store = opened(path)
author = running(store)
print(author.worker, flush=True)
sys.stdin.read()
"""
)

WRITE_MUCH = (
    SETUP
    + """
store = opened(path)
author = running(store, sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(COMMITS):
    assert store.write([author.commit(events=2)]) == [Committed(mail=False)]
print("done", flush=True)
store.close()
"""
)


# -- the writer's lock ------------------------------------------------------------------------------------------------


def test_processes_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    """Three tight writers: every acknowledged commit is there, every chain holds, and none is kept out for long."""
    path = tmp_path / "s.db"
    opened(path).close()
    with (
        process(WRITE_MUCH, path, "a1") as one,
        process(WRITE_MUCH, path, "b2") as two,
        process(WRITE_MUCH, path, "c3") as three,
    ):
        children = [one, two, three]
        assert [said(child) for child in children] == ["ready"] * 3
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [said(child) for child in children] == ["done"] * 3
    store = opened(path)
    for row in store.runs():
        log = store.events(row.number)
        assert (row.seq, first_break(row.id, log, row.seq, row.head)) == (2 * COMMITS + 1, None)
    order = [run for (run,) in store._db.execute("SELECT run FROM event WHERE seq > 1 ORDER BY number")]
    store.close()
    together = order[: min(len(order) - order[::-1].index(run) for run in set(order))]  # until the first is done
    first_of_all = max(order.index(run) for run in set(order))
    stretch = max(len(list(same)) for _, same in groupby(together[first_of_all:])) // 2
    print(f"the longest stretch of one process while all were at work: {stretch} of {COMMITS} commits")
    assert stretch < COMMITS  # nobody has to wait until another has finished; how even it is depends on the scheduler


def test_a_writer_that_never_lets_go_is_named_in_the_end(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db.lock")
    holder, waiter = WriterLock(path), WriterLock(path, patience_seconds=0.05)
    with holder, pytest.raises(StoreError, match=r"s\.db: locked out"), waiter:
        raise AssertionError("two writers at once")
    with waiter:
        pass
    holder.close()
    waiter.close()


def test_readers_are_not_kept_waiting_by_a_writer(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    begin(store, Author("a1"))
    other = WriterLock(str(tmp_path / "s.db.lock"))
    with other:
        assert store.find("a1").id == "a1"
    other.close()
    store.close()


def test_reads_and_writes_of_many_threads_agree(tmp_path: Path) -> None:
    """A snapshot is of one moment: its events always reach exactly to its row."""
    store = opened(tmp_path / "s.db")
    author = running(store)
    stop, torn = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            found = store.snapshot(author.number)
            if [event.seq for event in found.journal] != list(range(1, found.row.seq + 1)):
                torn.append(found.row.seq)

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        assert store.write([author.commit(events=3)]) == [Committed(mail=False)]
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []
    store.close()


# -- living and dead workers ------------------------------------------------------------------------------------------


def test_a_killed_worker_is_seen_dead_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = opened(path)
    with process(HOLD_A_RUN, path) as child:
        number = int(said(child))
        assert [row.alive for row in store.workers()] == [True]
        other = join(store, "rescuer")
        assert claim(store, other).leases == ()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert [row.alive for row in store.workers()] == [False, True]
        [lease] = claim(store, other).leases
        assert (lease.why, lease.previous, lease.fence) == ("dead", "holder of a1", 2)
    assert number not in [row.number for row in store.workers() if row.alive]
    store.close()


def test_a_stopped_worker_is_not_dead(tmp_path: Path) -> None:
    """SIGSTOP keeps the lock: only a heartbeat that stands for a whole lease permits the claim."""
    path = tmp_path / "s.db"
    store = opened(path)
    with process(HOLD_A_RUN, path) as child:
        number = int(said(child))
        child.send_signal(signal.SIGSTOP)
        other = join(store, "rescuer")
        assert claim(store, other).leases == ()
        [answer] = store.write([Beat(other, NOW)])
        assert isinstance(answer, Beaten)
        [lease] = claim(store, other, still=answer.beats).leases
        assert (lease.why, set(answer.beats)) == ("still", {number})
    store.close()


def test_a_forked_child_doesnt_keep_its_parents_worker_alive(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = opened(path)
    forked = (
        "out, into = os.pipe()\nchild = os.fork()\nif child == 0: os.write(into, b'.'); time.sleep(20); os._exit(0)\n"
    )
    fork = HOLD_A_RUN.replace("print(", f"{forked}os.read(out, 1)  # the child is its own by now\nprint(child, ")
    with process(fork, path) as parent:
        child, number = map(int, said(parent).split())
        parent.kill()
        parent.wait()
        try:
            assert [(row.number, row.alive) for row in store.workers()] == [(number, False)]
            begin(store, Author("b2"))
        finally:
            os.kill(child, signal.SIGKILL)
    store.close()


def lock_files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if ".db.w" in name and "wal" not in name)


def test_a_worker_that_parts_takes_its_lock_file_along(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    worker = join(store)
    assert lock_files(tmp_path) == [f"s.db.w{worker}"]
    store.write([Part(worker, NOW)])
    assert lock_files(tmp_path) == []
    store.close()


def test_lock_files_of_the_dead_are_swept_when_somebody_joins(tmp_path: Path) -> None:
    first = opened(tmp_path / "s.db")
    author, idle = running(first), join(first, "idle")
    (tmp_path / "s.db.w900").touch()
    first.close()
    second = opened(tmp_path / "s.db")
    fresh = join(second, "fresh")
    assert lock_files(tmp_path) == [f"s.db.w{author.worker}", f"s.db.w{fresh}"]
    assert idle not in [row.number for row in second.workers()]
    claim(second, fresh)
    join(second, "another")
    assert author.worker not in [row.number for row in second.workers()], "struck off once it holds nothing"
    second.close()


def test_a_join_that_is_undone_leaves_no_lock_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    author = running(store)
    answers = store.write([Join("new", "host", 1, NOW), author.commit(takes=("none",))])
    assert isinstance(answers[1], Failed)
    assert lock_files(tmp_path) == [f"s.db.w{row.number}" for row in store.workers()]
    assert [row.alive for row in store.workers()] == [True, True]
    store.close()


# -- epochs -----------------------------------------------------------------------------------------------------------


def restored_from(path: Path, backup: Path) -> SqliteStore:
    shutil.copy(backup, path)
    return opened(path)


@pytest.fixture
def aged(tmp_path: Path) -> tuple[Path, Path, Author]:
    """A store with four runs, a backup of it, and the author of a run that went on after the backup."""
    path, backup = tmp_path / "s.db", tmp_path / "backup.db"
    store = opened(path)
    author, waiting, ended = running(store, "a1"), running(store, "a2"), running(store, "a3")
    begin(store, Author("a4"))
    store.write([waiting.commit(status("waiting"), release=True), ended.commit(status("completed"), release=True)])
    store.close()
    shutil.copy(path, backup)
    store = opened(path)
    assert not store.restored
    assert store.write([author.commit(), author.commit()]) == [Committed(mail=False)] * 2
    store.close()
    return path, backup, author


def test_a_restored_backup_parks_its_open_runs(aged: tuple[Path, Path, Author]) -> None:
    path, backup, author = aged
    store = restored_from(path, backup)
    assert store.restored
    found = {row.id: (row.status, row.reason, row.fence, row.worker) for row in store.runs()}
    assert found == {
        "a1": ("paused", RESTORED, 2, None),
        "a2": ("paused", RESTORED, 2, None),
        "a3": ("completed", "", 1, None),
        "a4": ("paused", RESTORED, 1, None),
    }
    assert [finding.rule for finding in store.check() if finding.severity == "error"] == ["restored"]
    assert claim(store, join(store)).leases == ()
    author.seq = store.find("a1").seq
    assert store.write([author.commit()]) == [Stale()], "its holder of another future changes nothing"
    store.close()


def test_a_parked_run_is_claimed_when_a_person_releases_it(aged: tuple[Path, Path, Author]) -> None:
    path, backup, _ = aged
    store = restored_from(path, backup)
    store.write([leave("a1", "i1", "resume")])
    [lease] = claim(store, join(store)).leases
    assert (lease.snapshot.row.id, lease.snapshot.row.status) == ("a1", "paused")
    store.close()


def test_a_restored_store_is_restored_once(aged: tuple[Path, Path, Author]) -> None:
    path, backup, _ = aged
    restored_from(path, backup).close()
    again = opened(path)
    assert not again.restored
    again.close()


def test_a_backup_is_noticed_by_what_a_heartbeat_remembered(tmp_path: Path) -> None:
    """No orderly close: the mark moved with the heartbeat after the last commit."""
    path, backup = tmp_path / "s.db", tmp_path / "backup.db"
    opened(path).close()
    shutil.copy(path, backup)
    store = opened(path)
    author = running(store)
    store.write([author.commit(), Beat(author.worker, NOW)])
    mark = (tmp_path / "s.db.epoch").read_bytes()
    store.close()
    (tmp_path / "s.db.epoch").write_bytes(mark)
    again = restored_from(path, backup)
    assert again.restored
    again.close()


@pytest.mark.parametrize("loss", ["missing", "torn", "foreign"])
def test_a_store_without_its_own_mark_counts_as_restored(aged: tuple[Path, Path, Author], loss: str) -> None:
    path, _, _ = aged
    mark = path.with_name("s.db.epoch")
    if loss == "missing":
        mark.unlink()
    elif loss == "torn":
        mark.write_bytes(mark.read_bytes()[:20])
    else:
        other = path.with_name("other.db")
        opened(other).close()
        shutil.copy(path.with_name("other.db.epoch"), mark)
    store = opened(path)
    assert store.restored
    assert store.find("a1").status == "paused"
    store.close()


def test_a_store_newer_than_its_mark_is_fine(aged: tuple[Path, Path, Author]) -> None:
    """A crash right after a commit leaves the mark behind."""
    path, _, _ = aged
    mark = path.with_name("s.db.epoch")
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "events": 1}))
    store = opened(path)
    assert not store.restored
    store.close()


def test_an_epoch_may_be_begun_by_command(aged: tuple[Path, Path, Author]) -> None:
    path, _, _ = aged
    store = opened(path)
    assert store.begin_epoch() == 3
    assert store.find("a1").reason == RESTORED
    store.close()


def test_reading_only_begins_no_epoch(aged: tuple[Path, Path, Author]) -> None:
    path, backup, _ = aged
    shutil.copy(backup, path)
    before = path.read_bytes()
    reader = opened(path, readonly=True)
    assert reader.find("a1").status == "running"
    reader.close()
    assert path.read_bytes() == before
    store = opened(path)
    assert store.restored
    store.close()


def test_a_backup_moved_into_place_under_a_running_process_is_noticed(aged: tuple[Path, Path, Author]) -> None:
    """Else it would go on writing to a file that nobody opens again."""
    path, backup, _ = aged
    store = opened(path)
    author = Author("b5")
    begin(store, author)
    os.replace(backup, path)
    [answer] = store.write([Author("b6").start()])
    assert isinstance(answer, Failed) and "replaced while it was open" in str(answer.error)
    store.close()


def test_processes_that_open_a_new_store_together_share_it(tmp_path: Path) -> None:
    """Between its first commit and its first mark a new store looks like a restored one: nobody may look then."""
    path = tmp_path / "s.db"
    found: list[object] = []

    def enter(number: int) -> None:
        try:
            store = opened(path)
            found.append(store.restored)
            begin(store, Author(f"a{number}"))
            store.close()
        except Exception as wrong:
            found.append(wrong)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [False] * 6
    store = opened(path)
    assert (len(store.runs()), {row.machine for row in store.runs()}) == (6, {MACHINE[0]})
    store.close()
