"""Models of crystals: a network's matrices, an oracle, and the reasons for another guess."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pyscf.pbc import dft, scf
from scipy.spatial.transform import Rotation

from pyscf_mlham import OneShot, OracleModel, accelerate, applicable, guess, register
from pyscf_mlham.ao.loewdin import metric_from_overlap, orthogonal_from_ao
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.errors import ModelError, OutOfDomainError
from pyscf_mlham.model import store
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.nn.model import network_from_config
from support.crystals import BORON_NITRIDE, HEXAGONAL, chain, changed, crystal, krks
from support.molecules import assert_close
from support.networks import SIZES

Array = Any

CUTOFF = 7.0  # Bohr: several images of each pair, and pairs of an atom with its own images


def random_model(
    elements: tuple[int, ...], template: list[int], cutoff: float = CUTOFF, **changes: Any
) -> NetworkModel:
    torch.manual_seed(3)
    options = {"template": template, "network": SIZES["qhnetv2"] | {"cutoff": cutoff}}
    if len(template) == 1:
        options["network"]["largest_m"] = 0
    settings = {"basis": "gth-szv", "xc": "pbe", "pseudo": "gth-pbe", "baseline": "atoms", "options": options}
    config = ModelConfig("random", "qhnetv2", elements, (0,), **{**settings, **changes})
    network = network_from_config(config, torch.float64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return NetworkModel(config, network)


NITRIDE = random_model((5, 7), [1, 1])


class Predicted:
    """A network's matrices for the kinetic energy in place of H0: no SCF is needed."""

    def __init__(self, cell: Any, kpts: Array, model: NetworkModel = NITRIDE) -> None:
        self.overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpts))
        self.kinetic = np.asarray(cell.pbc_intor("int1e_kin", hermi=1, kpts=kpts))
        self.change = model.correction(cell, self.kinetic, kpts)

    @property
    def energies(self) -> Array:
        """Eigenvalues of H0 + dH, and of dH."""
        metric = metric_from_overlap(self.overlap)
        both = [orthogonal_from_ao(m, metric) for m in (self.kinetic + self.change, self.change)]
        return np.linalg.eigvalsh(np.stack(both))


def mesh(cell: Any, n: int = 4) -> Array:
    return np.asarray(cell.make_kpts([n, n, 1]))


@pytest.fixture(scope="module")
def nitride() -> Any:
    return crystal(dimension=2)


@pytest.fixture(scope="module")
def here(nitride: Any) -> Predicted:
    return Predicted(nitride, mesh(nitride))


def test_a_prediction_is_hermitian_and_real_in_real_space(nitride: Any, here: Predicted) -> None:
    assert np.abs(here.change).max() > 1e-3
    assert_close(here.change, here.change.conj().swapaxes(1, 2), 1e-12)
    opposite = [
        int(np.argmin(np.abs(np.exp(1j * (mesh(nitride) + k) @ HEXAGONAL.T) - 1).sum(1))) for k in mesh(nitride)
    ]
    assert_close(here.change[opposite], here.change.conj(), 1e-10)


def test_atoms_moved_across_the_border(nitride: Any, here: Predicted) -> None:
    shifts = np.array([[1, -1, 0], [-2, 0, 0]])
    there = Predicted(changed(nitride, nitride.atom_coords() + shifts @ HEXAGONAL, HEXAGONAL), mesh(nitride))
    assert_close(there.energies, here.energies, 1e-9)
    inside = np.arange(nitride.nao) // 4
    phase = np.exp(-1j * mesh(nitride) @ (shifts @ HEXAGONAL)[inside].T)
    assert_close(phase[:, :, None].conj() * here.change * phase[:, None], there.change, 1e-9)


def test_a_rotated_cell(nitride: Any, here: Predicted) -> None:
    turn = Rotation.from_euler("xyz", [0.4, -0.9, 1.3]).as_matrix()
    cell = changed(nitride, nitride.atom_coords() @ turn.T, HEXAGONAL @ turn.T)
    assert_close(Predicted(cell, mesh(cell)).energies, here.energies, 1e-9)


