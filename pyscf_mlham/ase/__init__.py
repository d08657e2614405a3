"""PySCF for ASE. The only folder with eV and Angstrom."""

from pyscf_mlham.ase.calculator import BOHR, HARTREE, MLHam, Report, StepCost

__all__ = ["BOHR", "HARTREE", "MLHam", "Report", "StepCost"]
