"""What PySCF's decorator idiom needs here: an object of mf's class that can be reset without touching mf."""

from __future__ import annotations

from typing import Any

SHARED = ("grids", "nlcgrids", "with_df", "with_solvent", "with_x2c")


def private_parts(mf: Any) -> dict[str, Any]:
    """Return a mean-field object's attributes, with copies of the helpers that its `reset` would change.

    Args:
        mf: PySCF mean-field object.
    """
    if not hasattr(mf, "get_fock"):
        raise TypeError(f"expected a mean-field object, such as mol.RKS(xc='b3lyp'); got {type(mf).__name__}.")
    parts = dict(vars(mf)) | {"scf_summary": {}, "_opt": dict(mf._opt)}
    for name in SHARED:
        if hasattr(parts.get(name), "copy"):
            parts[name] = parts[name].copy()
    return parts
