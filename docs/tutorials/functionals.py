"""Other functionals and basis sets: 'ml' and accelerate() on formaldehyde."""

import pyscf

import pyscf_mlham

FORMALDEHYDE = "C 0 0 -0.53; O 0 0 0.67; H 0 0.94 -1.12; H 0 -0.94 -1.12"

print("level                 cycles: minao   ml   accelerate(): full builds")
for xc, basis in (("pbe", "def2-svp"), ("pbe0", "6-31g*"), ("wb97x", "def2-svp"), ("hf", "def2-svp")):
    mol = pyscf.M(atom=FORMALDEHYDE, basis=basis, verbose=0)

    def method(mol=mol, xc=xc):
        """Return a fresh object."""
        return mol.RHF() if xc == "hf" else mol.RKS(xc=xc)

    plain = method().run()
    ml = method()
    ml.init_guess = "ml"
    ml.run()
    quick = pyscf_mlham.accelerate(method()).run()
    print(f"{xc + '/' + basis:20s} {plain.cycles:14d} {ml.cycles:4d} {quick.full_builds:27d}")
    assert ml.cycles < plain.cycles
    assert quick.full_builds <= 4
    for mf in (ml, quick):
        assert mf.converged and abs(mf.e_tot - plain.e_tot) < 1e-8

# the log has the model's own level if it is another one
mol = pyscf.M(atom=FORMALDEHYDE, basis="6-31g*", verbose=3)
mf = mol.RKS(xc="pbe0")
mf.init_guess = "ml"
mf.run()
