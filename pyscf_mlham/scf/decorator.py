"""Decoration of mean-field objects: an object of mf's class that can be reset without changing mf."""

from __future__ import annotations

import copy
import shutil
from importlib import import_module
from typing import Any

from pyscf import df, lib

from pyscf_mlham.errors import ExtraError
from pyscf_mlham.scf import guess_info
from pyscf_mlham.scf.pickling import new, parts_of

SHARED = ("grids", "nlcgrids", "with_df", "with_solvent", "with_x2c")


class Decoration:
    """Base of this package's decorations; `_undecorated` is the plain object, `_redecorated` another one decorated."""

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:
        return new, (parts_of(type(self)),), self.__getstate__()

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        self._opt = {None: None}  # without it PySCF's direct SCF fails

    def to_gpu(self: Any) -> Any:
        """Return the corresponding object of gpu4pyscf; if it is decorated, its SCF is that of gpu4pyscf."""
        try:
            import_module("gpu4pyscf")
            import_module("cupy")
        except ModuleNotFoundError as error:
            raise ExtraError(
                f"to_gpu() needs gpu4pyscf, and {error.name} is not installed; install it with: pip install "
                "gpu4pyscf-cuda12x (or that of your version of CUDA)"
            ) from error
        return self._redecorated(self._undecorated().to_gpu())

    def to_cpu(self: Any) -> Any:
        """Return the object itself; if it was made by `to_gpu`, the corresponding object of PySCF."""
        return self._redecorated(on_cpu(self._undecorated())) if is_on_gpu(self) else self


def is_on_gpu(mf: Any) -> bool:
    """Whether an object is one of gpu4pyscf, whose matrices are CuPy's."""
    return any(kind.__module__.startswith("gpu4pyscf") for kind in type(mf).__mro__)


def on_cpu(mf: Any) -> Any:
    """Return the object of PySCF that corresponds to one of gpu4pyscf; any other object as it is."""
    return mf.to_cpu() if is_on_gpu(mf) else mf


def expect_mean_field(mf: Any) -> None:
    """Raise TypeError if an object is not a mean-field object, for example a molecule."""
    if not hasattr(mf, "get_fock"):
        raise TypeError(f"expected a mean-field object, such as mol.RKS(xc='b3lyp'); got {type(mf).__name__}.")


def private_parts(mf: Any) -> dict[str, Any]:
    """Return the attributes of a mean-field object, with copies of the helpers that its `reset` changes."""
    expect_mean_field(mf)
    if hasattr(mf, "undo_oneshot"):
        raise TypeError("a OneShot object runs no SCF; decorate the plain object, or its undo_oneshot().")
    parts = _private_parts(mf, {})
    parts.pop(guess_info.ATTRIBUTE, None)  # the new object has made no guess yet
    return parts


def _private_parts(mf: Any, copies: dict[int, Any]) -> dict[str, Any]:
    """Copy attributes; a second-order object and its inner object share their helpers, and so do the copies."""
    parts = dict(vars(mf)) | {"scf_summary": {}}
    if "_opt" in parts:  # objects of gpu4pyscf lack it
        parts["_opt"] = dict(parts["_opt"] or {None: None})
    for name in SHARED:
        helper: Any = parts.get(name)
        if not hasattr(helper, "copy"):
            continue
        if id(helper) not in copies:
            copies[id(helper)] = _copy_of(helper)
        parts[name] = copies[id(helper)]
    if "_numint" in parts:  # it has the range separation that mf.omega sets
        parts["_numint"] = copy.copy(parts["_numint"])
    if (inner := parts.get("_scf")) is not None:
        parts["_scf"] = inner.copy()
        parts["_scf"].__dict__.update(_private_parts(inner, copies))
    return parts


def _copy_of(helper: Any) -> Any:
    """Copy a helper, including the parts that it modifies in place."""
    copied = helper.copy()
    parts = vars(copied)  # not setattr: setting the grid of a solvent resets it
    if isinstance(parts.get("_intermediates"), dict):
        parts["_intermediates"] = dict(parts["_intermediates"])
    if hasattr(parts.get("grids"), "copy"):  # that of ddCOSMO, moved in place with the molecule
        parts["grids"] = parts["grids"].copy()
    if not isinstance(file := getattr(copied, "_cderi_to_save", ""), str):  # a temporary file
        if isinstance(copied, df.DF):
            copied._cderi_to_save = None  # created when needed
        else:  # periodic: created with the object and read by its name, which exists as long as the original does
            copied._cderi_to_save = lib.NamedTemporaryFile(dir=lib.param.TMPDIR)
            if copied._cderi == file.name:  # the original may write over them
                copied._cderi = shutil.copyfile(file.name, copied._cderi_to_save.name)
    return copied


def start_of(mf: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of `scf` equivalent to a call of the object's own `kernel`."""
    names = ("mo_coeff", "mo_occ", "dm0") if hasattr(mf, "undo_soscf") else ("dm0",)  # as PySCF orders them
    if len(args) > len(names):
        raise TypeError(f"kernel() takes {len(names)} positional arguments ({', '.join(names)}); got {len(args)}.")
    given = dict(zip(names, args, strict=False)) | kwargs
    coeff, occ = given.pop("mo_coeff", None), given.pop("mo_occ", None)
    if given.get("dm0") is None and coeff is not None:
        given["dm0"] = coeff if occ is None else mf.make_rdm1(coeff, occ)
    return given
