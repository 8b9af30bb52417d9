"""The SQLite store. `SqliteStore(path, clock=...)`, or `open_sqlite("sqlite:///runs.db", clock=...)` from a URL."""

from interlock.store.sqlite.epoch import RESTORED
from interlock.store.sqlite.opening import Durability
from interlock.store.sqlite.store import SqliteStore, open_sqlite

__all__ = ["RESTORED", "Durability", "SqliteStore", "open_sqlite"]
