"""Displaced copies: at random, and with the energy of thermal equilibrium."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pyscf import gto, scf

from pyscf_mlham import cli, progress
from pyscf_mlham.data.displaced import Copies, Displacements, Task, rattled, thermal, thermal_copies, with_copies
from pyscf_mlham.data.geometries import Molecule, read_geometries
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from support.geometries import FLAGS, geometries
from support.labelled import silent


def test_displaced_copies() -> None:
    (water,) = [m for m in read_geometries("ase:g2") if not isinstance(m, DataError) and m.name == "g2:H2O"]
    copies = list(rattled(water, 3, 0.04, seed=1))
    assert len({c.key for c in copies}) == 3
    assert {c.group for c in copies} == {water.group}
    assert [c.key for c in copies] == [c.key for c in rattled(water, 3, 0.04, seed=1)]
    assert np.std([c.positions - water.positions for c in copies]) == pytest.approx(0.04 / 0.529, rel=0.3)


def test_thermal_copies_have_random_numbers_of_their_own() -> None:
    (hydrogen,) = [m for m in read_geometries("ase:g2") if not isinstance(m, DataError) and m.name == "g2:H2"]
    sets = rattled(hydrogen, 40, 0.04, seed=1), thermal(hydrogen, 40, 300.0, seed=1)
    lengths = [[float(np.diff(copy.positions[:, 2])[0]) for copy in copies] for copies in sets]
    assert abs(np.corrcoef(lengths)[0, 1]) < 0.5  # 1 for the same numbers


def test_thermal_copies_are_made_by_the_workers_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS", -1.0)
    source, out = geometries(tmp_path / "in.xyz", ("H2O", "HCN")), tmp_path / "set.h5"
    command = ["data", "generate", str(source), "-o", str(out), *FLAGS, "--thermal", "2", "--rattle", "1", "-j", "2"]
    assert cli.main(command) == 0
    assert "normal modes: 2 of 2 molecules" in capsys.readouterr().out
    molecules = [m for m in read_geometries(str(source)) if not isinstance(m, DataError)]
    alone = {copy.name: copy.positions for m in molecules for copy in thermal(m, 2, 300.0, 0)}
    with HamiltonianFile(out) as file:
        made = {record.name: record.positions for record in file}
    assert len(made) == 8
    assert {name for name in made if "~t" in name} == set(alone)
    for name, positions in alone.items():
        np.testing.assert_allclose(made[name], positions, rtol=0, atol=1e-5)
    assert cli.main(command) == 0
    assert "0 labelled, 0 failed, 0 duplicate, 8 done" in capsys.readouterr().out


def test_a_molecule_without_normal_modes_costs_no_other(tmp_path: Path) -> None:
    good, bad = (m for m in read_geometries("ase:g2/H2O,HCN") if not isinstance(m, DataError))
    bad = bad._replace(positions=0 * bad.positions)

    def engine(tasks: Sequence[Task]) -> Iterator[Copies]:
        return map(thermal_copies, tasks)

    found = list(with_copies([bad, good], Displacements(thermal=1), engine, silent(), tmp_path / "memory"))
    assert [isinstance(m, DataError) for m in found] == [False, False, True, False]
    assert "g2:HCN: no thermal copies" in str(found[2])


def test_a_killed_run_makes_no_thermal_copy_twice(tmp_path: Path) -> None:
    bad, *good = (m for m in read_geometries("ase:g2/HCN,H2O,CO") if not isinstance(m, DataError))
    molecules, memory = [bad._replace(positions=0 * bad.positions), *good], tmp_path / "memory"

    def copies(wanted: Displacements, memory: Path) -> tuple[list[Molecule | DataError], list[str]]:
        asked: list[str] = []

        def engine(tasks: Sequence[Task]) -> Iterator[Copies]:
            asked.extend(task.molecule.name for task in tasks)
            return map(thermal_copies, tasks)

        return list(with_copies(molecules, wanted, engine, silent(), memory)), asked

    def same(found: list[Molecule | DataError], expected: list[Molecule | DataError]) -> bool:
        return all(
            str(a) == str(b) if isinstance(a, DataError) else (a.name, a.key) == (b.name, b.key)
            for a, b in zip(found, expected, strict=True)
        )

    def killed(tasks: Sequence[Task]) -> Iterator[Copies]:
        yield from map(thermal_copies, tasks[:2])
        raise KeyboardInterrupt

    whole, _ = copies(Displacements(thermal=2), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        list(with_copies(molecules, Displacements(thermal=2), killed, silent(), memory))
    again, asked = copies(Displacements(thermal=2), memory)
    assert same(again, whole)
    assert asked == ["g2:HCN", "g2:CO"]
    assert copies(Displacements(thermal=2), memory)[1] == ["g2:HCN"]
    assert len(copies(Displacements(thermal=2, temperature=10.0), memory)[1]) == 3


def test_thermal_copies_have_the_energy_of_thermal_equilibrium() -> None:
    atoms = [("O", (0, 0, 0.1271)), ("H", (0, 0.7580, -0.5086)), ("H", (0, -0.7580, -0.5086))]  # HF/STO-3G minimum
    mol = gto.M(atom=atoms, basis="sto-3g", verbose=0)
    water = next(m for m in read_geometries("ase:g2") if not isinstance(m, DataError) and m.name == "g2:H2O")
    water = water._replace(positions=mol.atom_coords())
    energy = scf.RHF(mol).as_scanner()
    bottom = energy(mol)
    copies = thermal(water, 150, 0.0, seed=0)
    found = [energy(mol.copy().set_geom_(copy.positions, unit="Bohr")) - bottom for copy in copies]
    # half of the zero-point energy is potential: a quarter of the sum of the three wavenumbers, 2170, 4140, 4390
    assert np.mean(found) == pytest.approx((2170 + 4140 + 4390) / 4 / 219474.63, rel=0.2)