def test_other_orders_of_atoms_and_lattice_vectors(nitride: Any, here: Predicted) -> None:
    lattice = np.array([HEXAGONAL[1], HEXAGONAL[0] + HEXAGONAL[1], HEXAGONAL[2]])
    cell = crystal(BORON_NITRIDE[::-1], lattice, dimension=2)
    energies = Predicted(cell, mesh(cell)).energies
    assert_close(np.sort(energies, axis=None), np.sort(here.energies, axis=None), 1e-9)


def test_a_supercell_is_the_folded_primitive_cell() -> None:
    model = random_model((1,), [2, 1], basis="gth-dzvp")
    one, three = chain(), chain(3)
    primitive = Predicted(one, one.make_kpts([6, 1, 1]), model)
    folded = Predicted(three, three.make_kpts([2, 1, 1]), model)
    assert np.abs(primitive.change).max() > 1e-3
    assert_close(np.sort(folded.energies, axis=None), np.sort(primitive.energies, axis=None), 1e-8)


def fitted(kind: Any, cells: int = 3) -> Any:
    mf = kind(chain(), chain().make_kpts([cells, 1, 1]), xc="pbe").density_fit()
    mf.grids.level = 1
    return mf


def metal() -> Any:
    cell = crystal([("H", (x, 4.5, 4.5)) for x in (0.3, 2.3)], np.diag([4.0, 9.0, 9.0]), basis="gth-dzvp")
    mf = dft.KRKS(cell, cell.make_kpts([3, 1, 1]), xc="pbe").density_fit().smearing(0.05)
    mf.grids.level = 1
    return mf


KINDS: dict[str, Callable[[], Any]] = {
    "KRKS": lambda: fitted(dft.KRKS),
    "KUKS": lambda: fitted(dft.KUKS),
    "KRKS, smeared": metal,
}


@pytest.mark.parametrize("name", KINDS)
def test_the_oracle_leaves_one_or_two_cycles(name: str) -> None:
    mf = KINDS[name]().set(conv_tol=1e-8)
    reference = mf.kernel()
    oracle = OracleModel.of(mf)
    again = mf.copy().set(conv_tol=1e-8)
    again.mo_coeff = None
    density = guess(again, oracle, "raise")
    assert density.shape == mf.make_rdm1().shape
    electrons = np.sum(density * np.swapaxes(mf.get_ovlp(), 1, 2)).real
    assert electrons / len(mf.kpts) == pytest.approx(mf.mol.nelectron, abs=1e-9)
    assert again.kernel(dm0=density) == pytest.approx(reference, abs=1e-8)
    assert again.cycles <= 2


def test_bands_of_one_shot_orbitals_are_those_of_the_scf() -> None:
    mf = fitted(dft.KRKS, cells=5).set(conv_tol=1e-10).run()
    one = OneShot(mf, OracleModel.of(mf)).run()
    assert_close(one.mo_energy, mf.mo_energy, 1e-5)
    assert np.shape(one.fock) == (5, *mf.get_hcore().shape[1:])
    between = mf.mol.make_kpts([1, 1, 1], scaled_center=[0.1, 0, 0])
    energies, _ = mf.get_bands(between)
    found, filled = np.array(one.get_bands(between)[0]), mf.mol.nelectron // 2
    assert_close(found[:, :filled], np.array(energies)[:, :filled], 2e-5)
    assert_close(found, energies, 5e-5)  # dH(R) of five cells
    assert_close(one.get_bands(mf.kpts[1])[0], mf.mo_energy[1], 1e-5)
    assert_close(one.get_bands(between, dm_kpts=one.make_rdm1())[0], energies, 1e-5)
    assert one.get_fermi() == pytest.approx(mf.get_fermi(), abs=1e-5)
    bands = np.array(mf.mo_energy)
    assert one.gap == pytest.approx(bands[:, filled].min() - bands[:, filled - 1].max(), abs=1e-5)


