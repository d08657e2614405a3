"""Cases in which SCF is difficult: plain PySCF and accelerate(), density-fitted, grid level 1.

python examples/hard.py [NAME ...] [--report hard.json]; finished cases are read from the report.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyscf import dft, gto, qmmm, scf

from pyscf_mlham import accelerate

Atoms = list[tuple[str, tuple[float, float, float]]]
SAME = 1e-6  # Hartree; a larger difference is another state
SIX = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
TETRAHEDRON = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
BIPYRAMID = [(0, 0, 1), (0, 0, -1), *((np.cos(a), np.sin(a), 0.0) for a in np.arange(3) * 2 * np.pi / 3)]


class Case(NamedTuple):
    """A difficult case.

    Attributes:
        atom: atoms as PySCF reads them, Angstrom.
        xc: functional, or hf.
        spin: n_alpha - n_beta.
        charges: positions (Angstrom) and values of point charges.
    """

    atom: Any
    xc: str = "b3lyp"
    basis: str = "def2-svp"
    charge: int = 0
    spin: int = 0
    charges: tuple[tuple[tuple[float, float, float], float], ...] = ()

    def mean_field(self) -> Any:
        """Return the object of the case."""
        options = {"charge": self.charge, "spin": self.spin, "verbose": 0}
        mol = gto.M(atom=self.atom, basis=self.basis, **options)
        mf = (scf.HF(mol) if self.xc == "hf" else dft.KS(mol, xc=self.xc)).density_fit()
        if self.xc != "hf":
            mf.grids.level = 1
        if self.charges:
            mf = qmmm.mm_charge(mf, np.array([p for p, _ in self.charges]), np.array([q for _, q in self.charges]))
        return mf


def two(first: str, second: str, distance: float) -> str:
    """Return a diatomic molecule."""
    return f"{first} 0 0 0; {second} 0 0 {distance}"


def around(metal: str, directions: Any, ligand: Any) -> Atoms:
    """Return a complex: a metal, and a ligand along each direction."""
    units = [np.array(each) / np.linalg.norm(each) for each in directions]
    return [(metal, (0.0, 0.0, 0.0)), *(atom for unit in units for atom in ligand(unit))]


def carbonyl(distance: float) -> Any:
    """Return the atoms of CO by its direction."""
    return lambda u: [("C", tuple(distance * u)), ("O", tuple((distance + 1.15) * u))]


def water(distance: float) -> Any:
    """Return the atoms of a water ligand by its direction."""

    def made(u: Any) -> Atoms:
        side = np.cross(u, (1, 0, 0) if abs(u[0]) < 0.5 else (0, 1, 0))
        side /= np.linalg.norm(side)
        out = (distance + 0.59) * u
        return [("O", tuple(distance * u)), ("H", tuple(out + 0.77 * side)), ("H", tuple(out - 0.77 * side))]

    return made


def ferrocene() -> Atoms:
    """Return eclipsed ferrocene."""
    atoms: Atoms = [("Fe", (0.0, 0.0, 0.0))]
    for z in (1.66, -1.66):
        for a in np.arange(5) * 2 * np.pi / 5:
            x, y = np.cos(a), np.sin(a)
            atoms += [("C", (1.22 * x, 1.22 * y, z)), ("H", (2.30 * x, 2.30 * y, z))]
    return atoms


def chain(symbol: str, count: int, distance: float) -> str:
    """Return equidistant atoms in a line."""
    return "; ".join(f"{symbol} 0 0 {i * distance:.4f}" for i in range(count))


def ring(symbol: str, count: int, distance: float) -> Atoms:
    """Return a regular polygon."""
    radius = distance / 2 / np.sin(np.pi / count)
    angles = np.arange(count) * 2 * np.pi / count
    return [(symbol, (radius * np.cos(a), radius * np.sin(a), 0.0)) for a in angles]


def polyene(count: int) -> Atoms:
    """Return a planar all-trans polyene of CH groups with equal bonds."""
    atoms: Atoms = []
    for i in range(count):
        side = 1 if i % 2 else -1
        x, y = 1.21 * i, 0.35 * side
        atoms += [("C", (x, y, 0.0)), ("H", (x, y + 1.09 * side, 0.0))]
    return [*atoms, ("H", (-0.94, 0.2, 0.0)), ("H", (1.21 * (count - 1) + 0.94, 0.35 * side - 0.55 * side, 0.0))]


OZONE = "O 0 0 0; O 1.09 0.67 0; O -1.09 0.67 0"
TWISTED = "C 0 0 0.66; C 0 0 -0.66; H 0 0.92 1.23; H 0 -0.92 1.23; H 0.92 0 -1.23; H -0.92 0 -1.23"
WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
NITROMETHANE = (
    "C 0 0 1.33; N 0 0 -0.17; O 1.08 0 -0.73; O -1.08 0 -0.73; H 0 1.06 1.67; H 0.92 -0.53 1.67; H -0.92 -0.53 1.67"
)
SF6 = around("S", SIX, lambda u: [("F", tuple(1.56 * u))])

CASES = {
    "FeO quintet": Case(two("Fe", "O", 1.62), spin=4),
    "CrO quintet": Case(two("Cr", "O", 1.62), spin=4),
    "MnO sextet": Case(two("Mn", "O", 1.65), "pbe", spin=5),
    "NiO triplet": Case(two("Ni", "O", 1.63), spin=2),
    "CoO quartet": Case(two("Co", "O", 1.63), spin=3),
    "CuO doublet": Case(two("Cu", "O", 1.72), spin=1),
    "FeC triplet": Case(two("Fe", "C", 1.58), spin=2),
    "FeN quartet": Case(two("Fe", "N", 1.6), spin=3),
    "FeCO triplet": Case("Fe 0 0 0; C 0 0 1.72; O 0 0 2.88", spin=2),
    "Cr2 singlet": Case(two("Cr", "Cr", 1.68), "pbe"),
    "Fe2 septet": Case(two("Fe", "Fe", 2.0), "pbe", spin=6),
    "Ni2 triplet": Case(two("Ni", "Ni", 2.15), spin=2),
    "Cr(CO)6": Case(around("Cr", SIX, carbonyl(1.91)), "pbe", "3-21g"),
    "Fe(CO)5": Case(around("Fe", BIPYRAMID, carbonyl(1.82)), basis="3-21g"),
    "Ni(CO)4": Case(around("Ni", TETRAHEDRON, carbonyl(1.83)), basis="3-21g"),
    "ferrocene": Case(ferrocene(), basis="3-21g"),
    "Fe(H2O)6 2+ quintet": Case(around("Fe", SIX, water(2.13)), basis="3-21g", charge=2, spin=4),
    "Cu(H2O)4 2+ doublet": Case(around("Cu", SIX[:4], water(1.97)), basis="3-21g", charge=2, spin=1),
    "N2 stretched": Case(two("N", "N", 2.5)),
    "F2 stretched": Case(two("F", "F", 2.6), "hf"),
    "water stretched": Case("O 0 0 0; H 0 1.6 1.2; H 0 -1.6 1.2"),
    "C2 singlet": Case(two("C", "C", 1.24), "hf"),
    "ozone": Case(OZONE, "hf", "6-31g*"),
    "twisted ethylene": Case(TWISTED, "pbe"),
    "nitromethane anion": Case(NITROMETHANE, basis="6-31++g**", charge=-1, spin=1),
    "SF6 6-31++G**": Case(SF6, basis="6-31++g**"),
    "Na8 ring": Case(ring("Na", 8, 3.2), "pbe", "3-21g"),
    "polyene C18H20": Case(polyene(18), "pbe", "sto-3g"),
    "water at a charge": Case(WATER, charges=(((0.0, 0.0, 1.0), 1.0), ((0.0, 0.0, -1.3), -1.0))),
    "H10 aug-cc-pVDZ": Case(chain("H", 10, 0.7), "b3lyp", "aug-cc-pvdz"),
    "NiH doublet": Case(two("Ni", "H", 1.48), spin=1),
    "NiH doublet, PBE": Case(two("Ni", "H", 1.48), "pbe", spin=1),
    "CoH triplet": Case(two("Co", "H", 1.54), spin=2),
    "CoN quintet": Case(two("Co", "N", 1.6), spin=4),
    "CoF triplet": Case(two("Co", "F", 1.74), spin=2),
    "VN triplet": Case(two("V", "N", 1.56), spin=2),
    "NiO triplet, HF/STO-3G": Case(two("Ni", "O", 1.63), "hf", "sto-3g", spin=2),
}


def run(mf: Any) -> dict[str, Any]:
    """Converge an object, and return its results."""
    start = time.process_time()
    mf.kernel()
    found = {"converged": bool(mf.converged), "energy": float(mf.e_tot), "seconds": time.process_time() - start}
    names = ("full_builds", "coarse_builds", "response_builds", "single_builds", "plain_reason")
    return found | {"cycles": int(mf.cycles)} | {name: getattr(mf, name) for name in names if hasattr(mf, name)}


def line(name: str, plain: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return the line of a case in the table."""
    counts = f"{ours['full_builds']} + {ours['single_builds']} + {ours['coarse_builds']} + {ours['response_builds']}"
    difference = ours["energy"] - plain["energy"]
    same = "same" if abs(difference) < SAME else f"{difference:+.1e}"
    cells = (
        str(plain["cycles"] + 2) if plain["converged"] else "no",
        counts if ours["converged"] else f"no ({counts})",
    )
    return f"| {name} | {cells[0]} | {cells[1]} | {same} | {ours['plain_reason']} |"


def main() -> None:
    """Run the cases that the report lacks, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--report", type=Path, default=Path("hard.json"))
    parser.add_argument("--again", action="store_true", help="run accelerate() again, and keep the plain results")
    args = parser.parse_args()
    found = json.loads(args.report.read_text()) if args.report.exists() else {}
    print(
        "| case | builds of plain SCF | builds, single + coarse + response | energy - plain / Ha | left to plain SCF |"
    )
    print("|---|--:|--:|--:|---|")
    for name in args.names:
        both = found.setdefault(name, {})
        if "plain" not in both:
            both["plain"] = run(CASES[name].mean_field())
        if "ours" not in both or args.again:
            both["ours"] = run(accelerate(CASES[name].mean_field()))
        args.report.write_text(json.dumps(found, indent=1))
        print(line(name, **both), flush=True)
    counts = [sum(found[name][kind]["converged"] for name in args.names) for kind in ("plain", "ours")]
    print(f"converged: {counts[0]} with plain SCF, {counts[1]} with accelerate(), of {len(args.names)}")


if __name__ == "__main__":
    main()
