"""Timing: the durations the engine goes by, in seconds, with the reason for each. Tests pass shorter ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """linger        how long a repeatable result may wait for company in its commit
    send_window   how long after its intent an attempt may still be sent; later it is not sent at all
    grace         added to send_window and timeout before a doubt may be cleared: clocks and networks are not exact
    park_after    a back-off or sleep longer than this parks the run and frees the worker
    lease         how long a worker's heartbeat must stand still before others may take its runs
    poll          how often a worker looks for runs it wasn't told about
    cancel_grace  how long a cancelled handler may take to end before it is left behind
    takeovers     take-overs within one turn after which the run is parked for a person; as many times may workers give
                  it back because what it would write is refused
    resubmit      before a commit that failed is submitted again; each time twice as long
    notice_lease  how long a notice that is being sent is one worker's: longer than an attempt may take
    """

    linger: float = 0.003
    send_window: float = 5.0
    grace: float = 2.0
    park_after: float = 10.0
    lease: float = 15.0
    poll: float = 0.5
    cancel_grace: float = 0.1
    takeovers: int = 3
    resubmit: float = 0.1
    notice_lease: float = 60.0

    @property
    def beat(self) -> float:
        """Between two heartbeats: several must be lost before a lease is."""
        return self.lease / 5
