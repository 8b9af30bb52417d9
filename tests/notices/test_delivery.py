"""Delivery for real: a store on a file, a receiver on loopback, worker processes that are killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from interlock import Client, Worker
from interlock.bootstrap import open_store
from interlock.clock import SystemClock
from interlock.errors import BadInput
from interlock.reading import verify_runs
from interlock.store.protocol import NoticeRow
from interlock.webhook import Webhook, genuine
from tests.laws.machines import Case
from tests.laws.test_notices import desk
from tests.notices.child import POINTS
from tests.notices.receiver import SECRET, Receiver

ROOT = Path(__file__).parents[2]


@contextmanager
def worker(store: Path, receiver: str, point: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A worker process for one block."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    args = [sys.executable, "-m", "tests.notices.child", f"sqlite:///{store}", receiver, *([point] if point else [])]
    process = subprocess.Popen(args, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def outbox(store: Path) -> list[NoticeRow]:
    with closing(open_store(f"sqlite:///{store}", create=False, readonly=True)) as opened:
        return opened.notices(all=True)


@pytest.fixture(autouse=True)
def whole(tmp_path: Path) -> Iterator[None]:
    """Whatever happened to its workers, the store's log and its rows say the same in the end."""
    yield
    with closing(open_store(f"sqlite:///{tmp_path / 'runs.db'}", create=False, readonly=True)) as opened:
        assert verify_runs(opened).broken == []


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "it never came to hold"
        time.sleep(0.05)


def test_what_a_receiver_gets_is_signed_and_a_tampered_body_is_not_taken(tmp_path: Path) -> None:
    machine, store = desk(within=1e6), tmp_path / "runs.db"

    async def main(url: str) -> str:
        webhook = Webhook(url, secret=SECRET)
        async with Client(f"sqlite:///{store}", notify=webhook) as client, Worker(client, [machine]):
            run = await client.start(machine, Case(), by="test")
            await run.result(until_waiting=True)
            return run.id

    with Receiver() as receiver:
        run = asyncio.run(main(receiver.url))
        (heard,) = receiver.until(1)
    notice = genuine(heard.body, heard.headers, SECRET)
    assert notice["type"] == "run.waiting" and notice["data"]["run"] == run and notice["data"]["role"] == "support"
    with pytest.raises(BadInput):
        genuine(heard.body.replace(b"support", b"nobody!"), heard.headers, SECRET)
    assert [(row.status, row.id) for row in outbox(store)] == [("delivered", heard.id)]
    for file in tmp_path.iterdir():
        kept = file.read_bytes()
        assert SECRET.encode() not in kept and b"/hook" not in kept, f"{file.name} knows the receiver or its secret"


@pytest.mark.parametrize("point", POINTS)
def test_wherever_the_worker_is_killed_the_receiver_is_told_under_one_id(tmp_path: Path, point: str) -> None:
    store = tmp_path / "runs.db"
    with Receiver() as receiver:
        with worker(store, receiver.url, point) as first:
            until(lambda: first.poll() is not None)
        told_before = len(receiver.heard)
        assert told_before == (point in ("after-request", "after-settlement"))
        with worker(store, receiver.url):
            until(lambda: [row.status for row in outbox(store)] == ["delivered"])
        (row,) = outbox(store)
        assert {one.id for one in receiver.heard} == {row.id} and {one.body for one in receiver.heard} == {row.body}
        assert len(receiver.heard) == (2 if point == "after-request" else 1), "again only where it wasn't known"
        assert all(genuine(one.body, one.headers, SECRET) for one in receiver.heard)


def test_a_receiver_that_is_down_is_told_once_it_is_up(tmp_path: Path) -> None:
    """Nobody listens at first; then somebody answers 503, and then takes it."""
    store = tmp_path / "runs.db"
    with Receiver() as placeholder:
        port, url = placeholder.port, placeholder.url
    with worker(store, url):
        until(lambda: store.exists() and any("ConnectError" in row.message for row in outbox(store)))
        with Receiver(port) as receiver:
            heard = receiver.until(1, seconds=60)
            until(lambda: [row.status for row in outbox(store)] == ["delivered"])
            (row,) = outbox(store)
            assert [one.id for one in heard] == [row.id] and row.attempts == 2 and not row.message


def test_two_worker_processes_deliver_each_notice_once(tmp_path: Path) -> None:
    """Forty runs; both processes look for notices all the time."""
    store, machine = tmp_path / "runs.db", desk(within=1e6)

    async def begin() -> None:
        async with Client(f"sqlite:///{store}") as client:
            for _ in range(40):
                await client.start(machine, Case(), by="test")

    asyncio.run(begin())
    with Receiver() as receiver, worker(store, receiver.url), worker(store, receiver.url):
        until(lambda: [row.status for row in outbox(store)].count("delivered") == 41)  # with the workers' own
        ids = [one.id for one in receiver.heard]
        assert len(ids) == len(set(ids)) == 41


def test_a_receiver_that_hangs_holds_up_no_run_and_is_told_in_the_end(tmp_path: Path) -> None:
    machine, store = desk(within=1e6), tmp_path / "runs.db"

    async def main(url: str) -> None:
        webhook = Webhook(url, secret=SECRET, timeout=20.0)
        async with Client(f"sqlite:///{store}", notify=webhook) as client, Worker(client, [machine], drain=0.2):
            runs = [await client.start(machine, Case(), by="test") for _ in range(5)]
            for run in runs:
                await run.result(until_waiting=True)
                await client.resolve(run.id, "right", by="test")
            for run in runs:
                assert (await run.result()).status == "completed"

    with Receiver() as receiver:
        receiver.answers = [None] * 5
        asyncio.run(main(receiver.url))
        assert receiver.heard and not any(row.status == "delivered" for row in outbox(store))
        later = Later(store)
        receiver.answers = []
        asyncio.run(later.deliver(receiver.url))
        assert {row.status for row in outbox(store)} == {"delivered"}
        assert {one.id for one in receiver.heard} == {row.id for row in outbox(store)}


class Later(SystemClock):
    """An hour on: leases have run out, and what is to be tried again is due."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def now_ms(self) -> int:
        return super().now_ms() + 3_600_000

    async def deliver(self, url: str) -> None:
        from interlock.bootstrap import open_world

        world = open_world(f"sqlite:///{self._store}", clock=self, notifier=Webhook(url, secret=SECRET))
        client: Any = Client(world=world)
        async with Worker(client, [desk(within=1e6)]):
            pass
        world.committer.close()
        world.store.close()
