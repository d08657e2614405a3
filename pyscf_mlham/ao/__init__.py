"""Orbital conventions and geometry: arrays only, no SCF. Only `mole` imports PySCF."""
