"""First SCF: PySCF's guess, 'ml', and accelerate(), on methanol."""

import pyscf

import pyscf_mlham  # adds 'ml' and 'scc' to PySCF's initial guesses

METHANOL = """
C -0.0469  0.6605  0.0000
O -0.0469 -0.7583  0.0000
H -1.0866  0.9766  0.0000
H  0.4384  1.0720  0.8876
H  0.4384  1.0720 -0.8876
H  0.8624 -1.0572  0.0000
"""
mol = pyscf.M(atom=METHANOL, basis="def2-svp", verbose=3)

# 1. PySCF as it is
plain = mol.RKS(xc="b3lyp").run()

# 2. the learned guess
ml = mol.RKS(xc="b3lyp")
ml.init_guess = "ml"
ml.run()

# 3. the multilevel SCF, from PySCF's guess
quick = pyscf_mlham.accelerate(mol.RKS(xc="b3lyp")).run()

print()
print("                 cycles   energy / Ha")
for name, mf in (("minao", plain), ("ml", ml), ("accelerate()", quick)):
    print(f"{name:15s} {mf.cycles:7d}   {mf.e_tot:.8f}")
print(f"accelerate(): {quick.full_builds} full, {quick.coarse_builds} coarse, {quick.response_builds} response builds")

assert plain.converged and ml.converged and quick.converged
assert abs(ml.e_tot - plain.e_tot) < 1e-8
assert abs(quick.e_tot - plain.e_tot) < 1e-8
assert ml.cycles < plain.cycles
assert quick.full_builds <= 3
