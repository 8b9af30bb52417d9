"""What SQLite or the operating system says, as one clear sentence. Knows no table."""

from __future__ import annotations

import errno

import apsw

from interlock.errors import StoreError

_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (apsw.FullError, "{path}: the disk is full; nothing was written. Free some space and try again"),
    (apsw.ReadOnlyError, "{path}: the file or its folder is read-only; nothing was written"),
    (apsw.PermissionsError, "{path}: not permitted to read or write this file"),
    (apsw.AuthError, "{path}: not permitted to read or write this file"),
    (apsw.BusyError, "{path}: locked out by another program that holds the file; nothing was written"),
    (apsw.LockedError, "{path}: locked out by another program that holds the file; nothing was written"),
    (apsw.CorruptError, "{path}: the file is damaged ({what}). Restore a backup, or see `interlock verify`"),
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

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def explain(path: str, wrong: Exception) -> StoreError:
    """`wrong` as a StoreError (itself, if it is one), the cause kept."""
    if isinstance(wrong, StoreError):
        return wrong
    sentence = next((said for kind, said in _SENTENCES if isinstance(wrong, kind)), "{path}: the write failed: {what}")
    if isinstance(wrong, OSError) and wrong.errno in _READ_ONLY:
        sentence = "{path}: the file or its folder is read-only; nothing was written"
    said = wrong.strerror if isinstance(wrong, OSError) and wrong.strerror else str(wrong)
    error = StoreError(sentence.format(path=path, what=said or type(wrong).__name__))
    error.__cause__ = wrong
    return error
