"""Baselines H0: cheap Hamiltonians that models correct."""

from pyscf_mlham.h0.base import BASELINES, SCC, fingerprint, hamiltonian, potential, same_h0

__all__ = ["BASELINES", "SCC", "fingerprint", "hamiltonian", "potential", "same_h0"]
