"""WHAT IS PERMITTED: accounts, grants and origins, retries, progress. Pure decisions, no I/O."""
