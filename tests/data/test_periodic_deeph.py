"""Folders of DeepH, written here and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pyscf.data import nist

from pyscf_mlham.ao.lattice import bloch_from_blocks, blocks_from_bloch
from pyscf_mlham.ao.layout import OrbitalLayout
from pyscf_mlham.ao.mole import graph_from_cell
from pyscf_mlham.data.deeph import Crystal, read_deeph, write_deeph
from pyscf_mlham.errors import DataError
from support.crystals import bands, crystal
from support.molecules import assert_close

BASIS = {"B": "gth-dzvp", "N": [[0, [0.4, 1.0]], [1, [0.5, 1.0]], [3, [0.9, 1.0]], [3, [0.6, 1.0]]]}


@pytest.fixture(scope="module")
def cell() -> Any:
    return crystal(basis=BASIS)


@pytest.fixture(scope="module")
def written(cell: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Crystal, Path]:
    kpts, graph, layout = cell.make_kpts([3, 3, 1]), graph_from_cell(cell, cutoff=8.0), OrbitalLayout.from_mol(cell)
    overlap, kinetic = (
        blocks_from_bloch(np.array(cell.pbc_intor(name, kpts=kpts)), kpts, graph, layout)
        for name in ("int1e_ovlp", "int1e_kin")
    )
    folder = tmp_path_factory.mktemp("deeph") / "new" / "0"
    write_deeph(folder, made := Crystal(graph, layout, overlap, kinetic, fermi_level=-0.2))
    return made, folder


def test_a_written_folder_returns(written: tuple[Crystal, Path]) -> None:
    made, folder = written
    back = read_deeph(folder)
    assert back.hamiltonian is not None
    for mine, theirs in zip(made.graph, back.graph, strict=True):
        assert_close(theirs, mine, atol=1e-13)
    for name in ("n_atoms", "shell_atom", "shell_degree", "shell_offset"):
        assert_close(getattr(back.layout, name), getattr(made.layout, name), atol=0)
    for ours, stored in zip((made.overlap, made.hamiltonian), (back.overlap, back.hamiltonian), strict=True):
        assert ours is not None
        assert_close(stored.onsite, ours.onsite, atol=1e-13)
        assert_close(stored.pair, ours.pair, atol=1e-13)
    assert back.fermi_level == pytest.approx(-0.2)


def test_order_and_units_of_a_written_folder(cell: Any, written: tuple[Crystal, Path]) -> None:
    folder = written[1]
    order = ["s", "px", "py", "pz", "dz^2", "dx2-y2", "dxy", "dxz", "dyz"]
    order += ["f+0", "f+1", "f-1", "f+2", "f-2", "f+3", "f-3"]  # those of OpenMX
    labels = [label.split() for label in cell.ao_labels()]
    places = [(int(atom), int(shell[0]), order.index(shell[1:])) for atom, _, shell in labels]
    degree = np.searchsorted([1, 4, 9], [place for _, _, place in places], side="right")
    ranks = [(atom, l, shell, place) for (atom, shell, place), l in zip(places, degree, strict=True)]
    sorted_orbitals = sorted(range(cell.nao), key=ranks.__getitem__)
    boron, nitrogen = ([n for n in sorted_orbitals if places[n][0] == atom] for atom in (0, 1))
    kpts = cell.make_kpts([3, 3, 1])
    at_zero = np.array(cell.pbc_intor("int1e_kin", kpts=kpts)).mean(axis=0).real * nist.HARTREE2EV
    with h5py.File(folder / "hamiltonians.h5") as file:
        assert_close(file["[0, 0, 0, 2, 2]"][()], at_zero[np.ix_(nitrogen, nitrogen)], atol=1e-10)
        assert_close(file["[0, 0, 0, 1, 2]"][()], at_zero[np.ix_(boron, nitrogen)], atol=1e-10)
        assert "[0, -1, 0, 1, 2]" in file
        assert "[0, 1, 0, 2, 1]" in file
    assert (folder / "orbital_types.dat").read_text().splitlines() == ["0  0  1  1  2", "0  1  3  3"]
    assert (folder / "element.dat").read_text().split() == ["5", "7"]
    lattice, reciprocal = np.loadtxt(folder / "lat.dat"), np.loadtxt(folder / "rlat.dat")
    assert_close(lattice[:, 1], cell.lattice_vectors()[1] * nist.BOHR, atol=1e-12)
    assert_close(reciprocal.T @ lattice, 2 * np.pi * np.eye(3), atol=1e-12)
    assert_close(np.loadtxt(folder / "site_positions.dat")[:, 1], cell.atom_coord(1) * nist.BOHR, atol=1e-12)
    info = json.loads((folder / "info.json").read_text())
    assert info["nsites"] == 2
    assert info["norbits"] == cell.nao
    assert info["fermi_level"] == pytest.approx(-0.2 * nist.HARTREE2EV)
    assert info["isspinful"] is info["isorthogonal"] is False


def test_local_coordinates(cell: Any, written: tuple[Crystal, Path]) -> None:
    graph, folder = written[0].graph, written[1]
    with h5py.File(folder / "rc.h5") as file, h5py.File(folder / "hamiltonians.h5") as hamiltonians:
        assert set(file) == set(hamiltonians)
        for axes in file.values():
            assert_close(axes[()].T @ axes[()], np.eye(3), atol=1e-12)
            assert np.linalg.det(axes[()]) == pytest.approx(1)
        for pair, R, vector in zip(graph.pairs + 1, graph.translations, graph.vectors, strict=True):
            e1 = file[str([*R.tolist(), *pair.tolist()])][:, 0]
            assert_close(e1, vector / np.linalg.norm(vector), atol=1e-12)
        own = graph.vectors[graph.pairs[:, 0] == 0]
        nearest = np.linalg.norm(own, axis=-1).min()
        e1 = file["[0, 0, 0, 1, 1]"][:, 0]
        assert np.min(np.linalg.norm(own - nearest * e1, axis=-1)) < 1e-12


def by_hand(folder: Path, **changes: Any) -> Path:
    """Write one s and one p shell on each of two atoms in a row, as the documentation of DeepH has it."""
    (folder / "element.dat").write_text("6\n1\n")
    (folder / "site_positions.dat").write_text("0.0 1.5\n0.0 0.0\n0.0 0.0\n")
    (folder / "lat.dat").write_text("3.0 0.0 0.0\n0.5 9.0 0.0\n0.0 0.0 9.0\n")
    (folder / "orbital_types.dat").write_text("1\n0 \n")
    (folder / "info.json").write_text('{"isspinful": false, "fermi_level": 1.0}')
    hopping = np.array([[0.5, 0.2, 0.1]])  # eV, to p_x, p_y and p_z
    hamiltonian = {
        "[0, 0, 0, 1, 1]": np.diag([1.0, 2.0, 3.0]), "[0, 0, 0, 2, 2]": np.array([[-4.0]]),
        "[0, 0, 0, 2, 1]": hopping, "[0, 0, 0, 1, 2]": hopping.T,
        "[1, 0, 0, 2, 1]": -hopping, "[-1, 0, 0, 1, 2]": -hopping.T,
    }  # fmt: skip
    overlap = {"[0, 0, 0, 1, 1]": np.eye(3), "[0, 0, 0, 2, 2]": np.eye(1)}
    for name, matrices in (("hamiltonians", hamiltonian | changes), ("overlaps", overlap)):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for key, matrix in matrices.items():
                if matrix is not None:
                    file[key] = matrix
    return folder


def test_a_folder_by_hand(tmp_path: Path) -> None:
    made = read_deeph(by_hand(tmp_path))
    assert made.hamiltonian is not None
    assert made.graph.numbers.tolist() == [6, 1]
    assert_close(made.graph.positions[1] * nist.BOHR, [1.5, 0, 0], atol=1e-12)
    assert_close(made.graph.lattice[0] * nist.BOHR, [3, 0.5, 0], atol=1e-12)
    at = made.graph.pairs.tolist().index([1, 0])
    assert_close(made.graph.vectors[at : at + 2] * nist.BOHR, [[-1.5, 0, 0], [1.5, 0.5, 0]], atol=1e-12)
    k = 0.3 * 2 * np.pi * np.linalg.inv(made.graph.lattice)[:, :1].T
    matrices = bloch_from_blocks(made.hamiltonian, k, made.graph, made.layout) * nist.HARTREE2EV
    coupling = np.array([0.5, 0.2, 0.1]) * (1 - np.exp(0.6j * np.pi))
    assert_close(matrices[0, 3, :3], coupling, atol=1e-12)
    assert_close(matrices[0].diagonal(), [1, 2, 3, -4], atol=1e-12)
    overlaps = bloch_from_blocks(made.overlap, k, made.graph, made.layout)
    assert_close(overlaps[0], np.eye(4), atol=1e-12)
    assert_close(bands(matrices, overlaps), np.linalg.eigvalsh(matrices), atol=1e-10)
    assert made.fermi_level == pytest.approx(1 / nist.HARTREE2EV)


def test_atoms_in_a_row_have_local_coordinates(tmp_path: Path) -> None:
    (source := tmp_path / "source").mkdir()
    made = read_deeph(by_hand(source))
    line = made.graph._replace(vectors=made.graph.vectors * [1, 0, 0])
    write_deeph(tmp_path / "copy", made._replace(graph=line))
    with h5py.File(tmp_path / "copy" / "rc.h5") as file:
        assert_close(file["[0, 0, 0, 2, 1]"][()], [[-1, 0, 0], [0, 0, -1], [0, -1, 0]], atol=1e-12)
        for axes in file.values():
            assert np.linalg.det(axes[()]) == pytest.approx(1)


def test_a_structure_to_be_predicted_has_no_hamiltonian(tmp_path: Path) -> None:
    (by_hand(tmp_path) / "hamiltonians.h5").unlink()
    made = read_deeph(tmp_path)
    assert made.hamiltonian is None
    write_deeph(tmp_path / "copy", made)
    assert not (tmp_path / "copy" / "hamiltonians.h5").exists()
    assert_close(read_deeph(tmp_path / "copy").overlap.onsite, made.overlap.onsite, atol=1e-13)


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: (f / "element.dat").unlink(), r"element.dat: .*No such file.*; expected a table of numbers"),
    "no numbers": (lambda f: (f / "lat.dat").write_text("a b c\n"), r"lat.dat: .*; expected a table of numbers"),
    "other numbers of atoms": (lambda f: (f / "element.dat").write_text("1\n"), r"have 1, 2 and 2 atoms"),
    "spin-orbit": (lambda f: (f / "info.json").write_text('{"isspinful": true}'), "isspinful is true"),
    "no JSON": (lambda f: (f / "info.json").write_text("{"), r"info.json: .*; expected JSON"),
    "g shell": (lambda f: (f / "orbital_types.dat").write_text("1\n4\n"), "shells of l = 4 have no order"),
    "no degrees": (lambda f: (f / "orbital_types.dat").write_text("p\ns\n"), "expected the degrees l"),
    "shape": (lambda f: by_hand(f, **{"[0, 0, 0, 2, 2]": np.eye(2)}), r"\[0, 0, 0, 2, 2\] has shape \(2, 2\)"),
    "no opposite": (lambda f: by_hand(f, **{"[1, 0, 0, 2, 1]": None}), r"lacks its opposite, \[1, 0, 0, 2, 1\]"),
    "name": (lambda f: by_hand(f, rest=np.eye(2)), 'expected matrices named like "'),
    "atoms from 0": (lambda f: by_hand(f, **{"[0, 0, 0, 0, 0]": np.eye(1)}), "is no pair of atoms"),
    "atom 3": (lambda f: by_hand(f, **{"[0, 0, 0, 3, 3]": np.eye(1)}), "list index out of range"),
    "no overlaps": (lambda f: (f / "overlaps.h5").unlink(), r"overlaps.h5: .*; expected matrices"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_folders_are_named(tmp_path: Path, what: str) -> None:
    change, message = WRONG[what]
    change(by_hand(tmp_path))
    with pytest.raises(DataError, match=message):
        read_deeph(tmp_path)
