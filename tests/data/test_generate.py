from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from pyscf import gto

from pyscf_mlham import cli
from pyscf_mlham.data.generate import GenerateOptions, Journal, generate, journal_path
from pyscf_mlham.data.geometries import mol_from_geometry, read_geometries
from pyscf_mlham.data.label import Entry, Task, _full_solution, label, mean_field
from pyscf_mlham.data.record import Level
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError
from support.geometries import FLAGS, geometries
from support.labelled import silent

pytestmark = pytest.mark.usefixtures("quick_commands")

LEVEL = Level(xc="hf", basis="sto-3g")


def content(path: Path) -> dict[str, tuple[float, ...]]:
    with HamiltonianFile(path) as file:
        records = list(file)
    assert len({r.name for r in records}) == len(records)
    return {r.name: (r.energy, r.gap, *np.round(r.fock.ravel(), 6), *r.positions.ravel()) for r in records}


def test_labels_are_those_of_plain_pyscf(tmp_path: Path) -> None:
    source = geometries(tmp_path / "in.xyz", ("H2O", "HCN"))
    for solver in ("twolevel", "scf"):
        out = tmp_path / f"{solver}.h5"
        level = Level(xc="b3lyp", basis="6-31g", grid_level=2)
        counts = generate(read_geometries(str(source)), out, GenerateOptions(level, solver=solver), silent())
        assert counts == {"labelled": 2, "failed": 0, "duplicate": 0, "done": 0, "failed earlier": 0, "bad": 0}
        with HamiltonianFile(out) as file:
            assert file.level == level
            for record in file:
                atoms = list(zip(record.numbers.tolist(), record.positions.tolist(), strict=True))
                mf = mean_field(gto.M(atom=atoms, unit="Bohr", basis="6-31g", verbose=0), level).run(conv_tol=1e-11)
                np.testing.assert_allclose(record.fock, mf.get_fock(), rtol=0, atol=1e-5)
                assert record.energy == pytest.approx(mf.e_tot, abs=1e-8)
                assert record.gap == pytest.approx(np.diff(mf.mo_energy)[mf.mol.nelectron // 2 - 1], abs=1e-5)
                assert record.group.split("-")[0] in ("H2O", "CHN")


def test_coarse_labels_are_rough_and_bring_their_own_h0(tmp_path: Path) -> None:
    source, out = geometries(tmp_path / "in.xyz", ("NH3", "HCN")), tmp_path / "coarse.h5"
    assert cli.main(["data", "generate", str(source), "-o", str(out), "--solver", "coarse"]) == 0
    with HamiltonianFile(out) as file:
        assert file.level == Level("b3lyp", "def2-svp", 1, density_fit=True, conv_tol=1e-7, approximate=True)
        for record in file:
            mol = mol_from_geometry(record, "def2-svp")
            mf = mean_field(mol, Level("b3lyp", "def2-svp")).run()
            error = np.abs(record.fock - mf.get_fock())
            assert 1e-8 < error.mean() < 2e-5
            assert error.max() < 1e-3
            assert record.gap == pytest.approx(np.diff(mf.mo_energy)[mol.nelectron // 2 - 1], abs=1e-3)
            baseline = np.abs(record.extra["fock_scc"] - record.fock).mean()
            assert 1e-5 < baseline < 2e-4


def test_coarse_labels_are_not_added_to_full_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = geometries(tmp_path / "in.xyz", ("H2O",)), tmp_path / "set.h5"
    command = ["data", "generate", str(source), "-o", str(out), "--basis", "sto-3g"]
    assert cli.main([*command, "--df", "--grid", "1"]) == 0
    assert cli.main([*command, "--solver", "coarse"]) != 0
    assert "name another output file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", [("--guess", "atom"), ("--conv-tol", "1e-10")])
def test_options_without_effect_on_coarse_labels_are_refused(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = geometries(tmp_path / "in.xyz", ("H2O",)), tmp_path / "set.h5"
    assert cli.main(["data", "generate", str(source), "-o", str(out), "--solver", "coarse", *option]) == 1
    assert f"{option[0]} has no effect on coarse labels" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("set*"))


def test_shares_that_come_too_late_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = geometries(tmp_path / "in.xyz", ("H2O", "NH3")), tmp_path / "set.h5"
    command = ["data", "generate", str(source), "-o", str(out), "--xc", "hf", "--basis", "sto-3g"]
    assert cli.main([*command, "--val", "0", "--test", "0"]) == 0
    assert "2 train, 0 val, 0 test" in capsys.readouterr().out
    assert cli.main([*command, "--val", "0.9", "--test", "0.09"]) == 0
    assert "2 records keep the split of an earlier run" in capsys.readouterr().out


def test_an_unknown_functional_is_an_error_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set.h5"
    assert cli.main(["data", "generate", str(geometries(tmp_path / "in.xyz")), "-o", str(out), "--xc", "b3lpy"]) == 1
    assert "not a functional of PySCF" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("set*"))


def test_coarse_labels_of_radicals_ions_and_heavy_elements(tmp_path: Path) -> None:
    out = tmp_path / "mixed.h5"
    level = Level("b3lyp", "def2-svp", grid_level=1, density_fit=True, conv_tol=1e-7)
    radical = read_geometries(str(geometries(tmp_path / "radical.xyz", ("CH3",))), mult=2)
    ion = read_geometries(str(geometries(tmp_path / "ion.xyz", ("OH",))), charge=-1)
    iodide = tmp_path / "iodide.xyz"
    iodide.write_text("2\n\nI 0 0 0\nH 0 0 1.61\n")
    molecules = [*radical, *ion, *read_geometries(str(iodide))]
    counts = generate(molecules, out, GenerateOptions(level, solver="coarse"), silent())
    assert counts["labelled"] == 3
    with HamiltonianFile(out) as file:
        assert set(file.matrices) == {"fock", "fock_beta", "fock_scc", "fock_scc_beta"}
        for record in file:
            mf = mean_field(mol_from_geometry(record, "def2-svp"), level).to_uks().run(conv_tol=1e-9)
            found = np.stack([record.fock, record.extra["fock_beta"]])
            h0 = np.stack([record.extra["fock_scc"], record.extra["fock_scc_beta"]])
            assert np.abs(found - mf.get_fock()).mean() < 2e-5
            assert np.abs(h0 - mf.get_fock()).mean() < 5e-4
            assert (np.abs(found[0] - found[1]).max() > 1e-3) == bool(record.spin)


def test_resuming_adds_only_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "set.h5"
    first = geometries(tmp_path / "a.xyz", ("H2O", "NH3"))
    both = geometries(tmp_path / "b.xyz", ("H2O", "NH3", "CH4"))
    generate(read_geometries(str(first)), out, GenerateOptions(LEVEL), silent())
    before = content(out)
    counts = generate(read_geometries(str(both)), out, GenerateOptions(LEVEL), silent())
    assert (counts["labelled"], counts["done"]) == (1, 2)
    after = content(out)
    assert {k: after[k] for k in before} == before
    assert not journal_path(out).exists()


def test_another_level_of_theory_is_refused_and_nothing_lost(tmp_path: Path) -> None:
    out = tmp_path / "set.h5"
    source = geometries(tmp_path / "a.xyz", ("H2O",))
    generate(read_geometries(str(source)), out, GenerateOptions(LEVEL), silent())
    before = out.read_bytes()
    words = r"set\.h5 is of another level of theory: basis 'sto-3g' instead of '6-31g'; name another output file\."
    with pytest.raises(DataError, match=words):
        generate(read_geometries(str(source)), out, GenerateOptions(Level("hf", "6-31g")), silent())
    assert out.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Basis may be available:UserWarning")  # PySCF's own, of unknown basis sets
def test_bad_input_is_named_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [molecule("H2O"), molecule("CH3"), Atoms("HH", [(0, 0, 0), (0, 0, 0.01)]), molecule("NH3")]
    frames += [molecule("H2O"), Atoms("XeO", [(0, 0, 0), (0, 0, 1.9)]), *map(molecule, ("CH3", "CO", "CO"))]
    frames[6].info, frames[7].info, frames[8].info = {"mult": 2}, {"charge": "neutral"}, {"charge": 0.4}
    for k, atoms in enumerate(frames):
        atoms.info |= {"name": f"frame{k}"}
    write(tmp_path / "in.xyz", frames)
    (tmp_path / "broken.xyz").write_text("3\n\nO 0 0 zero\n")
    out = tmp_path / "set.h5"
    inputs = [str(tmp_path / name) for name in ("in.xyz", "broken.xyz", "missing.xyz")]
    assert cli.main(["data", "generate", *inputs, "-o", str(out), "--xc", "hf", "--basis", "6-31g*"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    reasons = ("in.xyz, frame 1: 9 electrons", "frame2: DataError: atoms 0 and 1", "(0.4 is not a whole number)")
    reasons += ("frame4 is the same geometry as frame0", "frame5: DataError: basis set 6-31g*", "frame 7: ")
    for reason in (*reasons, "broken.xyz: cannot be read", "missing.xyz: cannot be read"):
        assert reason in printed
    with HamiltonianFile(out) as file:
        assert sorted(file.name) == ["frame0", "frame3", "frame6"]
        radical = file[int(np.flatnonzero(file.spin == 1)[0])]
        assert np.abs(radical.fock - radical.extra["fock_beta"]).max() > 0.01
        closed = file[int(np.flatnonzero(file.spin == 0)[0])]
        np.testing.assert_array_equal(closed.fock, closed.extra["fock_beta"])
        assert [name for name, _ in file.failed.values()] == ["frame2", "frame5"]
    assert cli.main(["data", "info", str(out), "--sample", "2"]) == 0
    assert "failed: frame5" in capsys.readouterr().out


def test_failed_molecules_are_tried_again_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in.xyz", [Atoms("HH", [(0, 0, 0), (0, 0, 0.01)])])
    out = tmp_path / "set.h5"

    def run(**changes: bool) -> dict[str, int]:
        options = GenerateOptions(LEVEL, **changes)
        return generate(read_geometries(str(tmp_path / "in.xyz")), out, options, silent())

    assert run()["failed"] == 1
    assert run() == {"labelled": 0, "failed": 0, "duplicate": 0, "done": 0, "failed earlier": 1, "bad": 0}
    command = ["data", "generate", str(tmp_path / "in.xyz"), "-o", str(out), *FLAGS]
    assert cli.main(command) == 1
    assert "--retry-failed" in " ".join(capsys.readouterr().out.split())
    assert run(retry_failed=True)["failed"] == 1
    with HamiltonianFile(out) as file:
        assert len(file.failed) == 1


def test_a_file_name_in_another_encoding_is_stored(tmp_path: Path) -> None:
    source = geometries(tmp_path / os.fsdecode(b"caf\xe9.xyz"), ("H2O",))
    path = tmp_path / "set.h5"
    generate(read_geometries(str(source)), path, GenerateOptions(LEVEL, solver="scf"), silent())
    with HamiltonianFile(path) as file:
        assert file.source.tolist() == ["caf?.xyz"]


def test_unconverged_is_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = [m for m in read_geometries("ase:g2") if not isinstance(m, DataError) and m.name == "g2:H2O"]
    monkeypatch.setattr("pyscf.scf.hf.SCF.max_cycle", 1)
    entry = label(Task(made, LEVEL, "train", "scf", "minao"))
    assert entry.record is None
    assert "did not converge in 1 cycles" in entry.reason


def test_a_label_has_all_orbitals() -> None:
    mol = gto.M(atom="H 0 0 0; H 0 0 0.7", basis={"H": [[0, [1.0, 1]], [0, [1.0001, 1]]]}, verbose=0)
    with pytest.raises(DataError, match="keeps 2 of 4 orbitals"):
        _full_solution(mol.RHF(), "scf")


def command(source: Path, out: Path, jobs: int) -> list[str]:
    python = [sys.executable, "-m", "pyscf_mlham", "data", "generate", str(source), "-o", str(out), *FLAGS]
    return [*python, "-j", str(jobs)]


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]


def killed_and_resumed(tmp_path: Path, kills: int, copies: int) -> None:
    source = geometries(tmp_path / "in.xyz", copies=copies)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    whole = tmp_path / "whole.h5"
    start = time.monotonic()
    subprocess.run(command(source, whole, 2), check=True, **quiet)
    duration = time.monotonic() - start
    out, rng = tmp_path / "killed.h5", random.Random(0)
    for kill in range(kills):
        process = subprocess.Popen(command(source, out, 2), **quiet)
        time.sleep(rng.uniform(0.3, 0.9) * duration)
        if process.poll() is None:
            if victims := workers_of(process) if kill % 2 else []:
                os.kill(rng.choice(victims).pid, signal.SIGKILL)
                time.sleep(0.2)
            process.send_signal(signal.SIGINT if victims and rng.random() < 0.5 else signal.SIGKILL)
            process.wait()
        if out.exists():
            content(out)
    subprocess.run(command(source, out, 2), check=True, **quiet)
    assert content(out) == content(whole)
    assert not journal_path(out).exists()


def test_killed_runs_lose_nothing(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, kills=2, copies=2)


@pytest.mark.slow
def test_thirty_killed_runs_lose_nothing(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, kills=30, copies=20)


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    source, out = geometries(tmp_path / "in.xyz", copies=6), tmp_path / "set.h5"
    quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(command(source, out, 2), **quiet)
    while not workers_of(process):
        time.sleep(0.05)
    os.kill(workers_of(process)[0].pid, signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert len(content(out)) == 24


def test_journal_returns_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "j"
    (made,) = [m for m in read_geometries("ase:g2") if not isinstance(m, DataError) and m.name == "g2:H2O"]
    entry = label(Task(made, LEVEL, "train", "scf", "minao"))
    assert entry.record is not None
    entry = entry._replace(record=entry.record._replace(extra={"fock_beta": 2 * entry.record.fock}))
    journal = Journal(path, LEVEL)
    journal.append(Entry(made.key, "n", None, "later success"))
    journal.append(entry)
    journal.append(Entry("k", "n", None, "why"))
    for again in (False, True):
        opened = Journal(path, LEVEL) if again else journal
        assert (opened.labelled, opened.failures) == ({made.key}, {"k": ("n", "why")})
        found = opened.record(made.key)
        np.testing.assert_array_equal(found.positions, made.positions)
        np.testing.assert_allclose(found.fock, entry.record.fock, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found.extra["fock_beta"], 2 * found.fock)
        assert found[:4] == entry.record[:4]
        assert found[6:8] + found[9:11] == entry.record[6:8] + entry.record[9:11]
        opened.close()


def test_journal_keeps_its_level_of_theory(tmp_path: Path) -> None:
    Journal(tmp_path / "new" / "j", LEVEL).close()
    words = "another level of theory: xc 'hf' instead of 'pbe0', basis 'sto-3g' instead of 'def2-svp'"
    with pytest.raises(DataError, match=words):
        Journal(tmp_path / "new" / "j", Level("pbe0", "def2-svp"))
    Journal(tmp_path / "new" / "j", LEVEL).close()


def test_core_potentials_come_with_their_basis_set(tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", [Atoms("HI", [(0, 0, 0), (0, 0, 1.6)])])
    out, level = tmp_path / "set.h5", Level("hf", "def2-svp")
    counts = generate(read_geometries(str(tmp_path / "in.xyz")), out, GenerateOptions(level), silent())
    assert counts["labelled"] == 1
    with HamiltonianFile(out) as file:
        (record,) = file
        mol = mol_from_geometry(record, "def2-svp")
        assert mol.atom_nelec_core(int(np.argmax(record.numbers))) == 28
        np.testing.assert_allclose(record.fock, mol.RHF().run(conv_tol=1e-11).get_fock(), rtol=0, atol=1e-5)


def test_new_geometries_of_an_old_molecule_stay_in_its_split(tmp_path: Path) -> None:
    out = tmp_path / "set.h5"
    for copies, shares in ((1, (0.9, 0.05)), (3, (0.0, 0.0))):
        source = geometries(tmp_path / "in.xyz", ("H2O", "NH3"), copies)
        generate(read_geometries(str(source)), out, GenerateOptions(LEVEL, shares=shares), silent())
    with HamiltonianFile(out) as file:
        assert len(file) == 6
        assert len(set(zip(file.group, file.split, strict=True))) == 2


def test_no_worker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 1 or more"):
        generate([], tmp_path / "set.h5", GenerateOptions(LEVEL, jobs=0), silent())


def test_journal_is_for_one_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", LEVEL)
    with pytest.raises(DataError, match="another process"):
        Journal(tmp_path / "j", LEVEL)
    journal.close()


def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = geometries(tmp_path / "in.xyz"), tmp_path / "set.h5"
    connect = sqlite3.connect

    def small(*args: Any, **settings: Any) -> sqlite3.Connection:
        file = connect(*args, **settings)
        for limit in ("page_size = 512", "max_page_count = 6"):
            file.execute(f"PRAGMA {limit}")
        return file

    with monkeypatch.context() as patch:
        patch.setattr("sqlite3.connect", small)
        with pytest.raises(DataError, match=r"disk is full.*safe in it"):
            generate(read_geometries(str(source)), out, GenerateOptions(LEVEL), silent())
    journal = Journal(journal_path(out), LEVEL)
    done = len(journal.labelled)
    journal.close()
    assert 1 <= done < 4
    counts = generate(read_geometries(str(source)), out, GenerateOptions(LEVEL), silent())
    assert (counts["labelled"], counts["done"]) == (4 - done, done)
    assert len(content(out)) == 4


def test_dask_cluster_with_a_worker_killed(tmp_path: Path) -> None:
    from distributed import LocalCluster

    source, out = geometries(tmp_path / "in.xyz", copies=4), tmp_path / "set.h5"
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        asked = [*command(source, out, 1), "--dask", cluster.scheduler_address]
        process = subprocess.Popen(asked, stdout=subprocess.DEVNULL)
        journal = journal_path(out)
        while not journal.exists() or journal.stat().st_size == 0:
            time.sleep(0.02)
        os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        assert process.wait(timeout=120) == 0
    assert len(content(out)) == 16


def test_no_room_for_the_merged_file_keeps_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = geometries(tmp_path / "in.xyz", ("H2O",)), tmp_path / "set.h5"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(DataError, match="not enough disk space"):
            generate(read_geometries(str(source)), out, GenerateOptions(LEVEL), silent())
    counts = generate(read_geometries(str(source)), out, GenerateOptions(LEVEL), silent())
    assert (counts["labelled"], counts["done"]) == (0, 1)
    assert len(content(out)) == 1


def test_no_scheduler_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyscf_mlham.workers.PATIENCE", 1)
    source = geometries(tmp_path / "in.xyz", ("H2O",))
    arguments = ["data", "generate", str(source), "-o", str(tmp_path / "o.h5"), *FLAGS, "--dask", "tcp://127.0.0.1:1"]
    assert cli.main(arguments) == 1
    assert "no dask scheduler is reachable" in capsys.readouterr().err
