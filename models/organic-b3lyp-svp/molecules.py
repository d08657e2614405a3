"""Geometries that were added to the public ones in training: assembled from fragments, with force fields.

    python molecules.py small > small.xyz         # rare groups: nitro, chlorides, phosphorus, sulfones; needs rdkit
    python molecules.py 400 > larger.xyz          # drug-like molecules of 20 to 38 atoms

In the larger ones two or three rings and groups are joined by linkers at random.
"""

import random
import sys

from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

RINGS = (  # with one open valence, marked *
    "*c1ccccc1", "*c1ccc(C)cc1", "*c1ccc(OC)cc1", "*c1ccc(F)cc1", "*c1ccc(Cl)cc1", "*c1cccc(Cl)c1", "*c1ccccc1O",
    "*c1ccc(C#N)cc1", "*c1ccc([N+](=O)[O-])cc1", "*c1cccc([N+](=O)[O-])c1", "*c1ccc(C(F)(F)F)cc1", "*c1ccncc1",
    "*c1cccnc1", "*c1ncccn1", "*c1cnccn1", "*c1ccco1", "*c1cccs1", "*c1nccs1", "*c1cnc[nH]1", "*n1cccn1", "*n1ccnc1",
    "*c1cc(C)on1", "*c1nnc(C)o1", "*C1CCCC1", "*C1CCCCC1", "*N1CCOCC1", "*N1CCCC1", "*N1CCN(C)CC1", "*C1CCOC1",
    "*c1c[nH]c2ccccc12", "*c1ccc2OCOc2c1", "*C1CC1", "*c1nc2ccccc2[nH]1", "*c1ccc(N(C)C)cc1", "*c1ccc(S(C)(=O)=O)cc1",
    "*N1C(=O)CCC1=O", "*c1cc(=O)[nH]c(=O)[nH]1", "*c1ncnc2[nH]cnc12", "*C1OC(CO)C(O)C1O", "*N1CCSCC1",
)  # fmt: skip
LINKERS = (  # between two open valences
    "*C(=O)N*", "*NC(=O)*", "*C(=O)O*", "*OC*", "*CO*", "*S(=O)(=O)N*", "*NS(=O)(=O)*", "*C*", "*CC*", "*N*", "*O*",
    "*S*", "*C(=O)*", "*NC(=O)N*", "*C=C*", "*C#C*", "*CN*", "*OC(=O)N*", "*C(O)C*", "*CSC*", "*C(=O)NC(C)C(=O)N*",
    "*NC(C)C(=O)O*", "*S(=O)C*", "*N=C*", "*CP(=O)(OC)O*", "*OP(=O)(C)O*", "*C(Cl)C*", "*C(F)(F)C*", "*OCCO*",
    "*C(=O)CC(=O)*", "*C(=S)N*", "*SC(=O)*", "*N(C)C(=O)*", "*C(C)(C)O*",
)  # fmt: skip
GROUPS = (
    "*C", "*CC", "*O", "*OC", "*N", "*NC", "*N(C)C", "*F", "*Cl", "*C#N", "*C(=O)O", "*C(=O)OC", "*C(N)=O", "*S",
    "*SC", "*S(N)(=O)=O", "*[N+](=O)[O-]", "*C(F)(F)F", "*C=O", "*C(C)=O", "*NC(C)=O", "*CO", "*CN", "*C(C)C",
    "*P(C)C", "*OP(=O)(O)O", "*CC(N)C(=O)O", "*CCCl", "*C=C", "*C(C)C(=O)O",
)  # fmt: skip
HEADS = (
    "C", "CC", "C=C", "C#C", "CO", "CN", "c1ccccc1", "C(C)C", "C1CC1", "C(F)F", "CC=O", "CC#N", "c1ccco1", "N(C)",
    "O", "CS", "CCl",
)  # fmt: skip
TAILS = (
    "[N+](=O)[O-]", "Cl", "C(Cl)Cl", "P", "P(C)C", "P(=O)(C)C", "P(=O)(O)O", "OP(=O)(O)C", "S(=O)(=O)C", "S(=O)C",
    "S(=O)(=O)N", "SCl", "SSC", "N=[N+]=[N-]", "N=O", "ON=O", "C(=O)Cl", "S(=O)(=O)F", "[N+]#[C-]", "N=C=O",
    "N=C=S", "OO", "NN", "P(Cl)Cl", "C(Cl)(Cl)Cl", "PC", "SP(C)C", "OCl", "NCl",
)  # fmt: skip
SMALLEST, LARGEST = 20, 38


