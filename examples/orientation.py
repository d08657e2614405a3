"""Energy of a degenerate radical by its orientation on the integration grid.

python examples/orientation.py; the hole of each molecule is rotated about the bond, and the table has the difference
between the highest and the lowest energy, micro-Hartree, for grids with PySCF's pruning and without it.

python examples/orientation.py --ions; linear ions in B3LYP, and the energy of each rotation above that along the axes.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from pyscf import gto
from scipy.spatial.transform import Rotation

from pyscf_mlham import accelerate
from pyscf_mlham.ao.layout import OrbitalLayout

MOLECULES = {"OH": "O 0 0 0; H 0 0 0.97", "CF": "C 0 0 0; F 0 0 1.27", "NO": "N 0 0 0; O 0 0 1.15"}
IONS = {  # atoms and charge
    "C2+": ("C 0 0 0; C 0 0 1.24", 1),
    "CO2-": ("C 0 0 0; O 0 0 1.1626; O 0 0 -1.1626", -1),
    "CO2+": ("C 0 0 0; O 0 0 1.1626; O 0 0 -1.1626", 1),
    "CS-": ("C 0 0 0; S 0 0 1.54153", -1),
    "OCS+": ("O 0 0 0; C 0 0 1.15843; S 0 0 2.72528", 1),
    "HF+": ("F 0 0 0; H 0 0 0.91577", 1),
}
SHOWN = (0, 15, 22.5, 30, 45)  # degrees
ANGLES = np.radians(np.arange(0, 90, 2.5))


def rotated(mol: gto.Mole, coeff: Any, angle: float) -> Any:
    """Return orbitals of both spins that are rotated about the z axis (radians)."""
    layout = OrbitalLayout.from_mol(mol)
    whole = np.zeros((mol.nao, mol.nao))
    whole[np.ix_(layout.order, layout.order)] = layout.rotation(Rotation.from_rotvec([0, 0, angle]).as_matrix())
    return whole @ coeff


def energies(mf: Any, level: int, prune: Any, angles: Any) -> Any:
    """Return the functional's energies of a converged object rotated by angles (radians) on a grid, Hartree."""
    grids = mf.grids.copy()
    grids.level, grids.prune = level, prune
    grids.build()
    densities = [mf.make_rdm1(rotated(mf.mol, mf.mo_coeff, angle), mf.mo_occ) for angle in angles]
    # all other parts of the energy are the same for each angle
    return np.array([mf._numint.nr_uks(mf.mol, grids, mf.xc, density)[1] for density in densities])


def ions(level: int) -> None:
    """Print the table of ions on grids of a level."""
    print("| ion |", " | ".join(f"{angle:g}" for angle in SHOWN), "|")
    for name, (atom, charge) in IONS.items():
        mf = gto.M(atom=atom, charge=charge, spin=1, basis="def2-svp", verbose=0).UKS(xc="b3lyp").density_fit()
        mf.grids.level = level
        mf = accelerate(mf).run()
        found = energies(mf, level, mf.grids.prune, np.radians(SHOWN))
        print(f"| {name} |", " | ".join(f"{1e6 * e:.3f}" for e in found - found[0]), "|", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xc", nargs="+", default=["b3lyp", "r2scan", "m06-2x"])
    parser.add_argument("--levels", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--ions", action="store_true", help="linear ions, on the first of the levels")
    args = parser.parse_args()
    if args.ions:
        ions(args.levels[0])
        return
    names = [f"{n} | {n}, no pruning" for n in args.levels]
    print("| molecule | functional |", " | ".join(names), "|")
    for name, atom in MOLECULES.items():
        mol = gto.M(atom=atom, spin=1, basis="def2-svp", verbose=0)
        for xc in args.xc:
            mf = accelerate(mol.UKS(xc=xc).density_fit()).run()
            grids = [(n, prune) for n in args.levels for prune in (mf.grids.prune, None)]
            found = [float(np.ptp(energies(mf, n, prune, ANGLES))) for n, prune in grids]
            print(f"| {name} | {xc} |", " | ".join(f"{1e6 * e:.2g}" for e in found), "|", flush=True)


if __name__ == "__main__":
    main()
