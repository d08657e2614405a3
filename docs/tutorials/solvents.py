"""Dispersion and solvents: D3 and D4 if installed, PCM, on methanol."""

import pyscf

import pyscf_mlham

METHANOL = """
C -0.0469  0.6605  0.0000
O -0.0469 -0.7583  0.0000
H -1.0866  0.9766  0.0000
H  0.4384  1.0720  0.8876
H  0.4384  1.0720 -0.8876
H  0.8624 -1.0572  0.0000
"""
mol = pyscf.M(atom=METHANOL, basis="6-31g", verbose=0)

# 1. dispersion: added to each energy by PySCF, independent of the density
try:
    import pyscf.dispersion
except ImportError:
    print("D3 and D4: not installed, left out (pip install pyscf-dispersion)")
else:
    for disp in ("d3bj", "d4"):
        plain = mol.RKS(xc="pbe", disp=disp).run()
        quick = pyscf_mlham.accelerate(mol.RKS(xc="pbe", disp=disp)).run()
        print(f"PBE-{disp}: {quick.e_tot:.6f} Ha, {quick.full_builds} full builds, plain SCF {plain.cycles} cycles")
        assert abs(quick.e_tot - plain.e_tot) < 1e-8

# 2. a polarisable continuum: PySCF's decorations first, accelerate() after them
plain = mol.RKS(xc="pbe").PCM()
plain.with_solvent.method, plain.with_solvent.eps = "IEF-PCM", 78.36
plain.run()

quick = mol.RKS(xc="pbe").PCM()
quick.with_solvent.method, quick.with_solvent.eps = "IEF-PCM", 78.36
quick = pyscf_mlham.accelerate(quick).run()

print(f"PBE in IEF-PCM: {quick.e_tot:.6f} Ha, {quick.full_builds} full builds, plain SCF {plain.cycles} cycles")
assert quick.converged and quick.full_builds <= 3
assert abs(quick.e_tot - plain.e_tot) < 1e-7