def test_an_oracle_is_for_one_cell_and_one_mesh() -> None:
    mf = fitted(dft.KRKS).run()
    oracle = OracleModel.of(mf)
    with pytest.raises(OutOfDomainError, match="one mesh of k points only"):
        guess(dft.KRKS(chain(), chain().make_kpts([2, 1, 1]), xc="pbe").density_fit(), oracle, "raise")
    with pytest.raises(OutOfDomainError, match="one geometry only"):
        guess(krks(changed(chain(), 1.01 * chain().atom_coords(), chain().a), mf.kpts), oracle, "raise")
    with pytest.raises(ModelError, match="cannot be saved"):
        oracle.save("nowhere")


def test_the_guess_is_refined_around_one_full_build() -> None:
    model = random_model((1,), [2, 1], cutoff=4.4, basis="gth-dzvp")

    def small() -> Any:
        mf = dft.KRKS(chain(), chain().make_kpts([3, 1, 1]), xc="pbe").density_fit().set(conv_tol=1e-8)
        mf.grids.level = 1
        return mf

    mf = small()
    raw = OneShot(mf, model).run()
    assert mf.with_df._cderi is None  # no integrals
    density = guess(mf, model, "raise")
    mf.kernel(dm0=density)
    assert mf.cycles <= 3
    errors = [np.abs(d - mf.make_rdm1()).max() for d in (raw.make_rdm1(), density)]
    assert errors[1] < 0.01 * errors[0]
    register(model=model, fallback="raise")
    again, quick = (wrap(small()).set(init_guess="ml") for wrap in (lambda mf: mf, accelerate))
    for other, full in ((again, 1), (quick, 0)):
        assert other.kernel() == pytest.approx(mf.e_tot, abs=1e-7)
        assert (other.guess_info.guess, other.guess_info.full_builds) == ("ml", full)


def test_plane_waves_take_the_prediction_as_it_is() -> None:
    mf = dft.KRKS(chain(), chain().make_kpts([3, 1, 1]), xc="pbe").set(conv_tol=1e-8).run()
    register(model=OracleModel.of(mf), fallback="raise")
    again = dft.KRKS(chain(), mf.kpts, xc="pbe").set(conv_tol=1e-8, init_guess="ml")
    assert again.kernel() == pytest.approx(mf.e_tot, abs=1e-8)
    assert again.cycles <= 2
    assert again.guess_info.full_builds == 0


def nitride_object(kind: Any = dft.KRKS, n: int = 4, **kwargs: Any) -> Any:
    xc = {"xc": kwargs.pop("xc", "pbe")} if "KS" in kind.__name__ else {}
    cell = crystal(**{"dimension": 2, **kwargs})
    points = kwargs.get("points", cell.make_kpts([n, n, 1]))
    return kind(cell, points, **xc).density_fit()


def shifted_mesh() -> Any:
    cell = crystal(dimension=2)
    return dft.KRKS(cell, cell.make_kpts([4, 4, 1], scaled_center=[0.1, 0, 0]), xc="pbe").density_fit()


def with_field(mf: Any) -> Any:
    core = mf.get_hcore
    mf.get_hcore = lambda *args: core(*args) + 0.01 * mf.get_ovlp()
    return mf


