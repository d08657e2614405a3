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

print("--- 'ml' with an element outside the model")
mol = pyscf.M(atom="Ti 0 0 0; H 1 1 1; H -1 -1 1; H 1 -1 -1; H -1 1 -1", basis="def2-svp", verbose=0)
mf = mol.RKS(xc="pbe")
reason = pyscf_mlham.applicable(mf, "ml")  # before anything is computed
print("reason:", reason)
mf.init_guess = "ml"
mf.run()
print("guess that was used:", mf.guess_info.guess)
assert "element Ti" in reason
assert mf.converged and mf.guess_info.guess == "scc" and mf.guess_info.fallback_reason == reason
