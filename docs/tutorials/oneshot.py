"""Orbitals without SCF: OneShot, on formaldehyde."""

import numpy as np
import pyscf

import pyscf_mlham

FORMALDEHYDE = "C 0 0 -0.53; O 0 0 0.67; H 0 0.94 -1.12; H 0 -0.94 -1.12"
mol = pyscf.M(atom=FORMALDEHYDE, basis="def2-svp", verbose=0)

one = pyscf_mlham.OneShot(mol.RKS(xc="b3lyp")).run()
scf = mol.RKS(xc="b3lyp").run()

homo, lumo = mol.nelectron // 2 - 1, mol.nelectron // 2
print("                  predicted   converged")
print(f"HOMO / Ha         {one.mo_energy[homo]:9.4f}   {scf.mo_energy[homo]:9.4f}")
print(f"LUMO / Ha         {one.mo_energy[lumo]:9.4f}   {scf.mo_energy[lumo]:9.4f}")
dipoles = [np.linalg.norm(mf.dip_moment(verbose=0)) for mf in (one, scf)]
print(f"dipole / Debye    {dipoles[0]:9.3f}   {dipoles[1]:9.3f}")
# an energy is not part of a prediction; it costs one Fock build
print(f"energy / Ha    {one.energy_tot():12.5f}{scf.e_tot:12.5f}")

assert np.isnan(one.e_tot)
assert abs(one.mo_energy[homo] - scf.mo_energy[homo]) < 5e-3
assert abs(one.gap - (scf.mo_energy[lumo] - scf.mo_energy[homo])) < 1e-2
assert abs(one.energy_tot() - scf.e_tot) < 1e-3
F = pyscf_mlham.fock(mol.RKS(xc="b3lyp"))  # the network's own matrix, PySCF's AO order, Hartree
assert F.shape == (mol.nao, mol.nao)