GHOST = [*BORON_NITRIDE, ("ghost-N", (2.0, 2.0, 6.0))]
REASONS: dict[str, tuple[Callable[[], Any], str]] = {
    "basis": (lambda: nitride_object(basis="gth-dzvp"), "the basis set of . is not that of model random, gth-szv"),
    "functional": (lambda: nitride_object(xc="lda,vwn"), "the functional is lda,vwn, that of model random is pbe"),
    "Hartree-Fock": (lambda: nitride_object(scf.KRHF), "the functional is hf"),
    "no pseudopotential": (lambda: nitride_object(pseudo=None), ". has no pseudopotential gth-pbe"),
    "a missing pseudopotential": (lambda: nitride_object(pseudo={"B": "gth-pbe"}), "N has no pseudopotential gth-pbe"),
    "all electrons": (lambda: nitride_object(basis="sto-3g", pseudo=None), "the basis set of . is not that of model"),
    "another pseudopotential": (lambda: nitride_object(pseudo="gth-lda"), ". has no pseudopotential gth-pbe"),
    "few k points": (lambda: nitride_object(n=2), r"\[2, 2, 1\] distinguishes cells up to 4.7 Bohr"),
    "some k points": (
        lambda: dft.KRKS(crystal(dimension=2), mesh(crystal())[:5], xc="pbe").density_fit(),
        "the 5 k points are not a uniform mesh",
    ),
    "a shifted mesh": (shifted_mesh, "lacks -k of some k"),
    "ghost atoms": (lambda: nitride_object(atom=GHOST), "ghost atoms are not supported"),
    "elements": (
        lambda: nitride_object(atom=[("C", (0.0, 0.0, 6.0)), ("N", (0.0, 2.6, 6.0))], spin=None),
        "element C is not among those of model random",
    ),
    "no periodic direction": (lambda: nitride_object(n=1, dimension=0, a=20 * np.eye(3)), "no periodic direction"),
    "Hubbard's U": (
        lambda: dft.KRKSpU(crystal(dimension=2), mesh(crystal()), xc="pbe", U_idx=["N 2p"], U_val=[1]).density_fit(),
        "models lack Hubbard's U",
    ),
    "relativity": (lambda: nitride_object().x2c(), "its core Hamiltonian is not PySCF's own"),
    "a core Hamiltonian of the user": (lambda: with_field(nitride_object()), "its core Hamiltonian is not PySCF's own"),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons_for_another_guess(name: str) -> None:
    make, reason = REASONS[name]
    with pytest.raises(OutOfDomainError, match=reason):
        guess(make(), NITRIDE, "raise")
    register(model=NITRIDE)
    mf, log = make(), io.StringIO()
    mf.stdout, mf.verbose = log, 2
    density = mf.get_init_guess(key="ml")
    assert re.search(f"ml guess not used: .*{reason}.* The minao guess is used instead", log.getvalue())
    assert re.search(reason, mf.guess_info.fallback_reason)
    np.testing.assert_array_equal(density, mf.get_init_guess(key="minao"))


def test_models_of_molecules_are_not_those_of_crystals() -> None:
    mf = nitride_object()
    with pytest.raises(OutOfDomainError, match="model random is one of molecules, and this is a crystal"):
        guess(mf, random_model((5, 7), [1, 1], pseudo=""), "raise")
    with pytest.raises(OutOfDomainError, match="the H0 sap of model random is one of molecules"):
        guess(mf, random_model((5, 7), [1, 1], baseline="sap"), "raise")


def test_models_of_crystals_are_found_by_their_level() -> None:
    mf = nitride_object(basis="gth-szv-molopt-sr", n=6)
    for mf.xc in ("pbe", "PBE,PBE"):
        assert store.best_for(mf, mf.mol).config.name == "2d-pbe-szv"
    mf = nitride_object()
    with pytest.raises(OutOfDomainError, match=r"the basis set of . is not that of model 2d-pbe-szv"):
        store.best_for(mf, mf.mol)


def test_the_fallback_and_its_reason_are_logged() -> None:
    register(fallback="scc")
    mf, log = fitted(dft.KRKS), io.StringIO()
    mf.stdout, mf.verbose, mf.init_guess = log, 3, "ml"
    assert applicable(mf, "ml")
    mf.max_cycle = 1
    mf.kernel()
    assert "ml guess not used: " in log.getvalue()
    assert "The scc guess is used instead." in log.getvalue()
    assert mf.guess_info.full_builds == 1
