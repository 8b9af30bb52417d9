"""Law 5: events are appended, never changed; each carries the hash of the one before; a restored backup is noticed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from pydantic import BaseModel

from interlock import Machine, ask, final, wait
from interlock.canonical import sha256
from interlock.history import chain
from interlock.history.events import Paused, Resumed
from interlock.store.sqlite import SqliteStore
from tests.stage import Stage


class Rec(BaseModel):
    text: str = ""


def asking() -> Machine[Rec, None]:
    row = ask("Well?", of="desk", writes={"yes": ["text"]}, within=6000)
    table = {
        "nap": wait(seconds=5).then({"elapsed": "p"}),
        "p": row.then({"yes": "end", "timeout": "end"}),
        "end": final(),
    }
    return Machine("asking", Rec, table=table)


def waiting(stage: Stage) -> str:
    async def scenario() -> str:
        async with stage.working(asking()) as client:
            handle = await client.start(asking(), Rec())
            await handle.result(until_waiting=True)
            return handle.id

    return stage.perform(scenario)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET body = '{}'",
        "DELETE FROM event",
        "REPLACE INTO event (run, seq, body, hash) SELECT run, seq, '{}', hash FROM event WHERE seq = 2",
        "INSERT OR REPLACE INTO event (run, seq, body, hash) SELECT run, seq, '{}', hash FROM event WHERE seq = 2",
        "INSERT INTO event (run, seq, body, hash) VALUES (1, 2, '{}', x'00')",
    ],
)
def test_the_database_itself_refuses_to_change_an_event(file_stage: Stage, statement: str) -> None:
    waiting(file_stage)
    with sqlite3.connect(file_stage.path) as db, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        db.execute(statement)
    db.close()
    assert file_stage.client().verify() == []


def test_each_event_carries_the_hash_of_the_one_before(stage: Stage) -> None:
    run = waiting(stage)
    row = stage.store.find(run)
    before = chain.seed(run)
    for stored in stage.store.events(row.number):
        before = sha256(before + sha256(stored.body))
        assert stored.hash == before
    assert row.head == before


def restored(stage: Stage) -> None:
    """Put a copy of the file of an hour ago in its place; what lies beside it stays."""
    stage.store.close()
    backup = stage.folder / "backup"
    shutil.copy(stage.path, backup)
    stage.store = SqliteStore(stage.path, clock=stage.clock)

    async def on() -> None:
        client = stage.client(seed=5)
        await client.start(asking(), Rec(text="another"))

    stage.perform(on)
    stage.store.close()
    for leftover in stage.folder.glob("store.db-*"):
        leftover.unlink()
    shutil.copy(backup, stage.path)
    stage.store = SqliteStore(stage.path, clock=stage.clock)


def test_a_restored_backup_parks_its_runs_until_a_person_releases_them(file_stage: Stage) -> None:
    stage = file_stage
    run = waiting(stage)
    restored(stage)
    assert stage.store.find(run).status == "paused"
    assert stage.client().verify() == [], "parked by the store is no damage"

    async def scenario() -> None:
        async with stage.working(asking(), seed=6) as client:
            handle = client.run(run, asking())
            await client.resolve(run, "yes", {"text": "go"})
            result = await handle.result(until_waiting=True)
            assert (result.status, "restored" in result.reason) == ("paused", True)
            await client.resume(run, by="ann", reason="the hour lost is known")
            assert (await handle.result()).record.text == "go"

    stage.perform(scenario)
    events = stage.events(run)
    assert [event.by for event in events if isinstance(event, Paused)] == ["store"]
    assert [(event.by, event.released) for event in events if isinstance(event, Resumed)] == [("ann", True)]
    assert stage.client().verify() == []


def test_a_plain_reopening_parks_nothing(file_stage: Stage) -> None:
    run = waiting(file_stage)
    file_stage.store.close()
    file_stage.store = SqliteStore(file_stage.path, clock=file_stage.clock)
    assert file_stage.store.find(run).status == "waiting"


@pytest.mark.replay_differs("it closes the store that its run is in")
def test_a_copy_in_another_place_is_a_store_of_its_own(file_stage: Stage, tmp_path: Path) -> None:
    """What the copy's runs have under way, the original's have too: neither repeats anything unasked."""
    run = waiting(file_stage)
    file_stage.store.close()
    other = tmp_path / "elsewhere"
    other.mkdir()
    shutil.copy(file_stage.path, other / "store.db")
    copy = SqliteStore(other / "store.db", clock=file_stage.clock)
    try:
        assert copy.find(run).status in ("waiting", "paused")
    finally:
        copy.close()
