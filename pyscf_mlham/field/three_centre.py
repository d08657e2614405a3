"""Three-centre Coulomb integrals (P|mn) of pairs of overlapping orbitals: a quarter of all pairs in 150 atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from pyscf import gto, lib
from pyscf.gto.moleintor import getints3c, make_cintopt

from pyscf_mlham.arrays import Array
from pyscf_mlham.field.pairs import BLOCK_BYTES, Pairs
from pyscf_mlham.threads import PIECE, SHARE, each


def three_centre(
    mol: gto.Mole, auxmol: gto.Mole, omega: float, pairs: Pairs, use: Callable[[Array, slice], Any]
) -> None:
    """Compute (P|mn), those of a few shells at a time, on all threads.

    Args:
        auxmol: molecule with the auxiliary functions P.
        omega: range-separation parameter of long-range integrals, 0 for the full ones; 1/Bohr.
        use: called with integrals (n_aux, some pairs) and these pairs, once for each pair, in any order.
    """
    both, m, n = mol + auxmol, *pairs.both
    first = np.searchsorted(m, np.arange(mol.nao + 1))  # pair of each m
    shell_of = np.repeat(np.arange(mol.nbas), np.diff(mol.ao_loc_nr()))
    with both.with_range_coulomb(omega or None):
        compute = _computation(both, mol.nbas)

        def work(shells: slice) -> None:
            part = slice(first[pairs.shells[shells.start].start], first[pairs.shells[shells.stop - 1].stop])
            block = np.empty((auxmol.nao, part.stop - part.start))
            for shell in range(shells.start, shells.stop):
                orbitals = pairs.shells[shell]
                near = np.unique(shell_of[n[first[orbitals.stop - 1] : first[orbitals.stop]]])
                rows = [block[:, slice(*first[i : i + 2] - part.start)] for i in range(orbitals.start, orbitals.stop)]
                _fill(rows, compute, shell, near)
            use(block, part)

        least, most = (size / (8 * auxmol.nao) for size in (PIECE, BLOCK_BYTES))
        most = min(most, max(least, len(pairs) / (SHARE * lib.num_threads())))
        each(work, list(_groups(pairs.shells, first, most)))


def _groups(shells: list[slice], first: Array, most: float) -> Iterator[slice]:
    """Yield runs of consecutive shells, each of one shell or of no more than `most` pairs.

    Args:
        shells: orbitals of each shell.
        first: first pair of each orbital, and the end.
    """
    begin = 0
    for end in range(1, len(shells) + 1):
        if end == len(shells) or first[shells[end].stop] - first[shells[begin].start] > most:
            yield slice(begin, end)
            begin = end


def _computation(both: gto.Mole, end: int) -> Callable[..., Array]:
    """Return a function of (first, last, shell) for (P|mn), n of these shells and m of one, (n_aux, m, n)."""
    name, tables = both._add_suffix("int3c2e"), (both._atm, both._bas, both._env)
    optimiser = make_cintopt(both._atm, both._bas[:end], both._env, name)
    integrals = partial(getints3c, name, *tables, ao_loc=both.ao_loc_nr(), cintopt=optimiser)
    return lambda first, last, shell: integrals((first, last, shell, shell + 1, end, both.nbas)).T


def _fill(rows: list[Array], compute: Callable[..., Array], shell: int, near: Array) -> None:
    """Set the integrals of the orbitals m of a shell with those of the shells near to it.

    Args:
        rows: for each m the array to fill, (n_aux, n) with all n <= m that overlap with m.
    """
    done = 0
    for run in np.split(near, np.flatnonzero(np.diff(near) > 1) + 1):
        integrals = compute(run[0], run[-1] + 1, shell)
        for i, row in enumerate(rows):
            part = row[:, done : done + integrals.shape[2]]  # ends at the diagonal
            part[...] = integrals[:, i, : part.shape[1]]
        done += integrals.shape[2]
