"""accelerate() of ROHF and ROKS: no state that is not filled from below, nor one above a density already seen."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyscf
import pytest

from pyscf_mlham import accelerate
from pyscf_mlham.density import Orbitals
from pyscf_mlham.scf.multilevel.levels import FullLevel
from pyscf_mlham.scf.multilevel.solver import Course
from pyscf_mlham.scf.problem import Problem
from support.molecules import mole


def accelerated(mf: Any) -> tuple[Any, list[float]]:
    """Return the object after its SCF, with its log in its stdout, and the energies of its builds."""
    energies: list[float] = []
    mf.stdout, mf.verbose, mf.callback = io.StringIO(), 3, lambda envs: energies.append(envs["e_tot"])
    mf.grids.level = 0
    return accelerate(mf).run(), energies


def test_a_solution_that_plain_scf_does_not_find_either_is_not_claimed() -> None:
    quick, _ = accelerated(mole("Ti 0 0 0; O 0 0 1.62", "def2-svp", spin=2).ROKS(xc="pbe").set(max_cycle=4))
    assert not quick.converged  # nor does plain SCF, in fifty cycles
    assert "try mf.newton()" in quick.stdout.getvalue()


def test_a_state_above_a_density_already_seen_is_no_solution() -> None:
    mf = mole(charge=1, spin=1).ROHF().run()
    full = FullLevel(Problem.of(mf), mf.make_rdm1(), write=False)
    occ, lumo = mf.mo_occ.copy(), int((mf.mo_occ > 0).sum())
    occ[[lumo - 1, lumo + 3]] = occ[[lumo + 3, lumo - 1]]
    lower, higher = (full.build(Orbitals(mf.mo_energy, mf.mo_coeff, each)) for each in (mf.mo_occ, occ))
    assert higher.energy > lower.energy + 0.1
    mf.conv_tol_grad = 1e-12  # so that the lower one is not the end
    full = FullLevel(Problem.of(mf), mf.make_rdm1(), write=False)
    course = Course(lower)
    assert not full.finished(course, 1e-12)
    course.add(higher)
    assert full.finished(course, 1e-12)
    assert full.outcome.failure == "the energy rises"
    assert full.outcome.best is lower


def test_plain_scf_starts_again_from_a_density_that_is_not_filled_from_below() -> None:
    def atom() -> Any:
        return mole("Ti 0 0 0", "6-31g", spin=2).ROKS(xc="pbe")

    plain = atom()
    plain.grids.level = 0
    plain.run()
    quick, _ = accelerated(atom())
    assert quick.converged
    # the atom has many orientations on its grid, and rounding of 1e-9 in the start chooses among them
    assert quick.e_tot == pytest.approx(plain.e_tot, abs=1e-4)
    assert quick.full_builds <= plain.cycles + 6


@pytest.mark.parametrize("closed", [True, False])
def test_electrons_in_other_than_the_lowest_orbitals_are_recognised(closed: bool) -> None:
    mf = mole(charge=1, spin=1).ROHF().run()
    problem, lumo = Problem.of(mf), int((mf.mo_occ > 0).sum())
    for occupied in (None, lumo - 2 if closed else lumo - 1):
        occ = mf.mo_occ.copy()
        if occupied is not None:
            occ[[occupied, lumo]] = occ[[lumo, occupied]]
        density = mf.make_rdm1(mf.mo_coeff, occ)
        fock = problem.fock(mf.get_veff(dm=density), density)
        orbitals = Orbitals(*mf.canonicalize(mf.mo_coeff, occ, fock), occ)
        assert problem.would_be_refilled(orbitals, fock) == (occupied is not None)


def test_a_solution_that_plain_scf_would_not_stay_at_is_one() -> None:
    quick, _ = accelerated(mole("Cr 0 0 0", "6-31g", spin=6).ROKS(xc="pbe"))
    assert quick.converged
    assert quick.full_builds == 2
    second = mole("Cr 0 0 0", "6-31g", spin=6).ROKS(xc="pbe")
    second.grids.level = 0
    exact = second.newton().run()
    assert exact.converged
    assert quick.e_tot == pytest.approx(exact.e_tot, abs=1e-8)


@pytest.mark.parametrize("method", ["ROKS", "UKS"])
def test_what_a_grid_lets_degenerate_solutions_differ_by_is_no_rise(method: str) -> None:
    mf = getattr(mole("O 0 0 0; H 0 0 0.97", "def2-svp", spin=1), method)(xc="b3lyp").set(init_guess="sap")
    quick, _ = accelerated(mf)
    assert quick.converged
    most = 7 if pyscf.__version__.startswith("2.13.") else 4  # by grid and processor; plain SCF takes 9 or more
    assert quick.full_builds <= most
    assert not quick.plain_reason


def test_the_orientation_of_a_degenerate_state_is_not_left_to_rounding() -> None:
    found = []
    for axis, start in (("{0} 0 0", "minao"), ("0 {0} 0", "minao"), ("0 0 {0}", "minao"), ("0 0 {0}", "scc")):
        mf = mole(f"O 0 0 0; H {axis.format(0.97)}", "def2-svp", spin=1).UKS(xc="pbe").density_fit()
        quick, _ = accelerated(mf.set(init_guess=start, conv_tol=1e-11))
        assert quick.converged
        found.append(quick.e_tot)
    assert max(found) - min(found) < 2e-9  # 1e-6 between other orientations on this grid


def test_a_degenerate_state_of_a_molecule_that_is_not_linear_is_no_saddle_point() -> None:
    """Ethane cation: with the hole along an axis, rotation to another one of the pair lowers the energy by 1.4 mHa."""
    up, down = ([(1.02 * np.cos(a), 1.02 * np.sin(a)) for a in np.radians([b, b + 120, b + 240])] for b in (90, 30))
    hydrogens = [(x, y, z) for ring, z in ((up, 1.16), (down, -1.16)) for x, y in ring]
    atoms = [("C", (0, 0, 0.763)), ("C", (0, 0, -0.763)), *(("H", position) for position in hydrogens)]
    quick = accelerate(mole(atoms, "6-31g", charge=1, spin=1).UHF()).run()
    assert quick.converged
    assert quick.e_tot == pytest.approx(-78.746140, abs=1e-5)
    assert quick.full_builds <= 4


@pytest.mark.parametrize(("apart", "energy"), [(3.022753, -151.48156534), (3.287342, -151.47495038)])
def test_a_hole_between_two_molecules_is_found_where_diis_fails(apart: float, energy: float) -> None:
    """Water dimer cations, whose levels DIIS does not converge; nor does plain SCF converge for the second one."""
    donor = "O 0 0 0; H -0.492 0.525 0; H 0.914 0.301 0"
    acceptor = f"O {apart} -0.179 0; H {apart + 0.33} 0.201 0.76; H {apart + 0.33} 0.201 -0.76"
    quick = accelerate(mole(f"{donor}; {acceptor}", "6-31g", charge=1, spin=1).ROHF()).run()
    assert quick.converged
    assert quick.full_builds <= 4
    assert not quick.plain_reason
    assert quick.e_tot == pytest.approx(energy, abs=1e-7)
