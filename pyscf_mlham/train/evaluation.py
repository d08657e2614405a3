"""mlham eval: errors of a model on labelled molecules, and SCF cycles saved by its guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pyscf.data.elements import ELEMENTS
from rich.console import Console
from rich.table import Table

from pyscf_mlham.arrays import IntArray
from pyscf_mlham.data.dataset import Example, count_examples, examples, usable_cores
from pyscf_mlham.data.label import object_of
from pyscf_mlham.data.record import SPLITS
from pyscf_mlham.data.schema import HamiltonianFile
from pyscf_mlham.errors import DataError, MLHamError
from pyscf_mlham.model.guess import GUESSES, guess_with_info
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.store import load
from pyscf_mlham.options import chosen
from pyscf_mlham.progress import print_line, tracked
from pyscf_mlham.train.metrics import MEANINGS, UNITS, Metrics, equivariance_error, evaluate, evaluate_baseline, mean
from pyscf_mlham.train.preparation import in_domain, recipe_of, same_theory, theory_of


def evaluate_model(name: str, path: Path, split: str, scf_molecules: int, guesses: str, console: Console) -> None:
    """Print metrics of a model on labelled molecules, and SCF cycles from guesses: PySCF's names, and "ml"."""
    model = load(name)
    if not isinstance(model, NetworkModel):
        raise MLHamError(f"model {model.config.name} is not a network; there is nothing to evaluate.")
    with HamiltonianFile(path) as file:
        level, config = file.level, model.config
        if not same_theory(level, config):
            raise DataError(f"{path} is {theory_of(level)}, expected {theory_of(config)} of model {config.name}.")
        splits = SPLITS if split == "all" else (split,)
        indices = [i for s in splits for i in in_domain(file, s, config, config.elements)]
        counts = {s: len(file.indices(s)) for s in SPLITS}
        if not sum(counts[s] for s in splits):
            held = ", ".join(f"{count} {s}" for s, count in counts.items())
            raise DataError(f"{path}: no molecules of split {split} ({held}); choose another --split, or all.")
        if not indices:
            raise DataError(f"{path}: no molecule of split {split} is in the domain of model {config.name}.")
        if outside := sum(counts[s] for s in splits) - len(indices):
            print_line(console, f"{outside} molecules outside the model's domain are left out.")
        found: list[Metrics] = []
        baseline: list[Metrics] = []
        changes: list[float] = []
        numbers: list[IntArray] = []  # atomic, of each example
        kinds: list[str] = []
        prepared = examples(path, indices, recipe_of(config), usable_cores())
        for example in tracked(prepared, console, "predicting", count_examples(file, indices), "examples"):
            found += evaluate(model.network, [example])
            baseline.append(evaluate_baseline(example, model.network.template))
            numbers.append(example.sample.numbers)
            kinds.append(kind_of(example))
            changes.append(equivariance_error(model.network, example, len(changes)))
        print_metrics(found, baseline, f"{config.name} on {len(indices)} molecules of {path.name} ({split})", console)
        print_classes(found, numbers, [str(file.source[i]) for i in indices] if level.pseudo else kinds, console)
        learned = "its equivariance is learned"
        kind = "equivariant by design, so this is rounding" if model.network.refiner is None else learned
        text = f"the prediction changes by {np.mean(changes):.1e} Ha on average, {max(changes):.1e} at worst ({kind})"
        print_line(console, f"Rotated molecules: {text}.")
        if scf_molecules:
            compare_guesses(file, indices[:scf_molecules], model, guesses, console)


def print_metrics(found: list[Metrics], baseline: list[Metrics], title: str, console: Console) -> None:
    """Print means and worst cases of the metrics, the means of H0 alone, and their definitions."""
    table = Table("metric", "mean", "median", "worst", "mean of H0", "unit", title=title)
    of_h0 = mean(baseline)
    for key, value in mean(found)._asdict().items():
        column = np.array([getattr(m, key) for m in found])
        worst = column.min() if key in ("similarity", "gap_ratio") else column.max()
        cells = [f"{v:.3g}" for v in (value, float(np.median(column)), float(worst), getattr(of_h0, key))]
        table.add_row(key, *cells, UNITS.get(key, "Hartree"))
    console.print(table)
    for key, meaning in MEANINGS.items():
        print_line(console, f"{key}: {meaning}")


def kind_of(example: Example) -> str:
    """Return the class of a molecule by its charge and spin."""
    if example.spin:
        return "radicals, each spin" if example.spin == 1 else "triplets and higher spins, each spin"
    return "ions" if example.sample.charge else "neutral closed shells"


def print_classes(found: list[Metrics], numbers: Sequence[IntArray], kinds: Sequence[str], console: Console) -> None:
    """Print mean errors of each kind of molecules, and for each element; numbers: atomic ones of each molecule."""
    classes: dict[str, list[Metrics]] = {}
    for each, atoms, kind in zip(found, numbers, kinds, strict=True):
        for name in (kind, *(f"with {ELEMENTS[z]}" for z in sorted(set(atoms.tolist())))):
            classes.setdefault(name, []).append(each)
    table = Table("molecules", "number", "H MAE / Ha", "density error", "occupied energies / Ha", "gap / Ha")
    for name in sorted(classes, key=lambda name: (name.startswith("with"), name)):
        m = mean(classes[name])
        cells = (f"{m.h_mae:.2e}", f"{m.density:.5f}", f"{m.occupied_mae:.2e}", f"{m.gap_error:.2e}")
        table.add_row(name, str(len(classes[name])), *cells)
    console.print(table)


def compare_guesses(
    file: HamiltonianFile, indices: Sequence[int], model: NetworkModel, guesses: str, console: Console
) -> None:
    """Run SCF from several guesses, and print their cycles, relative to the first one."""
    runs: dict[str, list[tuple[int, bool, float]]] = {guess: [] for guess in chosen(guesses, (*GUESSES, "ml"), "guess")}
    reasons = []  # why the model was not used
    for index in tracked(indices, console, "SCF", len(indices), "molecules"):
        for guess, own in runs.items():
            mf, density = object_of(file[index], file.level), None
            if guess == "ml":
                density, info = guess_with_info(mf, model, "minao")
                reasons += [info.fallback_reason] if info.fallback_reason else []
            elif guess == "vsap" and not hasattr(mf, "get_vsap"):
                raise DataError(f"PySCF has no vsap guess for {type(mf).__name__} objects; leave it out.")
            else:
                mf.init_guess = guess
            mf.kernel(dm0=density)
            own.append((int(mf.cycles), bool(mf.converged), float(mf.e_tot)))
    first = next(iter(runs))
    table = Table("guess", "mean cycles", f"of {first}'s", "worst", "not converged", "largest energy difference / Ha")
    reference, _, energies = map(np.array, zip(*runs[first], strict=True))
    for guess, own in runs.items():
        cycles, converged, e_tot = map(np.array, zip(*own, strict=True))
        difference = max(e_tot - energies, key=abs)
        ratios = (f"{np.mean(cycles / reference):.2f}", f"{np.max(cycles / reference):.2f}")
        table.add_row(guess, f"{cycles.mean():.1f}", *ratios, str(np.sum(~converged)), f"{difference:.0e}")
    console.print(table)
    if reasons:
        print_line(
            console, f"minao was used instead of the model for {len(reasons)} of {len(indices)} molecules: {reasons[0]}"
        )
