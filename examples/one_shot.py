"""Errors of orbital energies without SCF, `OneShot(mf)`, beside those of the converged SCF.

    python examples/one_shot.py molecules.xyz ions.xyz --grid 1 --number 10

Density-fitted (--exact: exact integrals), def2-SVP; comment lines may have charge= and mult=. The smallest molecules of
each file are taken; those outside the model's domain are named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pyscf_mlham import OneShot, accelerate
from pyscf_mlham.bench.molecules import read_molecules
from pyscf_mlham.data.geometries import Molecule, mol_from_geometry
from pyscf_mlham.density import Orbitals, gap
from pyscf_mlham.errors import MLHamError


def errors(molecule: Molecule, options: argparse.Namespace) -> tuple[float, float]:
    """Return the mean absolute error of the occupied orbital energies, and that of the gap, Hartree."""
    mol = mol_from_geometry(molecule, "def2-svp")
    mf = mol.KS(xc=options.xc)
    mf = mf if options.exact else mf.density_fit()
    mf.grids.level = options.grid
    one, converged = OneShot(mf, options.model).run(), accelerate(mf.copy()).run()
    if not converged.converged:
        raise MLHamError("the SCF did not converge")
    found, exact = (np.atleast_2d(each.mo_energy) for each in (one, converged))
    filled = np.atleast_2d(converged.mo_occ) > 0
    exact_gap = gap(Orbitals(converged.mo_energy, converged.mo_coeff, converged.mo_occ))
    return float(np.abs(found - exact)[filled].mean()), abs(one.gap - exact_gap)


def measured(molecule: Molecule, options: argparse.Namespace) -> tuple[float, float] | None:
    """Return and print the errors, or print why there are none."""
    try:
        found = errors(molecule, options)
    except MLHamError as error:
        print(f"{molecule.name}: {error}", flush=True)
        return None
    print(f"{molecule.name}: {found[0]:.1e} {found[1]:.1e}", flush=True)
    return found


def main() -> None:
    """Print a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="b3lyp-svp", help="name or folder")
    parser.add_argument("--xc", default="b3lyp")
    parser.add_argument("--grid", type=int, default=3)
    parser.add_argument("--exact", action="store_true", help="exact integrals")
    parser.add_argument("--number", type=int, help="of each file; default: all")
    options = parser.parse_args()
    for path in options.files:
        molecules = sorted(read_molecules([str(path)]).molecules, key=lambda molecule: len(molecule.numbers))
        found = [row for molecule in molecules[: options.number] if (row := measured(molecule, options))]
        rows = np.array(found).reshape(-1, 2)
        mean, worst = (" ".join(f"{value:.1e}" for value in values) for values in (rows.mean(axis=0), rows.max(axis=0)))
        print(
            f"{path.stem}, {len(rows)} molecules: occupied energies, gap / Ha: mean {mean}, largest {worst}", flush=True
        )


if __name__ == "__main__":
    main()
