"""Threads and BLAS: one BLAS thread, several OpenMP threads."""

import os

# All of them are read when the libraries are loaded: set them here, or in the shell, before Python starts.
os.environ["OMP_NUM_THREADS"] = "1"  # PySCF's threads: as many as the job has cores; 1 in this example
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's BLAS threads: they compete with PySCF's
os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # PySCF's wheel has an OpenBLAS of 2018, see the page

import pyscf
from pyscf import lib
from threadpoolctl import threadpool_info

import pyscf_mlham

print(f"PySCF: {lib.num_threads()} thread")
for library in sorted(threadpool_info(), key=lambda library: library["filepath"]):
    if library["user_api"] == "blas":
        owner = next((name for name in ("numpy", "scipy", "pyscf") if name in library["filepath"]), "other")
        print(f"BLAS: {owner}, {library['num_threads']} thread, {library.get('architecture')} kernels")

mol = pyscf.M(atom="O 0 0 0.12; H 0 0.76 -0.47; H 0 -0.76 -0.47", basis="6-31g", verbose=0)
mf = pyscf_mlham.accelerate(mol.RHF()).run()
print(f"energy {mf.e_tot:.6f} Ha")
assert mf.converged
assert lib.num_threads() == 1
