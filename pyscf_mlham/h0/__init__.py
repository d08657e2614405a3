"""Baselines H0: cheap Hamiltonians that models correct."""

from pyscf_mlham.h0.atoms import ATOMS
from pyscf_mlham.h0.base import BASELINES, fingerprint, hamiltonian, potential, same_h0
from pyscf_mlham.h0.scc import SCC

__all__ = ["ATOMS", "BASELINES", "SCC", "fingerprint", "hamiltonian", "potential", "same_h0"]
