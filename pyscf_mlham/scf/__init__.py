"""Where the predicted Hamiltonian meets PySCF's self-consistent field."""
