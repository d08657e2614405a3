"""Splits of molecules into train, val and test, and those made again for a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from pyscf_mlham import cli
from pyscf_mlham.data.generate import Journal, journal_path
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.data.splits import advice_on_empty, counted_splits, splits_by_group
from pyscf_mlham.errors import DataError
from support.labelled import LEVEL, records


def test_splits_are_by_molecule_and_stable() -> None:
    groups = [f"g{i // 3}" for i in range(3000)]
    splits = splits_by_group(groups)
    assert all(len({splits[i] for i in range(3 * k, 3 * k + 3)}) == 1 for k in range(1000))
    assert 0.03 < splits.count("val") / 3000 < 0.07
    assert splits_by_group(groups[30:60]) == splits[30:60]


def test_numbers_of_molecules_by_seed() -> None:
    groups = [f"g{i // 3}" for i in range(90)]
    chosen = [counted_splits(groups, (0.2, 0.1), seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    for splits in chosen:
        assert Counter(splits) == {"train": 63, "val": 18, "test": 9}
        assert len(set(zip(groups, splits, strict=True))) == 30
    few = counted_splits(groups[:12], (0.01, 0.01), 0)
    assert Counter(few) == {"train": 6, "val": 3, "test": 3}
    assert set(counted_splits(groups, (0.0, 0.0), 0)) == {"train"}
    with pytest.raises(DataError, match="2 different molecules cannot be split"):
        counted_splits(groups[:6], (0.2, 0.2), 0)
    for shares in ((-0.1, 0.0), (0.6, 0.5), (float("nan"), 0.1)):
        with pytest.raises(DataError, match="below 1"):
            counted_splits(groups, shares, 0)


def test_an_empty_split_is_reported_only_if_it_was_requested() -> None:
    path = Path("set.h5")
    assert "in val and test" in advice_on_empty(path, ["train"], (0.1, 0.1))
    assert "in test:" in advice_on_empty(path, ["train", "val"], (0.1, 0.1))
    assert "mlham data split set.h5" in advice_on_empty(path, [], (0.1, 0.0))
    assert advice_on_empty(path, ["train"], (0.0, 0.0)) == ""


def test_a_file_is_split_again_without_another_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "set.h5"
    write_file(path, LEVEL, records(), {}, {"key": ("name", "reason")})
    with HamiltonianFile(path) as file:
        before = list(file)
    assert cli.main(["data", "split", str(path), "--val", "0.3", "--test", "0.2", "--seed", "3"]) == 0
    assert "6 train, 4 val, 2 test" in capsys.readouterr().out
    with HamiltonianFile(path) as file, h5py.File(path) as raw:
        assert list(raw["failed_name"].asstr()) == ["name"]
        assert len(set(zip(file.group, file.split, strict=True))) == 6
        for old, new in zip(before, file, strict=True):
            np.testing.assert_array_equal(old.fock, new.fock)
            assert old[:3] == new[:3]
    assert list(tmp_path.iterdir()) == [path]


def test_splitting_that_fails_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "set.h5"
    write_file(path, LEVEL, records(), {})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyscf_mlham.checkpoint._to_disk", full)
        assert cli.main(["data", "split", str(path), "--val", "0.3"]) == 1
    assert cli.main(["data", "split", str(path), "--val", "0.9"]) == 1
    Journal(journal_path(path), LEVEL).close()
    assert cli.main(["data", "split", str(path), "--val", "0.3"]) == 1
    journal_path(path).unlink()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert "is not finished" in capsys.readouterr().err


def test_empty_splits_are_reported_before_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.xyz", tmp_path / "set.h5"
    write(source, [molecule(name) for name in ("H2O", "NH3", "CH4")])
    command = ["data", "generate", str(source), "-o", str(out), "--xc", "hf", "--basis", "sto-3g"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"mlham data split {out} --val 0.2 --test 0.1") == 1
    assert printed.index("mlham data split") < printed.index("3 labelled")
    assert cli.main(["data", "split", str(out), "--val", "0.2", "--test", "0.1"]) == 0
    assert "1 train, 1 val, 1 test" in capsys.readouterr().out
    assert cli.main(command) == 0
    assert "mlham data split" not in capsys.readouterr().out
