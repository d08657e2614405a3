"""Train every network on the same molecules with the same number of steps, and say what each reaches and costs.

python examples/compare_networks.py organic-b3lyp-svp.h5 --steps 300 --molecules 477 --out out/networks

A run that was stopped goes on when the same command is given again. Results: networks.md, networks.png, and one folder
for each run. Times are seconds of processor time on one thread, so that a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from pyscf_mlham.checkpoint import ModelConfig, replace_file
from pyscf_mlham.data.dataset import Example, examples
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.nn.model import HamiltonianModel, network_from_config, options_of, part_of
from pyscf_mlham.scf.models import load
from pyscf_mlham.scf.network import NetworkModel
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.loss import collate, errors, total, trace_error
from pyscf_mlham.train.metrics import equivariance_error, evaluate, mean
from pyscf_mlham.train.preparation import prepare, recipe_of
from pyscf_mlham.train.trainer import Trainer

VARIANTS = tuple(
    f"{backbone}{wrapper}{refiner}"
    for backbone in ("qhnetv2", "qhnet")
    for wrapper in ("", "+tracegrad")
    for refiner in ("", "+harmose")
)
COLUMNS = {  # key of a result: heading, format
    "h_mae": ("H MAE / Ha", ".2e"),
    "density": ("density error", ".4f"),
    "occupied_mae": ("eps / Ha", ".2e"),
    "similarity": ("psi", ".3f"),
    "equivariance": ("turning / Ha", ".0e"),
    "parameters": ("weights", ".2e"),
    "training": ("s per molecule, training", ".3f"),
    "inference": ("s per molecule, inference", ".3f"),
}


@dataclass(frozen=True)
class Data:
    """What all runs share.

    Attributes:
        train, val, test: examples.
        config: of the model without wrapper or refiner.
    """

    train: list[Example]
    val: list[Example]
    test: list[Example]
    config: ModelConfig


def settings(variant: str, seed: int, args: argparse.Namespace) -> TrainConfig:
    """Return the settings of one run.

    Args:
        variant: one of `VARIANTS`.
        seed: of weights and order.
        args: of the command line.
    """
    backbone, *parts = variant.split("+")
    return TrainConfig(
        name=f"{variant}-{seed}",
        data=(str(args.data),),
        output=str(args.out / f"{variant}-{seed}"),
        architecture=backbone,
        network=json.loads(args.network),
        wrapper="tracegrad" if "tracegrad" in parts else "none",
        refiner="harmose" if "harmose" in parts else "none",
        baseline=args.baseline,
        steps=args.steps,
        learning_rate=args.learning_rate,
        warmup=min(200, args.steps // 5),
        average=args.average,
        validate_every=max(1, args.steps // 4),
        train_molecules=args.molecules,
        seed=seed,
    )


def read_data(args: argparse.Namespace, console: Console) -> Data:
    """Prepare the molecules once; every backbone reads the same.

    Args:
        args: of the command line.
        console: to draw on.
    """
    train, val, config = prepare(settings("qhnetv2", 0, args), console)
    with HamiltonianFile(args.data) as file:
        served = (file.spin == 0) & np.isin(file.charge, config.charges)
        known = set(config.elements)
        test = [int(i) for i in file.indices("test") if served[i] and known.issuperset(file.numbers(i).tolist())]
    return Data(train, val[: args.validation], list(examples(args.data, test, recipe_of(config))), config)


def config_of(run: TrainConfig, data: Data) -> ModelConfig:
    """Describe the model of one run.

    Args:
        run: its settings.
        data: what all runs share.
    """
    options: dict[str, Any] = {
        "template": data.config.options["template"],
        "network": dataclasses.asdict(options_of(run.architecture, run.network)),
    }
    for kind in ("wrapper", "refiner"):
        if part := part_of(kind, getattr(run, kind), {}):
            options[kind] = part
    return dataclasses.replace(data.config, name=run.name, architecture=run.architecture, options=options)


def processor_seconds(model: HamiltonianModel, run: TrainConfig, sets: list[list[Example]]) -> tuple[float, float]:
    """Return the median over batches of the time that training and inference take for one molecule.

    Args:
        model: network.
        run: settings.
        sets: batches.
    """
    training, inference = [], []
    for k, batch in enumerate(sets):
        inputs, targets = collate(batch)
        inputs = inputs.to("cpu", torch.float32)
        start = time.process_time()
        output, traces = model.for_training(inputs, model.orientation((run.seed, k)))
        extra = None if traces is None else trace_error(traces, inputs, targets, model.template)
        total(errors(output, inputs, targets, model.template), run.loss, extra).sum().backward()
        training.append((time.process_time() - start) / len(batch))
        with torch.no_grad():
            start = time.process_time()
            model(inputs)
            inference.append((time.process_time() - start) / len(batch))
    return float(np.median(training)), float(np.median(inference))


def one_run(run: TrainConfig, data: Data, console: Console) -> dict[str, float]:
    """Train and judge one network, or read what an earlier call found.

    Args:
        run: settings.
        data: what all runs share.
        console: to draw on.
    """
    path = Path(run.output) / "result.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    trainer = Trainer(run, data.train, data.val, config_of(run, data), console)
    trainer.run()
    if trainer.step < run.steps:
        raise SystemExit(1)  # stopped by a signal, and saved
    model = load(Path(run.output) / "model")
    assert isinstance(model, NetworkModel)
    network = model.network.cpu()
    fresh = network_from_config(model.config)  # its weights may be trained: a loaded model's are frozen
    batches = [data.test[k : k + 3] for k in range(0, 24, 3)]
    training, inference = processor_seconds(fresh, run, [b for b in batches if b])
    result = mean(evaluate(network, data.test))._asdict() | {
        "equivariance": float(np.mean([equivariance_error(network, e, k) for k, e in enumerate(data.test)])),
        "parameters": float(sum(p.numel() for p in network.parameters())),
        "training": training,
        "inference": inference,
    }
    replace_file(path, json.dumps(result, indent=1).encode())
    return result


def table(results: dict[str, list[dict[str, float]]], args: argparse.Namespace, n_train: int, n_test: int) -> str:
    """Return the results as Markdown: means over the seeds, and half their range where there are several.

    Args:
        results: of the seeds of each variant.
        args: of the command line.
        n_train: number of training molecules.
        n_test: number of test molecules.
    """
    lines = [
        f"{n_train} training molecules, {args.steps} steps each, H0 {args.baseline}, seeds {args.seeds}; means over "
        f"{n_test} test molecules.",
        "",
        "| network | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |",
        "|---|" + "--:|" * len(COLUMNS),
    ]
    for variant, found in results.items():
        cells = []
        for key, (_, form) in COLUMNS.items():
            values = [r[key] for r in found]
            spread = f" +- {(max(values) - min(values)) / 2:{form}}" if len(values) > 1 and key in FITTED else ""
            cells.append(f"{np.mean(values):{form}}{spread}")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    both = [results.get(name) for name in ("qhnet", "qhnetv2")]
    if both[0] and both[1]:
        for key in ("training", "inference"):
            slow, fast = (np.mean([r[key] for r in found]) for found in both if found)
            lines += ["", f"One molecule, {key}: qhnet takes {slow / fast:.1f} times as long as qhnetv2."]
    return "\n".join(lines) + "\n"


FITTED = ("h_mae", "density", "occupied_mae", "similarity")


def draw(results: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Plot the learning curves, validation set, and what each network reaches for its cost.

    Args:
        results: of the seeds of each variant.
        args: of the command line.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for variant, found in results.items():
        log = np.genfromtxt(args.out / f"{variant}-{args.seeds[0]}" / "log.csv", delimiter=",", names=True)
        line = left.plot(np.atleast_1d(log["step"]), np.atleast_1d(log["h_mae"]), label=variant)[0]
        right.scatter([r["training"] for r in found], [r["density"] for r in found], color=line.get_color())
    left.set(xlabel="step", ylabel="Fock matrix, mean absolute error / Ha", yscale="log", title="validation")
    right.set(xlabel="processor seconds per molecule, training", ylabel="density error", title="test")
    left.legend()
    figure.savefig(args.out / "networks.png", dpi=120)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="file of labelled molecules with train, val and test splits")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default all: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="of each run; default %(default)s")
    parser.add_argument("--molecules", type=int, default=0, help="training molecules; default 0 = all")
    parser.add_argument("--validation", type=int, default=20, help="molecules of the curves; default %(default)s")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0], help="default 0")
    parser.add_argument("--baseline", default="sap", help="H0; default %(default)s")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="default %(default)s")
    parser.add_argument("--average", type=float, default=0.98, help="decay of the average; default %(default)s")
    parser.add_argument("--network", default="{}", help="sizes that all backbones have, as JSON")
    parser.add_argument("--out", type=Path, default=Path("out/networks"), help="folder; default %(default)s")
    args = parser.parse_args()
    console = Console()
    if unknown := sorted(set(args.variants.split(",")) - set(VARIANTS)):
        parser.error(f"unknown variants {unknown}; expected some of {', '.join(VARIANTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = read_data(args, console)
    results: dict[str, list[dict[str, float]]] = {}
    variants = args.variants.split(",")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("networks", total=len(variants) * len(args.seeds))
        for variant in variants:
            for seed in args.seeds:
                progress.update(task, description=f"{variant}, seed {seed}")
                results.setdefault(variant, []).append(one_run(settings(variant, seed, args), data, console))
                progress.advance(task)
            text = table(results, args, len(data.train), len(data.test))
            replace_file(args.out / "networks.md", text.encode())
            draw(results, args)
    console.print(text, markup=False)


if __name__ == "__main__":
    main()
