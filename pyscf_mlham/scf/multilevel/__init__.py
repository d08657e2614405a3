"""The same SCF from two or three full Fock builds: `solver` has the algorithm, `mixin` accelerate()."""

from pyscf_mlham.scf.multilevel.mixin import accelerate

__all__ = ["accelerate"]
