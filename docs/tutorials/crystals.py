"""Bands without SCF: the model of layers on a distorted cell of boron nitride, against SCF."""

import numpy as np
from pyscf.pbc import dft, gto

import pyscf_mlham

EV = 27.2114  # of a Hartree

a = np.array([[2.52, 0, 0], [-1.24, 2.17, 0], [0, 0, 15]])
atoms = [("B", [0.02, 1.44, 7.5]), ("N", [1.26, 0.72, 7.54])]
cell = gto.M(atom=atoms, a=a, dimension=2, basis="gth-szv-molopt-sr", pseudo="gth-pbe", verbose=0)
kpts = cell.make_kpts([6, 6, 1])
filled = cell.nelectron // 2

# the predicted Fock matrix: no SCF, no fitted integrals
one = pyscf_mlham.OneShot(dft.KRKS(cell, kpts, xc="pbe").density_fit()).run()
path = cell.get_abs_kpts(np.linspace([0, 0, 0], [0.5, 0, 0], 5))  # from Gamma to M
predicted = np.array(one.get_bands(path)[0])[:, : filled + 1]

# an SCF from the same prediction, refined by one full Fock build
mf = dft.KRKS(cell, kpts, xc="pbe").density_fit()
mf.init_guess = "ml"
mf.run()
converged = np.array(mf.get_bands(path)[0])[:, : filled + 1]

bands = np.array(mf.mo_energy)
gap = bands[:, filled].min() - bands[:, filled - 1].max()
print(f"gap / eV: {one.gap * EV:.3f} predicted, {gap * EV:.3f} converged")
print("highest occupied band from Gamma to M / eV:")
print("predicted", np.round(predicted[:, filled - 1] * EV, 2))
print("converged", np.round(converged[:, filled - 1] * EV, 2))
print(f"cycles: {mf.cycles}; full builds of the guess: {mf.guess_info.full_builds}")

assert abs(one.gap - gap) * EV < 0.02
assert np.abs(predicted - converged).max() * EV < 0.04
assert mf.cycles <= 2
assert mf.guess_info.full_builds == 1
