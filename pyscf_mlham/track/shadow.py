"""Shadow dynamics: one full build at every geometry and no SCF, after Niklasson's extended Lagrangian.

The full potential is built at an auxiliary density n alone (`Auxiliary`), and the response level R is solved around it:

    U(n) = min_D  E[n] + Tr F[n] (D - n) + 1/2 Tr R[D - n] (D - n),    D idempotent.

The minimum D replaces the ground state: energy U, orbitals and orbital energies of F[n] + R[D - n]. U differs from
the ground state's energy in second order of D - n, times the error of R. As R is solved, D - n is the plain residual
times the inverse Jacobian of the SCF: Niklasson's kernel. PySCF's forces of these orbitals and orbital energies are the
gradient of U at constant n up to second order of D - n, again times the error of R; as n moves with the AOs, there is a
term of first order times this error, which is left out.

Niklasson, J. Chem. Phys. 147, 054103 (2017) and 152, 104103 (2020).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pyscf.lib import logger

from pyscf_mlham.density import Orbitals, density_from_orbitals, gap, undisturbed
from pyscf_mlham.scf.applicability import inapplicable
from pyscf_mlham.scf.multilevel.ladder import Ladder
from pyscf_mlham.scf.multilevel.levels import FullLevel, state_of
from pyscf_mlham.scf.problem import Problem
from pyscf_mlham.threads import one_blas_thread

SOLVED = 1e-7  # orbital gradient to which the response is solved, Hartree
FAR = 0.02  # norm of D - n in Loewdin orbitals over the root of the number of electrons
GAP = 0.03  # Hartree


class Shadow(NamedTuple):
    """What replaces a ground state."""

    energy: float  # U, Hartree
    orbitals: Orbitals  # those of D, canonical in F[n] + R[D - n]
    responses: int  # builds of the response level
    failure: str  # why an SCF must replace it; "" if it must not
    variables: dict[str, Any]  # those of its full build for `mf.callback`, see `accelerate`; `e_tot` is U


def unsupported(mf: Any) -> str:
    """Return why an object has no shadow dynamics, "" if it has."""
    if mf.istype("ROHF"):
        return "the forces of ROHF need the full Fock matrix"
    if getattr(mf, "with_solvent", None):
        return "the forces of a solvent are those of its last density"
    if mf.mol.symmetry:
        return "orbitals have point-group symmetry"
    if reason := inapplicable(mf):
        return reason
    with undisturbed(mf):
        kept = mf.check_linear_dependency(mf.get_ovlp(mf.mol))
    return "" if kept.shape[-1] == kept.shape[-2] else "the basis set is nearly linearly dependent"


@one_blas_thread()
def shadow_of(mf: Any, orbitals: Orbitals) -> Shadow:
    """Build the full potential once and solve the response to it.

    Args:
        mf: accelerated mean-field object.
        orbitals: those of n.
    """
    problem = Problem.of(mf)
    ladder = Ladder(problem)
    density = density_from_orbitals(mf, orbitals)
    here = FullLevel(problem, density, write=False).build(orbitals)
    point = ladder.relaxed(here, SOLVED)
    if point is here or point.gradient > SOLVED:
        return Shadow(here.energy, here.known_orbitals, 0, "the response level does not converge", {})
    found = problem.canonical(point.known_orbitals, point.fock)
    change = point.density - here.density
    distance = np.sqrt(np.einsum("...pq,...qp", change @ problem.overlap, change @ problem.overlap).sum())
    distance /= np.sqrt(mf.mol.nelectron)
    logger.info(mf, "shadow: |D - n| per root of an electron= %.2g  gap= %.3g Hartree", distance, gap(found))
    failure = ""
    if distance > FAR:
        failure = f"the auxiliary density is too far from the ground state ({distance:.2g})"
    elif not problem.filled_from_below(found):
        failure = "another orbital should be occupied"
    elif gap(found) < GAP:
        failure = f"the gap is too small ({gap(found):.2g} Hartree)"
    responses, energy = ladder.counts["response_builds"], here.energy + problem.energy_change(here, point)
    variables = state_of(problem, here, None, density, 1) | {"e_tot": energy, "scf_conv": not failure}
    return Shadow(energy, found, responses, failure, variables)
