"""Opening a store's file: whose it is, how old it is, making a new one whole or not at all. Knows no run.

A new store is built beside its place and renamed into it, so that a file at that path is either complete or not there.
Nothing here opens the file except through SQLite: closing any other handle on it would drop SQLite's own locks.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import apsw

from interlock.clock import Clock
from interlock.errors import ForeignStore, NewerStore, StoreError
from interlock.store.sqlite.epoch import sync_folder
from interlock.store.sqlite.faults import explain
from interlock.store.sqlite.mounts import NETWORK, file_system
from interlock.store.sqlite.queries import Migration, migrations, queries

Durability = Literal["power", "crash", "none"]
"""What an acknowledged commit survives: loss of power; a crash of the process only; nothing (for throw-away tests)."""

SYNCHRONOUS: Mapping[Durability, str] = {"power": "FULL", "crash": "NORMAL", "none": "OFF"}

APPLICATION_ID = int.from_bytes(b"iLCK", "big")

_BUSY_MS = 5000  # against tools that know nothing of our lock file, such as the sqlite3 shell
_CACHE_KIB = 16_384
_WAL_PAGES = 2000  # a checkpoint about every 16 MB: fewer pages written twice


def make_store(path: str, clock: Clock, page_size: int, vfs: str | None) -> None:
    """A new, empty store at `path`, where nothing is (or an empty file). The caller holds the writer lock."""
    if _has_log(path):  # SQLite would play it into whatever lies at `path`
        raise StoreError(
            f"{path}: is not there, but a part of it still lies in {path}-wal. Bring the store back beside it, or, if "
            "it isn't wanted, remove that file too"
        )
    place = Path(path)
    fresh = place.with_name(place.name + ".new")
    fresh.unlink(missing_ok=True)
    db = apsw.Connection(str(fresh), vfs=vfs)
    try:
        db.execute(f"PRAGMA page_size={page_size}")
        lay_schema(db, clock)
        db.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        db.close()
        fresh.unlink(missing_ok=True)
        raise
    db.close()
    os.replace(fresh, place)
    sync_folder(place.parent)


def lay_schema(db: apsw.Connection, clock: Clock) -> None:
    """Every migration that this file doesn't have yet, and the name of a file that has none."""
    named = _version(db) > 0
    there = _version(db)
    for migration in migrations():
        if migration.number > there:
            _apply(db, migration, clock)
    if not named:
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(queries()["name_store"], (secrets.token_hex(8), clock.now_ms()))


def _apply(db: apsw.Connection, migration: Migration, clock: Clock) -> None:
    with db:
        db.execute(migration.script)
        applied = (migration.number, migration.name, migration.checksum, clock.now_ms())
        db.execute(queries()["note_migration"], applied)
        db.execute(f"PRAGMA user_version={migration.number}")


def is_absent(path: str) -> bool:
    """Nothing is there, or an empty file that no program has written yet."""
    try:
        return os.stat(path).st_size == 0
    except FileNotFoundError:
        return True
    except OSError as wrong:
        raise explain(path, wrong) from wrong


def check_place(path: str, create: bool) -> None:
    """Refuse, touching nothing, what can't be a store: a folder, a missing folder, a network file system."""
    place = Path(path)
    if place.is_dir():
        raise StoreError(f"{path}: is a folder, not a store")
    if not place.parent.is_dir():
        raise StoreError(f"{path}: the folder {place.parent} doesn't exist")
    if not create and is_absent(path):
        raise StoreError(f"{path}: no store is there: `interlock run` or `start` makes one; --store names another")
    kind = file_system(place.parent)
    if kind in NETWORK:
        raise StoreError(f"{path}: lies on a network file system ({kind}), where SQLite loses data. Use a local disk")


