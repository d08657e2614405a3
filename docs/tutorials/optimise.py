"""Geometry optimisation: geomeTRIC with track(accelerate(mf)), and ASE with MLHam, on formaldehyde."""

import pyscf
from ase import Atoms
from ase.optimize import BFGS

import pyscf_mlham

FORMALDEHYDE = "C 0 0 -0.55; O 0 0 0.70; H 0 0.95 -1.10; H 0 -0.95 -1.10"

# 1. geomeTRIC
try:
    from pyscf.geomopt import geometric_solver
except ImportError:
    print("geomeTRIC: not installed, left out (pip install geometric)")
else:
    mol = pyscf.M(atom=FORMALDEHYDE, basis="6-31g", verbose=0)
    mf = pyscf_mlham.track(pyscf_mlham.accelerate(mol.RHF()))
    relaxed = geometric_solver.optimize(mf, maxsteps=30)
    # a plain SCF at the end point gives the same energy
    mf.reset(relaxed).kernel()
    plain = relaxed.RHF().run()
    print(f"geomeTRIC: {plain.e_tot:.6f} Ha")
    assert abs(mf.e_tot - plain.e_tot) < 1e-8

# 2. ASE
places = [[float(x) for x in line.split()[1:]] for line in FORMALDEHYDE.split(";")]
atoms = Atoms("COHH", places)
atoms.calc = pyscf_mlham.ase.MLHam(xc="hf", basis="6-31g", guess="minao", solver="twolevel")
optimiser = BFGS(atoms, logfile=None)
assert optimiser.run(fmax=0.02, steps=30)
report = atoms.calc.report()
print(f"ASE: {atoms.get_potential_energy() / 27.211386:.5f} Ha after {optimiser.nsteps} steps")
print(f"C=O: {atoms.get_distance(0, 1):.3f} Angstrom")
builds = [step.builds for step in report.steps]
print("full Fock builds of each geometry:", *builds)
assert max(builds[1:]) <= 3
