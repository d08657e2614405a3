"""What is believed of a model and what is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pyscf import gto

import pyscf_mlham
from pyscf_mlham import OracleModel, OutOfDomainError, PredictionError
from pyscf_mlham.density import metric_from_overlap, same_basis
from pyscf_mlham.field import CoarseField
from pyscf_mlham.model.guess import guess_with_info
from pyscf_mlham.model.predictor import Prediction, native_mol, predict
from support.molecules import ETHYLENE, WATER, mole

pytestmark = pytest.mark.usefixtures("small_grids")


class Tampered:
    """An oracle whose answer is changed on its way out, as a bad network's would be."""

    exact = False

    def __init__(self, oracle: OracleModel, change: Any) -> None:
        self.config, self._oracle, self._change = oracle.config, oracle, change

    def native(self, mol: gto.Mole) -> gto.Mole:
        return self._oracle.native(mol)

    def correction(self, native: gto.Mole, h0: np.ndarray) -> np.ndarray:
        return self._change(self._oracle.correction(native, h0))


@pytest.fixture(scope="module")
def converged() -> Any:
    return mole(ETHYLENE, "def2-svp").RKS(xc="b3lyp").run()


def test_oracle_gives_back_the_converged_matrix(converged: Any) -> None:
    for h0 in ("sap", "minao", "hcore"):
        prediction = predict(converged, OracleModel.of(converged, h0))
        np.testing.assert_allclose(prediction.fock, converged.get_fock(), atol=1e-11)
        np.testing.assert_allclose(prediction.orbitals.energy, converged.mo_energy, atol=1e-5)
        assert prediction.damping == 0
        assert prediction.lifted_from == ""


def test_oracle_wants_convergence() -> None:
    with pytest.raises(pyscf_mlham.ModelError, match="converged"):
        OracleModel.of(mole().RHF())


def test_an_oracle_is_for_one_geometry(converged: Any) -> None:
    moved = mole(ETHYLENE.replace("0.66", "0.67"), "def2-svp").RKS(xc="b3lyp")
    with pytest.raises(OutOfDomainError, match="one geometry"):
        predict(moved, OracleModel.of(converged))
    other = mole(WATER, "def2-svp").RKS(xc="b3lyp")
    with pytest.raises(OutOfDomainError, match="element O"):
        predict(other, OracleModel.of(converged))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dh: dh * np.nan, "not finite"),
        (lambda dh: dh[:-1, :-1], "shape"),
        (lambda dh: dh[None, None], "shape"),
    ],
)
def test_model_matrix_of_wrong_shape_or_not_finite_is_refused(converged: Any, change: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=message) as caught:
        predict(converged, Tampered(OracleModel.of(converged, "minao"), change))
    assert caught.value.builds.coarse_builds == 1  # that of H0


def test_builds_of_a_refused_prediction_are_those_of_the_guess(converged: Any) -> None:
    mf = converged.mol.RKS(xc="b3lyp")
    model = Tampered(OracleModel.of(converged, "minao"), lambda dh: dh * np.nan)
    for fallback, builds in (("minao", 1), ("scc", 3)):  # scc takes two: that of the atoms, and its refinement
        _, info = guess_with_info(mf, model, fallback)
        assert (info.guess, info.coarse_builds) == (fallback, builds)


@pytest.mark.usefixtures("no_room")
def test_a_matrix_that_is_not_hermitian_is_made_so(converged: Any) -> None:
    antisymmetric = np.triu(np.full((48, 48), 0.1), 1)
    antisymmetric -= antisymmetric.T
    prediction = predict(converged, Tampered(OracleModel.of(converged), lambda dh: dh + antisymmetric))
    np.testing.assert_allclose(prediction.fock, converged.get_fock(), atol=1e-11)


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("height", [3.0, 6.0, 20.0, 60.0])
@pytest.mark.parametrize(("k", "refused_from"), list(enumerate([np.inf, 60.0, 20.0, 20.0, 6.0, 20.0])))
def test_intruder_is_filtered_or_refused(converged: Any, k: int, refused_from: float, height: float) -> None:
    """An error along a small overlap eigenvector pulls an empty orbital below the occupied ones.

    One of 3 Ha is always filtered away, and nine of the 24 in all are refused, no more and no fewer.
    """
    s, u = np.linalg.eigh(converged.get_ovlp())
    error = np.outer(u[:, k], u[:, k]) * s[k] * height
    model = Tampered(OracleModel.of(converged), lambda dh: dh - error)
    occupied = converged.mo_occ > 0

    def worst(prediction: Prediction) -> float:
        return np.abs(prediction.orbitals.energy - converged.mo_energy)[occupied].max()

    assert worst(predict(converged, _exact(model))) > 0.2  # without the filter
    if height >= refused_from:
        with pytest.raises(PredictionError, match="collapsed"):
            predict(converged, model)
    else:
        prediction = predict(converged, model)
        assert worst(prediction) < 0.12
        assert prediction.damping > 0


