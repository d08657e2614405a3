"""An append-only file of finished molecules, from which a killed run resumes with complete entries only.

Each entry is a length, a checksum and a safetensors block. An incomplete last entry, from a process that was killed
while writing, is removed when the journal is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pyscf_mlham.data.schema import Level, Record, matrix_from_triangle, triangle_from_matrix
from pyscf_mlham.errors import DataError

HEADER = struct.Struct("<8sQI")  # magic, length, CRC-32 of the payload
MAGIC = b"mlhamjr1"
LEVEL_KEY = "level"


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Describe how stored settings differ from requested ones.

    Args:
        stored: settings of a file.
        requested: settings of this run.
    """
    return ", ".join(
        f"{key} {stored.get(key)!r} instead of {value!r}"
        for key, value in requested.items()
        if stored.get(key) != value
    )


class Entry(NamedTuple):
    """The result of one molecule.

    Attributes:
        key: identity of geometry, charge and spin.
        name: name of the geometry.
        record: the labelled molecule, None if it failed.
        reason: why it failed, "" if it did not.
    """

    key: str
    name: str
    record: Record | None
    reason: str = ""


class Journal:
    """The journal of one file of labelled molecules, open for one process.

    Args:
        path: path of the journal, created if missing.
        level: level of theory; an existing journal must have the same.

    Attributes:
        offsets: position of the newest entry of each key.
        failures: name and reason of each key whose newest entry is a failure.
    """

    def __init__(self, path: Path, level: Level) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise DataError(f"{path}: another process is writing to it; wait for it, or stop it.") from error
        self.offsets: dict[str, int] = {}
        self.failures: dict[str, tuple[str, str]] = {}
        self._end = 0
        try:
            self._open(Entry(LEVEL_KEY, json.dumps(asdict(level), sort_keys=True), None))
        except BaseException:
            self.close()
            raise

    def _open(self, level: Entry) -> None:
        """Read existing entries; the first one holds the level of theory."""
        for offset, payload in self._scan():
            entry = _entry_from_payload(payload)
            if offset == 0 and entry != level:
                raise DataError(
                    f"{self.path} is of another level of theory: {_level_differences(entry, level)}; finish that "
                    "run, or remove the journal."
                )
            self._note(entry, offset)
        os.ftruncate(self._descriptor, self._end)
        if self._end == 0:
            self.append(level)

    def _note(self, entry: Entry, offset: int) -> None:
        if entry.key == LEVEL_KEY:
            return
        if entry.record is None:
            self.failures[entry.key] = (entry.name, entry.reason)
        else:
            self.offsets[entry.key] = offset
            self.failures.pop(entry.key, None)

    def _scan(self) -> Iterator[tuple[int, bytes]]:
        """Return valid entries from the beginning; `_end` follows the last one."""
        while True:
            header = os.pread(self._descriptor, HEADER.size, self._end)
            if len(header) < HEADER.size:
                return
            magic, length, checksum = HEADER.unpack(header)
            payload = os.pread(self._descriptor, length, self._end + HEADER.size) if magic == MAGIC else b""
            if magic != MAGIC or len(payload) < length or zlib.crc32(payload) != checksum:
                return
            offset = self._end
            self._end += HEADER.size + length
            yield offset, payload

    def append(self, entry: Entry) -> None:
        """Add an entry and flush it to the disk.

        Args:
            entry: result of one molecule.
        """
        payload = _payload_from_entry(entry)
        data = memoryview(HEADER.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload)
        place = self._end
        try:
            while data:
                written = os.pwrite(self._descriptor, data, place)
                data, place = data[written:], place + written
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror}); everything computed before is safe in it. "
                "Free disk space and run the same command again."
            ) from error
        self._note(entry, self._end)
        self._end = place

    def record(self, key: str) -> Record:
        """Read the labelled molecule of a key.

        Args:
            key: one of `offsets`.
        """
        offset = self.offsets[key]
        _, length, _ = HEADER.unpack(os.pread(self._descriptor, HEADER.size, offset))
        record = _entry_from_payload(os.pread(self._descriptor, length, offset + HEADER.size)).record
        if record is None:
            raise DataError(f"{self.path}: entry {key} is a failure.")
        return record

    def remove(self) -> None:
        """Delete the file, after its entries are merged."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and release its lock."""
        os.close(self._descriptor)


def _level_differences(stored: Entry, requested: Entry) -> str:
    if stored.key != LEVEL_KEY:
        return "its level of theory is missing"
    return differences(json.loads(stored.name), json.loads(requested.name))


def _payload_from_entry(entry: Entry) -> bytes:
    about = {"key": entry.key, "name": entry.name, "reason": entry.reason}
    arrays: dict[str, np.ndarray] = {}
    if (record := entry.record) is not None:
        texts = {k: getattr(record, k) for k in ("name", "group", "source", "split")}
        values = {k: getattr(record, k) for k in ("charge", "spin", "energy", "gap")}
        about["record"] = json.dumps(texts | values)
        arrays = {"numbers": np.ascontiguousarray(record.numbers), "positions": np.ascontiguousarray(record.positions)}
        arrays |= {f"matrix.{k}": triangle_from_matrix(m) for k, m in record.matrices.items()}
    return save(arrays or {"none": np.zeros(1)}, metadata=about)


def _entry_from_payload(payload: bytes) -> Entry:
    try:
        arrays = load(payload)
        (size,) = struct.unpack_from("<Q", payload)  # safetensors begins with the length of its JSON header
        about = json.loads(payload[8 : 8 + size])["__metadata__"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"the journal holds an invalid entry ({error}); remove the journal and run again.") from error
    if "record" not in about:
        return Entry(about["key"], about["name"], None, about["reason"])
    matrices = {k.removeprefix("matrix."): v for k, v in arrays.items() if k.startswith("matrix.")}
    size = round((np.sqrt(8 * len(matrices["fock"]) + 1) - 1) / 2)
    full = {k: matrix_from_triangle(v, size) for k, v in matrices.items()}
    record = Record(
        **json.loads(about["record"]),
        numbers=arrays["numbers"],
        positions=arrays["positions"],
        fock=full.pop("fock"),
        extra=full,
    )
    return Entry(about["key"], about["name"], record)
