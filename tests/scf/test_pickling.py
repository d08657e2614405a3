"""Mean-field objects that go to other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest

import pyscf_mlham
from pyscf_mlham import OneShot, OracleModel, accelerate, track
from support.molecules import mole

pytestmark = pytest.mark.usefixtures("small_grids")

CODE = """
import pickle, sys
mf = pickle.load(sys.stdin.buffer)
assert type(mf.init_guess) is str, type(mf.init_guess)
mf.run()
print(mf.guess_info.guess, mf.guess_info.fallback_reason or float(mf.e_tot))
"""


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_the_guess_takes_its_import_along(module: Any) -> None:
    mf = mole().RHF().set(init_guess="scc")
    result = subprocess.run([sys.executable, "-c", CODE], input=module.dumps(mf), capture_output=True, check=True)
    guess, energy = result.stdout.split()
    assert guess == b"scc"
    assert float(energy) == pytest.approx(mf.kernel(), abs=1e-8)
    assert type(mf.init_guess) is str


def test_hook_reaches_spawned_workers() -> None:
    pool = multiprocessing.get_context("spawn").Pool(1)
    with pool:
        density = pool.apply(mole().RHF().set(init_guess="scc").get_init_guess, (None, "scc"))
    mf = mole().RHF()
    np.testing.assert_allclose(density, mf.get_init_guess(mf.mol, "scc"), atol=1e-8)


def test_other_objects_are_pickled_as_before() -> None:
    mf = mole().RHF()
    with_hooks = pickle.dumps(mf)
    assert not any("mlham" in str(argument) for _, argument, _ in pickletools.genops(with_hooks))
    pyscf_mlham.unregister()
    assert pickle.dumps(mf) == with_hooks


DECORATED: dict[str, Callable[[], Any]] = {
    "accelerate": lambda: accelerate(mole().RKS(xc="pbe")),
    "direct": lambda: accelerate(mole(max_memory=1).RHF()),
    "density_fit": lambda: accelerate(mole().UKS(xc="pbe").density_fit()),
    "newton": lambda: accelerate(mole().RHF().newton()),
    "scanner": lambda: accelerate(mole().RHF()).as_scanner(),
    "track": lambda: track(mole().RHF()),
    "track and accelerate": lambda: track(accelerate(mole().RKS(xc="pbe").density_fit())),
}


@pytest.mark.parametrize("name", DECORATED)
def test_decorated_objects(name: str) -> None:
    mf = DECORATED[name]()
    there = pickle.loads(pickle.dumps(mf))
    assert type(there) is type(mf)
    assert there.kernel() == pytest.approx(mf.kernel(), abs=1e-8)
    assert there.cycles == mf.cycles
    again = pickle.loads(cloudpickle.dumps(mf))  # with its results
    assert again.kernel() == pytest.approx(mf.e_tot, abs=1e-8)
    assert again.cycles <= 2


def test_history_is_pickled_with_its_object() -> None:
    mf = track(mole().RHF()).run()
    there = pickle.loads(pickle.dumps(mf))
    assert len(there.history.steps) == 1
    there.set(mo_coeff=None).run()
    assert there.guess_info.guess == "history"


def test_one_shot_objects() -> None:
    mf = OneShot(mole().RHF(), OracleModel.of(mole().RHF().run())).run()
    there = pickle.loads(pickle.dumps(mf))
    np.testing.assert_array_equal(there.mo_energy, mf.mo_energy)
    assert there.gap == mf.gap
    np.testing.assert_allclose(there.run().mo_energy, mf.mo_energy, atol=1e-10)


def test_plain_objects_that_were_pickled_can_be_decorated() -> None:
    mf = pickle.loads(pickle.dumps(mole(max_memory=1).RHF()))
    energy = mole().RHF().kernel()
    assert accelerate(mf).kernel() == pytest.approx(energy, abs=1e-8)
    assert track(mf).kernel() == pytest.approx(energy, abs=1e-8)
    assert copy.copy(mole().RHF().set(init_guess="ml")).init_guess == "ml"


def test_classes_with_methods_of_their_own_are_not_taken_apart() -> None:
    class Own(type(mole().RHF())):  # type: ignore[misc]
        def energy_nuc(self) -> float:
            return 1.0

    mf = accelerate(Own(mole()))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(mf)
    assert cloudpickle.loads(cloudpickle.dumps(mf)).kernel() == pytest.approx(mf.kernel(), abs=1e-8)
