"""Molecular dynamics: track(), through ASE and with a scanner of your own, on water."""

import numpy as np
import pyscf
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet

import pyscf_mlham


def water():
    """Return a water molecule with velocities of 300 K."""
    atoms = Atoms("OH2", [(0, 0, 0.12), (0, 0.76, -0.47), (0, -0.76, -0.47)])
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    Stationary(atoms)
    return atoms


# 1. ASE: the same ten steps without a history, with one, and as shadow dynamics
for history in (None, "fit", "shadow"):
    atoms = water()
    atoms.calc = pyscf_mlham.ase.MLHam(xc="hf", basis="6-31g", guess="minao", history=history)
    start = atoms.get_potential_energy() + atoms.get_kinetic_energy()
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(10)
    drift = atoms.get_potential_energy() + atoms.get_kinetic_energy() - start
    cycles = [step.cycles for step in atoms.calc.report().steps]
    print(f"history={history}: cycles of each step", *cycles)
    assert abs(drift) < 5e-3  # eV
assert cycles[2:] == [1] * 9

# 2. PySCF: a scanner
mol = pyscf.M(atom=[(s, p) for s, p in zip("OHH", water().positions, strict=True)], basis="6-31g", verbose=0)
scanner = pyscf_mlham.track(mol.RHF()).nuc_grad_method().as_scanner()
coords = mol.atom_coords()
for step in range(4):
    energy, gradient = scanner(mol.set_geom_(coords, unit="Bohr", inplace=False))
    coords = coords - 0.3 * gradient
    print(f"scanner: step {step}, {scanner.base.cycles} cycles, {energy:.6f} Ha")
assert scanner.base.converged
