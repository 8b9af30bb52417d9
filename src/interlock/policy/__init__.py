"""WHAT IS PERMITTED: accounts, grants and origins, retries, what may be told. Pure decisions, no I/O."""
