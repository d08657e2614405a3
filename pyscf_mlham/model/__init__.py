"""Learned Hamiltonians: from a molecule to a Fock matrix and its orbitals."""
