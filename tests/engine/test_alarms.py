"""Alarms: they ring when their time comes, not before, never once cleared; and `within` is `asyncio.timeout`."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from interlock.clock import run_virtually
from interlock.engine.alarms import Alarms


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("seed", range(20))
def test_each_rings_at_its_time_unless_cleared(seed: int) -> None:
    """Whatever the order in which they are set and cleared. The seed is in the test's name."""
    chance = Random(seed)

    async def main() -> None:
        alarms, rung, expected = Alarms(), [], []
        for number in range(30):
            await asyncio.sleep(chance.choice([0, 0, 1, 3]))
            seconds = chance.choice([0.0, 1.0, 2.5, 7.0, 60.0])
            at = now() + seconds
            alarm = alarms.set(seconds, lambda number=number: rung.append((number, now())))  # type: ignore[misc]
            if seconds > 0 and chance.random() < 0.5:
                alarms.clear(alarm)
            else:
                expected.append((number, at))
        await asyncio.sleep(100)
        assert sorted(rung) == sorted(expected)

    run_virtually(main())


def test_a_deadline_that_was_cleared_leaves_no_timer_behind_a_closed_run() -> None:
    async def main() -> None:
        alarms, began = Alarms(), now()
        alarms.clear(alarms.set(3600, lambda: None))
        alarms.close()
        await asyncio.sleep(1)
        assert now() - began == 1

    run_virtually(main())


def test_a_block_that_takes_too_long_is_timed_out() -> None:
    async def main() -> None:
        alarms, began = Alarms(), now()
        with pytest.raises(TimeoutError), alarms.within(5):
            await asyncio.sleep(100)
        assert now() - began == 5
        with alarms.within(5):
            await asyncio.sleep(4)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    run_virtually(main())


def test_a_block_that_is_cancelled_by_somebody_else_is_cancelled() -> None:
    """Also when its time is up in the same moment."""

    async def block(alarms: Alarms) -> None:
        with alarms.within(5):
            await asyncio.sleep(100)

    async def main() -> None:
        for moment in (1, 5):
            task = asyncio.create_task(block(Alarms()))
            await asyncio.sleep(moment)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, TimeoutError)) as raised:
                await task
            assert raised.type is asyncio.CancelledError or moment == 5

    run_virtually(main())


def test_what_is_left_behind_is_timed_out_after_its_run_is_closed() -> None:
    async def main() -> None:
        alarms = Alarms()

        async def left() -> None:
            with alarms.within(5):
                await asyncio.sleep(100)

        task = asyncio.create_task(left())
        await asyncio.sleep(1)
        alarms.close()
        with pytest.raises(TimeoutError):
            await task

    run_virtually(main())
