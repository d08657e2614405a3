"""Folders of DeepH, the exchange format of Hamiltonians of crystals.

    element.dat         atomic number of each atom, one a line
    site_positions.dat  (3, N) positions in columns, Angstrom
    lat.dat, rlat.dat   (3, 3) lattice and reciprocal lattice vectors in columns, Angstrom and 1/Angstrom
    orbital_types.dat   degrees l of the shells of each atom, one atom a line
    info.json           nsites, norbits, isspinful, isorthogonal, fermi_level (eV)
    overlaps.h5         blocks <i, 0|j, R> under the names "[Rx, Ry, Rz, i, j]", with atoms counted from 1
    hamiltonians.h5     the same of the Hamiltonian, eV
    rc.h5               local coordinates of each pair, unit vectors in columns

The functions of a shell are in the order of OpenMX: p as x, y, z; d as m = 0, 2, -2, 1, -1; f as m = 0, 1, -1, 2, -2,
3, -3. Their signs are those of PySCF.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from pyscf.data import nist

from pyscf_mlham.ao.blocks import Blocks
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.structure import Graph
from pyscf_mlham.arrays import Array, IntArray
from pyscf_mlham.errors import DataError
from pyscf_mlham.untrusted import read_bounded, stored_dataset

Key = tuple[int, ...]  # Rx, Ry, Rz, i, j with atoms counted from 1

NUMBER = re.compile(r"-?\b\d{1,9}\b")
LARGEST = 2**31  # elements of all blocks, 16 GB
MOST_TEXT = 2**28  # bytes of a file of text
MOST_SHELLS = 100  # of an atom
ORDER = ((0,), (1, -1, 0), (0, 2, -2, 1, -1), (0, 1, -1, 2, -2, 3, -3))  # m of each function of s, p, d, f
PARALLEL = 1e-6  # Angstrom^2; a smaller cross product does not define a plane


class Crystal(NamedTuple):
    """A crystal with its matrices in real space."""

    graph: Graph
    layout: OrbitalLayout  # orbital layout; the shells of each atom are in the order of orbital_types.dat
    overlap: Blocks  # blocks (N, B, B) and (P, B, B) in irreps order, in the layout's own template
    hamiltonian: Blocks | None  # the same, Hartree; None for a structure whose Hamiltonian is to be predicted
    fermi_level: float = 0.0  # Hartree


def write_deeph(folder: Path, crystal: Crystal) -> None:
    """Write a crystal as a folder of DeepH."""
    graph, layout = crystal.graph, crystal.layout
    columns = _columns(layout)  # before anything is written, as it may raise
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "element.dat", graph.numbers, fmt="%d")
    np.savetxt(folder / "site_positions.dat", graph.positions.T * nist.BOHR)
    np.savetxt(folder / "lat.dat", graph.lattice.T * nist.BOHR)
    np.savetxt(folder / "rlat.dat", 2 * np.pi * np.linalg.inv(graph.lattice * nist.BOHR))
    degrees = ["  ".join(map(str, layout.shell_degree[layout.shell_atom == i])) for i in range(layout.n_atoms)]
    (folder / "orbital_types.dat").write_text("\n".join(degrees) + "\n")
    info = {"nsites": layout.n_atoms, "isorthogonal": False, "isspinful": False, "norbits": layout.n_ao}
    (folder / "info.json").write_text(json.dumps(info | {"fermi_level": crystal.fermi_level * nist.HARTREE2EV}))
    _write_blocks(folder / "overlaps.h5", crystal.overlap, graph, columns, 1.0)
    if crystal.hamiltonian is not None:
        _write_blocks(folder / "hamiltonians.h5", crystal.hamiltonian, graph, columns, nist.HARTREE2EV)
    with h5py.File(folder / "rc.h5", "w") as file:
        for key, axes in _local_coordinates(graph):
            file[str(list(key))] = axes


def read_deeph(folder: Path) -> Crystal:
    """Read a folder of DeepH; hamiltonians.h5 may be missing, rlat.dat and rc.h5 are not used."""
    numbers = _table(folder / "element.dat", -1, dtype=int)
    positions = _table(folder / "site_positions.dat", 3, -1).T / nist.BOHR
    lattice = _table(folder / "lat.dat", 3, 3).T / nist.BOHR
    layout = _layout(folder / "orbital_types.dat")
    if not len(numbers) == len(positions) == layout.n_atoms:
        raise DataError(
            f"{folder}: element.dat, site_positions.dat and orbital_types.dat have {len(numbers)}, {len(positions)} "
            f"and {layout.n_atoms} atoms; expected the same number in all of them."
        )
    fermi_level = _fermi_level(folder / "info.json")
    overlaps = _read_matrices(folder / "overlaps.h5", layout)
    path = folder / "hamiltonians.h5"
    hamiltonians = _read_matrices(path, layout) if path.exists() else {}
    keys = sorted({*overlaps, *hamiltonians}, key=lambda key: (key[3:], key[:3]))
    pairs = np.array([key for key in keys if any(key[:3]) or key[3] != key[4]], dtype=np.int64).reshape(-1, 5)
    translations, pairs = pairs[:, :3], pairs[:, 3:] - 1
    vectors = positions[pairs[:, 1]] + translations @ lattice - positions[pairs[:, 0]]
    graph = Graph(numbers, positions, lattice, 3, pairs, translations, vectors)
    return Crystal(
        graph,
        layout,
        _blocks(overlaps, graph, layout, 1.0),
        _blocks(hamiltonians, graph, layout, nist.HARTREE2EV) if hamiltonians else None,
        fermi_level / nist.HARTREE2EV,
    )


def _columns(layout: OrbitalLayout) -> list[IntArray]:
    """Return, for each atom, the place in the template of each orbital of the file."""
    if len(layout.shell_degree) and (highest := int(layout.shell_degree.max())) >= len(ORDER):
        raise DataError(f"shells of l = {highest} have no order in DeepH's format; expected s, p, d and f only.")
    slots = layout.slots(layout.template())
    place = np.full(layout.n_ao, -1)
    for row in slots:
        place[row[row >= 0]] = np.flatnonzero(row >= 0)
    columns: list[list[int]] = [[] for _ in range(layout.n_atoms)]
    for atom, l, offset in zip(layout.shell_atom, layout.shell_degree, layout.shell_offset, strict=True):
        columns[atom] += [int(place[offset + l + m]) for m in ORDER[l]]
    return [np.array(each, dtype=np.int64) for each in columns]


def _keys(graph: Graph) -> list[Key]:
    """Return the keys of all onsite blocks and pairs."""
    onsite = [(0, 0, 0, i + 1, i + 1) for i in range(len(graph.numbers))]
    return onsite + [tuple(key) for key in np.hstack([graph.translations, graph.pairs + 1]).tolist()]


def _write_blocks(path: Path, blocks: Blocks, graph: Graph, columns: list[IntArray], unit: float) -> None:
    with h5py.File(path, "w") as file:
        for key, block in zip(_keys(graph), np.concatenate([blocks.onsite, blocks.pair]), strict=True):
            file[str(list(key))] = block[np.ix_(columns[key[3] - 1], columns[key[4] - 1])] * unit


def _blocks(matrices: dict[Key, Array], graph: Graph, layout: OrbitalLayout, unit: float) -> Blocks:
    """Pad matrices of the file to blocks; those that the file lacks are zero."""
    columns, size, keys = _columns(layout), layout.template().size, _keys(graph)
    if len(keys) * size**2 > LARGEST:
        raise DataError(f"{len(keys)} blocks of {size} orbitals need more than {8 * LARGEST / 1e9:.0f} GB.")
    blocks = np.zeros((len(keys), size, size))
    for block, key in zip(blocks, keys, strict=True):
        if key in matrices:
            block[np.ix_(columns[key[3] - 1], columns[key[4] - 1])] = matrices[key] / unit
    return Blocks(blocks[: layout.n_atoms], blocks[layout.n_atoms :])


def _read_matrices(path: Path, layout: OrbitalLayout) -> dict[Key, Array]:
    """Return the matrices of an HDF5 file by their keys, each with its opposite."""
    sizes = [len(each) for each in _columns(layout)]
    matrices: dict[Key, Array] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                key = tuple(map(int, NUMBER.findall(name)))
                if len(key) != 5 or min(key[3:]) < 1:
                    raise ValueError(f"{name} is no pair of atoms")
                matrix = stored_dataset(file, name)
                if matrix.shape != (sizes[key[3] - 1], sizes[key[4] - 1]):
                    raise DataError(
                        f"{path}: {name} has shape {matrix.shape}; orbital_types.dat gives {sizes[key[3] - 1]} and "
                        f"{sizes[key[4] - 1]} orbitals. Two-component Hamiltonians are not supported."
                    )
                matrices[key] = matrix[()]
    except (OSError, TypeError, ValueError, IndexError) as error:
        raise DataError(f'{path}: {error}; expected matrices named like "[0, 0, 0, 1, 1]".') from error
    for *cell, i, j in matrices:
        if (*(-n for n in cell), j, i) not in matrices:
            raise DataError(f"{path}: {[*cell, i, j]} lacks its opposite, {[*(-n for n in cell), j, i]}.")
    return matrices


def _table(path: Path, *shape: int, dtype: type = float) -> Array:
    try:
        return np.loadtxt(io.BytesIO(read_bounded(path, MOST_TEXT)), dtype=dtype).reshape(shape)
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {error}; expected a table of numbers, as DeepH writes it.") from error


def _layout(path: Path) -> OrbitalLayout:
    try:
        lines = read_bounded(path, MOST_TEXT).decode().splitlines()
        degrees = [list(map(int, line.split())) for line in lines if line.strip()]
        if max(map(len, degrees), default=0) > MOST_SHELLS:
            raise ValueError(f"an atom has more than {MOST_SHELLS} shells")
        degree = np.array([l for each in degrees for l in each], dtype=np.uint8).astype(np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {error}; expected the degrees l of each atom's shells in a line.") from error
    atom = np.repeat(np.arange(len(degrees)), [len(each) for each in degrees])
    return OrbitalLayout(len(degrees), atom, degree, np.cumsum(2 * degree + 1) - (2 * degree + 1))


def _fermi_level(path: Path) -> float:
    """Return the Fermi level in info.json, eV."""
    try:
        info = dict(json.loads(read_bounded(path, MOST_TEXT)))
        fermi_level = float(info.get("fermi_level", 0.0))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: {error}; expected JSON with isspinful and fermi_level.") from error
    if info.get("isspinful"):
        raise DataError(f"{path}: isspinful is true; Hamiltonians with spin-orbit coupling are not supported.")
    return fermi_level


def _local_coordinates(graph: Graph) -> Iterator[tuple[Key, Array]]:
    """Yield e_1, e_2, e_3 in columns for each key, as DeepH-pack chooses them.

    e_1 points from i to j, for an onsite block to the nearest neighbour of i; e_2 is normal to the plane of e_1 and of
    the nearest neighbour of i that is not in line with it, or else of a Cartesian axis; e_3 = e_1 x e_2.
    """
    neighbours = []
    for i in range(len(graph.numbers)):
        vectors = graph.vectors[graph.pairs[:, 0] == i] * nist.BOHR
        order = np.argsort(np.linalg.norm(vectors, axis=-1), kind="stable")
        neighbours.append(np.concatenate([vectors[order], np.eye(3)]))
    own = [vectors[0] for vectors in neighbours]
    for key, first in zip(_keys(graph), [*own, *(graph.vectors * nist.BOHR)], strict=True):
        normals = np.cross(first, neighbours[key[3] - 1])
        normal = next(each for each in normals if np.linalg.norm(each) > PARALLEL)
        e1, e2 = first / np.linalg.norm(first), normal / np.linalg.norm(normal)
        yield key, np.stack([e1, e2, np.cross(e1, e2)], axis=-1)
