"""Crystals with k points, PBE and GTH pseudopotentials: full builds of plain PySCF, 'scc' and accelerate().

python examples/crystals.py [NAME ...], minutes for each. All ways need core Hamiltonian and fitted integrals, which are
computed once here.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from pyscf.pbc import dft, gto

from pyscf_mlham import accelerate
from pyscf_mlham.density import density_from_orbitals
from pyscf_mlham.h0.crystal import coarse_crystal
from pyscf_mlham.scf.counting import counting_fock_builds
from pyscf_mlham.scf.crystal import problem_of

FCC = (np.ones((3, 3)) - np.eye(3)) / 2
LARGE, SMALL, MINIMAL = "gth-dzvp", "gth-dzvp-molopt-sr", "gth-szv-molopt-sr"


def sheet(a: float, height: float) -> Any:
    """Return the lattice of a hexagonal sheet, Angstrom."""
    return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(0.75), 0], [0, 0, height]])


HONEYCOMB = [(1 / 3, 2 / 3, 0.5), (2 / 3, 1 / 3, 0.5)]
TRIGONAL = [(1 / 3, 2 / 3, 0.5), (2 / 3, 1 / 3, 0.5863), (2 / 3, 1 / 3, 0.4137)]
ROCK_SALT = [(0, 0, 0), (0.5, 0.5, 0.5)]
ZINC_BLENDE = [(0, 0, 0), (0.25, 0.25, 0.25)]
# lattice, symbols, fractional positions, basis set, k points, width of smearing in Hartree
CASES: dict[str, tuple[Any, list[str], list[Any], str, list[int], float]] = {
    "hBN": (sheet(2.504, 15.0), ["B", "N"], HONEYCOMB, LARGE, [3, 3, 1], 0.0),
    "graphene": (sheet(2.46, 15.0), ["C", "C"], HONEYCOMB, LARGE, [6, 6, 1], 0.005),
    "diamond": (FCC * 3.567, ["C", "C"], ZINC_BLENDE, LARGE, [2, 2, 2], 0.0),
    "Si": (FCC * 5.431, ["Si", "Si"], ZINC_BLENDE, LARGE, [2, 2, 2], 0.0),
    "MgO": (FCC * 4.212, ["Mg", "O"], ROCK_SALT, SMALL, [2, 2, 2], 0.0),
    "NaCl": (FCC * 5.64, ["Na", "Cl"], ROCK_SALT, SMALL, [2, 2, 2], 0.0),
    "MoS2": (sheet(3.16, 18.13), ["Mo", "S", "S"], TRIGONAL, MINIMAL, [3, 3, 1], 0.0),
    "Al": (FCC * 4.05, ["Al"], [(0, 0, 0)], SMALL, [4, 4, 4], 0.01),
}


def mean_field(name: str) -> Any:
    """Return the density-fitted KRKS object of a case."""
    lattice, symbols, places, basis, mesh, sigma = CASES[name]
    cell = gto.Cell()
    cell.atom, cell.a = list(zip(symbols, np.array(places) @ lattice, strict=True)), lattice
    cell.basis, cell.pseudo, cell.verbose = basis, "gth-pbe", 0
    cell.dimension = 2 if mesh[2] == 1 else 3
    cell.build()
    mf = dft.KRKS(cell, cell.make_kpts(mesh), xc="pbe").density_fit()
    mf = mf.smearing(sigma) if sigma else mf
    return mf.set(conv_tol=1e-9)


def ways(grids: list[int]) -> list[str]:
    """Return the names of the ways to converge a crystal."""
    return ["plain", "scc", "accelerate", *(f"coarse, grid {level}" for level in grids)]


def started(mf: Any, way: str) -> Any:
    """Return an object that converges in one of the ways."""
    if way == "accelerate":
        return accelerate(mf)
    return mf.set(init_guess="scc" if way == "scc" else "minao")


def coarse_density(mf: Any, grid: int) -> Any:
    """Return the density of the solution in the coarse field with a grid of a level."""
    problem = problem_of(mf)
    return density_from_orbitals(mf, problem.orbitals(coarse_crystal(problem, grid).point.fock))


def main() -> None:
    """Print a row for each case and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--grids", type=int, nargs="*", default=[], help="grids of coarse solutions to start from")
    parser.add_argument("--verbose", type=int, default=0, help="level of PySCF's log")
    args = parser.parse_args()
    for name in args.names:
        start = time.process_time()
        first = mean_field(name)
        core = first.get_hcore()
        first.with_df.build(j_only=True)
        needed = time.process_time() - start
        print(f"{name}: {first.mol.nao} orbitals, core Hamiltonian and fitted integrals {needed:.1f} s", flush=True)
        reference = of_plain = float("nan")
        for way in ways(args.grids):
            mf = started(mean_field(name), way).set(with_df=first.with_df, verbose=args.verbose)
            mf.get_hcore = lambda *_, core=core: core
            start = time.process_time()
            with counting_fock_builds(mf) as counter:
                mf.kernel(*([coarse_density(mf, int(way[-1]))] if "grid" in way else []))
            seconds = time.process_time() - start
            if way == "plain":
                reference, of_plain = mf.e_tot, seconds
            print(
                f"  {way:15s} converged {mf.converged} cycles {mf.cycles:2d} builds {counter.builds:2d} "
                f"dE {mf.e_tot - reference:8.1e} Ha {seconds:6.1f} s, {seconds / of_plain:.2f} of plain's, "
                f"{(needed + seconds) / (needed + of_plain):.2f} in all {getattr(mf, 'plain_reason', '')}",
                flush=True,
            )


if __name__ == "__main__":
    main()
