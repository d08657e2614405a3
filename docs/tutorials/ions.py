"""Radicals and ions: 'scc' and accelerate(), on formate (an anion) and NO2 (a radical)."""

import pyscf

import pyscf_mlham

FORMATE = "C 0 0 0.31; O 1.14 0 -0.21; O -1.14 0 -0.21; H 0 0 1.45"
NO2 = "N 0 0 0.33; O 1.10 0 -0.14; O -1.10 0 -0.14"


def run(mol, guess):
    """Converge with one initial guess."""
    mf = mol.RKS(xc="b3lyp") if mol.spin == 0 else mol.UKS(xc="b3lyp")
    mf.init_guess = guess
    return mf.run()


for name, mol in (
    ("formate", pyscf.M(atom=FORMATE, basis="def2-svp", charge=-1, verbose=3)),
    ("NO2", pyscf.M(atom=NO2, basis="def2-svp", spin=1, verbose=3)),
):
    print(f"--- {name}")
    plain, scc = run(mol, "minao"), run(mol, "scc")
    quick = pyscf_mlham.accelerate(mol.UKS(xc="b3lyp") if mol.spin else mol.RKS(xc="b3lyp")).run()
    print(f"cycles: minao {plain.cycles}, scc {scc.cycles}; accelerate(): {quick.full_builds} full builds")
    assert scc.cycles < plain.cycles
    assert quick.full_builds <= 3
    for mf in (scc, quick):
        assert mf.converged and abs(mf.e_tot - plain.e_tot) < 1e-7

print("--- formate with 'ml': the shipped model is for neutral molecules")
anion = pyscf.M(atom=FORMATE, basis="def2-svp", charge=-1, verbose=0)
mf = anion.RKS(xc="b3lyp")
try:
    pyscf_mlham.guess(mf, fallback="raise")
except pyscf_mlham.OutOfDomainError as error:
    print("OutOfDomainError:", error)
else:
    print("this installation has a model for anions")
