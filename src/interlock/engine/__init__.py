"""WHAT MAKES IT HAPPEN: the orchestrator, turns, effects, recovery: the only code that changes a run."""
