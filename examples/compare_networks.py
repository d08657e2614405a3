"""Train every network on the same molecules with the same budget, and report its accuracy and cost.

python examples/compare_networks.py labels.h5 --minutes 15 --scf 12 --out out/networks

Every run has the number of steps that fits --minutes of processor time on one thread; the networks are timed in turns
when a folder is new. Or every run has --steps. The table has the actual time. An interrupted run continues if the same
command is given again; other seeds, variants and numbers of molecules join the table of the same folder, also from a
second process. Results: networks.md, networks.png, and one folder for each run.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from networks_report import VARIANTS, draw, read_results, summary
from pyscf import dft
from rich.console import Console
from rich.progress import Progress

from pyscf_mlham.ao.layout import ShellTemplate
from pyscf_mlham.checkpoint import ModelConfig, replace_file
from pyscf_mlham.data.dataset import Example, examples
from pyscf_mlham.data.geometries import mol_from_geometry
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.model.guess import guess_with_info
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.store import load
from pyscf_mlham.nn.batch import batch_from_samples
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.metrics import equivariance_error, evaluate, mean
from pyscf_mlham.train.preparation import in_domain, network_options, prepare, recipe_of
from pyscf_mlham.train.trainer import Trainer, epoch_batches

TRIAL = 14  # rounds in which every network takes a step and is timed; the first two are not counted


@dataclass(frozen=True)
class Data:
    """Data of all runs.

    Attributes:
        train, val, test: examples.
        config: model without wrapper or refiner.
    """

    train: list[Example]
    val: list[Example]
    test: list[Example]
    config: ModelConfig

    def part(self, molecules: int) -> list[Example]:
        """Return so many training examples, the same for all runs; 0 = all. The first ones have all elements."""
        order = np.random.default_rng(0).permutation(len(self.train)).tolist()
        seen: set[int] = set()
        first = []
        for i in order:
            new = set(self.train[i].sample.numbers.tolist()) - seen
            if new:
                first.append(i)
                seen |= new
        if molecules and not len(first) <= molecules < len(self.train):
            most = len(self.train) - 1
            raise SystemExit(f"--molecules {molecules}: expected {len(first)} (all elements) to {most}, or 0 for all.")
        chosen = [*first, *(i for i in order if i not in first)]
        return [self.train[i] for i in chosen[: molecules or None]]


def settings(variant: str, molecules: int, seed: int, args: argparse.Namespace) -> TrainConfig:
    """Return the settings of one run; its steps may still be unknown."""
    backbone, *parts = variant.split("+")
    name = f"{variant}-{molecules or 'all'}-{seed}"
    return TrainConfig(
        name=name,
        data=(str(args.data),),
        output=str(args.out / name),
        architecture=backbone,
        network=json.loads(args.network),
        wrapper="tracegrad" if "tracegrad" in parts else "none",
        refiner="harmose" if "harmose" in parts else "none",
        baseline=args.baseline,
        steps=args.steps,
        pairs=args.pairs,
        learning_rate=args.learning_rate,
        seed=seed,
    )


def with_steps(run: TrainConfig, steps: int) -> TrainConfig:
    """Return the settings for so many steps: warm-up and average in proportion."""
    average = min(0.998, 1 - min(20, steps) / (steps + 1))
    validate = max(1, steps // 6)
    return dataclasses.replace(run, steps=steps, warmup=min(200, steps // 5), average=average, validate_every=validate)


def read_costs(args: argparse.Namespace, data: Data, console: Console) -> dict[str, dict[str, float]]:
    """Time a step of training and the inference of one molecule with the networks, or read earlier timings.

    The networks take turns, so that whatever else the machine does weighs on all of them alike.

    Returns:
        processor seconds by variant: "step", and "inference".
    """
    path = args.out / "costs.json"
    costs: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    if missing := [v for v in args.variants if v not in costs]:
        first = VARIANTS[0]
        runs = {v: with_steps(settings(v, 0, 0, args), TRIAL) for v in dict.fromkeys([first, *missing])}
        trainers = {v: Trainer(run, data.train, data.val, config_of(run, data), console) for v, run in runs.items()}
        sizes = [max(1, len(e.sample.pairs)) for e in data.train]
        drawn = itertools.cycle(epoch_batches(sizes, runs[first].pairs, (0,)))
        found: dict[str, dict[str, list[float]]] = {v: {"step": [], "inference": []} for v in runs}
        for chosen in itertools.islice(drawn, TRIAL):
            for variant, trainer in trainers.items():
                step, inference = timed(trainer, [data.train[i] for i in chosen])
                found[variant]["step"].append(step)
                found[variant]["inference"].append(inference)
        costs |= {v: {k: relative(t[2:], found[first][k][2:]) for k, t in found[v].items()} for v in missing}
        replace_file(path, json.dumps(costs, indent=1).encode())
    return costs


def relative(seconds: list[float], reference: list[float]) -> float:
    """Return the mean of the reference, times the median ratio to it: rounds differ by batch and by a busy machine."""
    return float(np.mean(reference) * np.median(np.divide(seconds, reference)))


def timed(trainer: Trainer, batch: list[Example]) -> tuple[float, float]:
    """Return the processor seconds of one step, and of the inference of one molecule."""
    start = time.process_time()
    trainer.update(batch)
    middle = time.process_time()
    inputs = batch_from_samples([e.sample for e in batch]).to("cpu", torch.float32)
    begin = time.process_time()
    with torch.no_grad():
        trainer.model(inputs)
    return middle - start, (time.process_time() - begin) / len(batch)


def read_data(args: argparse.Namespace, console: Console) -> Data:
    """Prepare the molecules once; every backbone reads the same."""
    train, val, config = prepare(settings("qhnetv2", 0, 0, args), console)
    with HamiltonianFile(args.data) as file:
        test = list(examples(args.data, in_domain(file, "test", config, config.elements), recipe_of(config)))
    return Data(train, val[: args.validation], test, config)


def config_of(run: TrainConfig, data: Data) -> ModelConfig:
    """Describe the model of one run."""
    options = network_options(run, ShellTemplate(tuple(data.config.options["template"])))
    return dataclasses.replace(data.config, name=run.name, architecture=run.architecture, options=options)


def one_run(run: TrainConfig, molecules: int, data: Data, console: Console) -> None:
    """Train and evaluate one network, unless an earlier call has."""
    path = Path(run.output) / "result.json"
    if path.exists():
        return
    train = data.part(molecules)
    trainer = Trainer(run, train, data.val, config_of(run, data), console)
    seconds = train_and_time(trainer, Path(run.output) / "seconds.json")
    if trainer.step < run.steps:
        raise SystemExit(1)  # stopped by a signal, and saved
    model = load(Path(run.output) / "model")
    assert isinstance(model, NetworkModel)
    network = model.network
    wrapper, refiner = ("" if part == "none" else f"+{part}" for part in (run.wrapper, run.refiner))
    result = mean(evaluate(network, data.test))._asdict() | {
        "variant": f"{run.architecture}{wrapper}{refiner}",
        "seed": run.seed,
        "molecules": len(train),
        "tested": len(data.test),
        "steps": run.steps,
        "minutes": seconds / 60,
        "equivariance": float(np.mean([equivariance_error(network, e, k) for k, e in enumerate(data.test)])),
        "parameters": float(sum(p.numel() for p in network.parameters())),
        "folder": Path(run.output).name,
    }
    replace_file(path, json.dumps(result, indent=1).encode())


def train_and_time(trainer: Trainer, path: Path) -> float:
    """Train to the end or to a signal, and return the processor seconds of this and all earlier calls."""
    before = float(json.loads(path.read_text())) if path.exists() else 0.0
    start = time.process_time()
    trainer.run()
    seconds = before + time.process_time() - start
    replace_file(path, json.dumps(seconds).encode())
    return seconds


def count_cycles(args: argparse.Namespace, console: Console) -> float:
    """Run SCF from every model without mean cycles in its result, add them, and return those of minao."""
    reference = args.out / "minao.json"
    missing = [p for p in sorted(args.out.glob("*/result.json")) if "cycles" not in json.loads(p.read_text())]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        if not reference.exists():
            replace_file(reference, json.dumps(mean_cycles("minao", args)[0]).encode())
        for path in progress.track(missing, description="SCF"):
            result = json.loads(path.read_text())
            result["cycles"], result["refused"] = mean_cycles(str(path.parent / "model"), args)
            replace_file(path, json.dumps(result, indent=1).encode())
    return float(json.loads(reference.read_text()))


def mean_cycles(name: str, args: argparse.Namespace) -> tuple[float, int]:
    """Count SCF cycles on the first test molecules, density-fitted on grid level 1.

    Returns:
        their mean, and the number of molecules for which the prediction was rejected and minao used.
    """
    counts, refused = [], 0
    with HamiltonianFile(args.data) as file:
        known = load(next(args.out.glob("*/result.json")).parent / "model").config
        for index in in_domain(file, "test", known, known.elements)[: args.scf]:
            mol = mol_from_geometry(file[index], file.level.basis)
            mf = dft.RKS(mol, xc=file.level.xc).density_fit().set(conv_tol=file.level.conv_tol, verbose=0)
            mf.grids.level = 1
            if name == "minao":
                density = mf.get_init_guess(key=name)
            else:
                density, info = guess_with_info(mf, name, "minao")
                refused += bool(info.fallback_reason)
            mf.kernel(dm0=density)
            counts.append(mf.cycles if mf.converged else mf.max_cycle)
    return float(np.mean(counts)), refused


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="file of labelled molecules with train, val and test splits")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default all: %(default)s")
    parser.add_argument("--minutes", type=float, default=0.0, help="of one thread for each run; default 0: see --steps")
    parser.add_argument("--steps", type=int, default=300, help="of each run; default %(default)s")
    parser.add_argument("--molecules", type=numbers, default=[0], help="training molecules, 0 = all; default 0")
    parser.add_argument("--validation", type=int, default=20, help="molecules of the curves; default %(default)s")
    parser.add_argument("--seeds", type=numbers, default=[0], help="default 0")
    parser.add_argument("--scf", type=int, default=0, help="test molecules to count SCF cycles on; default none")
    parser.add_argument("--baseline", default="minao", help="H0; default %(default)s")
    parser.add_argument("--pairs", type=int, default=150, help="of atoms in a step, about; default %(default)s")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="default %(default)s")
    parser.add_argument("--network", default="{}", help="sizes that all backbones have, as JSON")
    parser.add_argument("--out", type=Path, default=Path("out/networks"), help="folder; default %(default)s")
    args = parser.parse_args()
    args.variants = args.variants.split(",")
    if unknown := sorted(set(args.variants) - set(VARIANTS)):
        parser.error(f"unknown variants {unknown}; expected some of {', '.join(VARIANTS)}")
    return args


def numbers(text: str) -> list[int]:
    """Read numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def check_protocol(args: argparse.Namespace) -> None:
    """Raise SystemExit if the runs of a folder had another budget, H0, sizes or test; cycles may be counted later."""
    names = ("minutes", "steps", "pairs", "learning_rate", "validation", "baseline", "network", "scf")
    here = {name: getattr(args, name) for name in names} | {"data": args.data.name}
    path = args.out / "protocol.json"
    if path.exists():
        there = json.loads(path.read_text())
        here["scf"], there["scf"] = here["scf"] or there["scf"], there["scf"] or here["scf"]
        if {"pairs": 150} | there != here:  # earlier folders lack it
            raise SystemExit(f"{path}: the runs in this folder were made with {there}; this call asks for {here}.")
    replace_file(path, json.dumps(here, indent=1).encode())


def main() -> None:
    """Compare."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # one thread of a processor is what is compared
    args, console = parsed(), Console()
    args.out.mkdir(parents=True, exist_ok=True)
    check_protocol(args)
    torch.set_num_threads(1)
    data = read_data(args, console)
    costs = read_costs(args, data, console)
    runs = list(itertools.product(args.variants, args.molecules, args.seeds))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for variant, molecules, seed in progress.track(runs, description="networks"):
            steps = max(1, int(60 * args.minutes / costs[variant]["step"])) if args.minutes else args.steps
            one_run(with_steps(settings(variant, molecules, seed, args), steps), molecules, data, console)
            report(args, costs, None)
    minao = count_cycles(args, console) if args.scf else None
    console.print(report(args, costs, minao), markup=False)


def report(args: argparse.Namespace, costs: dict[str, dict[str, float]], minao: float | None) -> str:
    """Write and return the tables of all finished runs, and draw them."""
    found = read_results(args.out)
    text = summary(found, costs, json.loads((args.out / "protocol.json").read_text()), minao)
    replace_file(args.out / "networks.md", text.encode())
    draw(found, costs, args.out)
    return text


if __name__ == "__main__":
    main()
