"""PySCF for ASE. The only folder with eV and Angstrom."""

from pyscf_mlham.errors import missing

try:
    from pyscf_mlham.ase.calculator import BOHR, HARTREE, MLHam
    from pyscf_mlham.stepcost import Report, StepCost
except ModuleNotFoundError as error:
    raise missing(error, "ase") from error

__all__ = ["BOHR", "HARTREE", "MLHam", "Report", "StepCost"]
