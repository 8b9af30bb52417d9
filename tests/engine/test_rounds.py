"""Rounds: what waits for a round of the loop, or for a linger, is called once, in order, whatever else is called."""

from __future__ import annotations

import asyncio
from functools import partial

from interlock.clock import run_virtually
from interlock.engine.rounds import STEPS, Rounds


def test_what_waits_for_the_next_round_is_called_together_and_not_before() -> None:
    said: list[str] = []

    async def main() -> None:
        rounds, loop = Rounds(), asyncio.get_running_loop()
        rounds.next(partial(said.append, "first"))
        loop.call_soon(said.append, "ready")
        rounds.next(partial(said.append, "second"))
        assert said == []
        await asyncio.sleep(0)
        rounds.next(partial(said.append, "later"))
        await asyncio.sleep(1)

    run_virtually(main())
    assert said == ["first", "second", "ready", "later"]


def test_a_linger_is_as_long_as_was_said_and_as_many_rounds() -> None:
    """Also for what is put off while another linger is under way."""

    async def main() -> None:
        rounds, loop = Rounds(), asyncio.get_running_loop()
        called: list[float] = []
        began = loop.time()
        rounds.put_off(8.0, lambda: called.append(loop.time()))
        await asyncio.sleep(3.5)
        rounds.put_off(8.0, lambda: called.append(loop.time()))
        await asyncio.sleep(20)
        assert called[0] - began == 8.0
        assert 8.0 - 8.0 / STEPS <= called[1] - began - 3.5 <= 8.0 + 8.0 / STEPS

    run_virtually(main())


def test_a_linger_that_is_over_leaves_no_timer_behind() -> None:
    async def main() -> None:
        rounds, loop = Rounds(), asyncio.get_running_loop()
        rounds.put_off(8.0, lambda: None)
        await asyncio.sleep(10)
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]

    run_virtually(main())


def test_one_call_that_fails_is_told_to_the_loop_and_costs_the_others_nothing() -> None:
    said: list[str] = []

    def fails() -> None:
        raise RuntimeError("a bug")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(str(context["exception"])))
        rounds = Rounds()
        for call in (fails, partial(said.append, "the other")):
            rounds.next(call)
            rounds.put_off(1.0, call)
        await asyncio.sleep(5)

    run_virtually(main())
    assert said == ["a bug", "the other"] * 2
