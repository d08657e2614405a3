"""Initial densities of a benchmark, each with its hidden cost, and the learned one as a file.

`coarse` is the alternative without this package: converge a density-fitted SCF on a small grid, then start from it.
Its settings are the best ones, measured on four molecules of 3 to 10 atoms: on grid level 1, converged to 1e-8 Ha, it
leaves 2 to 4 cycles to the full SCF (level 0: 4 to 7; level 2 takes longer and leaves as many). If the full level is
density-fitted itself, the grid of `coarse` is always smaller than the full level's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from pyscf import gto
from pyscf.scf import chkfile

from pyscf_mlham.arrays import Array
from pyscf_mlham.bench.protocol import TRACK, Guess, Protocol
from pyscf_mlham.checkpoint import ModelConfig, replacement
from pyscf_mlham.data.geometries import Molecule, keys_of, mol_from_geometry
from pyscf_mlham.data.label import build, mean_field
from pyscf_mlham.data.schema import FORMAT, HamiltonianFile
from pyscf_mlham.density import Orbitals, spin_breaking
from pyscf_mlham.errors import DataError, MLHamError, ModelError
from pyscf_mlham.field import Builds
from pyscf_mlham.h0 import hamiltonian
from pyscf_mlham.model.guess import learned_guess, resolve, settings
from pyscf_mlham.model.oracle import ARCHITECTURE, OracleModel
from pyscf_mlham.model.predictor import Predictor
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.guess_info import recorded
from pyscf_mlham.scf.multilevel import accelerate

ORACLE_TOL = 1e-11  # Hartree
NEAR = 1e-4  # Bohr; files of other programs have six digits of an Angstrom
NO_MODEL = "ml not used"  # begin of the note of such a row
REFUSED = re.compile(rf"{NO_MODEL}(?:, (\w+) instead)?: (.*?)\.?$")  # the guess instead, and the reason


class Work(NamedTuple):
    """Builds beside the full ones, by the names of their columns."""

    single_builds: int = 0  # in single precision
    coarse_builds: int = 0
    response_builds: int = 0

    @classmethod
    def of(cls, mf: Any) -> Work:
        """Return the builds of an accelerated object's last SCF; a plain object has none."""
        return cls(*(int(getattr(mf, name, 0)) for name in ("single_builds", "coarse_builds", "response_builds")))

    def plus(self, other: Work) -> Work:
        """Return the sum of two."""
        return Work(*map(sum, zip(self, other, strict=True)))


class Start(NamedTuple):
    """An initial density and its cost beside time."""

    density: Array | None
    builds: int = 0  # hidden full Fock builds
    work: Work = Work()  # hidden cheaper builds
    orbitals: Orbitals | None = None  # orbitals of the predicted Fock matrix, if there is one
    model: str = ""
    model_sha256: str = ""
    note: str = ""


def mean_field_of(mol: gto.Mole, protocol: Protocol) -> Any:
    """Return a new mean-field object."""
    mf = mean_field(mol, protocol, protocol.scf)
    if not protocol.nlc:
        mf.nlc = 0
    if protocol.solvent:
        mf = mf.PCM()
        mf.with_solvent.method = protocol.solvent
    return mf


def start_from(guess: Guess, mf: Any, molecule: Molecule, protocol: Protocol) -> Start:
    """Make a guess."""
    if guess.kind == "coarse":
        return _coarse(mf, protocol)
    if guess.kind == "oracle":
        return _oracle(mf, protocol)
    if guess.kind == "ml":
        return _learned(mf, guess.path or protocol.model or None)
    if guess.kind == "chk":
        return _from_file(mf, molecule, Path(guess.path))
    if guess == TRACK:
        return Start(None)
    if guess.kind == "vsap" and not hasattr(mf, "get_vsap"):
        raise DataError(f"PySCF has no vsap guess for {type(mf).__name__} objects")
    return _named(mf, guess.kind)


def _named(mf: Any, key: str) -> Start:
    density, info = mf.get_init_guess(mf.mol, key), recorded(mf)
    if info is None:
        return Start(density)
    note = f"{key} not used, {info.guess} instead: {info.fallback_reason}" * bool(info.fallback_reason)
    return Start(density, work=Work(info.single_builds, info.coarse_builds), note=note)


def _coarse(mf: Any, protocol: Protocol) -> Start:
    if protocol.coarse_grid is None:
        raise DataError("nothing is coarser than density-fitted integrals without a grid, or on the smallest one")
    rough = mean_field_of(mf.mol, protocol)
    rough = rough if protocol.density_fit else rough.density_fit()
    if hasattr(rough, "grids"):
        rough.grids.level = protocol.coarse_grid
    rough.conv_tol, rough.max_cycle = protocol.coarse_tol, protocol.max_cycle
    with counting_fock_builds(rough) as counter:
        rough.kernel()
    note = "" if rough.converged else "the coarse SCF did not converge"
    return Start(rough.make_rdm1(), work=Work(coarse_builds=counter.builds), note=note)


def _oracle(mf: Any, protocol: Protocol) -> Start:
    """Return the converged density."""
    exact = accelerate(mean_field_of(mf.mol, protocol))
    exact.conv_tol, exact.max_cycle = min(ORACLE_TOL, protocol.conv_tol), 4 * protocol.max_cycle
    with counting_fock_builds(exact) as counter:
        exact.kernel()
    if not exact.converged:
        raise DataError("the oracle's own SCF did not converge")
    orbitals = Orbitals(exact.mo_energy, exact.mo_coeff, exact.mo_occ)
    return Start(exact.make_rdm1(), counter.builds, Work.of(exact), orbitals)


