"""A learned guess as a file: for numpy, or as a checkpoint file that PySCF's `init_guess = 'chk'` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pyscf.scf import chkfile

from pyscf_mlham.data.geometries import Molecule
from pyscf_mlham.data.label import build, mean_field
from pyscf_mlham.data.schema import Level
from pyscf_mlham.density import spin_breaking
from pyscf_mlham.model.guess import density_from_prediction, resolve
from pyscf_mlham.model.predictor import predict


def write_guess(molecule: Molecule, level: Level, kind: str, model: str, path: Path) -> str:
    """Predict and write a guess to a .npz or .chk file, under a temporary name first, and return its description."""
    mf = mean_field(build(molecule, level.basis), level, kind)
    closed = bool(spin_breaking(mf, mf.mol))
    if closed:  # PySCF's default, which breaks the spin symmetry, is not for learned densities
        mf.init_guess_breaksym = 0
    chosen = resolve(model or None, mf, mf.mol)
    prediction = predict(mf, chosen)
    energy, coeff, occ = prediction.orbitals
    dm = np.asarray(density_from_prediction(mf, mf.mol, chosen, prediction))
    about = {"model": chosen.config.name, "model_sha256": chosen.config.weights_sha256}
    about |= {"xc": level.xc, "basis": level.basis}
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".npz":
            matrices = {"dm": dm, "fock": prediction.fock, "mo_energy": energy, "mo_coeff": coeff, "mo_occ": occ}
            places = {"numbers": molecule.numbers, "positions": molecule.positions}
            content: dict[str, Any] = matrices | places | {key: np.array(text) for key, text in about.items()}
            np.savez(temporary, **content)
        else:
            # there is no energy before an SCF; PySCF's guess reads orbitals and occupations only
            chkfile.dump_scf(mf.mol, str(temporary), float("nan"), energy, coeff, occ)
            with h5py.File(temporary, "a") as file:
                group = file.create_group("pyscf_mlham")
                group.create_dataset("dm", data=dm)
                group.create_dataset("fock", data=prediction.fock)
                group.attrs.update(about)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return prediction.describe() + ", of equal spins (init_guess_breaksym = 0)" * closed
