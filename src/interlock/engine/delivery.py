"""Delivery: sends what the outbox holds, at least once each, and never two at once of the same.

A row is leased before it is sent, and settled afterwards. Who dies in between lets the lease run out, and the notice
goes again under the same id. Runs don't wait for any of it. Knows no run, and not how a notice is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from random import Random
from typing import Protocol

from interlock.clock import Clock
from interlock.engine.committer import Committer
from interlock.engine.timing import Timing
from interlock.store.protocol import SettleNotice, Store, TakenNotice, TakeNotices, Taking

log = logging.getLogger("interlock")

AT_ONCE_MAX = 8
"""Notices under way side by side: a slow receiver holds up other notices then, and nothing else."""

AGAIN_SECONDS = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
"""Between attempts; a tenth more or less, so that notices that failed together don't return together. After the last
of them, about 18 hours after the first attempt, a notice is dead."""

RETRY_AFTER_MAX = 86_400.0
MESSAGE_CHARS_MAX = 300


@dataclass(slots=True)
class NotDelivered(Exception):
    """The receiver didn't take a notice. `final`: it wants no more. `retry_after`: seconds that it asks for."""

    why: str
    final: bool = False
    retry_after: float = 0.0


class Notifier(Protocol):
    """The way to whoever is told. `timeout`: the most that one `send` takes, in seconds; less than a lease."""

    @property
    def timeout(self) -> float: ...

    async def send(self, id: str, body: bytes, at: int) -> None:
        """One attempt, at the time `at` (ms since 1970). Raises `NotDelivered`."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. The next `send` opens new ones."""
        ...


class HasOutbox(Protocol):
    """What a delivery needs of the world."""

    @property
    def clock(self) -> Clock: ...
    @property
    def chance(self) -> Random: ...
    @property
    def store(self) -> Store: ...
    @property
    def committer(self) -> Committer: ...
    @property
    def timing(self) -> Timing: ...


class Delivery:
    """One worker's part in delivering."""

    def __init__(self, world: HasOutbox, notifier: Notifier) -> None:
        self._world = world
        self._notifier = notifier
        self._lease, self._poll = world.timing.notice_lease, world.timing.poll
        self._wake = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._looking = asyncio.Lock()  # what one round has taken is under way before the next looks

    def nudge(self) -> None:
        """There may be something to send."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, which ends what is under way as well: it is due again when its lease has run out."""
        try:
            while True:
                pause = await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)
            await self._notifier.aclose()

    async def finish(self, seconds: float) -> None:
        """Before it is cancelled: send what is due, and give that this long. The rest stays in the outbox."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._round()
                while self._sending:
                    await asyncio.wait(self._sending)

    async def _round(self) -> float:
        """Begin to send what is due. Returns how long to wait before looking again."""
        async with self._looking:
            return await self._look()

    async def _look(self) -> float:
        try:
            while (room := AT_ONCE_MAX - len(self._sending)) > 0 and self._is_due():
                if not await self._take(room):
                    return self._poll  # the store can't, or somebody else was first
            return self._until_due() if len(self._sending) < AT_ONCE_MAX else self._poll
        except Exception as wrong:  # a store that can't be read now may be readable later
            log.warning("the outbox can't be read: %s", wrong)
            return self._poll

    def _is_due(self) -> bool:
        due = self._world.store.next_notice()
        return due is not None and due <= self._world.clock.now_ms()

    def _until_due(self) -> float:
        due = self._world.store.next_notice()
        if due is None:
            return self._poll
        return min(self._poll, max(0.0, (due - self._world.clock.now_ms()) / 1000))

    async def _take(self, room: int) -> int:
        clock = self._world.clock
        taken_at, now = clock.boottime(), clock.now_ms()
        until = now + int(self._lease * 1000)
        answer = await self._world.committer.submit(TakeNotices(limit=room, at=now, until=until))
        if not isinstance(answer, Taking):
            log.warning("taking notices failed: %s", answer)
            return 0
        for notice in answer.notices:
            task = asyncio.create_task(self._deliver(notice, taken_at), name=f"notice {notice.id}")
            self._sending.add(task)
            task.add_done_callback(self._ended)
        return len(answer.notices)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._wake.set()

    async def _deliver(self, notice: TakenNotice, taken_at: float) -> None:
        clock = self._world.clock
        if clock.boottime() + self._notifier.timeout >= taken_at + self._lease:
            return  # we slept: by the end of an attempt somebody else may have the row
        try:
            async with asyncio.timeout(self._notifier.timeout):
                await self._notifier.send(notice.id, notice.body, clock.now_ms())
        except NotDelivered as failed:
            settled = self._failed(notice, failed)
        except TimeoutError:
            settled = self._failed(notice, NotDelivered(f"no answer within {self._notifier.timeout:g} s"))
        except Exception as bug:  # of a notifier: its notice must not be lost for it
            log.error("notice %s: %s", notice.id, type(bug).__name__)
            settled = self._failed(notice, NotDelivered(type(bug).__name__))
        else:
            now = clock.now_ms()
            settled = SettleNotice(notice.number, notice.attempt, "delivered", now, "", now)
        await self._world.committer.submit(settled)

    def _failed(self, notice: TakenNotice, failed: NotDelivered) -> SettleNotice:
        now, message = self._world.clock.now_ms(), failed.why[:MESSAGE_CHARS_MAX]
        if failed.final or notice.attempt > len(AGAIN_SECONDS):
            log.warning("notice %s is dead: %s", notice.id, message)
            return SettleNotice(notice.number, notice.attempt, "dead", now, message, now)
        pause = AGAIN_SECONDS[notice.attempt - 1] * self._world.chance.uniform(0.9, 1.1)
        pause = max(pause, min(failed.retry_after, RETRY_AFTER_MAX))
        return SettleNotice(notice.number, notice.attempt, "due", now + int(pause * 1000), message, now)