def check_owner(path: str, vfs: str | None) -> None:
    """Refuse, touching nothing, a file that isn't ours or that a newer interlock wrote.

    From the first 100 bytes alone: the rest may be half a checkpoint, which opening it with its log mends.
    """
    header = _header(path, vfs)
    if not header.startswith(b"SQLite format 3\0"):
        raise ForeignStore(f"{path}: is not a store of interlock, nor any SQLite database; left as it is")
    version, owner = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
    if owner != APPLICATION_ID:
        raise ForeignStore(f"{path}: is a database that interlock didn't make; left as it is")
    check_version(path, version)


def _header(path: str, vfs: str | None) -> bytes:
    file = apsw.VFSFile(vfs or "", os.path.abspath(path), [apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB, 0])
    try:
        return file.xRead(min(100, file.xFileSize()), 0)
    finally:
        file.xClose()


def check_version(path: str, version: int) -> None:
    newest = migrations()[-1].number
    if version > newest:
        raise NewerStore(
            f"{path}: has schema {version}; this interlock knows up to {newest}. Upgrade interlock; nothing was changed"
        )


def check_migrations(path: str, db: apsw.Connection) -> None:
    """The schema that was applied is the schema that this code has."""
    check_version(path, _version(db))
    known = {migration.number: migration for migration in migrations()}
    for number, checksum in db.execute(queries()["migrations"]):
        if known[number].checksum != checksum:
            raise StoreError(f"{path}: was made with another {known[number].name} than this interlock has")


def check_is_current(path: str, db: apsw.Connection) -> None:
    """Who only reads can't bring an older file up to date, nor read what it doesn't have."""
    there, newest = _version(db), migrations()[-1].number
    if there < newest:
        raise StoreError(
            f"{path}: has schema {there}, this interlock reads {newest}. Whatever opens it to write brings it up to "
            "date, such as `interlock work`"
        )


def connect_writer(path: str, durability: Durability, vfs: str | None) -> apsw.Connection:
    """The one connection that writes. The caller holds the writer lock."""
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    db.set_busy_timeout(_BUSY_MS)
    tune(db, durability)
    db.execute("PRAGMA journal_mode=WAL")
    return db


def tune(db: apsw.Connection, durability: Durability) -> None:
    db.execute(
        f"PRAGMA synchronous={SYNCHRONOUS[durability]}; PRAGMA cache_size=-{_CACHE_KIB}; PRAGMA temp_store=MEMORY;"
        f"PRAGMA wal_autocheckpoint={_WAL_PAGES}; PRAGMA journal_size_limit=67108864; PRAGMA trusted_schema=OFF"
    )


def connect_reader(path: str, vfs: str | None = None) -> apsw.Connection:
    """A connection that can't write; SQLite may leave its two empty side files, which the next writer removes.

    In a read-only folder it reads the file as it stands, which is whole when no write-ahead log lies beside it.
    """
    try:
        return _reader(path, _READ, vfs)
    except (apsw.CantOpenError, apsw.ReadOnlyError) as wrong:
        if _has_log(path):
            raise StoreError(
                f"{path}: its folder is read-only and part of the store still lies in {path}-wal. "
                "Copy both to a folder that may be written, and read them there"
            ) from wrong
        return _reader(_uri(path, "immutable=1"), _READ | apsw.SQLITE_OPEN_URI, vfs)


_READ = apsw.SQLITE_OPEN_READONLY


def _reader(path: str, flags: int, vfs: str | None) -> apsw.Connection:
    db = apsw.Connection(path, flags=flags, vfs=vfs)
    try:
        db.set_busy_timeout(_BUSY_MS)
        db.execute(f"PRAGMA query_only=ON; PRAGMA cache_size=-{_CACHE_KIB}; PRAGMA trusted_schema=OFF")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except BaseException:
        db.close()
        raise
    return db


def _has_log(path: str) -> bool:
    try:
        return os.stat(path + "-wal").st_size > 0
    except OSError:
        return False


def _version(db: apsw.Connection) -> int:
    return int(db.pragma("user_version"))


def _uri(path: str, option: str) -> str:
    return f"file:{quote(os.path.abspath(path))}?{option}"