def test_a_mild_intruder_is_filtered_away(converged: Any) -> None:
    s, u = np.linalg.eigh(converged.get_ovlp())
    error = np.outer(u[:, 0], u[:, 0]) * s[0] * 6.0  # 6 Ha on that orbital, yet tiny in the AO basis
    assert np.abs(error).max() < 0.1
    model = Tampered(OracleModel.of(converged), lambda dh: dh - error)
    true_gap = predict(converged, OracleModel.of(converged)).gap
    assert predict(converged, _exact(model)).gap < 0.5 * true_gap
    prediction = predict(converged, model)
    assert prediction.damping > 0
    assert prediction.gap > 0.8 * true_gap
    assert "overlap filter" in prediction.describe()


@pytest.mark.parametrize(
    ("kind", "xc"), [("RHF", "hf"), ("RKS", "b3lyp"), ("RKS", "pbe"), ("RKS", "wb97x"), ("UKS", "b3lyp")]
)
def test_the_field_of_its_own_density_halves_an_error(kind: str, xc: str) -> None:
    mol = (
        mole("N 0 0 0; O 0 1.1 0.47; O 0 -1.1 0.47", "def2-svp", spin=1)
        if kind == "UKS"
        else mole(ETHYLENE, "def2-svp")
    )
    mf = getattr(mol, kind)()
    if xc != "hf":
        mf.xc, mf.grids.level = xc, 1
    mf.run()
    half = metric_from_overlap(mf.get_ovlp()).half
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(scale=1e-2, size=half.shape)
        error = half @ (noise + noise.T) @ half
        model = Tampered(OracleModel.of(mf), lambda dh, error=error: dh + error)

        def density_error(prediction: Prediction) -> float:
            wrong = mf.make_rdm1(prediction.orbitals.coeff, prediction.orbitals.occ) - mf.make_rdm1()
            return float(np.linalg.norm(half @ wrong @ half))

        assert density_error(predict(mf, model)) < 0.7 * density_error(predict(mf, _exact(model)))


