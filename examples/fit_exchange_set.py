"""Fit the minimal auxiliary set in which the response level expands exchange of a density change.

A function of angular momentum l on atom A has the exponent theta / R_A^2, with R_A the absolute atomic radius in Bohr.
All elements of a class share their thetas. They are chosen on a logarithmic grid: all integrals are made once, and
every trial set is a selection of rows, so a trial costs linear algebra only. The objective is the mean over pairs of

    1/2 hyb ||K_ov[dD] - K_ov^fit[dD]|| / ||dF_ov||

with ov the occupied-virtual block in converged orbitals, and dD, dF the distance of an SCF iterate to convergence.

    python examples/exchange_pairs.py molecules.xyz pairs
    python examples/fit_exchange_set.py pairs --radii pyscf_mlham/field/exchange_set.json --detailed

The folder of pairs holds one .npz per calculation: mol (Mole.dumps()), C (nao, nmo), n (occupied orbitals), D and F
(iterates + 1, nao, nao) with the converged matrices last, K (iterates, nao, nao) of D[-1] - D[:-1], hyb.
"""

import argparse
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyscf import df, gto

THETAS = 0.1 * 2.0 ** (0.5 * np.arange(18))
LETTERS = "spdf"
METALS = {"Li", "Be", "Na", "Mg", "Al", "K", "Ca", "Zn"}
ROW = {"B": "BF", "C": "BF", "N": "BF", "O": "BF", "F": "BF", "Si": "SiCl", "P": "SiCl", "S": "SiCl", "Cl": "SiCl"}

Exchange = dict[str, list[tuple[int, int]]]  # class of elements -> (l, index into THETAS)


def element_class(symbol: str, detailed: bool) -> str:
    """'hydrogen' or 'heavy'; in detail 'BF', 'SiCl', 'metal' and 'heavy' for the rest."""
    if symbol == "H":
        return "hydrogen"
    if not detailed:
        return "heavy"
    return "metal" if symbol in METALS else ROW.get(symbol, "heavy")


@dataclass
class Case:
    """One calculation: integrals of all grid functions, half contracted with orbitals and density changes."""

    label: str
    owner: list[tuple[str, int, int]]  # element, l, grid index of each auxiliary function
    metric: np.ndarray  # (naux, naux)
    virtual: np.ndarray  # (naux, nao, nvir)
    changed: np.ndarray  # (naux, nao, pairs * nocc), scaled by hyb / 2 ||dF_ov||
    target: np.ndarray  # (nvir, pairs * nocc), scaled alike
    pairs: int

    def select(self, functions: Exchange, detailed: bool) -> np.ndarray:
        """Rows of the auxiliary functions in a set."""
        chosen = {c: set(f) for c, f in functions.items()}
        return np.array([i for i, (e, l, k) in enumerate(self.owner) if (l, k) in chosen[element_class(e, detailed)]])

    def errors(self, rows: np.ndarray) -> np.ndarray:
        """Error of exchange of each pair in the occupied-virtual block, relative to the change of the Fock matrix."""
        values, vectors = np.linalg.eigh(self.metric[np.ix_(rows, rows)])
        keep = values > 1e-6 * values[-1]
        W = (vectors[:, keep] / np.sqrt(values[keep])).astype(np.float32)
        half = W @ (W.T @ self.changed[rows].reshape(len(rows), -1))
        fitted = self.virtual[rows].reshape(-1, len(self.target)).T @ half.reshape(-1, self.target.shape[1])
        rest = (self.target - fitted).reshape(len(self.target), self.pairs, -1)
        return np.asarray(np.linalg.norm(rest, axis=(0, 2)))


def grid_molecule(mol: gto.Mole, radii: dict[str, float], lmax: int) -> gto.Mole:
    """Return an auxiliary molecule with every function of the grid on every atom (hydrogen: one l less)."""

    def shells(symbol: str) -> list[Any]:
        top = lmax - (symbol == "H")
        return [[l, [t / radii[symbol] ** 2, 1.0]] for l in range(top + 1) for t in THETAS]

    return df.make_auxmol(mol, {s: shells(s) for s in set(mol.elements)})


def owners(aux: gto.Mole, radii: dict[str, float]) -> list[tuple[str, int, int]]:
    """Element, l and grid index of each auxiliary function, in their order."""
    result = []
    for shell in range(aux.nbas):
        symbol, l = aux.atom_pure_symbol(aux.bas_atom(shell)), aux.bas_angular(shell)
        theta = aux.bas_exp(shell)[0] * radii[symbol] ** 2
        result += [(symbol, l, int(np.argmin(abs(np.log(THETAS / theta)))))] * (2 * l + 1)
    return result


