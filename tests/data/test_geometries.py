"""What is read from files and collections: charge and spin wherever they stand, and every frame that can be read."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import extxyz

from pyscf_mlham.ase import MLHam
from pyscf_mlham.checkpoint import read_config
from pyscf_mlham.data import geometries
from pyscf_mlham.data.geometries import REACH, Molecule, group_of, read_geometries
from pyscf_mlham.errors import DataError
from pyscf_mlham.model.store import find
from pyscf_mlham.state import charge_and_spin

GOOD = "3\n{about}\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"
BAD = "3\n\nO 0 0 zero\nH 0 0 1\nH 0 1 0\n"


def read(path: Path, text: str, **state: Any) -> list[Molecule | DataError]:
    path.write_text(text)
    return list(read_geometries(str(path), **state))


def places(found: list[Molecule | DataError]) -> list[bool]:
    return [isinstance(item, Molecule) for item in found]


@pytest.mark.parametrize("about", ["mult=3", "multiplicity=3", "spin=2", "mult=3 spin=2", "Mult=3", "SPIN=2"])
def test_spin_of_a_comment_line(tmp_path: Path, about: str) -> None:
    (found,) = read(tmp_path / "in.xyz", GOOD.format(about=about), mult=1)
    assert isinstance(found, Molecule)
    assert found.spin == 2
    info = dict(pair.split("=") for pair in about.split())
    assert MLHam().charge_and_spin(Atoms("OH2", info=info)) == (0, 2)


@pytest.mark.parametrize(
    ("about", "state"),
    [
        ("Charge=1 Multiplicity=2", (1, 1)),
        ("charge: 1 mult: 2", (1, 1)),
        ("water, charge = +1, mult = 2", (1, 1)),
        ("CHARGE=1\tMULT=4", (1, 3)),
        ("charge: 1.0, spin: 1.", (1, 1)),
        ("0 1", (0, 0)),
        ("charge=1 mult=2 mult: 3", (1, 1)),  # ASE's own reading comes first
        ("recharge: 1 surcharge=2 spin: 1.5e0 frame 3", (0, 0)),
    ],
)
def test_states_are_found_however_they_are_written(tmp_path: Path, about: str, state: tuple[int, int]) -> None:
    (found,) = read(tmp_path / "in.xyz", GOOD.format(about=about))
    assert isinstance(found, Molecule)
    assert (found.charge, found.spin) == state


def test_two_numbers_as_a_comment_are_not_guessed_at(tmp_path: Path) -> None:
    bad, good = read(tmp_path / "in.xyz", GOOD.format(about="-1 2") + GOOD.format(about="12 0"))
    assert "charge=-1 mult=2" in str(bad)
    assert isinstance(good, Molecule)  # no multiplicity is zero


@pytest.mark.parametrize(("state", "spin"), [("1 2", 1), ("-2 1", 0), ("0 3", 2)])
def test_state_of_inputs_of_gaussian(tmp_path: Path, state: str, spin: int) -> None:
    text = f"# HF/6-31G\n\nwater\n\n{state}\nO 0.0 0.0 0.0\nH 0.0 0.0 1.0\nH 0.0 1.0 0.0\n\n"
    for name in ("in.com", "in.gjf"):
        (found,) = read(tmp_path / name, text)
        assert isinstance(found, Molecule)
        assert (found.charge, found.spin) == (int(state.split()[0]), spin)


@pytest.mark.parametrize(
    ("elements", "code", "lines", "state"),
    [
        ("OHH", 0, "", (0, 0)),
        ("OHHH", 3, "", (1, 0)),
        ("OH", 4, "", (0, 1)),
        ("O", 0, "M  RAD  1   1   3\n", (0, 2)),
        ("CHH", 0, "M  RAD  1   1   1\n", (0, 0)),
        ("CHCH", 0, "M  RAD  2   1   2   3   2\n", (0, 2)),
        ("OHH", 4, "M  CHG  1   1  -2\n", (-2, 0)),  # such lines replace the codes
        ("OHH", 0, "M  CHG  1   1   1\nM  RAD  1   1   2\n", (1, 1)),
    ],
)
def test_state_of_sdf_files(tmp_path: Path, elements: str, code: int, lines: str, state: tuple[int, int]) -> None:
    atom = "    0.0000    0.0000    {z:.4f} {element}   0{code:3d}  0  0  0  0\n"
    atoms = "".join(atom.format(z=k, element=e, code=0 if k else code) for k, e in enumerate(elements))
    text = f"name\n\n\n{len(elements):3d}  0  0  0  0  0            999 V2000\n{atoms}{lines}M  END\n"
    (found,) = read(tmp_path / "in.sdf", text)
    assert isinstance(found, Molecule)
    assert (found.charge, found.spin) == state


def test_two_states_of_one_frame_are_an_error(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "in.xyz", GOOD.format(about="Mult=3 mult=1"))
    assert "mult is given twice, as 3 and 1" in str(found)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ("spin=0.5", "0.5 is not a whole number"),
        ("mult=1.5", "1.5 is not a whole number"),
        ("mult: 1.5", "1.5 is not a whole number"),
        ("multiplicity=2", "10 electrons cannot have multiplicity 2"),
        ("mult=0", "10 electrons cannot have multiplicity 0"),
        ("mult=1 spin=2", "mult=1 and spin=2 contradict each other"),
        ("charge -1", "a key without a value: write NAME=NUMBER, or leave the word out"),
        ("charge=11", "-1 electrons cannot"),
    ],
)
def test_impossible_states_are_named(tmp_path: Path, about: str, words: str) -> None:
    (found,) = read(tmp_path / "in.xyz", GOOD.format(about=about))
    assert isinstance(found, DataError)
    assert f"frame 0: {words}" in str(found) or f"({words})" in str(found)
    assert "--charge and --mult" in str(found)


def test_magnetic_moments_of_collections() -> None:
    def spins(names: str, **state: Any) -> list[int]:
        return [m.spin for m in read_geometries(f"ase:g2/{names}", **state) if isinstance(m, Molecule)]

    assert spins("O2,CH3,H2O,N") == [2, 1, 0, 3]
    assert spins("O2,H2O", mult=1) == [0, 0]
    assert spins("CH3", charge=1) == [0]  # the moments are of the neutral molecule
    assert not [m for m in read_geometries("ase:g2") if isinstance(m, DataError)]


def test_the_lowest_multiplicity_if_none_is_given() -> None:
    assert charge_and_spin({}, 9) == (0, 1)
    assert charge_and_spin({"charge": "1"}, 9) == (1, 0)
    assert charge_and_spin({}, 8, mult=3) == (0, 2)
    with pytest.raises(ValueError, match="must be integers"):
        charge_and_spin({}, 8, mult=2.5)


def test_bad_frames_cost_no_good_one(tmp_path: Path) -> None:
    good, path = GOOD.format(about=""), tmp_path / "in.xyz"
    short, long = good.replace("H 0 1 0\n", ""), good + "H 1 0 0\n"
    assert places(read(path, BAD + good)) == [False, True]
    assert places(read(path, good + short + good)) == [True, False, True]
    assert places(read(path, good + long + good)) == [True, True, False, True]
    assert places(read(path, good + "\n\n" + good + "\n")) == [True, True]
    assert places(read(path, good + "3\n\nO 0 0 0\n")) == [True, False]
    assert places(read(path, "999999999999\n\nH 0 0 0\n")) == [False]
    assert places(read(path, "")) == [False]


def test_no_line_beside_bad_frames_is_parsed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, parsed, read_xyz = GOOD.format(about=""), [], extxyz.read_xyz

    def counted(file: io.StringIO, *args: Any) -> Any:
        parsed.extend(file.getvalue().splitlines())
        return read_xyz(file, *args)

    monkeypatch.setattr(extxyz, "read_xyz", counted)
    found = read(tmp_path / "in.xyz", good * 70 + BAD * 101 + good * 70)
    assert places(found) == [True] * 70 + [False] * 101 + [True] * 70
    assert len(parsed) == 241 * 5


@pytest.mark.parametrize(
    ("atom", "words"),
    [
        ("O 0 0 zero", "line 8: expected an element and three coordinates, found 'O 0 0 zero'"),
        ("O 0 0", "line 8: expected an element and three coordinates, found 'O 0 0'"),
        ("Qq 0 0 0", "line 8: unknown element 'Qq'"),
    ],
)
def test_what_is_wrong_with_a_frame_is_a_sentence(tmp_path: Path, atom: str, words: str) -> None:
    for about in ("", "Properties=species:S:1:pos:R:3 charge=0"):
        good = GOOD.format(about=about)
        _, found = read(tmp_path / "in.xyz", good + good.replace("O 0 0 0", atom))
        assert isinstance(found, DataError)
        assert str(found).endswith(f"in.xyz, frame 1: cannot be read ({words}).")


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    for name in ("none.xyz", "none.sdf", "none.traj"):
        (found,) = read_geometries(str(tmp_path / name))
        assert str(found).endswith(f"{name}: cannot be read (no such file).")


@pytest.mark.parametrize("suffix", ["xyz", "sdf"])
def test_comments_in_another_encoding_cost_no_frame(tmp_path: Path, suffix: str) -> None:
    frames = [GOOD.format(about="B\u00e9la \u00c5"), GOOD.format(about="")]
    if suffix == "sdf":
        text = io.StringIO()
        for each in (molecule("H2O"), molecule("NH3")):
            each.write(text, format="sdf")
            text.write("$$$$\n")
        frames = ["B\u00e9la" + text.getvalue()[text.getvalue().index("\n") :]]
    (tmp_path / f"in.{suffix}").write_bytes("".join(frames).encode("latin-1"))
    assert places(list(read_geometries(str(tmp_path / f"in.{suffix}")))) == [True, True]
    (tmp_path / f"in.{suffix}").write_text("".join(frames), encoding="utf-8-sig")
    assert places(list(read_geometries(str(tmp_path / f"in.{suffix}")))) == [True, True]


def test_cells_belong_to_their_frames(tmp_path: Path) -> None:
    cell = "VEC1 9 0 0\nVEC2 0 9 0\nVEC3 0 0 9\n"
    found = read(tmp_path / "in.xyz", GOOD.format(about="") + cell + GOOD.format(about=""))
    assert 'remove the lattice of a molecule, or write pbc="F F F"' in str(found[0])
    assert isinstance(found[1], Molecule)


def test_a_file_that_is_given_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(source: str, index: Any) -> Any:
        if index == ":" or index % 2:
            raise ValueError("torn")
        return molecule("H2O")

    monkeypatch.setattr(geometries, "MOST_BAD_FRAMES", 3)
    monkeypatch.setattr("ase.io.read", torn)
    found = list(read_geometries("in.traj"))
    assert places(found) == [True, False, True, False, True, False, False]
    assert "frame 6: cannot be read (3 frames are unreadable already" in str(found[-1])
    assert "the later ones were not read" in str(found[-1])


def test_conformers_share_a_group_and_isomers_do_not() -> None:
    from ase.collections import g2
    from pyscf.data.nist import BOHR

    def group(name: str, noise: float = 0.0) -> str:
        positions = g2[name].positions + noise * np.random.default_rng(0).normal(size=g2[name].positions.shape)
        return group_of(g2[name].numbers, positions / BOHR)

    assert group("CH3CH2OH") == group("CH3CH2OH", 0.04)
    assert group("CH3CH2OH") != group("CH3OCH3")
    assert group("CH3CH2OH").split("-")[0] == group("CH3OCH3").split("-")[0] == "C2H6O"


LAYER = '2\nLattice="2.46 0 0 -1.23 2.13 0 0 0 15" pbc="T T F" {about}\nC 0 0 7.5\nC 0 1.42 7.5\n'


def test_default_k_points_of_a_layer_reach_as_far_as_the_shipped_model(tmp_path: Path) -> None:
    (layer,) = read(tmp_path / "in.xyz", LAYER.format(about="charge=0.0"), crystals=True)
    assert isinstance(layer, Molecule)
    assert layer.periodic is not None
    assert layer.periodic.mesh.tolist() == [6, 6, 1]
    cutoff = read_config(find("2d-pbe-szv")).options["network"]["cutoff"]
    assert min(np.linalg.norm(layer.periodic.lattice[:2], axis=1)) * 6 >= 2 * cutoff


def test_default_k_points_of_a_skewed_cell_reach_as_far(tmp_path: Path) -> None:
    text = '1\nLattice="1.24 0.71 3.35 -1.24 0.71 3.35 0 -1.43 3.35" pbc="T T T"\nC 0 0 0\n'  # angles of 39 degrees
    (cell,) = read(tmp_path / "in.xyz", text, crystals=True)
    assert isinstance(cell, Molecule)
    assert cell.periodic is not None
    numbers = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    lengths = np.linalg.norm(numbers * cell.periodic.mesh @ cell.periodic.lattice, axis=1)
    assert lengths[lengths > 0].min() >= REACH - 1e-6


@pytest.mark.parametrize("charge", ["0.5", "abc"])
def test_the_charge_of_a_cell_is_an_integer(tmp_path: Path, charge: str) -> None:
    (layer,) = read(tmp_path / "in.xyz", LAYER.format(about=f"charge={charge}"), crystals=True)
    assert "charge must be an integer" in str(layer)


@pytest.mark.parametrize("about", ["mult=1", "spin=0", "charge=0 multiplicity=1"])
def test_crystals_may_state_that_they_are_closed_shells(tmp_path: Path, about: str) -> None:
    (layer,) = read(tmp_path / "in.xyz", LAYER.format(about=about), crystals=True)
    assert isinstance(layer, Molecule)
    assert layer.spin == 0


@pytest.mark.parametrize("about", ["mult=3", "Spin=2", "multiplicity=2"])
def test_open_shells_of_crystals_are_refused(tmp_path: Path, about: str) -> None:
    (layer,) = read(tmp_path / "in.xyz", LAYER.format(about=about), crystals=True)
    assert "open shell" in str(layer)