def joined(one: Chem.Mol, other: Chem.Mol) -> Chem.Mol:
    """Join two fragments at the first open valence of each."""
    both = Chem.RWMol(Chem.CombineMols(one, other))
    (a, b) = [next(x.GetIdx() for x in m.GetAtoms() if x.GetAtomicNum() == 0) for m in (one, other)]
    b += one.GetNumAtoms()
    ends = [both.GetAtomWithIdx(x).GetNeighbors()[0].GetIdx() for x in (a, b)]
    both.AddBond(*ends, Chem.BondType.SINGLE)
    for x in sorted((a, b), reverse=True):
        both.RemoveAtom(x)
    return both.GetMol()


def assembled(rng: random.Random) -> Chem.Mol:
    """Ring, linker, ring or group; sometimes one linker and one group more."""
    parts = [rng.choice(RINGS), rng.choice(LINKERS)]
    if rng.random() < 0.35:
        parts.append(rng.choice(LINKERS))
    parts.append(rng.choice(RINGS if rng.random() < 0.6 else GROUPS))
    mol = Chem.MolFromSmiles(parts[0])
    for part in parts[1:]:
        mol = joined(mol, Chem.MolFromSmiles(part))
    return mol


def show(name: str, smiles: str, mol: Chem.Mol) -> None:
    """Print one frame."""
    places = mol.GetConformer().GetPositions()
    print(f"{len(places)}\nname={name} group={smiles.replace('=', ':')} charge=0 mult=1")
    for atom, (x, y, z) in zip(mol.GetAtoms(), places, strict=True):
        print(f"{atom.GetSymbol()} {x:.5f} {y:.5f} {z:.5f}")


def relaxed(smiles: str, seed: int) -> Chem.Mol | None:
    """Return one conformer, None where the force fields have no answer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if AllChem.EmbedMolecule(mol, randomSeed=seed):
        return None
    known = AllChem.MMFFHasAllMoleculeParams(mol)
    optimise = AllChem.MMFFOptimizeMolecule if known else AllChem.UFFOptimizeMolecule
    failed = optimise(mol, maxIters=2000)
    return None if failed else mol


def small() -> None:
    """Print every head with every tail."""
    pairs = [(head, tail) for head in HEADS for tail in TAILS]
    random.Random(1).shuffle(pairs)
    seen = set()
    for head, tail in pairs:
        mol = Chem.MolFromSmiles(head + tail)
        smiles = Chem.MolToSmiles(mol) if mol else ""
        if mol is None or smiles in seen or not 4 <= Chem.AddHs(mol).GetNumAtoms() <= 18:
            continue
        if (found := relaxed(smiles, len(seen))) is not None:
            seen.add(smiles)
            show(f"small_{len(seen):03d}", smiles, found)


def larger(count: int) -> None:
    """Print as many assembled molecules as are asked for."""
    rng, seen = random.Random(2), set()
    while len(seen) < count:
        smiles = Chem.MolToSmiles(assembled(rng))
        try:
            size = Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms()
            if smiles in seen or not SMALLEST <= size <= LARGEST or (found := relaxed(smiles, len(seen))) is None:
                continue
        except (Chem.KekulizeException, ValueError, AttributeError):
            continue
        seen.add(smiles)
        show(f"assembled_{len(seen):04d}", smiles, found)


RDLogger.DisableLog("rdApp.*")
small() if sys.argv[1] == "small" else larger(int(sys.argv[1]))
