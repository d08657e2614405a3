"""Splits into train, val and test, by molecule: its conformers and displaced copies are in one split."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py

from pyscf_mlham.checkpoint import replacement
from pyscf_mlham.data.record import SPLITS
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError

Shares = tuple[float, float]  # of the molecules, for val and test


def splits_by_group(groups: Sequence[str], shares: Shares = (0.05, 0.05)) -> list[str]:
    """Assign a split to each record by a hash of its group's name, so that a molecule is never in two."""
    val, test = _checked(shares)
    places = map(_place, groups)
    return ["val" if place < val else "test" if place < val + test else "train" for place in places]


def counted_splits(groups: Sequence[str], shares: Shares, seed: int) -> list[str]:
    """Assign a split to each record, with the requested numbers of molecules, at least one if a share is not zero."""
    molecules = sorted(set(groups), key=lambda group: (_place(group, seed), group))
    val, test = (max(1, round(share * len(molecules))) if share else 0 for share in _checked(shares))
    if val + test >= len(molecules):
        text = f"{len(molecules)} different molecules cannot be split into train, {val} val and {test} test"
        raise DataError(f"{text}; label more molecules, or give smaller shares.")
    split = dict.fromkeys(molecules, "train")
    split |= dict.fromkeys(molecules[:val], "val") | dict.fromkeys(molecules[val : val + test], "test")
    return [split[group] for group in groups]


def _checked(shares: Shares) -> Shares:
    if not (min(shares) >= 0 and sum(shares) < 1):
        raise DataError(f"shares {shares} of val and test: expected non-negative numbers with a sum below 1.")
    return shares


def _place(group: str, seed: int = 0) -> float:
    """Return a pseudo-random number in [0, 1) of a molecule."""
    text = f"{seed} {group}" if seed else group
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_again(path: Path, shares: Shares, seed: int) -> None:
    """Assign new splits to the molecules of a file, which is replaced as a whole."""
    with HamiltonianFile(path) as file:
        splits = counted_splits(list(file.group), shares, seed)
    check_space(path, [path], "its molecules keep their splits")
    with replacement(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as copy:
            copy["split"][:] = splits


def check_space(path: Path, sources: Iterable[Path], safe: str) -> None:
    """Raise DataError if there is no room beside a file for the size of its sources; HDF5 crashes on a full disk."""
    size = sum(source.stat().st_size for source in sources if source.exists())
    if (free := shutil.disk_usage(path.parent).free) < size:
        text = f"not enough disk space ({size / 1e6:.0f} MB needed, {free / 1e6:.0f} free)"
        raise DataError(f"{path}: {text}; {safe}. Free disk space and run the same command again.")


def advice_on_empty(path: Path, splits: Iterable[str], shares: Shares) -> str:
    """Return a warning if a split that was requested has no molecule, "" otherwise."""
    counts = Counter(splits)
    empty = [split for split, share in zip(SPLITS[1:], shares, strict=True) if share and not counts[split]]
    if not empty:
        return ""
    return (
        f"No molecule is in {' and '.join(empty)}: few molecules, small shares. Labels can be kept and split again: "
        f"mlham data split {path} --val 0.2 --test 0.1"
    )
