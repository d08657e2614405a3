"""The benchmark: cost of guesses and solvers, relative to PySCF's default guess and plain SCF."""
