"""Entries in one SQLite file, for one process at a time; a killed process loses at most the entry it was writing.

SQLite undoes an incomplete entry when the file is opened again, with the help of the file `NAME-journal` beside it. On
a network file system the lock and the order of writes are only as good as those of the file system.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyscf_mlham.errors import DataError

PATIENCE = 1.0  # seconds to wait for a process that is about to end
HEADER = ""  # key of the description of the run
SETUP = (
    "PRAGMA locking_mode = EXCLUSIVE",  # until the file is closed
    "PRAGMA trusted_schema = OFF",  # for files of others
    "PRAGMA synchronous = EXTRA",  # each entry is on the disk when it is written
    "BEGIN EXCLUSIVE",
    "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, about TEXT NOT NULL, data BLOB NOT NULL)",
    "COMMIT",
)


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Describe how stored settings differ from requested ones."""
    return ", ".join(
        f"{key} {stored.get(key)!r} instead of {value!r}"
        for key, value in requested.items()
        if stored.get(key) != value
    )


class Store:
    """Entries of one run, in the order of writing.

    Args:
        path: path of the file, created if missing.
        run: description of the run; an existing file must have the same.
        noun: what the description is, in messages.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], noun: str) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{path.parent}: it cannot be created: {error.strerror}"
            raise DataError(f"{reason}; name another folder with permission to write.") from error
        with self._errors():
            self._file = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            try:
                for command in SETUP:
                    self._file.execute(command)
                if not path.exists():
                    raise sqlite3.OperationalError("locked, and removed meanwhile")
                self._check(json.loads(json.dumps(run)), noun)
            except BaseException:
                self.close()
                raise

    def _check(self, run: dict[str, Any], noun: str) -> None:
        found = self._file.execute("SELECT about FROM entries WHERE key = ?", (HEADER,)).fetchone()
        if found is None:
            self.put(HEADER, run)
        elif other := differences(json.loads(found[0]), run):
            raise DataError(f"{self.path} is of another {noun}: {other}; finish that run, or remove the file.")

    def put(self, key: str, about: Mapping[str, Any], data: bytes = b"") -> None:
        """Write an entry to the disk, in place of an earlier one of the same key; `read` returns what is in `about`."""
        with self._errors():
            self._file.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, json.dumps(about), data))

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the values of JSON of each entry by its key."""
        with self._errors():
            rows = self._file.execute("SELECT key, about FROM entries WHERE key != ? ORDER BY rowid", (HEADER,))
            return {key: json.loads(about) for key, about in rows}

    def data(self, key: str) -> bytes:
        """Return the data of an entry."""
        with self._errors():
            return bytes(memoryview(self._file.execute("SELECT data FROM entries WHERE key = ?", (key,)).fetchone()[0]))

    def remove(self) -> None:
        """Delete the file and close it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DataError(f"{self.path}: another process is writing to it; wait for it, or stop it.") from error
            full = any(word in str(error) for word in ("full", "I/O"))
            advice = "Free disk space" if full else "Check the permissions of its folder"
            text = f"cannot be written ({error}); everything computed before is safe in it"
            raise DataError(f"{self.path}: {text}. {advice} and run the same command again.") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise DataError(f"{self.path}: damaged, or of another version ({error}); remove it.") from error
