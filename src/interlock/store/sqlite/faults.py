"""What SQLite or the operating system says, as one clear sentence. Knows no table."""

from __future__ import annotations

import errno
import os

import apsw

from interlock.errors import DamagedStore, StoreError

_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (apsw.FullError, "{path}: the disk is full; nothing was written. Free some space and try again"),
    (apsw.ReadOnlyError, "{path}: the file or its folder is read-only; nothing was written"),
    (apsw.PermissionsError, "{path}: not permitted to read or write this file"),
    (apsw.AuthError, "{path}: not permitted to read or write this file"),
    (apsw.BusyError, "{path}: locked out by another program that holds the file; nothing was written"),
    (apsw.LockedError, "{path}: locked out by another program that holds the file; nothing was written"),
    (apsw.CorruptError, "{path}: the file is damaged ({what}). Restore a backup"),
    (apsw.NotADBError, "{path}: the file is damaged: it is no longer an SQLite database. Restore a backup"),
    (apsw.CantOpenError, "{path}: the file can't be opened ({what})"),
    (apsw.IOError, "{path}: the disk failed ({what}); nothing was written"),
    (apsw.ConstraintError, "{path}: the write breaks a rule of the store: {what}"),
    (apsw.TooBigError, "{path}: a value is too large to be stored: {what}"),
    (apsw.NoMemError, "{path}: out of memory; nothing was written"),
    (apsw.ConnectionClosedError, "{path}: the store is closed"),
    (OSError, "{path}: {what}"),
    (OverflowError, "{path}: a number is too large to be stored (64 bits): {what}"),
    (UnicodeError, "{path}: a text can't be stored as UTF-8: {what}"),
)

_DAMAGE = (apsw.CorruptError, apsw.NotADBError)
_DENIED = "{path}: permission denied: you may not open this file, or look into or write to its folder"
_READ_ONLY = "{path}: lies on a file system that is read-only; nothing was written"
_BY_NUMBER = {errno.EACCES: _DENIED, errno.EPERM: _DENIED, errno.EROFS: _READ_ONLY}


def explain(path: str, wrong: Exception) -> StoreError:
    """`wrong` as a StoreError (itself, if it is one), the cause kept."""
    if isinstance(wrong, StoreError):
        return wrong
    said = wrong.strerror if isinstance(wrong, OSError) and wrong.strerror else str(wrong)
    kind = DamagedStore if isinstance(wrong, _DAMAGE) else StoreError
    error = kind(_sentence(path, wrong).format(path=path, what=said or type(wrong).__name__))
    error.__cause__ = wrong
    return error


def _sentence(path: str, wrong: Exception) -> str:
    # SQLite says "can't open" of a file that is another user's, and nothing of why.
    if isinstance(wrong, apsw.CantOpenError) and os.path.exists(path) and not _may_read(path):
        return _DENIED
    if isinstance(wrong, OSError) and wrong.errno in _BY_NUMBER:
        return _BY_NUMBER[wrong.errno]
    return next((said for kind, said in _SENTENCES if isinstance(wrong, kind)), "{path}: the write failed: {what}")


def _may_read(path: str) -> bool:
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
