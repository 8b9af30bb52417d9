"""Passages: an attempt and the breaker that it passes: who does it, whether it is the probe, and how it went; and what
is recorded of one that isn't made.

What is decided is in `fallbacks` and `policy.breaker`; here it is brought to the effect, the journal and the store.
"""

from __future__ import annotations

from typing import NoReturn

from interlock.engine import fallbacks
from interlock.engine.attempts import AttemptError, Effect
from interlock.engine.desk import Desk
from interlock.engine.journal import Entry
from interlock.errors import EffectFailed
from interlock.history.events import CallPrevented

HUNG = 0.9
"""An attempt that its turn cuts off after this share of the time that it had, is taken for one that timed out."""


def choose(desk: Desk, effect: Effect, number: int) -> fallbacks.Chosen:
    """Turn the effect to who does its next attempt. Raises `EffectFailed` when nobody can, which is then recorded."""
    breakers, entry = desk.world.breakers, desk.journal.entries.get(number)
    chosen = fallbacks.choose(effect, entry, breakers.troubled, desk.run.now)
    if isinstance(chosen, fallbacks.Prevented):
        breakers.look(desk.world.store)  # a breaker may have been closed since we last heard of it
        chosen = fallbacks.choose(effect, entry, breakers.troubled, desk.run.now)
    if isinstance(chosen, fallbacks.Prevented):
        prevent(desk, effect, number, chosen.outcome, chosen.why, chosen.passed)
    if chosen.at != effect.at:
        effect.turn_to(desk.run, chosen.at)
        effect.probing = 0
    effect.passed = chosen.passed
    return chosen


def prevent(desk: Desk, effect: Effect, number: int, outcome: str, why: str, passed: fallbacks.Passed = ()) -> NoReturn:
    """Record that an effect isn't carried out, so that a turn that is entered again is told the same: accounts and
    breakers may stand otherwise by then."""
    entry, why = desk.journal.entries.get(number), why[:500]
    desk.add(
        CallPrevented(
            effect=number,
            digest=effect.digest,
            attempt=1 if entry is None else entry.intent.attempt + 1,
            outcome=outcome,
            passed=passed,
            why=why,
        )
    )
    raise EffectFailed(outcome, why)


async def ask_for_probe(desk: Desk, effect: Effect) -> None:
    """If it may be the probe of its breaker, its next attempt is. Raises `StoreError`."""
    world, name = desk.world, effect.candidates[effect.at]
    effect.probing = await world.breakers.ask_for_probe(world.committer, name, desk.run.now, f"run {desk.run.id}")


def tell(desk: Desk, entry: Entry, failed: AttemptError | None = None) -> None:
    """Tell the breaker that an attempt passed how it went."""
    breakers, committer, intent = desk.world.breakers, desk.world.committer, entry.intent
    assert not isinstance(intent, CallPrevented)  # an attempt has an intent
    if failed is None:
        breakers.answered(committer, intent, desk.run.now)
    else:
        breakers.failed(committer, intent, failed.kind, failed.message, desk.run.now)


def cut_off(desk: Desk, entry: Entry) -> None:
    """The end of its turn cut an attempt off that had been sent: nothing is recorded but that. A provider that hangs
    as long as a turn lasts would never be seen."""
    intent = entry.intent
    assert not isinstance(intent, CallPrevented)
    if desk.run.now - intent.at >= HUNG * intent.timeout_ms:
        tell(desk, entry, AttemptError("timeout", "no answer before its turn was over", True))
