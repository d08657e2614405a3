"""Initial densities of a benchmark, each with its hidden cost: Fock builds, coarse builds, predicted orbitals.

`coarse` is the alternative without this package: converge a density-fitted SCF on a small grid, then start from it.
Its settings are the best ones, measured on four molecules of 3 to 10 atoms: on grid level 1, converged to 1e-8 Ha, it
leaves 2 to 4 cycles to the full SCF (level 0: 4 to 7; level 2 takes longer and leaves as many). If the full level is
density-fitted itself, the grid of `coarse` is always smaller than the full level's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_mlham.bench.protocol import TRACK, Guess, Protocol
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.geometries import Molecule, identity_of_record, mol_from_geometry
from pyscf_mlham.data.label import mean_field
from pyscf_mlham.data.schema import FORMAT, HamiltonianFile, Level, Record
from pyscf_mlham.density import Orbitals, same_basis
from pyscf_mlham.errors import DataError, MLHamError, ModelError, PredictionError
from pyscf_mlham.h0 import SCC, hamiltonian
from pyscf_mlham.model.guess import check_spin_symmetry, density_from_prediction, resolve, settings
from pyscf_mlham.model.oracle import ARCHITECTURE, OracleModel
from pyscf_mlham.model.predictor import Prediction, Predictor, predict
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.guess_info import recorded
from pyscf_mlham.scf.multilevel import accelerate

Array = NDArray[Any]

ORACLE_TOL = 1e-11  # Hartree
NEAR = 1e-4  # Bohr; files of other programs have six digits of an Angstrom
NO_MODEL = "ml not used"  # begin of the note of such a row
REFUSED = re.compile(rf"{NO_MODEL}(?:, (\w+) instead)?: (.*?)\.?$")  # the guess instead, and the reason


class Start(NamedTuple):
    """An initial density and its cost beside time."""

    density: Array | None
    builds: int = 0  # hidden full Fock builds
    coarse_builds: int = 0  # hidden coarse Fock builds
    single_builds: int = 0  # hidden ones in single precision
    response_solves: int = 0
    orbitals: Orbitals | None = None  # orbitals of the predicted Fock matrix, if there is one
    model: str = ""
    model_sha256: str = ""
    note: str = ""


class Work(NamedTuple):
    """Builds of an accelerated object beside the full ones; a plain object has none."""

    single: int  # in single precision
    coarse: int
    response: int

    @classmethod
    def of(cls, mf: Any) -> Work:
        """Return the builds of an object's last SCF."""
        return cls(*(int(getattr(mf, name, 0)) for name in ("single_builds", "coarse_cycles", "response_builds")))


def mean_field_of(mol: gto.Mole, protocol: Protocol) -> Any:
    """Return a new mean-field object."""
    mf = mean_field(mol, protocol.level, protocol.scf)
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
    return Start(density, coarse_builds=info.coarse_builds, single_builds=info.single_builds, note=note)


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
    return Start(rough.make_rdm1(), coarse_builds=counter.builds, note=note)


def _oracle(mf: Any, protocol: Protocol) -> Start:
    """Return the converged density."""
    exact = accelerate(mean_field_of(mf.mol, protocol))
    exact.conv_tol, exact.max_cycle = min(ORACLE_TOL, protocol.conv_tol), 4 * protocol.max_cycle
    with counting_fock_builds(exact) as counter:
        exact.kernel()
    if not exact.converged:
        raise DataError("the oracle's own SCF did not converge")
    orbitals, work = Orbitals(exact.mo_energy, exact.mo_coeff, exact.mo_occ), Work.of(exact)
    return Start(exact.make_rdm1(), counter.builds, work.coarse, work.single, work.response, orbitals)


def _learned(mf: Any, model: str | None) -> Start:
    """Predict; if the model is not applicable, use what any user gets instead."""
    spent = 0  # coarse builds of a rejected prediction
    try:
        chosen = resolve(model, mf, mf.mol)
        check_spin_symmetry(mf, mf.mol, chosen)
        prediction = predict(mf, chosen, own=True)
        spent = prediction.coarse_builds
        return _predicted(mf, chosen, prediction)
    except ModelError:  # damaged or missing: a benchmark of ml would measure minao
        raise
    except MLHamError as error:
        if isinstance(error, PredictionError) and not spent:  # rejected after H0, before its own field was built
            spent = _builds_of_h0(chosen, mf.mol)
        instead = _named(mf, settings.fallback)
        used = info.guess if (info := recorded(mf)) else settings.fallback
        note = f"{NO_MODEL}, {used} instead: {error}"
        return instead._replace(coarse_builds=spent + instead.coarse_builds, note=note)


def _builds_of_h0(model: Predictor, mol: gto.Mole) -> int:
    """Return the number of coarse builds of H0: in the model's basis set, and in the molecule's if that differs."""
    return (1 if same_basis(model.native(mol), mol) else 2) * (model.config.baseline in ("minao", SCC))


def _predicted(mf: Any, model: Predictor, prediction: Prediction) -> Start:
    config = model.config
    return Start(
        density_from_prediction(mf, mf.mol, model, prediction),
        coarse_builds=prediction.coarse_builds,
        single_builds=prediction.single_builds,
        orbitals=prediction.orbitals,
        model=config.name,
        model_sha256=config.weights_sha256,
        note=f"overlap filter {prediction.damping:g}" if prediction.damping else "",
    )


def _from_file(mf: Any, molecule: Molecule, path: Path) -> Start:
    """Return the start from a file of labelled molecules, found by geometry, or from a checkpoint file of PySCF."""
    try:
        with h5py.File(path) as file:
            labelled = file.attrs.get("format") == FORMAT
            checkpoint = {"mol", "scf"} <= set(file)
    except OSError as error:
        raise DataError(f"{path}: neither a file of labelled molecules nor a PySCF chkfile ({error})") from error
    if labelled:
        oracle = _model_of_label(path, molecule)
        return _predicted(mf, oracle, predict(mf, oracle))
    if not checkpoint:
        raise DataError(f"{path}: neither a file of labelled molecules nor a PySCF chkfile")
    from pyscf.scf import chkfile

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


def _model_of_label(path: Path, molecule: Molecule) -> OracleModel:
    with HamiltonianFile(path) as file:
        for index in range(len(file)):
            if file.n_atoms[index] != len(molecule.numbers):
                continue
            if identity_of_record(file, index) == molecule.key:
                return _oracle_from_record(file[index], file.level)
    raise DataError(f"{path} does not hold this geometry with this charge and multiplicity")


def _oracle_from_record(record: Record, level: Level) -> OracleModel:
    """Return a labelled Fock matrix as a model of one molecule; it may be lifted into another basis set."""
    mol = mol_from_geometry(record, level.basis)
    focks = [record.fock, record.extra["fock_beta"]] if "fock_beta" in record.extra and record.spin else [record.fock]
    h0 = hamiltonian("sap", mol)
    config = ModelConfig(
        name=record.name,
        architecture=ARCHITECTURE,
        elements=tuple(sorted(set(record.numbers.tolist()))),
        charges=(record.charge,),
        basis=level.basis,
        xc=level.xc,
        baseline="sap",
    )
    dh = np.array([fock - h0 for fock in focks])
    return OracleModel(config, mol, dh if len(focks) == 2 else dh[0])
