"""Molecules of a given size: `python examples/large_molecules.py alkane 19 alanine 5 acene 9 water 20 > large.xyz`.

An unbranched alkane of n carbon atoms, a peptide of n alanines, an acene of n rings, a cluster of n water molecules.
All but water need RDKit (`pip install rdkit`).
"""

from __future__ import annotations

import sys

from water_cluster import cluster

SEED = 1


def alkane(carbons: int) -> str:
    """Return the SMILES of an unbranched alkane."""
    return "C" * carbons


def alanine(residues: int) -> str:
    """Return the SMILES of a peptide of L-alanine."""
    return "N[C@@H](C)C(=O)" * residues + "O"


def acene(rings: int) -> str:
    """Return the SMILES of a linear acene of three rings or more."""
    bonds = [f"%{10 + ring}" for ring in range(rings - 1)]
    opened, closed = "cc".join(bonds), "cc".join(reversed(bonds))
    return f"c1ccc{opened}ccccc{closed}c1"


SMILES = {"alkane": alkane, "alanine": alanine, "acene": acene}


def relaxed(smiles: str, name: str) -> str:
    """Return a molecule, relaxed by the MMFF94 force field, in xyz format."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if AllChem.EmbedMolecule(molecule, randomSeed=SEED, useRandomCoords=True):
        raise RuntimeError(f"RDKit found no geometry of {name}; try another size.")
    AllChem.MMFFOptimizeMolecule(molecule, maxIters=5000)
    return named(Chem.MolToXYZBlock(molecule), name)


def named(xyz: str, name: str) -> str:
    """Return a molecule in xyz format with its name as comment."""
    count, _, *atoms = xyz.splitlines()
    return "\n".join([count, f"name={name}", *atoms])


def main(kinds: list[str], sizes: list[int]) -> None:
    """Print the molecules in xyz format."""
    for kind, size in zip(kinds, sizes, strict=True):
        name = f"{kind}{size}"
        print(named(cluster(size), name) if kind == "water" else relaxed(SMILES[kind](size), name))


if __name__ == "__main__":
    main(sys.argv[1::2], [int(size) for size in sys.argv[2::2]])
