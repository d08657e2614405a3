"""The SCF solution from one to three full Fock builds: the algorithm is in `solver`, `accelerate` in `mixin`."""

from pyscf_mlham.scf.multilevel.mixin import accelerate

__all__ = ["accelerate"]
