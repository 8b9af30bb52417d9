"""WHAT HAS HAPPENED: typed events, their hash chain, and a run as the fold of its events. Pure data."""
