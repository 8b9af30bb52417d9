"""Benchmarks: what a turn costs, beside its bounds, the bare floor and what others cost. `python -m bench`."""