def read_case(path: Path, radii: dict[str, float], lmax: int = 2) -> Case:
    """Integrals and targets of one stored calculation."""
    with np.load(path) as data:
        D, F, K, C, n, hyb = (data[k] for k in ("D", "F", "K", "C", "n", "hyb"))
        mol = gto.loads(str(data["mol"]))
    aux = grid_molecule(mol, radii, lmax)
    T = df.incore.aux_e2(mol, aux, "int3c2e", aosym="s1").transpose(2, 0, 1)
    occupied, virtual = C[:, :n], C[:, n:]
    scale = [0.5 * hyb / np.linalg.norm(virtual.T @ (F[-1] - f) @ occupied) for f in F[:-1]]
    halves = T @ occupied
    changed = [s * np.matmul(D[-1] - d, halves) for s, d in zip(scale, D[:-1], strict=True)]
    target = [s * virtual.T @ k @ occupied for s, k in zip(scale, K, strict=True)]
    return Case(
        path.stem,
        owners(aux, radii),
        aux.intor("int2c2e"),
        (T @ virtual).astype(np.float32),
        np.concatenate(changed, axis=2).astype(np.float32),
        np.concatenate(target, axis=1).astype(np.float32),
        len(K),
    )


def objective(cases: Iterable[Case], functions: Exchange, detailed: bool) -> float:
    """Mean relative error of exchange over all pairs."""
    return float(np.mean(np.concatenate([c.errors(c.select(functions, detailed)) for c in cases])))


def spread(shape: str) -> list[tuple[int, int]]:
    """Return starting functions of a shape such as '2s2p1d': thetas around 0.8, a factor 4 apart."""
    result = []
    for count, letter in re.findall(r"(\d)([spdf])", shape):
        first = 6 - 2 * (int(count) - 1)
        result += [(LETTERS.index(letter), max(first, 0) + 4 * i) for i in range(int(count))]
    return result


def moves(functions: Exchange) -> Iterable[tuple[str, int, tuple[int, int]]]:
    """Yield steps of one function on the grid: class, position, new function."""
    for name, members in functions.items():
        for i, (l, k) in enumerate(members):
            for step in (-1, 1, -2, 2):
                if 0 <= k + step < len(THETAS) and (l, k + step) not in members:
                    yield name, i, (l, k + step)


def fit(cases: list[Case], functions: Exchange, detailed: bool = False, sweeps: int = 8) -> tuple[Exchange, float]:
    """Coordinate search on the grid until no step of any function helps."""
    best = objective(cases, functions, detailed)
    for _ in range(sweeps):
        before = best
        for name, i, new in list(moves(functions)):
            if new in functions[name]:
                continue
            trial = {c: list(f) for c, f in functions.items()}
            trial[name][i] = new
            value = objective(cases, trial, detailed)
            if value < best:
                functions, best = trial, value
        if before - best < 1e-4 * before:
            break
    return functions, best


def as_thetas(functions: Exchange) -> dict[str, list[list[float]]]:
    """(l, theta) of each class, sorted."""
    return {c: [[l, round(float(THETAS[k]), 3)] for l, k in sorted(f)] for c, f in functions.items()}


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, help="folder of .npz files")
    parser.add_argument("--radii", type=Path, required=True, help="JSON file with 'radii_bohr'")
    parser.add_argument("--heavy", default="2s2p1d", help="functions of an atom that is not hydrogen")
    parser.add_argument("--hydrogen", default="2s1p", help="functions of hydrogen")
    parser.add_argument("--detailed", action="store_true", help="own thetas for B-F, Si-Cl, metals and the rest")
    args = parser.parse_args()
    radii = json.loads(args.radii.read_text())["radii_bohr"]
    cases = [read_case(p, radii) for p in sorted(args.pairs.glob("*.npz"))]
    functions, value = fit(cases, {"heavy": spread(args.heavy), "hydrogen": spread(args.hydrogen)})
    if args.detailed:
        split = {c: list(functions["heavy"]) for c in ("BF", "SiCl", "metal", "heavy")}
        functions, value = fit(cases, {**split, "hydrogen": functions["hydrogen"]}, detailed=True)
    print(json.dumps({"error": value, "functions": as_thetas(functions)}, indent=1))


if __name__ == "__main__":
    main()
