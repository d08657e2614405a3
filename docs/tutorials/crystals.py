"""Bands without SCF: a model of crystals, on a distorted layer of boron nitride."""

from pathlib import Path

import numpy as np
from pyscf.pbc import dft, gto

import pyscf_mlham

MODEL = Path(__file__).resolve().parents[2] / "examples" / "2d-pbe-szv"  # graphene, boron nitride

a = np.array([[2.52, 0, 0], [-1.24, 2.17, 0], [0, 0, 15]])
atoms = [("B", [0.02, 1.44, 7.5]), ("N", [1.26, 0.72, 7.54])]
cell = gto.M(atom=atoms, a=a, dimension=2, basis="gth-szv-molopt-sr", pseudo="gth-pbe", verbose=0)
mf = dft.KRKS(cell, cell.make_kpts([4, 4, 1]), xc="pbe").density_fit()
mf.with_df.build(j_only=True)  # the integrals, for both

one = pyscf_mlham.OneShot(mf, MODEL).run()
scf = mf.run()

filled = cell.nelectron // 2
one_bands, scf_bands = (np.array(each.mo_energy)[:, : filled + 1] * 27.2114 for each in (one, scf))
gap = scf_bands[:, filled].min() - scf_bands[:, filled - 1].max()
print("             predicted  converged")
print(f"gap / eV      {one.gap * 27.2114:9.4f}  {gap:9.4f}")
print(f"largest error of a band: {1000 * np.abs(one_bands - scf_bands).max():.1f} meV")

# at other k points: the bands of the predicted density, at the cost of the core Hamiltonian and one Fock build
M = cell.make_kpts([1, 1, 1], scaled_center=[0.5, 0, 0])
(predicted,), _ = one.get_bands(M)
print("M / eV:", np.round(predicted[: filled + 1] * 27.2114, 2))

# an SCF from the same prediction
quick = dft.KRKS(cell, mf.kpts, xc="pbe").density_fit()
quick.with_df, quick.init_guess = mf.with_df, f"ml:{MODEL}"
quick.run()
print(
    f"cycles: {scf.cycles} from minao, {quick.cycles} from ml; full builds of the guess: {quick.guess_info.full_builds}"
)

assert abs(one.gap * 27.2114 - gap) < 0.01
assert np.abs(one_bands - scf_bands).max() < 0.02
assert abs(quick.e_tot - scf.e_tot) < 1e-8
assert quick.cycles <= scf.cycles / 2
assert quick.guess_info.full_builds == 0
