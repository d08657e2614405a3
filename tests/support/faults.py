"""Long commands under faults: `python tests/support/faults.py [COMMAND ...] --kills 10 --folder faults`.

Each command runs once undisturbed. Then it is killed at random times (SIGKILL to all its processes) and started again
until it ends; no finished result may be lost, and the end must be that of the undisturbed run. Then it meets SIGINT,
SIGTERM, a limit of the file size, little memory, and neither a home nor a scratch folder: it must end like the
undisturbed run, or with an error, and the next run must end like the undisturbed one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENDS = 900.0  # seconds after which a command hangs
XYZ = """3
water
O 0 0 0.1173
H 0 0.7572 -0.4692
H 0 -0.7572 -0.4692
4
charge={charge} mult={mult}
N 0 0 0.11
H 0 0.94 -0.27
H 0.81 -0.47 -0.27
H -0.81 -0.47 -0.27
"""
HNO = """3
HNO
H 0.95 -0.92 0
N 0.06 -0.58 0
O 0.06 0.62 0
"""
YAML = """name: small
data: {data}
output: out
steps: 60
pairs: 12
validate_every: 20
checkpoint_minutes: 0.02
network: {{channels: 8, pair_channels: 12, hidden: 16, product: 8, layers: 1, radial: 8}}
"""
QUICK = ["--xc", "hf", "--basis", "sto-3g"]


class Command(NamedTuple):
    """A command in a folder of its own.

    Attributes:
        arguments: of `mlham`.
        finished: number of results on the disk.
        result: content of the end, to be compared.
    """

    arguments: list[str]
    finished: Callable[[Path], int]
    result: Callable[[Path], Any]


def in_folder(folder: Path) -> int:
    """Count the runs of a benchmark that are on the disk."""
    journal, results = folder / "out" / "runs.journal", folder / "out" / "results.json"
    rows = len(json.loads(results.read_text())["rows"]) if results.exists() else 0
    return max(rows, entries(journal) if journal.exists() else 0)


def rows(folder: Path) -> Any:
    """Return the energies of a benchmark, by run."""
    content = json.loads((folder / "out" / "results.json").read_text())
    return {row["key"]: (row["e_tot"], row["converged"], row["error"]) for row in content["rows"]}


def in_journal(folder: Path) -> int:
    """Count the labelled molecules on the disk, in the journal, or in the file that was made from it."""
    path = folder / "out.h5.journal"
    if not path.exists():
        return len(labels(folder)) if (folder / "out.h5").exists() else 0
    return entries(path)


def entries(path: Path) -> int:
    """Count the entries of a copy of a journal, which may be open in another process."""
    copied = path.parent / "copy"
    shutil.rmtree(copied, ignore_errors=True)
    copied.mkdir()
    for each in path.parent.glob(f"{path.name}*"):
        shutil.copy(each, copied)
    with contextlib.closing(sqlite3.connect(copied / path.name)) as database:
        try:
            return int(database.execute("select count(*) from entries where key != ''").fetchone()[0])
        except sqlite3.OperationalError:  # not yet created
            return 0


def labels(folder: Path) -> Any:
    """Return the energies of labelled molecules."""
    from pyscf_mlham.data.schema import HamiltonianFile

    with HamiltonianFile(folder / "out.h5") as file:
        return {record.name: (record.energy, True, "") for record in file}


def steps(folder: Path) -> int:
    """Return the number of steps in the checkpoint of a training run."""
    from safetensors import safe_open

    path = folder / "out" / "training.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="np") as file:
        return int(json.loads(file.metadata()["progress"])["step"])


def weights(folder: Path) -> Any:
    """Return the sums of squares of the weights of a trained model."""
    from pyscf_mlham import checkpoint

    _, found = checkpoint.read(folder / "out" / "model")
    return {name: (float(np.sum(array.astype(float) ** 2)), True, "") for name, array in found.items()}


GENERATE = ["data", "generate", "in.xyz", *QUICK, "-o", "out.h5", "--rattle", "6", "-j", "2"]
BENCH = ["in.xyz", *QUICK, "--report", "out", "-j", "2"]
COMMANDS = {
    "generate": Command(GENERATE, in_journal, labels),
    "train": Command(["train", "run.yaml"], steps, weights),
    "bench": Command(["bench", *BENCH, "--guess", "minao,scc", "--no-limit"], in_folder, rows),
    "md-bench": Command(["md-bench", "in.xyz", *QUICK, "--steps", "12", "--out", "out"], in_folder, rows),
    "trust": Command(["trust", *BENCH, "--ways", "scc,minao/twolevel"], in_folder, rows),
}


class Fault(NamedTuple):
    """Surroundings of a command.

    Attributes:
        environment: variables.
        size: largest size of a file, bytes.
        signal: signal to send in the middle of the run.
    """

    environment: dict[str, str] = {}  # noqa: RUF012
    size: int = 0
    signal: int = 0


NONE = Fault()
FAULTS = {
    "Ctrl-C": Fault(signal=signal.SIGINT),
    "SIGTERM": Fault(signal=signal.SIGTERM),
    "full disk": Fault(size=20_000),
    "memory of 200 MB": Fault({"PYSCF_MAX_MEMORY": "200"}),
    "no home": Fault({"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"}),
    "no scratch": Fault({"PYSCF_TMPDIR": "/proc/nowhere", "TMPDIR": "/proc/nowhere"}),
}


def prepared(folder: Path, data: Path | None) -> Path:
    """Create a folder with the input files."""
    folder.mkdir(parents=True)
    (folder / "in.xyz").write_text(XYZ.format(charge=1, mult=2) + XYZ.format(charge=0, mult=1) + HNO)
    (folder / "run.yaml").write_text(YAML.format(data=data))
    return folder


def start(command: Command, folder: Path, fault: Fault = NONE) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a group of processes, with its output in a file."""

    def limit() -> None:
        if fault.size:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails with "File too large"
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size, fault.size))

    # the limit of the file size does not hold for a pipe
    reader = subprocess.Popen(["tee", "-a", "log.txt"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder)
    assert reader.stdin is not None
    with reader.stdin as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pyscf_mlham", *command.arguments], cwd=folder, stdout=log, stderr=log,
            env=os.environ | fault.environment, start_new_session=True, preexec_fn=limit,
        )  # fmt: skip


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a process; kill its group if it hangs."""
    try:
        return process.wait(ENDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def same(result: Any, expected: Any) -> bool:
    """Whether two results are equal, to 1e-8 in their numbers."""
    return result.keys() == expected.keys() and all(
        (a is None) == (b is None) and (a is None or abs(a - b) <= 1e-8 * max(1.0, abs(b))) and rest == other
        for (a, *rest), (b, *other) in ((result[key], expected[key]) for key in expected)
    )


def killed(command: Command, folder: Path, kills: int, seconds: float, chance: random.Random) -> str:
    """Kill a command repeatedly, and return what was lost; "" if nothing."""
    done = 0
    for _ in range(kills):
        process = start(command, folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.2, 1.0) * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = command.finished(folder)
        if now < done:
            return f"{done} finished results, {now} after a kill"
        done = now
    return ""


def under(fault: Fault, command: Command, folder: Path, seconds: float) -> str:
    """Run a command under a fault; return what it said at the end."""
    process = start(command, folder, fault)
    if fault.signal:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.8 * seconds)
        process.send_signal(fault.signal)
    code = ended(process)
    time.sleep(0.2)  # for the reader of the pipe
    words = (folder / "log.txt").read_text(errors="replace").strip()
    if "Traceback" in words:
        return f"exit code {code}, with a traceback: {words[-400:]}"
    if fault.signal and code in (-fault.signal, 0, 1, 130, 143):
        return ""
    return "" if code == 0 or "error" in words or "failed" in words else f"exit code {code} without a reason"


def examine(name: str, folder: Path, kills: int, seed: int, data: Path | None) -> list[str]:
    """Run a command undisturbed and under all faults; return the defects."""
    command, defects = COMMANDS[name], []
    begin = time.monotonic()
    undisturbed = prepared(folder / "undisturbed", data)
    if code := ended(start(command, undisturbed)):
        return [f"{name}: exit code {code} without a fault: {(undisturbed / 'log.txt').read_text()[-300:]}"]
    seconds, expected = time.monotonic() - begin, command.result(undisturbed)
    tests: dict[str, Callable[[Path], str]] = {
        f"{kills} kills": lambda place: killed(command, place, kills, seconds, random.Random(seed))
    }
    tests |= {key: lambda place, fault=fault: under(fault, command, place, seconds) for key, fault in FAULTS.items()}
    for what, test in tests.items():
        place = prepared(folder / what.replace(" ", "-"), data)
        if wrong := test(place):
            defects.append(f"{name}, {what}: {wrong}")
        code = ended(start(command, place))
        if code or not same(command.result(place), expected):
            last = (place / "log.txt").read_text(errors="replace")[-300:]
            defects.append(f"{name}, {what}: the next run ends with exit code {code} or other results: {last}")
        sys.stdout.write(f"{name}, {what}: {defects[-1] if defects and what in defects[-1] else 'as it should be'}\n")
        sys.stdout.flush()
    return defects


def main() -> int:
    """Examine commands, and print their defects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], default=[])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("faults"))
    args = parser.parse_args()
    folder = args.folder.resolve()
    data = folder / "data" / "out.h5"
    defects: list[str] = []
    for name in args.commands or COMMANDS:
        shutil.rmtree(folder / name, ignore_errors=True)
        if name == "train" and not data.exists():
            split = ["data", "split", "out.h5", "--val", "0.34", "--test", "0"]
            ended(start(COMMANDS["generate"], prepared(data.parent, None)))
            ended(start(COMMANDS["generate"]._replace(arguments=split), data.parent))
        defects += examine(name, folder / name, args.kills, args.seed, data)
    sys.stdout.write("".join(f"{defect}\n" for defect in defects) or "no defect\n")
    return 1 if defects else 0


if __name__ == "__main__":
    raise SystemExit(main())
