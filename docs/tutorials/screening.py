"""Energies from one full Fock build: accelerate(mf, builds=1), on three conformations of methanol."""

import numpy as np
import pyscf

import pyscf_mlham

# a rotation of H about the C-O axis of methanol changes the energy by a few mHa
METHANOL = [
    ("C", (-0.0469, 0.6605, 0.0)), ("O", (-0.0469, -0.7583, 0.0)), ("H", (-1.0866, 0.9766, 0.0)),
    ("H", (0.4384, 1.0720, 0.8876)), ("H", (0.4384, 1.0720, -0.8876)),
]  # fmt: skip

print("angle   energy / Ha     its estimated error   error against SCF")
for angle in (0, 30, 60):
    x = 0.9093 * np.cos(np.radians(angle)) - 0.0469
    z = 0.9093 * np.sin(np.radians(angle))
    mol = pyscf.M(atom=[*METHANOL, ("H", (x, -1.0572, z))], basis="6-31g", verbose=0)
    one = pyscf_mlham.accelerate(mol.RKS(xc="b3lyp"), builds=1).run()
    full = mol.RKS(xc="b3lyp").run()
    error = abs(one.e_tot - full.e_tot)
    print(f"{angle:5d}   {one.e_tot:.6f}   {one.energy_error:19.0e}   {error:17.0e}")
    assert one.full_builds == 1
    assert not one.converged
    assert error < max(one.energy_error, 1e-7)
