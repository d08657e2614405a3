"""Mean-field objects to which the multilevel SCF is applicable; all others use PySCF's own kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyscf import lib
from pyscf.scf.atom_hf import AtomSphAverageRHF

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.field import has_hubbard
from pyscf_mlham.scf.decorator import is_on_gpu

# Methods that the cheap levels share with PySCF; a user's own replacement of one is called by PySCF's kernel only.
HOOKS = ("pre_kernel", "post_kernel")
METHODS = ("get_fock", "get_occ", "get_grad", "eig", "make_rdm1", "canonicalize")
# Attributes of a field that PySCF's decorations and users set; after newton() they reach the outer object only.
FIELD = ("xc", "nlc", "disp", "grids", "nlcgrids", "with_df", "with_solvent", "with_x2c", "mm_mol", "get_hcore")
KNOWN = (
    "pyscf.scf.",
    "pyscf.dft.",
    "pyscf.pbc.",
    "pyscf.df.",
    "pyscf.solvent",
    "pyscf.x2c.",
    "pyscf.qmmm.",
    "pyscf_mlham.",
)


def inapplicable(mf: Any) -> str:
    """Return why plain SCF is used for a mean-field object, "" if the multilevel SCF is applicable."""
    if hasattr(type(mf), "undo_oneshot"):
        return "a OneShot object runs no SCF"
    if mf.mol.natm == 0:
        return "a Hamiltonian without atoms has no coarse level"
    if not is_known(mf):
        name = type(mf).__name__.removeprefix("Multilevel")
        return f"{name} has no coarse level"
    if mf.max_cycle <= 0 or mf.mol.nelectron == 0:
        return "max_cycle = 0 or no electrons: there is nothing to iterate"
    if any(kind.__name__ == "HF1e" for kind in type(mf).__mro__):
        return "one electron needs no iteration"
    if hasattr(mf, "undo_soscf") and _was_decorated_after_newton(mf):
        return "a setting or decoration made after newton() is not in the field of the second-order solver"
    if not mf.diis:
        return "DIIS is switched off, and the coarse SCF relies on it"
    if mf.istype("ROHF") and mf.mol.spin < 0:
        return "ROHF with more beta than alpha electrons is left to PySCF"
    if replaced := [name for name in HOOKS if is_replaced(mf, name)]:
        return f"{', '.join(replaced)} was set (seminumerical exchange does so), and cheaper levels would not call it"
    return unknown_field(mf)


def is_known(mf: Any) -> bool:
    """Whether an object is a restricted or unrestricted one, of a molecule or of a crystal with or without k points."""
    open_shell = ("KROHF", "ROHF") if is_periodic(mf.mol) else ()
    known = any(mf.istype(kind) for kind in ("RHF", "UHF", "KRHF", "KUHF"))
    spherical = isinstance(mf, AtomSphAverageRHF)  # with occupations of its own
    return known and not spherical and not any(mf.istype(kind) for kind in open_shell)


def unknown_field(mf: Any) -> str:
    """Return why the field of a restricted or unrestricted object has no coarse form, "" if it has one."""
    if mf.mol.nao == 0:
        return "there are no basis functions"
    if is_on_gpu(mf):
        return "the matrices of gpu4pyscf are on the GPU"
    if is_periodic(mf.mol) and (reason := _unknown_crystal(mf)):
        return reason
    if getattr(mf, "sigma", None) and not mf.istype("KSCF"):
        return "smeared occupations are left to PySCF"
    if replaced := [name for name in METHODS if is_replaced(mf, name)]:
        return f"{', '.join(replaced)} of this object is not PySCF's own, and cheaper levels would not call it"
    overlap = mf.get_ovlp(mf.mol)
    if (np.iscomplexobj(overlap) and not mf.istype("KSCF")) or overlap.shape[-1] != mf.mol.nao:
        return "orbitals are not real atomic orbitals"
    return ""


def _unknown_crystal(mf: Any) -> str:
    """Return why the field of a periodic object has no coarse form, "" if it has one."""
    fitting = type(mf.with_df)
    bases = {kind.__name__ for kind in fitting.__mro__}
    if mf.rsjk or "GDF" not in bases or "MDF" in bases:
        name = type(mf.rsjk).__name__ if mf.rsjk else fitting.__name__
        return f"{name} of periodic systems has no coarse level; use density_fit()"
    if hasattr(mf.with_df._kpts, "kpts_ibz"):
        return "symmetry of k points is left to PySCF"
    if has_hubbard(mf):
        return "the coarse level lacks Hubbard's U"
    if mf.istype("KUHF") and mf.mol.spin and not getattr(mf, "sigma", None):
        return "unequal spins of k points without smearing are left to PySCF"
    return ""


def _was_decorated_after_newton(mf: Any) -> bool:
    """Whether the field of a second-order object differs from that of the inner object, which PySCF converges."""
    outer, inner = vars(mf), vars(mf._scf)
    return any(outer.get(name) is not inner.get(name) and outer.get(name) != inner.get(name) for name in FIELD)


def is_replaced(mf: Any, name: str) -> bool:
    """Whether a step of the SCF is replaced, on the object (as for fractional occupations) or by a user's own class."""
    owner = next((c for c in type(mf).__mro__ if name in vars(c)), object)
    own = vars(mf).get(name)
    if own is not None and str(getattr(own, "__module__", "")).startswith("pyscf_mlham."):  # it counts or measures
        own = None
    if name in HOOKS:
        return own is not None or owner is not lib.StreamObject
    return own is not None or not owner.__module__.startswith(KNOWN)
