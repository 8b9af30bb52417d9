"""Law 6: folding the log gives record, account and state at every event, byte for byte; reading asks nobody."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel

from interlock import Call, Machine, Turn, ask, final, model_state, state, tool, wait
from interlock.canonical import encode
from interlock.history.events import to_json
from interlock.history.fold import RunState, value_of, walk
from interlock.reading import read_events, verify_run
from interlock.store.protocol import RunRow
from interlock.testing import ScriptedModel, call, choose, say
from interlock.worker import Worker
from tests.stage import Stage, folds

M = "acme:small"


class Inner(BaseModel):
    name: str = ""
    tags: list[str] = []


class Rec(BaseModel):
    text: str = ""
    count: int = 0
    share: float = 0.5
    items: list[str] = []
    inner: Inner = Inner()
    anything: dict[str, Any] = {}


def record_at(stage: Stage, run: str = "@last") -> dict[str, Any]:
    """The record from the log alone."""
    row = stage.store.find(run)
    state, bodies = RunState(), {}
    for seq, event, _ in read_events(stage.store, row.number):
        bodies[seq] = to_json(event)
        state.apply(seq, event)
    return {name: value_of(cells, lambda seq, path: walk(bodies[seq], path)) for name, cells in state.cells.items()}


@tool(does="read")
def look(call: Call[None], at: str) -> dict[str, Any]:
    return {"at": at, "$payload": "no"}


def everything() -> Machine[Rec, None]:
    """Writes fields in every way there is."""
    decide = model_state("{text}", model=M, tools=[look], writes={"found": ["items", "inner"]})

    @state(writes=["items", "inner", "count", "anything", "share"])
    def code(turn: Turn[Rec]) -> Literal["ok"]:
        turn.record.items.append("one")
        turn.record.items.extend(["two", "three"])
        turn.record.inner = Inner(name=turn.record.inner.name + "!", tags=["x"])
        turn.record.count += 1
        turn.record.anything = {"list": [1, 2.5, None, True], "deep": {"$payload": "00"}}
        turn.record.share = float("inf")
        return "ok"

    table = {
        "decide": decide.then({"found": "code"}),
        "code": code.then({"ok": "nap"}),
        "nap": wait(seconds=3600).then({"elapsed": "again"}),
        "again": code.then({"ok": "person"}),
        "person": ask("?", of="x", writes={"done": ["text", "items"]}).then({"done": "sig", "timeout": "end"}),
        "sig": wait("ping", writes=["count"]).then({"arrived": "end", "timeout": "end"}),
        "end": final(),
    }
    return Machine("everything", Rec, table=table)


def lived(stage: Stage, until: str = "") -> str:
    script = [call("look", at="x"), say("hm", choose("found", items=["a"], inner={"name": "n", "tags": []}))]
    machine = everything()

    async def scenario() -> str:
        async with stage.working(machine, model=ScriptedModel(script)) as client:
            handle = await client.start(machine, Rec(text="start"))
            await handle.result(until_waiting=True)
            if until == "person":
                return handle.id
            await client.resolve(handle.id, "done", {"text": "by hand", "items": ["p", "q"]})
            await client.signal(handle.id, "ping", {"count": 77})
            result = await handle.result()
            assert (result.status, result.record.count, result.record.items) == ("completed", 77, ["p", "q"])
            return handle.id

    return stage.perform(scenario)


def test_the_record_is_the_fold_byte_for_byte(stage: Stage) -> None:
    run = lived(stage)
    kept, folded = stage.client().show(run).record, record_at(stage, run)
    assert {name: encode(value) for name, value in kept.items()} == {name: encode(folded[name]) for name in folded}
    assert stage.client().verify() == []


def test_live_state_and_account_equal_the_fold_after_every_commit(stage: Stage) -> None:
    """A crash may come after any of them: what the store then holds is what the log folds to."""
    seen: list[str] = []
    write = stage.store.write

    class Checking:
        """The store, verified after every batch."""

        def __getattr__(self, name: str) -> Any:
            return getattr(stage.store, name)

        def write(self, batch: Any) -> Any:
            answers = write(batch)
            for row in stage.store.runs():
                assert verify_run(stage.store, row) is None
                seen.append(row.state)
            return answers

    machine = everything()
    script = [call("look", at="x"), choose("found", items=["a"], inner={"name": "n", "tags": []})]

    async def scenario() -> None:
        client = stage.client(ScriptedModel(script), store=Checking())  # type: ignore[arg-type]
        async with Worker(client, [machine], name="w"):
            handle = await client.start(machine, Rec())
            await handle.result(until_waiting=True)
            await client.resolve(handle.id, "done", {"text": "t", "items": []})
            await client.signal(handle.id, "ping", {"count": 1})
            assert (await handle.result()).status == "completed"

    stage.perform(scenario)
    assert len(seen) > 12


def test_the_fold_at_every_event_has_each_field(stage: Stage) -> None:
    run = lived(stage)
    events = stage.events(run)
    for _, now in folds(events):
        assert set(now.cells) == set(Rec.model_fields)
        assert all(pointers[0].item in (-1, 0) for pointers in now.cells.values())


def test_a_decision_that_nobody_has_read_yet_is_no_damage(stage: Stage) -> None:
    run = lived(stage, until="person")

    async def scenario() -> None:
        await stage.client().resolve(run, "done", {"text": "t", "items": []})

    stage.perform(scenario)
    assert stage.client().verify() == []


# -- verify finds what was edited, and says where ------------------------------------------------

TAMPERINGS = {
    "an event's body": (
        "UPDATE event SET body = replace(body, '\"by hand\"', '\"by foot\"') WHERE body LIKE '%by hand%'",
        "bytes don't match its hash",
    ),
    "an event's hash": ("UPDATE event SET hash = zeroblob(32) WHERE seq = 4", "hash"),
    "an event removed": ("DELETE FROM event WHERE seq = 5", "event 5 is missing"),
    "the last event removed": ("DELETE FROM event WHERE seq = (SELECT max(seq) FROM event)", "the run has"),
    "the head": ("UPDATE run SET head = zeroblob(32)", "head"),
    "the count": ("UPDATE run SET seq = seq - 1", "the run has"),
    "the state": ("UPDATE run SET state = 'code'", "run row"),
    "the status": ("UPDATE run SET status = 'failed'", "status"),
    "the turn": ("UPDATE run SET turn = turn + 1", "run row"),
    "the live state": ("UPDATE run SET live = replace(live, '[', '[ ')", "live state"),
    "a cell's place": ("UPDATE cell SET seq = 1, path = '[\"record\",\"count\"]' WHERE field = 'count'", "record"),
    "a cell's origin": ("UPDATE cell SET origin = 'user' WHERE field = 'text'", "record"),
    "a cell removed": ("DELETE FROM cell WHERE field = 'inner'", "record"),
    "what was spent": ("UPDATE account SET spent_nanousd = spent_nanousd - 1", "account"),
    "the ceiling": ("UPDATE account SET ceiling_turns = ceiling_turns + 100", "account"),
    "a wait opened again": ("UPDATE wait SET closed = '' WHERE number = 2", "waits"),
    "when it is due": ("UPDATE run SET wake_at = 5", "due time"),
    # Each of these keeps every worker away for ever.
    "the machine": ("UPDATE run SET machine = 'other'", "machine"),
    "the shape": ("UPDATE run SET shape = 'other'", "machine"),
    "the key": ("UPDATE run SET key = 'other'", "key"),
    "the tenant": ("UPDATE run SET tenant = 'other'", "key"),
    "the reason": ("UPDATE run SET reason = 'all is well'", "reason"),
    "the start, swapped for another event": ("UPDATE event SET body = '{}' WHERE seq = 1", "hash"),
}
"""Edits of a run that has ended: the statement, and a word of what is said about it."""

WHILE_ASKING = {
    "whom a wait asks": ("UPDATE wait SET of = 'mallory' WHERE closed = ''", "waits"),
    "since when it asks": ("UPDATE wait SET opened_at = opened_at - 1 WHERE closed = ''", "waits"),
    "until when it asks": ("UPDATE wait SET due = due + 1 WHERE closed = ''", "waits"),
    "when it is due": ("UPDATE run SET wake_at = NULL", "due time"),
}

REMOVED = {
    "the run's row": "DELETE FROM run",
    "its account": "DELETE FROM account",
    "all but its log": "DELETE FROM run; DELETE FROM cell; DELETE FROM wait; DELETE FROM account",
}


@pytest.mark.parametrize("what", TAMPERINGS)
@pytest.mark.replay_differs("its logs are damaged")
def test_verify_finds_an_edit_and_names_the_place(file_stage: Stage, what: str) -> None:
    run = lived(file_stage)
    statement, why = TAMPERINGS[what]
    file_stage.edit(statement)
    (broken,) = file_stage.client().verify()
    assert broken.run == run
    assert why in broken.why
    if "event's body" in what:
        bodies = file_stage.store.events(file_stage.store.find(run).number)
        assert b"by foot" in next(stored.body for stored in bodies if stored.seq == broken.seq)


@pytest.mark.parametrize("what", WHILE_ASKING)
def test_verify_finds_an_edit_of_what_is_asked(file_stage: Stage, what: str) -> None:
    run = lived(file_stage, until="person")
    assert file_stage.client().verify() == []
    statement, why = WHILE_ASKING[what]
    file_stage.edit(statement)
    (broken,) = file_stage.client().verify()
    assert broken.run == run and why in broken.why


@pytest.mark.parametrize("what", REMOVED)
def test_verify_finds_the_log_of_a_run_that_is_gone(file_stage: Stage, what: str) -> None:
    lived(file_stage)
    file_stage.edit(*REMOVED[what].split(";"))
    (broken,) = file_stage.client().verify()
    assert (broken.run, broken.seq) == ("", 1) and "no run" in broken.why


def test_verify_finds_an_event_of_no_run_beside_a_sound_one(file_stage: Stage) -> None:
    run = lived(file_stage)
    file_stage.edit("INSERT INTO event (run, seq, body, hash) VALUES (99, 7, '{}', x'00')")
    (broken,) = file_stage.client().verify()
    assert broken.seq == 7 and "99" in broken.why
    assert file_stage.client().verify(run) == [], "one run is asked about, and it is sound"


def test_verify_finds_an_edited_payload(file_stage: Stage) -> None:
    machine = Machine("m", Rec, table={"s": wait(seconds=1).then({"elapsed": "e"}), "e": final()})
    file_stage.play(machine, Rec(text="x" * 50_000))
    assert file_stage.client().verify() == []
    file_stage.edit("UPDATE payload SET body = CAST(replace(body, 'xxx', 'yyy') AS BLOB)")
    (broken,) = file_stage.client().verify()
    assert (broken.seq, "payload" in broken.why) == (1, True)


def test_verify_names_only_the_run_that_was_edited(file_stage: Stage) -> None:
    lived(file_stage)
    other = everything()
    file_stage.perform(lambda: file_stage.client(seed=9).start(other, Rec()))
    with sqlite3.connect(file_stage.path) as db:
        assert db.execute("SELECT count(*) FROM run").fetchone() == (2,)
    db.close()
    file_stage.edit("UPDATE account SET spent_turns = 9 WHERE number = 1")
    assert [found.run for found in file_stage.client().verify()] == [file_stage.store.runs()[1].id]


def test_reading_a_log_asks_nobody(stage: Stage) -> None:
    """Fold, show and verify need no model, tool or machine."""
    run = lived(stage)
    client = stage.client(model={})
    assert client.verify(run) == []
    assert client.show(run).record["text"] == "by hand"


def test_a_run_that_moved_on_while_it_was_verified_is_not_called_broken(stage: Stage) -> None:
    """`verify` reads rows first and logs afterwards, and workers write meanwhile; nor is it looked at for ever."""
    machine = Machine(
        "m", Rec, table={"a": ask("?", of="x", writes={"ok": ["text"]}).then({"ok": "end"}), "end": final()}
    )

    async def scenario() -> RunRow:
        async with stage.working(machine) as client:
            handle = await client.start(machine, Rec())
            await handle.result(until_waiting=True)
            read_before = stage.store.find(handle.id)
            await client.resolve(handle.id, "ok", {"text": "moved on"})
            await handle.result()
            return read_before

    stale = stage.perform(scenario)
    assert stage.store.find(stale.id).seq > stale.seq
    assert verify_run(stage.store, stale) is None
    wrong = msgspec.structs.replace(stale, head=bytes(32))
    assert verify_run(stage.store, wrong) is not None, "what it was then is still compared"
