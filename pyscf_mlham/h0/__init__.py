"""Baselines H0: cheap Hamiltonians that models correct."""

from pyscf_mlham.h0.base import BASELINES, fingerprint, hamiltonian, potential, same_h0
from pyscf_mlham.h0.crystal import COARSE_SCF, CRYSTAL_BASELINES, SCC

__all__ = ["BASELINES", "COARSE_SCF", "CRYSTAL_BASELINES", "SCC", "fingerprint", "hamiltonian", "potential", "same_h0"]
