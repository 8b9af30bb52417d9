"""Replaying: every run that a stage has produced is performed again on its record after the test, and must be exact.

A test whose point is a divergence, a damaged log or code that isn't the same each time says so:
`@pytest.mark.replay_differs("why")`. Knows the machines that were started or worked on the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from interlock.engine.replay import replay
from interlock.engine.world import World
from interlock.machine.table import AnyMachine
from interlock.store.protocol import RunFilter, Store

AT_ONCE = 16


class Replays:
    """What is replayed when the test that runs now is over, its own counts and asserts done with. Nothing, when the
    test is `exempt` and says why."""

    def __init__(self) -> None:
        self.exempt = ""
        self._due: list[tuple[Store, World, list[Any], Callable[[], None]]] = []

    def add(self, store: Store, world: World, machines: Iterable[Any], done: Callable[[], None]) -> None:
        """Replay a store's runs later, then call `done`."""
        self._due.append((store, world, list(machines), done))
        if len(self._due) > AT_ONCE:  # a test that plays hundreds of scenes
            self._next()

    def all(self) -> None:
        try:
            while self._due:
                self._next()
        finally:
            while self._due:
                self._due.pop()[-1]()

    def _next(self) -> None:
        store, world, machines, done = self._due.pop(0)
        try:
            if not self.exempt:
                assert_replays(store, world, machines)
        finally:
            done()


REPLAYS = Replays()


def assert_replays(store: Store, world: World, machines: Iterable[Any]) -> None:
    """Replay every run of the store, by the code that performed its last turn if the stage has it."""
    known: dict[tuple[str, ...], AnyMachine] = {}
    for each in machines:
        known[each.name, each.shape] = known[each.name, each.shape, each.content] = each
    for row in store.runs(RunFilter(limit=10_000)):
        key = (row.machine, row.shape)
        machine = known.get((*key, row.content)) or known.get(key)
        assert machine is not None, f"run {row.id} of {row.machine}: the stage doesn't know this machine"
        replayed = replay(world, machine, row)
        assert replayed.ok, f"replay of run {row.id} ({row.status}): {replayed.divergence}"