def test_every_coarse_build_is_counted(converged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = CoarseField.potential
    monkeypatch.setattr(CoarseField, "potential", lambda self, factors: calls.append(1) or original(self, factors))
    lifted = mole(ETHYLENE, "6-31g").RKS(xc="pbe")
    for h0, native, elsewhere in (("sap", 1, 1), ("minao", 2, 3)):
        oracle = OracleModel.of(converged, h0)
        for mf, expected in ((converged, native), (lifted, elsewhere)):
            calls.clear()
            model = Tampered(oracle, lambda dh: dh)
            assert predict(mf, model).builds.coarse_builds == len(calls) == expected
            assert f"{expected} coarse" in predict(mf, model).describe()


def test_response_step_needs_a_known_field(converged: Any) -> None:
    model = Tampered(OracleModel.of(converged), lambda dh: dh)
    custom = converged.mol.RKS(xc="b3lyp")
    custom.get_fock = lambda *args, **kwargs: type(custom).get_fock(custom, *args, **kwargs)
    smeared = converged.mol.RKS(xc="b3lyp").smearing(0.01)
    for mf in (converged.mol.ROKS(xc="b3lyp"), custom, smeared):
        assert predict(mf, model).builds.coarse_builds == 0
    idle = converged.mol.RKS(xc="b3lyp")
    idle.max_cycle, idle.diis, idle.post_kernel = 0, False, lambda envs: None
    for mf in (converged.mol.RKS(xc="b3lyp"), idle):  # how one iterates has no part in a prediction
        assert predict(mf, model).builds.coarse_builds == 1


@pytest.mark.parametrize("broken", ["__init__", "potential", "nan"])
def test_a_field_that_fails_leaves_the_prediction(converged: Any, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    model = Tampered(OracleModel.of(converged), lambda dh: dh)
    expected = predict(converged, _exact(model))

    def fail(*_: Any) -> Any:
        if broken == "nan":
            return np.full((48, 48), np.nan)
        raise MemoryError("no room")

    monkeypatch.setattr(CoarseField, "potential" if broken == "nan" else broken, fail)
    prediction = predict(converged, model)
    np.testing.assert_array_equal(prediction.fock, expected.fock)
    np.testing.assert_allclose(prediction.orbitals.energy, expected.orbitals.energy, atol=1e-12)


def test_the_solvent_of_the_object_keeps_its_state() -> None:
    mf = mole().RKS(xc="b3lyp").PCM().run()
    model = Tampered(OracleModel.of(mf), lambda dh: dh)
    before = dict(mf.with_solvent._intermediates)
    assert predict(mf, model).builds.coarse_builds == 1
    assert mf.with_solvent._intermediates.keys() == before.keys()
    assert all(mf.with_solvent._intermediates[key] is value for key, value in before.items())


def _exact(model: Tampered) -> Tampered:
    model = Tampered(model._oracle, model._change)
    model.exact = True
    return model


@pytest.mark.parametrize("basis", ["sto-3g", "6-31g*", "def2-tzvp", "aug-cc-pvdz"])
@pytest.mark.parametrize("case", ["water", "ethylene", "anion", "radical", "triplet", "thiol", "chloride"])
def test_true_matrices_are_believed_as_they_are(case: str, basis: str) -> None:
    """The check for intruders must not touch what is right."""
    atoms, options, kind = {
        "water": (WATER, {}, "RKS"),
        "ethylene": (ETHYLENE, {}, "RHF"),
        "anion": ("O 0 0 0; H 0 0 0.97", {"charge": -1}, "RKS"),
        "radical": ("N 0 0 0; O 0 1.1 0.47; O 0 -1.1 0.47", {"spin": 1}, "UKS"),
        "triplet": ("O 0 0 0; O 0 0 1.21", {"spin": 2}, "UHF"),
        "thiol": ("S 0 0 0; H 0 0.97 0.93; H 0 -0.97 0.93", {}, "RKS"),
        "chloride": ("Cl 0 0 0; H 0 0 1.28", {}, "ROKS"),
    }[case]
    mf = getattr(mole(atoms, basis, **options), kind)()
    if kind.endswith("KS"):
        mf.xc, mf.grids.level = "b3lyp", 0
    mf.run()
    assert predict(mf, Tampered(OracleModel.of(mf), lambda dh: dh)).damping == 0


def test_a_good_matrix_is_not_filtered(converged: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=1e-5, size=(48, 48))
    prediction = predict(converged, Tampered(OracleModel.of(converged), lambda dh: dh + noise))
    assert prediction.damping == 0


def test_a_collapsed_gap_is_refused(converged: Any) -> None:
    """When no filter brings the gap back, the prediction is not used."""
    c, s = converged.mo_coeff, converged.get_ovlp()
    homo, lumo = (s @ c[:, k] for k in (7, 8))
    closing = 0.98 * (converged.mo_energy[8] - converged.mo_energy[7])
    change = closing / 2 * (np.outer(homo, homo) - np.outer(lumo, lumo))
    with pytest.raises(PredictionError, match="collapsed"):
        predict(converged, Tampered(OracleModel.of(converged), lambda dh: dh + change))


def test_external_charges_and_relativity_stay_in_h0(converged: Any) -> None:
    """The correction is added to the object's own core Hamiltonian."""
    from pyscf import qmmm

    mf = converged.mol.RKS(xc="b3lyp")
    plain = predict(mf, OracleModel.of(converged)).fock
    charged = qmmm.mm_charge(mf.copy(), np.array([[0.0, 0.0, 5.0]]), np.array([0.5]))
    shift = predict(charged, OracleModel.of(converged)).fock - plain
    np.testing.assert_allclose(shift, charged.get_hcore() - mf.get_hcore(), atol=1e-12)
    relativistic = converged.mol.RKS(xc="b3lyp").sfx2c1e()
    shift = predict(relativistic, OracleModel.of(converged)).fock - plain
    np.testing.assert_allclose(shift, relativistic.get_hcore() - mf.get_hcore(), atol=1e-12)
    assert np.abs(shift).max() > 1e-3


def test_charge_beyond_the_domain_is_refused(converged: Any) -> None:
    cation = mole(ETHYLENE, "def2-svp", charge=1, spin=1).UKS(xc="b3lyp")
    with pytest.raises(OutOfDomainError, match=r"charge \+1"):
        predict(cation, OracleModel.of(converged))
    oracle = OracleModel.of(converged)
    oracle.config = dataclasses.replace(oracle.config, charges=(0, 1))
    assert predict(cation, oracle).fock.shape == (2, 48, 48)


def test_the_model_sees_the_real_atoms_in_its_own_basis() -> None:
    mol = mole("O 0 0 0; H 0 0.76 0.59; H 0 -0.76 0.59; ghost-O 0 0 3", "6-31g")
    assert same_basis(native_mol(mol, "def2-svp"), mole("O 0 0 0; H 0 0.76 0.59; H 0 -0.76 0.59", "def2-svp"))
