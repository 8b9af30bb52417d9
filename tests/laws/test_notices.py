"""The outbox: whoever is to be told is told, at least once, under one id, in the same fact as what it is about."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any, Literal

import pytest

from interlock import Call, Machine, Turn, ask, final, state, tool, use
from interlock.agent.model import ModelFailed, ModelReply
from interlock.canonical import decode
from interlock.engine.delivery import AGAIN_SECONDS, NotDelivered
from interlock.engine.timing import Timing
from interlock.errors import StoreError
from interlock.history import events as e
from interlock.reading import verify_runs
from interlock.store.protocol import (
    Commit,
    DecideNotice,
    Done,
    Failed,
    NoticeRow,
    SettleNotice,
    Shut,
    TakeNotices,
    Write,
)
from tests.laws.machines import MODEL, Case
from tests.laws.stage import Stage, dies_at, on_stage
from tests.notices.receiver import Pager

TIMING = Timing(poll=0.5)
DOWN = NotDelivered("pager answered 503")


@state(writes=["text"])
def look(turn: Turn[Case]) -> Literal["done"]:
    turn.record.text = "sesame 4711"
    return "done"


def desk(within: float) -> Any:
    """A machine that asks a person, and fails when nobody answers."""
    answers = {"right": [], "wrong": ["items"]}
    asked = ask("Is {text} right?", of="support", writes=answers, within=within)
    return Machine(
        "desk",
        Case,
        table={
            "look": look.then({"done": "person"}),
            "person": asked.then({"right": "closed", "wrong": "closed", "timeout": "lost"}),
            "closed": final("completed"),
            "lost": final("failed"),
        },
    )


asking = desk(within=3600)


async def waiting(stage: Stage, count: int = 1, machine: Any = asking) -> list[str]:
    """Runs that all wait for a person."""
    runs = [(await stage.client.start(machine, Case(), by="test")).id for _ in range(count)]
    await stage.until(lambda: all(stage.status(run) == "waiting" for run in runs), 50)
    return runs


def rows(stage: Stage, status: str | None = None) -> list[NoticeRow]:
    return [row for row in stage.store.notices(all=True) if status in (None, row.status)]


def said(body: bytes) -> dict[str, Any]:
    return dict(decode(body))


# -- what is told --


def test_a_wait_for_a_person_is_told_and_says_what_the_answer_needs_and_nothing_of_the_record() -> None:
    pager = Pager()

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        (run,) = await waiting(stage)
        await stage.until(lambda: bool(pager.delivered), 5)
        (opened,) = stage.of(e.WaitOpened)
        told = said(pager.sent[0][2])
        assert told["type"] == "run.waiting" and told["timestamp"].startswith("2026-01-01T00:00:0")
        assert told["data"] == {
            "run": run,
            "machine": "desk",
            "state": "person",
            "why": "ask",
            "outcome": None,
            "wait": 1,
            "effect": None,
            "role": "support",
            "due": told["data"]["due"],
            "choices": ["right", "wrong"],
        }
        assert told["data"]["due"][:13] == "2026-01-01T01" and "sesame" in opened.prompt
        assert b"sesame" not in pager.sent[0][2] and b"4711" not in pager.sent[0][2]
        assert [row.status for row in rows(stage)] == ["delivered"] and not stage.store.notices()

    on_stage(act, timing=TIMING, notifier=pager)


def test_a_run_that_ends_failed_is_told_and_one_that_completes_or_is_cancelled_is_not() -> None:
    pager = Pager()

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        done, gone, late = await waiting(stage, 3)
        await stage.client.resolve(done, "right", by="person")
        await stage.client.cancel(gone, by="person")
        await stage.until(lambda: stage.status(late) == "failed", 4000, step=5)
        await stage.until(lambda: len(pager.delivered) == 4, 5)
        assert (stage.status(done), stage.status(gone)) == ("completed", "cancelled")
        told = [said(body) for _, _, body in pager.sent]
        assert [one["type"] for one in told] == ["run.waiting"] * 3 + ["run.failed"]
        assert told[-1]["data"] == {"run": late, "machine": "desk", "state": "lost", "why": "timeout"}

    on_stage(act, timing=TIMING, notifier=pager)


@tool(does="write", keyed=True, approve="finance")
async def pay(call: Call[None], n: int) -> str:
    return "paid"


@state(models=[MODEL])
async def think(turn: Turn[Case]) -> Literal["done"]:
    await turn.model(MODEL, "x")
    return "done"


@pytest.mark.parametrize(
    ("row", "why", "role", "outcome"),
    [
        (use(pay, args={"n": "n"}).then({"done": "closed"}), "approve", "finance", None),
        (think.then({"done": "closed"}), "escalated", "operator", "unavailable"),
    ],
    ids=["approve", "escalated"],
)
def test_every_kind_of_wait_for_a_person_is_told(row: Any, why: str, role: str, outcome: str | None) -> None:
    pager = Pager()
    machine = Machine("desk", Case, table={"work": row, "closed": final("completed")})

    async def act(stage: Stage) -> None:
        await stage.worker(machine)
        await stage.client.start(machine, Case(), by="test")
        await stage.until(lambda: bool(pager.delivered), 10)
        data = said(pager.sent[0][2])["data"]
        assert (data["why"], data["role"], data["outcome"], data["state"]) == (why, role, outcome, "work")
        assert data["choices"]

    on_stage(act, lambda _: ModelFailed("quota", "no money", billed=False), timing=TIMING, notifier=pager)


def test_a_wait_for_a_time_or_a_retry_is_nobodys_business() -> None:
    pager = Pager()
    failures = [ModelFailed("rate_limited", "429", retry_after=600, billed=False)]
    machine = Machine("desk", Case, table={"work": think.then({"done": "closed"}), "closed": final("completed")})

    async def act(stage: Stage) -> None:
        await stage.worker(machine)
        await stage.client.start(machine, Case(), by="test")
        await stage.until(lambda: stage.status() == "waiting", 10)
        assert stage.of(e.WaitOpened) and not rows(stage)

    on_stage(act, lambda _: failures.pop() if failures else ModelReply("x"), timing=TIMING, notifier=pager)


def test_without_somebody_to_tell_the_outbox_stays_empty() -> None:
    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        await waiting(stage)
        assert rows(stage) == []

    on_stage(act, timing=TIMING)


# -- one fact --


def test_a_commit_that_is_refused_leaves_no_notice() -> None:
    """The run would have ended failed, but somebody cancelled it first: nobody hears of a failure that never was."""
    pager = Pager()
    stages: list[Stage] = []

    @state()
    async def work(turn: Turn[Case]) -> Literal["no"]:
        stage = stages[0]
        await stage.client.cancel(stage.store.find("@last").id, by="person")
        return "no"

    machine = Machine("desk", Case, table={"work": work.then({"no": "lost"}), "lost": final("failed")})
    refused: list[Commit] = []

    async def act(stage: Stage) -> None:
        stages.append(stage)

        def watch(write: Write) -> str:
            if isinstance(write, Commit) and write.notices:
                refused.append(write)
            return ""

        await stage.worker(machine, fail=watch)
        await stage.client.start(machine, Case(), by="test")
        await stage.until(lambda: stage.status() == "cancelled", 10)
        await asyncio.sleep(5)
        assert len(refused) == 1, "its commit did carry a notice"
        assert rows(stage) == [] and not pager.sent

    on_stage(act, timing=TIMING, notifier=pager)


def test_the_same_commit_sent_again_leaves_one_notice() -> None:
    """An acknowledgement that was lost: the commit is resubmitted, and recognises itself."""
    pager = Pager()
    seen: list[tuple[str, ...]] = []

    async def act(stage: Stage) -> None:
        def twice(write: Write) -> str:
            if isinstance(write, Commit) and write.notices:
                seen.append(tuple(notice.id for notice in write.notices))
                stage.store.write([write, write])
            return ""

        await stage.worker(asking, fail=twice)
        await waiting(stage)
        await stage.until(lambda: bool(pager.delivered), 5)
        assert [row.id for row in rows(stage)] == [*seen[0]] == pager.ids

    on_stage(act, timing=TIMING, notifier=pager)


def test_what_a_notice_says_is_compared_with_the_log() -> None:
    pager = Pager()

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        (run,) = await waiting(stage)
        assert verify_runs(stage.store).broken == []
        db: Any = stage.store._db  # type: ignore[attr-defined]
        db.execute("UPDATE notice SET body = replace(body, 'support', 'nobody')")
        (broken,) = verify_runs(stage.store).broken
        assert broken.run == run and "says what its event doesn't" in broken.why
        db.execute("UPDATE notice SET body = replace(body, 'nobody', 'support')")

    on_stage(act, timing=TIMING, notifier=pager)


# -- at least once --


def test_a_receiver_that_is_down_is_told_once_it_is_up_under_the_same_id() -> None:
    pager = Pager(lambda id, attempt: DOWN if attempt < 4 else 0.0)

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        await waiting(stage)
        await stage.until(lambda: bool(pager.delivered), 1000)
        times = [at for at, _, _ in pager.sent]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(gaps) == 3 and len(set(pager.ids)) == 1 and len({body for _, _, body in pager.sent}) == 1
        for gap, planned in zip(gaps, AGAIN_SECONDS, strict=False):
            assert 0.9 * planned <= gap <= 1.1 * planned + 2 * TIMING.poll
        assert [row.status for row in rows(stage)] == ["delivered"]

    on_stage(act, timing=TIMING, notifier=pager)


def test_who_asks_for_time_is_given_it() -> None:
    busy = NotDelivered("pager answered 503", retry_after=500)
    pager = Pager(lambda id, attempt: busy if attempt == 1 else 0.0)

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        await waiting(stage)
        await stage.until(lambda: bool(pager.delivered), 1000)
        assert pager.sent[1][0] - pager.sent[0][0] >= 500

    on_stage(act, timing=TIMING, notifier=pager)


def test_a_notice_that_nobody_takes_is_dead_after_its_last_attempt_and_a_person_decides() -> None:
    pager, patient = Pager(lambda id, attempt: DOWN), desk(within=1e7)

    async def act(stage: Stage) -> None:
        await stage.worker(patient)
        (run,) = await waiting(stage, machine=patient)
        (first,) = rows(stage)
        await stage.until(lambda: bool(rows(stage, "dead")), 100_000, step=60)
        (dead,) = rows(stage, "dead")
        assert (dead.id, dead.message, dead.run) == (first.id, DOWN.why, run)
        assert len(pager.sent) == len(AGAIN_SECONDS) + 1
        await asyncio.sleep(100_000)
        assert len(pager.sent) == len(AGAIN_SECONDS) + 1, "it is let be"

        pager.answer = lambda id, attempt: 0.0
        again = DecideNotice(dead.id, "due", stage.clock.now_ms(), "ada", "the pager is mended")
        assert stage.store.write([again, again]) == [Done(), Shut("due")]
        await stage.until(lambda: bool(rows(stage, "delivered")), 100)
        (row,) = rows(stage)
        assert (row.status, row.by, row.reason) == ("delivered", "ada", "the pager is mended")
        assert len({*pager.ids}) == 1, "also the one that a person had sent again"
        assert stage.store.write([again]) == [Shut("delivered")]

    on_stage(act, timing=Timing(poll=30, lease=1e9), notifier=pager)


def test_a_receiver_that_wants_no_more_gets_no_more() -> None:
    pager = Pager(lambda id, attempt: NotDelivered("pager answered 410", final=True))

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        await waiting(stage)
        await stage.until(lambda: bool(rows(stage, "dead")), 10)
        drop = DecideNotice(rows(stage)[0].id, "dropped", stage.clock.now_ms(), "ada", "")
        assert stage.store.write([drop]) == [Done()]
        await asyncio.sleep(100)
        assert len(pager.sent) == 1 and not stage.store.notices()

    on_stage(act, timing=TIMING, notifier=pager)


def test_a_notifier_with_a_bug_loses_no_notice() -> None:
    pager = Pager(lambda id, attempt: KeyError("oops") if attempt == 1 else 0.0)

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        await waiting(stage)
        await stage.until(lambda: bool(pager.delivered), 100)

    on_stage(act, timing=TIMING, notifier=pager)


# -- who is slow, who dies, who comes second --


def test_a_receiver_that_hangs_holds_up_no_run() -> None:
    pager = Pager(lambda id, attempt: 1e6)

    async def act(stage: Stage) -> None:
        await stage.worker(asking)
        began = stage.clock.monotonic()
        runs = await waiting(stage, 30)
        for run in runs:
            await stage.client.resolve(run, "right", by="person")
        await stage.until(lambda: all(stage.status(run) == "completed" for run in runs), 30)
        assert stage.clock.monotonic() - began < pager.timeout, "all of it while the first notices hang"
        assert pager.under_way and not pager.delivered
        await stage.until(lambda: len(rows(stage, "due")) >= 8 and "no answer within" in rows(stage)[0].message, 100)

    on_stage(act, timing=TIMING, notifier=pager)


def test_a_worker_that_stops_sends_what_is_due_first() -> None:
    """A script that ends when its run waits has told somebody by then."""
    pager = Pager(lambda id, attempt: 2.0)

    async def act(stage: Stage) -> None:
        worker = await stage.worker(asking)
        await waiting(stage, 3)
        await worker.stop()
        stage._workers.remove(worker)
        assert len(pager.delivered) == 3 and len(rows(stage, "delivered")) == 3 and pager.closed == 1

    on_stage(act, timing=TIMING, notifier=pager)


WRITES = (Commit, TakeNotices, SettleNotice)


@pytest.mark.parametrize("how", ["lose", "die"])
def test_wherever_a_worker_dies_nothing_is_lost_and_the_id_is_the_same(how: str) -> None:
    """Before or after each commit, each lease of notices and each settlement; another worker goes on."""
    at = 1
    while _dies_and_another_goes_on(at, how):
        at += 1
    assert at > 6, "two runs' commits, two leases and two settlements were among them"


def _dies_and_another_goes_on(at: int, how: str) -> bool:
    """Whether there was an `at`-th write to die at."""
    pager = Pager(lambda id, attempt: 0.2)

    async def act(stage: Stage) -> bool:
        first = await stage.worker(asking, fail=dies_at(at, how, WRITES))
        cable: Any = first.world.committer
        runs = [(await stage.client.start(asking, Case(), by="test")).id for _ in range(2)]
        await asyncio.sleep(5)
        died: bool = cable.cut
        await stage.kill(first)
        await stage.worker(asking)
        await stage.until(lambda: all(stage.status(run) == "waiting" for run in runs), 100)
        await stage.until(lambda: len(rows(stage, "delivered")) == 2 and not stage.store.notices(), 500)
        by_run = {row.run: row.id for row in rows(stage)}
        assert set(by_run) == set(runs) and set(pager.ids) == set(by_run.values()), "one id per wait, and no other"
        assert all(pager.delivered.count(id) in (1, 2) for id in by_run.values()), "again only where it wasn't known"
        assert len({body for _, _, body in pager.sent}) == 2
        return died

    return on_stage(act, timing=TIMING, notifier=pager)


def test_two_workers_never_send_the_same_notice_at_once(seed: int) -> None:
    """Three of them, fifty notices, a receiver that is slow, refuses and hangs as chance has it: each arrives, and the
    pager itself complains if one is under way twice."""
    chance = Random(seed)

    def answer(id: str, attempt: int) -> float | Exception:
        drawn = chance.random() if attempt < 6 else 1.0  # the last ones get through
        return DOWN if drawn < 0.3 else 1e6 if drawn < 0.4 else chance.uniform(0, 10)

    pager, patient = Pager(answer), desk(within=1e7)

    async def act(stage: Stage) -> None:
        workers = [await stage.worker(patient) for _ in range(3)]
        await waiting(stage, 50, patient)
        await asyncio.sleep(7)
        await stage.kill(workers[0])
        await stage.until(lambda: len(rows(stage, "delivered")) == 50, 100_000, step=5)
        assert set(pager.delivered) == {row.id for row in rows(stage)}

    on_stage(act, seed=seed, timing=TIMING, notifier=pager)


def test_a_disk_that_takes_no_lease_of_a_notice_is_asked_again_at_the_poll_and_no_faster() -> None:
    pager, tries, full = Pager(), 0, True

    class Full:
        """A store that is full for whoever wants to send notices."""

        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def write(self, batch: Any) -> list[Any]:
            nonlocal tries
            takes = [full and isinstance(write, TakeNotices) for write in batch]
            tries += sum(takes)
            assert tries < 1000, "a hot loop"
            refused = Failed(StoreError("the disk is full"))
            return [refused if at else self._store.write([write])[0] for at, write in zip(takes, batch, strict=True)]

    async def act(stage: Stage) -> None:
        nonlocal full
        await stage.worker(asking, store=Full(stage.store))  # type: ignore[arg-type]
        await waiting(stage)
        await asyncio.sleep(60)
        assert 20 < tries < 300 and not pager.sent
        full = False
        await stage.until(lambda: len(pager.delivered) == 1, 5)

    on_stage(act, timing=TIMING, notifier=pager)
