"""Parked: how the log and the rows say that a restored store put its open runs down."""

RESTORED = "store restored"
"""How the reason begins when a restored store parked a run."""
