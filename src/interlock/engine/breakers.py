"""Breakers as one worker knows them, and what its calls tell them.

A cache, so that a call that nothing stands against costs one look at an empty table. It is never what decides: the
commit of a call's intent carries its breaker's name, and the store refuses it when that is shut. What is known here
comes from answers to our own reports, from heartbeats, and from the store when a commit was refused or a run is about
to be told that nothing is available.
"""

from __future__ import annotations

from collections.abc import Iterable

from interlock.engine.committer import Committer
from interlock.history.events import ModelCalled, ToolCalled
from interlock.policy.breaker import COUNTED, UNTOLD, Breaker, Terms, model_breaker, tool_breaker
from interlock.store.protocol import Answer, Failed, Guard, Probe, Report, Standing, Store

GRANT_MS = 10_000
"""How long who was given a probe may take to commit its intent."""


class Breakers:
    """One per world: shared by all runs of its worker."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.terms = terms or Terms()
        self.troubled: dict[str, Breaker] = {}  # by name; those not here are at rest, as far as we know
        self._answered: dict[str, int] = {}  # calls since the last report

    def learn(self, rows: Iterable[Breaker]) -> None:
        """These, and no others, are not at rest."""
        self.troubled = {row.name: row for row in rows}

    def look(self, store: Store) -> None:
        """Learn from the store how all of them stand now."""
        self.learn(store.breakers())

    # -- what calls tell ---------------------------------------------------------------------------------------------

    def answered(self, committer: Committer, intent: ModelCalled | ToolCalled, now: int) -> None:
        """The call of this intent was answered. Told only where something is held against its breaker."""
        name = breaker_of(intent)
        self._answered[name] = self._answered.get(name, 0) + 1
        if intent.probe or name in self.troubled:
            self._report(committer, name, "answered", intent, now)

    def failed(self, committer: Committer, intent: ModelCalled | ToolCalled, kind: str, why: str, now: int) -> None:
        """The call of this intent failed."""
        name = breaker_of(intent)
        if kind in COUNTED:
            self.troubled.setdefault(name, Breaker(name, failures=(intent.at,)))  # until the store has answered
            self._report(committer, name, "failed", intent, now, why)
        elif intent.probe:
            # Not sent: others may ask at once. Sent and not waited for: it may yet be answered; its lease runs out.
            if kind not in UNTOLD or kind == "unsent":
                self._report(committer, name, "unsent" if kind == "unsent" else "answered", intent, now)
        elif kind not in UNTOLD:
            self.answered(committer, intent, now)

    def _report(
        self, committer: Committer, name: str, said: str, intent: ModelCalled | ToolCalled, now: int, why: str = ""
    ) -> None:
        calls = self._answered.pop(name, 0)
        report = Report(name, said, now, intent.at, self.terms, calls, intent.probe, why[:200])
        committer.tell(report, self._stands)

    def _stands(self, answer: Answer) -> None:
        if not isinstance(answer, Standing):
            return  # the store failed: it is told of the next one
        breaker = answer.breaker
        if breaker.at_rest:
            self.troubled.pop(breaker.name, None)
        else:
            self.troubled[breaker.name] = breaker

    async def ask_for_probe(self, committer: Committer, name: str, now: int, by: str) -> int:
        """The number of the probe that we may be now; 0: somebody else is, or there is no need any more. Raises
        `StoreError`."""
        answer = await committer.submit(Probe(name, now, now + GRANT_MS, by))
        if isinstance(answer, Failed):
            raise answer.error
        self._stands(answer)
        return answer.granted if isinstance(answer, Standing) else 0


def breaker_of(intent: ModelCalled | ToolCalled) -> str:
    return model_breaker(intent.model) if isinstance(intent, ModelCalled) else tool_breaker(intent.tool)


def guard_of(intent: ModelCalled | ToolCalled, grace: float) -> Guard:
    """What an intent's commit is compared with. A probe that hasn't ended by its timeout and then some is lost."""
    name = breaker_of(intent)
    if not intent.probe:
        return Guard(name)
    return Guard(name, intent.probe, intent.send_before + intent.timeout_ms + int(grace * 1000))
