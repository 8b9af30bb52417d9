"""A worker process that delivers notices: `python -m tests.notices.child STORE URL [POINT]`.

It starts one run of a machine that waits for a person and works until it is killed; at POINT it kills itself, with
SIGKILL: before or after the commit that carries the notice, before or after the request, or after its settlement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from interlock import Client, Worker
from interlock.agent.scripted import ScriptedModel
from interlock.bootstrap import open_store
from interlock.engine.timing import Timing
from interlock.store.protocol import Answer, Commit, SettleNotice, Store, Write
from interlock.webhook import Webhook
from tests.laws.machines import Case
from tests.laws.test_notices import desk
from tests.notices.receiver import SECRET

TIMING = Timing(linger=0.001, lease=1.0, poll=0.05, notice_lease=2.0)
POINTS = ("before-commit", "after-commit", "before-request", "after-request", "after-settlement")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MortalStore:
    """A store at whose writes the process may die."""

    def __init__(self, store: Store, point: str) -> None:
        self._store = store
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Sequence[Write]) -> list[Answer]:
        carries = any(isinstance(write, Commit) and write.notices for write in batch)
        settles = any(isinstance(write, SettleNotice) for write in batch)
        if carries and self._point == "before-commit":
            die()
        answers = self._store.write(batch)
        if (carries and self._point == "after-commit") or (settles and self._point == "after-settlement"):
            die()
        return answers


class MortalWebhook(Webhook):
    """A webhook at whose requests the process may die."""

    point = ""

    async def send(self, id: str, body: bytes, at: int) -> None:
        if self.point == "before-request":
            die()
        await super().send(id, body, at)
        if self.point == "after-request":
            die()


async def main(url: str, receiver: str, point: str) -> None:
    webhook = MortalWebhook(receiver, secret=SECRET, timeout=1.0)
    webhook.point = point
    machine = desk(within=1e6)
    opened: Any = MortalStore(open_store(url), point)
    async with Client(opened, models=ScriptedModel([]), timing=TIMING, notify=webhook) as client:
        await client.start(machine, Case(), key="one", by="test")
        async with Worker(client, [machine]):
            print("ready", flush=True)
            await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