def _learned(mf: Any, model: str | None) -> Start:
    """Predict; if the model is not applicable, use what any user gets instead."""
    try:
        return _predicted(mf, resolve(model, mf, mf.mol))
    except ModelError:  # damaged or missing: a benchmark of ml would measure minao
        raise
    except MLHamError as error:
        builds = error.builds or Builds()
        spent = Work(builds.single_builds, builds.coarse_builds)
        instead = _named(mf, settings.fallback)
        used = info.guess if (info := recorded(mf)) else settings.fallback
        return instead._replace(work=spent.plus(instead.work), note=f"{NO_MODEL}, {used} instead: {error}")


def _predicted(mf: Any, model: Predictor, own: bool = True) -> Start:
    (density, prediction), config = learned_guess(mf, mf.mol, model, own), model.config
    work = Work(prediction.builds.single_builds, prediction.builds.coarse_builds)
    note = f"overlap filter {prediction.damping:g}" * bool(prediction.damping)
    return Start(density, 0, work, prediction.orbitals, config.name, config.weights_sha256, note)


def _from_file(mf: Any, molecule: Molecule, path: Path) -> Start:
    """Return the start from a file of labelled molecules, found by geometry, or from a checkpoint file of PySCF."""
    try:
        with h5py.File(path) as file:
            labelled = file.attrs.get("format") == FORMAT
            checkpoint = {"mol", "scf"} <= set(file)
    except OSError as error:
        raise DataError(f"{path}: neither a file of labelled molecules nor a PySCF chkfile ({error})") from error
    if labelled:
        return _predicted(mf, _label_as_model(path, molecule), own=False)
    if not checkpoint:
        raise DataError(f"{path}: neither a file of labelled molecules nor a PySCF chkfile")
    if reason := _why_another(chkfile.load_mol(str(path)), mf.mol):
        raise DataError(f"{path}: {reason}")
    if not np.isfinite(chkfile.load(str(path), "scf/e_tot")):
        raise DataError(f"{path}: holds a guess of mlham guess, not a converged SCF; use --guess ml instead")
    return Start(np.asarray(mf.init_guess_by_chkfile(str(path))))


def _why_another(stored: gto.Mole, mol: gto.Mole) -> str:
    """Return how the molecule of a file differs from the one of the run; "" if it does not."""
    numbers = [[gto.charge(one.atom_symbol(i)) for i in range(one.natm)] for one in (stored, mol)]
    if numbers[0] != numbers[1]:
        same = sorted(numbers[0]) == sorted(numbers[1])
        return "its molecule has its atoms in another order" if same else "its molecule has other atoms"
    if (apart := np.abs(stored.atom_coords() - mol.atom_coords()).max()) > NEAR:
        return f"its molecule has another geometry, by up to {apart:.2g} Bohr"
    if (stored.charge, stored.spin) != (mol.charge, mol.spin):
        return f"its molecule has charge {stored.charge} and multiplicity {stored.spin + 1}"
    return ""


def _label_as_model(path: Path, molecule: Molecule) -> OracleModel:
    """Return a labelled Fock matrix as a model of one molecule; it may be lifted into another basis set."""
    with HamiltonianFile(path) as file:
        if molecule.key not in (keys := keys_of(file)):
            raise DataError(f"{path} does not hold this geometry with this charge and multiplicity")
        record, level = file[keys.index(molecule.key)], file.level
    mol, fock = mol_from_geometry(record, level.basis), record.by_spin("fock")
    config = ModelConfig(
        name=record.name,
        architecture=ARCHITECTURE,
        elements=tuple(sorted(set(record.numbers.tolist()))),
        charges=(record.charge,),
        basis=level.basis,
        xc=level.xc,
        baseline="sap",
    )
    return OracleModel(config, mol, (record.fock if fock is None else fock) - hamiltonian("sap", mol))


def write_guess(molecule: Molecule, protocol: Protocol, path: Path) -> str:
    """Predict, write the guess to a file for numpy (.npz) or for PySCF's `from_chk` (.chk), and return a description.

    The file is written under a temporary name first.
    """
    mf = mean_field_of(build(molecule, protocol.basis), protocol)
    closed = bool(spin_breaking(mf, mf.mol))
    if closed:  # PySCF's default, which breaks the spin symmetry, is not for learned densities
        mf.init_guess_breaksym = 0
    predictor = resolve(protocol.model or None, mf, mf.mol)
    (density, prediction), config = learned_guess(mf, mf.mol, predictor, own=False), predictor.config
    energy, coeff, occ = prediction.orbitals
    matrices = {"dm": np.asarray(density), "fock": prediction.fock}
    about = {"model": config.name, "model_sha256": config.weights_sha256, "xc": protocol.xc, "basis": protocol.basis}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path, f"{os.getpid()}{path.suffix}") as temporary:
        if path.suffix == ".npz":
            content: dict[str, Any] = {**matrices, "mo_energy": energy, "mo_coeff": coeff, "mo_occ": occ}
            content |= {"numbers": molecule.numbers, "positions": molecule.positions}
            np.savez(temporary, **content, **{key: np.array(text) for key, text in about.items()})  # type: ignore[arg-type]
        else:
            # there is no energy before an SCF; PySCF's guess reads orbitals and occupations only
            chkfile.dump_scf(mf.mol, str(temporary), float("nan"), energy, coeff, occ)
            with h5py.File(temporary, "a") as file:
                group = file.create_group("pyscf_mlham")
                group.attrs.update(about)
                for name, matrix in matrices.items():
                    group[name] = matrix
    return prediction.describe() + ", of equal spins (init_guess_breaksym = 0)" * closed
