"""register() and unregister(): additions to PySCF's base class of mean-field objects, and their removal."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from pyscf import gto
from pyscf.lib import logger
from pyscf.scf import hf
from pyscf.scf.atom_hf import AtomSphAverageRHF

from pyscf_mlham.ao.mole import is_periodic
from pyscf_mlham.model import store
from pyscf_mlham.model.guess import ModelLike, checked_fallback, init_guess, is_ml, is_scc, settings
from pyscf_mlham.scf.applicability import inapplicable
from pyscf_mlham.scf.core import handing_on
from pyscf_mlham.scf.guess_info import recorded
from pyscf_mlham.scf.multilevel import accelerate as accelerated
from pyscf_mlham.scf.multilevel.mixin import converge_accelerated
from pyscf_mlham.track import track

BEFORE = "_before_mlham"  # attribute of PySCF's class with the replaced methods; it survives a reload of this module
DECORATED = ("undo_accelerate", "undo_track", "undo_oneshot", "undo_soscf")  # decorations with their own solver
_KEEP: Any = ...  # identical after a reload of this module


def register(model: ModelLike = _KEEP, fallback: str = _KEEP, accelerate: bool = _KEEP) -> None:
    """Add ``mf.init_guess = 'ml'`` and ``'scc'`` to PySCF; importing pyscf_mlham does so.

    Mean-field objects also get `mf.guess_info` and the methods `mf.accelerate()` and `mf.track()`, which are the
    functions of these names. Periodic objects have them too. Guesses for objects of gpu4pyscf are made on the CPU.

    Settings that are not given are kept.

    Args:
        model: model of 'ml': a model, the name of a shipped one or the path of a model folder; None, as after the
            import, chooses the best applicable shipped model for each calculation.
        fallback: guess if the model is not applicable: "scc" (after the import), one of PySCF's own guesses, or
            "raise".
        accelerate: run each `kernel()` and `scf()` as that of `accelerate(mf)` if applicable; the results are in the
            object, as usual. Tracked and second-order objects keep their own solver.

    To use the package in every script, write to PySCF's configuration file (~/.pyscf_conf.py), below other settings::

        scf_hf_SCF_init_guess = "ml"  # for every object; leave it out to choose in each script
        mlham_accelerate = True  # register(accelerate=True)
        import pyscf_mlham  # the last line: later settings do not reach the modules that it imports

    Unpickling an object imports this package, but does not restore these settings: name the model in init_guess
    ("ml:<name or path>") for use in other processes.
    """
    if isinstance(model, (str, Path)):
        store.find(model)  # raise now if the name is misspelt, not in the first calculation
    if fallback is not _KEEP:
        settings.fallback = checked_fallback(fallback)
    if model is not _KEEP:
        settings.model = model
    if BEFORE not in vars(hf.SCF):
        setattr(hf.SCF, BEFORE, {})
        _replace(hf.SCF, "get_init_guess", _with_ml(hf.SCF.get_init_guess))
        _replace(hf.SCF, "__getstate__", _with_import(hf.SCF.__getstate__))
        _replace(hf.SCF, "guess_info", property(recorded))
        _replace(hf.SCF, "accelerate", accelerated)
        _replace(hf.SCF, "track", track)
    _hand_on_core()
    if (gpu_class := _class_on_gpu()) and BEFORE not in vars(gpu_class):
        from gpu4pyscf.lib.cupy_helper import return_cupy_array

        setattr(gpu_class, BEFORE, {})
        _replace(gpu_class, "get_init_guess", return_cupy_array(_with_ml(gpu_class.get_init_guess)))
        _replace(gpu_class, "guess_info", property(recorded))
    if accelerate is not _KEEP:
        _restore(hf.SCF, "scf")
        if accelerate:
            _replace(hf.SCF, "scf", _with_accelerate(hf.SCF.scf))


def unregister() -> None:
    """Restore PySCF's own class, which uses minao for 'ml' and 'scc', as for all unknown names."""
    for owner in filter(None, (hf.SCF, *_crystal_classes(), _class_on_gpu())):
        for name in list(vars(owner).get(BEFORE, {})):
            _restore(owner, name)
        if BEFORE in vars(owner):
            delattr(owner, BEFORE)


def _class_on_gpu() -> Any:
    """Return gpu4pyscf's base class of mean-field objects, None if it is not imported.

    Its `get_init_guess` is what PySCF's class had at its import.
    """
    return getattr(sys.modules.get("gpu4pyscf.scf.hf"), "SCF", None)


def _crystal_classes() -> list[Any]:
    """Return PySCF's base classes of periodic objects, none if they are not imported."""
    names = (("pyscf.pbc.scf.hf", "SCF"), ("pyscf.pbc.scf.khf", "KSCF"))
    return [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]


def _hand_on_core() -> None:
    """Let periodic objects return the core Hamiltonian of a guess; see `pyscf_mlham.scf.core`."""
    for owner in _crystal_classes():
        if BEFORE not in vars(owner):
            setattr(owner, BEFORE, {})
            _replace(owner, "get_hcore", handing_on(owner.get_hcore))


def _replace(owner: Any, name: str, new: Any) -> None:
    getattr(owner, BEFORE)[name] = vars(owner).get(name)
    setattr(owner, name, new)


def _restore(owner: Any, name: str) -> None:
    before = getattr(owner, BEFORE)
    if name not in before:
        return
    if (original := before.pop(name)) is None:
        delattr(owner, name)
    else:
        setattr(owner, name, original)


def _with_ml(original: Any) -> Any:
    @functools.wraps(original)
    def get_init_guess(self: Any, mol: gto.Mole | None = None, key: Any = "minao", **kwargs: Any) -> Any:
        def pyscf_guess(other: Any) -> Any:
            return original(self, mol, other, **kwargs)

        if BEFORE not in vars(hf.SCF):  # bound by gpu4pyscf before `unregister`
            return pyscf_guess(key)
        if is_periodic(self.mol):
            _hand_on_core()
        return init_guess(self, self.mol if mol is None else mol, key, pyscf_guess)

    return get_init_guess


class _Key(str):
    """A value of init_guess whose unpickling imports this package and returns a plain string."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return plain_key, (str(self),)


def plain_key(key: str) -> str:
    """Return a value of init_guess; a pickle calls it to import this package."""
    return key


def _with_import(original: Any) -> Any:
    @functools.wraps(original)
    def getstate(self: Any) -> dict[str, Any]:
        state: dict[str, Any] = original(self)
        if is_ml(key := state.get("init_guess")) or is_scc(key):
            state["init_guess"] = _Key(key)
        return state

    return getstate


def _with_accelerate(original: Any) -> Any:
    @functools.wraps(original)
    def scf(self: Any, dm0: Any = None, **kwargs: Any) -> Any:
        # PySCF's own SCFs of atoms are parts of a guess
        if isinstance(self, AtomSphAverageRHF) or any(hasattr(type(self), name) for name in DECORATED):
            return original(self, dm0, **kwargs)
        if reason := inapplicable(self):
            logger.note(self, "multilevel SCF: %s; plain SCF is used.", reason)
            return original(self, dm0, **kwargs)
        return converge_accelerated(self, dm0, **kwargs)

    return scf
