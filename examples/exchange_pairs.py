"""Density and Fock matrices along SCF, for `fit_exchange_set.py`.

    python examples/exchange_pairs.py molecules.xyz pairs --xc b3lyp --basis def2-svp

Each molecule gives one .npz: the minao density, those that one and two response solutions lead to, and the converged
one, each with its Fock matrix, and exchange of the differences. Charges are read from the comment lines (charge=-1).
Molecules that are there already are left out, so that a run may be stopped and started again.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import read
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham import accelerate

Array = NDArray[np.float64]


def pairs_of(mol: gto.Mole, xc: str) -> dict[str, Any]:
    """Return the matrices of one molecule, in the layout that `fit_exchange_set.py` reads."""
    mf = mol.RHF() if xc == "hf" else mol.RKS(xc=xc)
    mf = mf.density_fit()
    mf.conv_tol, mf.conv_tol_grad = 1e-10, 1e-6
    start = np.asarray(mf.get_init_guess(key="minao"))
    seen = [(start, np.asarray(mf.get_hcore() + mf.get_veff(dm=start)))]
    quick = accelerate(mf)
    quick.callback = lambda envs: seen.append((np.asarray(envs["dm"]), np.asarray(envs["fock"])))
    quick.run()
    densities, focks = (np.array(matrices) for matrices in zip(*seen, strict=True))
    exchange = mf.with_df.get_jk(densities[-1] - densities[:-1], hermi=1)[1]
    hybrid = 1.0 if xc == "hf" else mf._numint.rsh_and_hybrid_coeff(xc)[2]
    occupied = mol.nelectron // 2
    return {
        "D": densities, "F": focks, "K": exchange, "C": quick.mo_coeff, "n": occupied, "hyb": hybrid, "mol": mol.dumps()
    }  # fmt: skip


def main() -> None:
    """Make the pairs of every molecule of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("molecules", help="xyz file of closed shells, one or more frames")
    parser.add_argument("out", type=Path, help="folder of .npz files")
    parser.add_argument("--xc", default="b3lyp", help="functional with exact exchange, or hf; default %(default)s")
    parser.add_argument("--basis", default="def2-svp", help="default %(default)s")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for i, atoms in enumerate(read(args.molecules, ":")):
        path = args.out / f"{Path(args.molecules).stem}-{i}-{args.xc}.npz"
        if path.exists():
            continue
        positions = list(zip(atoms.symbols, atoms.positions, strict=True))
        mol = gto.M(atom=positions, basis=args.basis, charge=int(atoms.info.get("charge", 0)), verbose=0)
        np.savez(path.with_suffix(".part.npz"), **pairs_of(mol, args.xc))
        path.with_suffix(".part.npz").replace(path)
        print(path)


if __name__ == "__main__":
    main()
