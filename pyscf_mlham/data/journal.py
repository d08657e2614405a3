"""Finished molecules on disk, from which a killed run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pyscf_mlham.data.schema import SCALARS, TEXTS, Level, Periodic, Record, flat_from_matrix, matrix_from_flat
from pyscf_mlham.errors import DataError
from pyscf_mlham.store import Store


class Entry(NamedTuple):
    """The result of one molecule."""

    key: str  # identity of geometry, charge and spin
    name: str
    record: Record | None  # the labelled molecule, None if it failed
    reason: str = ""  # why it failed


class Journal(Store):
    """The journal of one file of labelled molecules, created if missing; its level of theory must be the same."""

    def __init__(self, path: Path, level: Level) -> None:
        super().__init__(path, level.described(), "level of theory")
        self._values = self.read()

    @property
    def labelled(self) -> set[str]:
        """Keys of the labelled molecules."""
        return {key for key, values in self._values.items() if "reason" not in values}

    @property
    def failures(self) -> dict[str, tuple[str, str]]:
        """Name of each molecule that failed, and why."""
        return {key: (v["name"], v["reason"]) for key, v in self._values.items() if "reason" in v}

    def append(self, entry: Entry) -> None:
        """Add an entry and flush it to the disk."""
        values: dict[str, Any] = {"name": entry.name, "reason": entry.reason}
        data = b""
        if (record := entry.record) is not None:
            values = {key: getattr(record, key) for key in (*TEXTS, *SCALARS, "charge", "spin")}
            arrays = {key: np.ascontiguousarray(getattr(record, key)) for key in ("numbers", "positions")}
            if record.periodic:
                arrays |= {key: np.array(value) for key, value in record.periodic._asdict().items()}
            data = save(arrays | {key: flat_from_matrix(matrix) for key, matrix in record.matrices.items()})
        self.put(entry.key, values, data)
        self._values[entry.key] = values

    def record(self, key: str) -> Record:
        """Read a labelled molecule; key: one of `labelled`."""
        try:
            arrays = load(self.data(key))
            values = self._values[key] | {name: arrays.pop(name) for name in ("numbers", "positions")}
            periodic, size = None, int(np.sqrt(2 * len(arrays["fock"])))  # n of n (n+1) / 2 elements
            if "lattice" in arrays:
                lattice, dimension, mesh = (arrays.pop(name) for name in Periodic._fields)
                periodic, size = (
                    Periodic(lattice, int(dimension), mesh),
                    int(np.sqrt(len(arrays["fock"]) / mesh.prod())),
                )
            matrices = {name: matrix_from_flat(flat, size, periodic) for name, flat in arrays.items()}
            return Record(**values, fock=matrices.pop("fock"), extra=matrices, periodic=periodic)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: an entry is damaged ({error}); remove the file, and run again.") from error
