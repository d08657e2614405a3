"""Writing of files of labelled molecules or crystals; see `pyscf_mlham.data.schema`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from pyscf_mlham.checkpoint import replacement
from pyscf_mlham.data.schema import (
    CONVENTION,
    COUNTS,
    CRYSTAL,
    FORMAT,
    SCALARS,
    SCHEMA_VERSION,
    TEXTS,
    Level,
    Record,
    flat_from_matrix,
)
from pyscf_mlham.errors import DataError


def write_file(
    path: Path,
    level: Level,
    records: Iterable[Record],
    attributes: Mapping[str, Any],
    failed: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> None:
    """Write records as one file, under a temporary name first.

    Args:
        path: path of the file, replaced if it exists.
        records: records, read once, one after the other.
        attributes: provenance to add, such as the PySCF version.
        failed: name and reason of molecules without a label, by their key.
    """
    with replacement(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(format=FORMAT, schema_version=SCHEMA_VERSION, ao_convention=CONVENTION)
        file.attrs.update(units="bohr, hartree", fock_storage="lower triangle, row-major, float32")
        file.attrs.update(level.described() | dict(attributes))
        _write_records(file, records, CRYSTAL if level.pseudo else {})
        columns = {
            "key": list(failed),
            "name": [n for n, _ in failed.values()],
            "reason": [r for _, r in failed.values()],
        }
        for key, column in columns.items():
            _write_texts(file, f"failed_{key}", column)


def _write_records(file: h5py.File, records: Iterable[Record], crystal: Mapping[str, Any]) -> None:
    tables: dict[str, list[Any]] = {key: [] for key in (*TEXTS, *COUNTS, *SCALARS, *crystal, "numbers", "positions")}
    sets: dict[str, h5py.Dataset] = {}
    for record in records:
        values = _values(record, bool(crystal))
        for key, column in tables.items():
            column.append(values[key])
        if not sets:
            sets = {key: _growing(file, key) for key in record.matrices}
        if sets.keys() != record.matrices.keys():
            raise DataError(f"record {record.name}: has {sorted(record.matrices)}, earlier ones {sorted(sets)}.")
        for key, matrix in record.matrices.items():
            start, triangle = len(sets[key]), flat_from_matrix(matrix)
            sets[key].resize((start + len(triangle),))
            sets[key][start:] = triangle
    if not sets:
        _growing(file, "fock")
    _write_tables(file, tables, crystal)


def _write_tables(file: h5py.File, tables: Mapping[str, list[Any]], crystal: Mapping[str, Any]) -> None:
    for key in TEXTS:
        _write_texts(file, key, tables[key])
    for key in COUNTS:
        file.create_dataset(key, data=np.array(tables[key], dtype=np.int32))
    for key in SCALARS:
        file.create_dataset(key, data=np.array(tables[key], dtype=np.float64))
    for key, (kind, shape) in crystal.items():
        file.create_dataset(key, data=np.array(tables[key], dtype=kind).reshape(-1, *shape))
    file.create_dataset("numbers", data=np.concatenate([np.zeros(0), *tables["numbers"]]).astype(np.uint8))
    file.create_dataset("positions", data=np.concatenate([np.zeros((0, 3)), *tables["positions"]]))


def _values(record: Record, crystal: bool) -> dict[str, Any]:
    """Return the columns of a record without its matrices."""
    if crystal != (record.periodic is not None):
        raise DataError(f"record {record.name}: a file has either molecules or crystals, by its level of theory.")
    sizes = {"n_atoms": len(record.numbers), "n_ao": record.fock.shape[-1]}
    return record._asdict() | sizes | (record.periodic._asdict() if record.periodic else {})


def _write_texts(file: h5py.File, key: str, texts: Sequence[str]) -> None:
    file.create_dataset(key, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())


def _growing(file: h5py.File, key: str) -> h5py.Dataset:
    return file.create_dataset(
        key, (0,), maxshape=(None,), dtype="f4", chunks=(16384,), compression="gzip", shuffle=True
    )
