"""The frames from which md-bench and opt-bench start: names, states, and errors that name wrong ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import write

from pyscf_mlham import cli
from pyscf_mlham.ase import MLHam
from pyscf_mlham.bench.commands import add_paths
from pyscf_mlham.bench.molecules import read_paths
from pyscf_mlham.bench.results import RESULTS, read_results
from pyscf_mlham.errors import DataError
from support.benchmarked import QUICKLY, bent_water


def chosen(source: object, *arguments: str) -> dict[str, list[Atoms]]:
    parser = argparse.ArgumentParser()
    add_paths(parser.add_subparsers())
    args = parser.parse_args(["md-bench", str(source), "--out", "out", *arguments])
    paths, bad = read_paths(args.geometries, args.frames, args.charge, args.mult, args.follow)
    if bad:
        raise DataError(bad[0])
    return paths


AMMONIUM = (
    "ammonium\n  made by hand\n\n  5  4  0  0  0  0  0  0  0  0999 V2000\n"
    "    0.0000    0.0000    0.0000 N   0  0\n    0.5900    0.5900    0.5900 H   0  0\n"
    "   -0.5900   -0.5900    0.5900 H   0  0\n   -0.5900    0.5900   -0.5900 H   0  0\n"
    "    0.5900   -0.5900   -0.5900 H   0  0\n"
    "  1  2  1  0\n  1  3  1  0\n  1  4  1  0\n  1  5  1  0\nM  CHG  1   1   1\nM  END\n$$$$\n"
)


def test_charges_of_sdf_files_are_run_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.sdf"
    path.write_text(AMMONIUM.replace("ammonium", "other") + AMMONIUM)
    assert list(chosen(path, "--frames", ":")) == ["other", "ammonium"]
    ((name, (atoms,)),) = chosen(path, "--frames", "1").items()
    assert (name, MLHam().charge_and_spin(atoms)) == ("ammonium", (1, 0))
    out = tmp_path / "out"
    assert cli.main(["md-bench", str(path), "--frames", "1", "--steps", "0", "--out", str(out), *QUICKLY]) == 0
    words = "ammonium, charge +1, 1 geometries"
    assert words in capsys.readouterr().out
    assert words in (out / "table.md").read_text()
    assert words in (out / "report.html").read_text()
    assert {(row.charge, row.mult) for row in read_results(out / RESULTS).rows} == {(1, 1)}


def test_members_of_collections_have_their_own_spin() -> None:
    found = chosen("ase:g2/O2,H2O", "--frames", ":")
    assert {name: MLHam().charge_and_spin(atoms) for name, (atoms,) in found.items()} == {
        "g2:O2": (0, 2),
        "g2:H2O": (0, 0),
    }


def test_bad_frames_matter_only_if_they_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "in.xyz"
    write(path, [bent_water(), bent_water()], format="xyz")
    path.write_text(path.read_text() + "2\n\nH 0 0 zero\nH 0 0 1\n")
    assert list(chosen(path, "--frames", ":2")) == ["in:0", "in:1"]
    with pytest.raises(DataError, match=r"in.xyz, frame 2: cannot be read \(line 13: expected an element"):
        chosen(path, "--frames", "1:")
    with pytest.raises(DataError, match=r"none.xyz: cannot be read \(no such file\)"):
        chosen(tmp_path / "none.xyz")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"charge": 1, "mult": 2}, "charge 1 and multiplicity 2"),
        ({"mult": 3}, "charge 0 and multiplicity 3"),
        ({"mult": 2}, "10 electrons cannot have multiplicity 2"),
    ],
)
def test_frames_to_follow_are_of_one_state(
    other: dict[str, int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [bent_water(), bent_water()]
    frames[1].info.update(other)
    write(tmp_path / "in.xyz", frames, format="extxyz")
    out = tmp_path / "out"
    assert cli.main(["md-bench", str(tmp_path / "in.xyz"), "--frames", ":", "--follow", "--out", str(out)]) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_frames_to_follow_are_of_one_molecule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", [bent_water(), molecule("NH3")])
    command = ["md-bench", str(tmp_path / "in.xyz"), "--frames", ":", "--follow", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 1
    assert "--follow needs frames of the same atoms" in " ".join(capsys.readouterr().err.split())


def test_charge_and_multiplicity_are_those_of_the_frame_or_the_command(tmp_path: Path) -> None:
    geometry = tmp_path / "two.xyz"
    own = bent_water()
    own.info["spin"] = 0
    write(geometry, [bent_water(), own], format="extxyz")
    (first,), (second,) = chosen(geometry, "--frames", ":", "--charge", "2", "--mult", "3").values()
    assert MLHam().charge_and_spin(first) == (2, 2)
    assert MLHam().charge_and_spin(second) == (2, 0)


def test_masses_and_constraints_of_frames_are_kept_and_boxes_ignored(tmp_path: Path) -> None:
    atoms = molecule("H2O", vacuum=3.0, pbc=True)
    atoms.set_masses([15.999, 2.014, 1.008])
    atoms.set_constraint(FixAtoms([0]))
    write(tmp_path / "heavy.traj", atoms)
    paths, bad = read_paths(str(tmp_path / "heavy.traj"), ":", 0, None, follow=False)
    ((read,),) = paths.values()
    assert not bad
    assert not read.pbc.any()
    assert read.get_masses().tolist() == [15.999, 2.014, 1.008]
    assert [constraint.index.tolist() for constraint in read.constraints] == [[0]]
