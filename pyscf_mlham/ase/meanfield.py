"""PySCF's object of ASE's atoms."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pyscf import gto
from pyscf.data import nist

from pyscf_mlham.ao.mole import core_potentials
from pyscf_mlham.errors import missing
from pyscf_mlham.model.guess import is_ml

try:
    from ase import Atoms
    from ase.calculators.calculator import CalculatorSetupError, InputError
except ModuleNotFoundError as error:
    raise missing(error, "ase") from error

BOHR: float = nist.BOHR


def mean_field(p: Mapping[str, Any], atoms: Atoms, charge: int, spin: int) -> Any:
    """Return the PySCF object of a geometry, before any SCF.

    Args:
        p: parameters of MLHam.
        atoms: the geometry.
        charge: total charge.
        spin: n_alpha - n_beta.
    """
    places = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist(), strict=True))
    try:
        ecp = core_potentials(p["basis"], atoms.get_chemical_symbols()) if p["ecp"] == "auto" else p["ecp"]
        state = {"charge": charge, "spin": spin, "verbose": p["verbose"]}
        mol = gto.M(atom=places, unit="Bohr", basis=p["basis"], ecp=ecp, **state)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"PySCF cannot build the molecule in basis {p['basis']!r}: {error}") from error
    if p["xc"].lower() == "hf":
        mf = mol.UHF() if spin else mol.RHF()
    else:
        mf = mol.UKS(xc=p["xc"]) if spin else mol.RKS(xc=p["xc"])
        mf.grids.level = mf.grids.level if p["grid_level"] is None else p["grid_level"]
    if p["dispersion"]:
        if find_spec("pyscf.dispersion") is None:
            raise CalculatorSetupError(f"dispersion = {p['dispersion']!r} needs: pip install pyscf-dispersion")
        mf.disp = p["dispersion"]
    mf = mf.density_fit() if p["density_fit"] else mf
    mf.conv_tol, mf.max_cycle = p["conv_tol"], p["max_cycle"]
    mf.init_guess = f"ml:{p['model']}" if p["model"] and is_ml(p["guess"]) else p["guess"]
    if p["mf_hook"] is not None:
        changed = p["mf_hook"](mf)
        mf = mf if changed is None else changed
    return mf
