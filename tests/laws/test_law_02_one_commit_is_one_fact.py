"""Law 2: what happens to a run happens in one transaction or not at all, and is recognised when sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from pydantic import BaseModel

from interlock import Call, Client, Machine, Turn, final, state, tool, use
from interlock.errors import StoreError
from interlock.reading import verify_run
from interlock.store.protocol import Answer, Commit, Committed, Failed, Write
from interlock.worker import Worker
from tests.stage import Stage


class Rec(BaseModel):
    number: int = 0
    said: str = ""


CALLED: list[str] = []


@tool(does="write", keyed=True)
def pay(call: Call[None], number: int) -> str:
    CALLED.append(call.key)
    return f"paid {number}"


@state(writes=["number"])
def count(turn: Turn[Rec]) -> Literal["more", "done"]:
    turn.record.number += 1
    return "more" if turn.record.number < 3 else "done"


def counting() -> Machine[Rec, None]:
    table = {
        "count": count.then({"more": "pay", "done": "end"}),
        "pay": use(pay, args={"number": "number"}, into="said").then({"done": "count"}),
        "end": final(),
    }
    return Machine("counting", Rec, table=table)


class Between:
    """A store that something may happen to just before or after a commit."""

    def __init__(self, store: Any) -> None:
        self.inner = store
        self.commits: list[Commit] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        self.commits += [write for write in batch if isinstance(write, Commit)]
        answers: list[Answer] = self.inner.write(batch)
        return answers


class LosesAcknowledgements(Between):
    """Every commit is carried out, and the answer to every other one gets lost."""

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        answers = super().write(batch)
        if any(isinstance(write, Commit) for write in batch) and len(self.commits) % 2:
            return [Failed(StoreError("the connection broke")) for _ in batch]
        return answers


class FailsNow(Between):
    """Every other batch with a commit is not carried out at all."""

    asked = 0

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        if any(isinstance(write, Commit) for write in batch):
            self.asked += 1
            if self.asked % 2:
                return [Failed(StoreError("disk full")) for _ in batch]
        return super().write(batch)


def run_on(stage: Stage, store: Any) -> None:
    CALLED.clear()

    async def scenario() -> None:
        client: Client = stage.client(store=store)
        async with Worker(client, [counting()], name="w"):
            handle = await client.start(counting(), Rec())
            result = await handle.result()
            assert (result.status, result.record.number, result.record.said) == ("completed", 3, "paid 2")

    stage.perform(scenario)
    assert stage.client().verify() == []


def test_a_lost_acknowledgement_is_answered_by_the_identical_commit(stage: Stage) -> None:
    """It recognises itself: nothing is written twice, no tool is called twice."""
    store = LosesAcknowledgements(stage.store)
    run_on(stage, store)
    ids = [commit.id for commit in store.commits]
    again = [commit for commit in store.commits if ids.count(commit.id) > 1]
    assert again, "the test must lose some"
    assert all(one == other for one in again for other in again if one.id == other.id), "sent again unchanged"
    assert len(CALLED) == 2
    seqs = [event.seq for event in stage.store.events(1)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_commit_that_failed_is_tried_again_and_nothing_is_lost(stage: Stage) -> None:
    run_on(stage, FailsNow(stage.store))
    assert len(CALLED) == 2


def test_a_turn_s_end_its_changes_and_its_account_are_one_commit(stage: Stage) -> None:
    """No commit leaves the record, the row or the account behind its events."""
    store = Between(stage.store)
    run_on(stage, store)
    for commit in store.commits:
        said = b"".join(event.body for event in commit.events)
        if b'"transitioned"' in said and b'"changes"' in said:
            assert commit.cells
    assert sum(len(commit.events) for commit in store.commits) == len(stage.store.events(1)) - 1


def test_a_bad_commit_writes_nothing_of_itself(stage: Stage) -> None:
    """Of a commit that can't be carried out not even its first event stays."""
    store = Between(stage.store)
    run_on(stage, store)
    (row,) = stage.store.runs()
    last = store.commits[-1]
    bad = replace(last, id=b"x" * 16, after=row.seq, fence=row.fence, worker=99)
    (answer,) = stage.store.write([bad])
    assert not isinstance(answer, Committed)
    assert verify_run(stage.store, stage.store.find(row.id)) is None
    assert stage.store.find(row.id).seq == row.seq


@pytest.mark.parametrize("parallel", [1, 20])
def test_runs_committed_in_one_batch_stay_apart(stage: Stage, parallel: int) -> None:
    """Group commit shares a transaction, not a fate."""

    async def scenario() -> None:
        async with stage.working(counting()) as client:
            handles = [await client.start(counting(), Rec(number=-n)) for n in range(parallel)]
            for handle in handles:
                assert (await handle.result()).record.number == 3

    stage.perform(scenario)
    assert stage.client().verify() == []
