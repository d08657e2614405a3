"""Entries on disk: what was acknowledged survives a killed process, a full disk and another process."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyscf_mlham.errors import DataError
from pyscf_mlham.store import Store, differences

RUN = {"xc": "hf", "tolerance": 1e-9, "names": ("a", "b")}
WRITER = """
import hashlib, sys
from pathlib import Path
from pyscf_mlham.store import Store

store = Store(Path(sys.argv[1]), {"run": 1}, "run")
number = len(store.read())
while True:
    data = hashlib.sha256(str(number).encode()).digest() * 20000
    store.put(str(number), {"number": number}, data)
    print(number, flush=True)
    number += 1
"""


def test_entries_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store"
    store = Store(path, RUN, "run")
    store.put("b", {"value": [1, 0.1, None]})
    store.put("a", {}, b"\0data")
    store.put("b", {"value": "again"}, b"x")
    store.close()
    store = Store(path, RUN, "run")
    assert list(store.read().items()) == [("a", {}), ("b", {"value": "again"})]
    assert (store.data("a"), store.data("b")) == (b"\0data", b"x")
    store.remove()
    assert list(path.parent.iterdir()) == []


def test_another_run_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s", RUN, "protocol").close()
    with pytest.raises(DataError, match="another protocol: xc 'hf' instead of 'pbe'; finish that run, or remove"):
        Store(tmp_path / "s", RUN | {"xc": "pbe"}, "protocol")
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == "b 2 instead of 3, c None instead of 4"


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscf_mlham.store.PATIENCE", 0.1)
    store = Store(tmp_path / "s", RUN, "run")
    with pytest.raises(DataError, match="another process is writing to it"):
        Store(tmp_path / "s", RUN, "run")
    store.put("a", {})
    store.close()
    Store(tmp_path / "s", RUN, "run").close()


@pytest.mark.parametrize("content", [b"mlhamjr1" * 200, b"SQLite format 3\0" + bytes(3000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(DataError, match="damaged, or of another version"):
        Store(tmp_path / "s", RUN, "run")
    assert (tmp_path / "s").read_bytes() == content


def test_a_full_disk_loses_one_entry(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", RUN, "run")
    store.put("a", {}, b"a" * 9000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be written .*safe in it"):
            store.put("b", {}, b"b" * 90000)
        store.put("c", {}, b"c" * 9000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.put("b", {}, b"b" * 90000)
    store.close()
    again = Store(tmp_path / "s", RUN, "run")
    assert list(again.read()) == ["a", "c", "b"]
    assert again.data("b") == b"b" * 90000
    again.close()


def test_no_permission_is_not_a_full_disk() -> None:
    with pytest.raises(DataError, match="Check the permissions"):
        Store(Path("/proc/s"), RUN, "run")


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    path, rng, written = tmp_path / "s", random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert int(process.stdout.readline()) == written
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        lines = process.communicate()[0].splitlines(keepends=True)
        reported = sum(line.endswith("\n") for line in lines) + 1
        store = Store(path, {"run": 1}, "run")
        numbers = list(store.read())
        assert numbers == [str(n) for n in range(len(numbers))]
        assert written + reported <= len(numbers) <= written + reported + 1
        assert store.data(numbers[-1]) == hashlib.sha256(numbers[-1].encode()).digest() * 20000
        assert store._file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        written = len(numbers)
        store.close()
