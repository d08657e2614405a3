"""Self-consistent field: the multilevel solver and its interface to PySCF."""
