"""Replaying: every run that a stage has produced is performed again on its record after the test, and must be exact.

A test whose point is a divergence, a damaged log or code that isn't the same each time says so:
`@pytest.mark.replay_differs("why")`. Knows the machines that were started or worked on the stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interlock.engine.replay import replay
from interlock.engine.world import World
from interlock.machine.table import AnyMachine
from interlock.store.protocol import RunFilter, Store


class Exempt:
    """Why the test that runs now is exempt; empty: it isn't."""

    why = ""


def assert_replays(store: Store, world: World, machines: Iterable[Any]) -> None:
    """Replay every run of the store whose machine is among these."""
    if Exempt.why:
        return
    known: dict[tuple[str, str], AnyMachine] = {(each.name, each.shape): each for each in machines}
    for row in store.runs(RunFilter(limit=10_000)):
        machine = known.get((row.machine, row.shape))
        assert machine is not None, f"run {row.id} of {row.machine}: the stage doesn't know this machine"
        replayed = replay(world, machine, row)
        assert replayed.ok, f"replay of run {row.id} ({row.status}): {replayed.divergence}"
