"""Which molecules train: none that is held out, whatever it is called; and how their preparation goes ahead."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pyscf_mlham.data import dataset
from pyscf_mlham.data.dataset import usable_cores
from pyscf_mlham.data.record import Record
from pyscf_mlham.data.schema import HamiltonianFile, write_file
from pyscf_mlham.errors import DataError, ModelError
from pyscf_mlham.train.preparation import Place, _check_theories, choose, held_out_elsewhere, prepare, recipe_of
from support.labelled import settings, silent


def written(folder: Path, like: Path, name: str, change: Callable[[Record], Record | None]) -> Path:
    """Write the records that `change` makes of those of a file."""
    with HamiltonianFile(like) as file:
        records = [r for r in map(change, file) if r is not None]
        write_file(folder / name, file.level, records, {"pyscf_version": "test"})
    return folder / name


def lost(*paths: Path) -> list[str]:
    files = [HamiltonianFile(path) for path in paths]
    train = [Place(file, int(i)) for file in files for i in file.indices("train")]
    found = held_out_elsewhere(files, train)
    names = [f"{files.index(place.file)}:{place.file.name[place.index]}" for place in found]
    for file in files:
        file.close()
    return sorted(names)


def renamed(record: Record) -> Record:
    return record._replace(name=f"other {record.name}", group=f"other {record.group}", split="train")


def test_molecules_held_out_under_another_name_do_not_train(data: Path, tmp_path: Path) -> None:
    # HCN is held out as a whole; of all other molecules the file has geometries in both splits, on purpose
    assert lost(data) == []
    again = written(tmp_path, data, "again.h5", lambda r: renamed(r) if r.name == "HCN_0" else None)
    assert lost(data, again) == ["1:other HCN_0"]
    moved = written(
        tmp_path,
        data,
        "moved.h5",
        lambda r: renamed(r)._replace(positions=r.positions @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) + 0.01),
    )
    assert lost(data, moved) == ["1:other HCN_0", "1:other HCN_1"]
    alone = written(tmp_path, data, "alone.h5", lambda r: r if r.split != "train" or r.name == "CO_0" else renamed(r))
    expected = [f"0:other {name}_0" for name in ("CH4", "H2CO", "H2O", "NH3")]
    assert lost(alone) == expected  # of CO geometries were split, and stay


def test_a_geometry_that_validates_does_not_train(data: Path, tmp_path: Path) -> None:
    copies = written(tmp_path, data, "copies.h5", lambda r: renamed(r) if r.group in ("H2O", "CO") else None)
    assert lost(data, copies) == ["1:other CO_1", "1:other H2O_1"]


def test_number_of_molecules_left_out_is_printed(data: Path, tmp_path: Path) -> None:
    other = written(tmp_path, data, "other.h5", lambda r: renamed(r) if r.group in ("HCN", "CO") else None)
    with (tmp_path / "said.txt").open("w") as said:
        config = dataclasses.replace(settings(data, tmp_path), data=(str(data), str(other)))
        train, _, _ = prepare(config, Console(file=said, width=200))
    assert "3 training molecules" in (tmp_path / "said.txt").read_text()
    assert [e.name for e in train] == ["H2O_0", "NH3_0", "CH4_0", "CO_0", "H2CO_0", "other CO_0"]


def test_a_network_that_cannot_be_is_found_before_molecules_are_prepared(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyscf_mlham.train.preparation.examples", None)
    for network, message in (
        ({"degree": 1}, "the network cannot be built: degree 1 is too small"),
        ({"largest_m": 5}, "the network cannot be built: largest_m is 5; blocks of these orbitals have m = 0 to 2"),
        ({"channels": -1}, "qhnetv2: channels must be 1 or more and at most 4096, found -1"),
        ({"hidden": "many"}, r"qhnetv2: hidden must be a number \(int\), found 'many'"),
        ({"radial": 0}, "qhnetv2: radial must be 1 or more and at most 4096, found 0"),
    ):
        with pytest.raises(ModelError, match=message):
            prepare(settings(data, tmp_path, network=network), silent())
    with monkeypatch.context() as patch:
        patch.setattr("pyscf_mlham.nn.qhnetv2.QHNetV2.forward", lambda *_: 1 / 0)
        with pytest.raises(ModelError, match="division by zero"):
            prepare(settings(data, tmp_path), silent())
    with pytest.raises(ModelError, match="nowhere"):
        prepare(settings(data, tmp_path, start=str(tmp_path / "nowhere")), silent())


@pytest.mark.parametrize(("count", "words"), [(2, "1 of 5"), (1, "4 of 5"), (0, "")])
def test_validation_molecules_left_out_are_printed(data: Path, tmp_path: Path, count: int, words: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    with HamiltonianFile(data) as file:
        chosen, elements = choose([file], settings(data, tmp_path, train_molecules=count), console)
        printed = console.file.getvalue()
        if not words:
            assert not printed
            return
        unknown = ", ".join({7: "N", 8: "O"}[z] for z in (7, 8) if z not in elements)
        assert printed == f"{words} validation molecules are left out: the model will not support {unknown}.\n"
        assert len(chosen["val"]) == 5 - int(words[0])


def test_the_h0_of_crystals_is_not_for_molecules(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(settings(data, tmp_path), baseline="atoms")
    with pytest.raises(DataError, match="H0 of crystals; for molecules choose scc"):
        prepare(config, silent())


def test_two_spellings_of_one_level_of_theory_go_together(data: Path, tmp_path: Path) -> None:
    with HamiltonianFile(data) as file:
        level, records = file.level, [r._replace(name=f"other {r.name}") for r in file]
    paths = [str(data)]
    for name, xc, basis in (("a", "HF", "STO-3G"), ("b", "hf", "sto3g"), ("c", "pbe", "sto-3g")):
        other = dataclasses.replace(level, xc=xc, basis=basis)
        write_file(tmp_path / f"{name}.h5", other, records, {"pyscf_version": "test"})
        paths.append(str(tmp_path / f"{name}.h5"))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(HamiltonianFile(path)) for path in paths]
        _check_theories(files[:3])
        with pytest.raises(DataError, match=r"hf/sto-3g, pbe/sto-3g"):
            _check_theories([files[0], files[3]])


class Pool:
    """A pool that works when it is asked to, and counts what waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.submitted, self.closed = 0, False
        POOLS.append(self)

    def submit(self, work: Callable[..., Any], task: Any) -> Future[Any]:
        self.submitted += 1
        future: Future[Any] = Future()
        future.set_result(work(task))
        return future

    def shutdown(self, **kwargs: Any) -> None:
        self.closed = True


POOLS: list[Pool] = []


def test_no_more_molecules_are_prepared_than_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(prepare(settings(data, tmp_path), silent())[2])
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(dataset, "_prepare", lambda task: task[1])
    indices = list(range(163))
    made = dataset.examples(data, indices, recipe, processes=2)
    taken = [next(made) for _ in range(9)]
    assert taken == list(range(9))
    assert POOLS[-1].submitted <= 6
    assert taken + list(made) == indices
    assert POOLS[-1].closed
    unfinished = dataset.examples(data, indices, recipe, processes=2)
    next(unfinished)
    unfinished.close()
    assert POOLS[-1].closed


def test_processes_of_one_launch_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert usable_cores() == 6
    for processes, share in ((2, 3), (4, 1), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert usable_cores() == share
