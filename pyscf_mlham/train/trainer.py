"""The training loop, for a CPU, a GPU, or several processes under torchrun."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, distributed
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from pyscf_mlham import checkpoint
from pyscf_mlham.checkpoint import ModelConfig
from pyscf_mlham.data.dataset import Example
from pyscf_mlham.errors import ModelError
from pyscf_mlham.nn.model import HamiltonianModel, network_from_config
from pyscf_mlham.progress import print_line, progress
from pyscf_mlham.train.config import TrainConfig
from pyscf_mlham.train.loss import Errors, collate, errors, total, trace_error
from pyscf_mlham.train.metrics import CURVE, criterion, draw_curve, evaluate, mean, write_log
from pyscf_mlham.train.preparation import differences, identity_of, prepare, start_from

STATE = "training.safetensors"
PROGRESS = ("step", "best", "seconds", "rows")  # attributes of a trainer in its checkpoint
FINAL_SHARE = 0.2  # share of the steps in which the wsd schedule falls to zero
MOST_SKIPPED = 100  # consecutive steps without a finite gradient, before a run is given up
VALIDATION = timedelta(hours=6)  # longest time that the other processes wait for the one that validates
SUSPECTS = 12  # names of molecules in one line
ADVICE = "lower learning_rate, or look for a wrong label, and name another output folder"


class Trainer:
    """One training run, resumable to the step."""

    def __init__(
        self, config: TrainConfig, train: list[Example], val: list[Example], model_config: ModelConfig, console: Console
    ) -> None:
        self.config, self.train_set, self.val_set, self.model_config = config, train, val, model_config
        joint = distributed.is_initialized()
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if joint else (0, 1)
        self.console = console
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        torch.manual_seed(config.seed)
        self.model = network_from_config(model_config)
        if config.start:
            start_from(self.model, config, model_config)
        else:
            _start_at_the_mean(self.model, train)
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        for parameter in self.model.parameters():  # a process without a molecule in a batch needs gradients, too
            parameter.grad = torch.zeros_like(parameter)
        self.identity = identity_of(config, train, val, model_config)
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.rows: list[dict[str, float]] = []  # of the log
        self.output = Path(config.output)
        self.skipped, self._in_a_row = 0, 0  # steps without a finite gradient: since the last evaluation, consecutive
        self._suspects: dict[str, None] = {}  # molecules of the skipped steps, in order
        self._asked, self._stop = False, False  # a signal to this process; all processes stop after this step

    def run(self) -> None:
        """Train from the last checkpoint on; save and stop on SIGTERM and SIGINT."""
        self.output.mkdir(parents=True, exist_ok=True)
        self.resume()
        before = {number: signal.signal(number, self._request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.step >= self.config.steps and not self.rank and math.isinf(self.best):
            text = "the prediction for a validation molecule was not finite in every evaluation"
            raise ModelError(f"{self.output}: no model was written: {text}; {ADVICE}.")

    def _run(self) -> None:
        saved = time.monotonic()
        started = saved - self.seconds
        sums, count = np.zeros(3), 0
        if self.step >= self.config.steps:
            self._report_finished()
        about = (self.console, self.config.name, self.config.steps, "steps")
        with progress(*about, done=self.step, silent=bool(self.rank)) as advance:
            for batch in self._batches():
                found = self.update(batch)
                if np.isfinite(found).all():
                    sums, count = sums + found, count + 1
                self.seconds = time.monotonic() - started
                means = sums / count if count else np.full(3, np.nan)
                advance(f"density error {means[2]:.4f}")
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    self.validate(means)
                    sums, count = np.zeros(3), 0
                late = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                if late or self._stop or self.step == self.config.steps:
                    self.save()
                    saved = time.monotonic()
                if self._stop and self.step < self.config.steps:
                    if not self.rank:
                        print_line(self.console, f"Stopped at step {self.step}; the same command resumes the run.")
                    return

    def _report_finished(self) -> None:
        """Print that the run is finished, and how its weights may be trained further."""
        if self.rank:
            return
        note = f"{self.config.name} is finished: {self.step} steps; more steps need another output folder"
        if math.isfinite(self.best):
            note += f", with these weights as initial ones by the key `start: {self.output / 'model'}`"
        print_line(self.console, f"{note}.")

    def _request_stop(self, number: int, frame: Any) -> None:  # noqa: ARG002  (the signature of a handler)
        self._asked = True

    def _batches(self) -> Iterator[list[Example]]:
        """Return batches from the present step to the last; their order depends on the seed and the epoch only."""
        sizes = [max(1, len(e.sample.pairs)) for e in self.train_set]
        step = 0
        for epoch in range(self.config.steps):
            for chosen in epoch_batches(sizes, self.config.pairs, (self.config.seed, epoch)):
                if step >= self.config.steps:
                    return
                if step >= self.step:
                    yield [self.train_set[i] for i in chosen]
                step += 1

    def update(self, batch: Sequence[Example]) -> np.ndarray:
        """Take one optimiser step, or skip it if the gradient is not finite; return the batch's mean `shown` errors."""
        self.optimizer.zero_grad(set_to_none=False)
        sums = np.zeros(3)
        if mine := batch[self.rank :: self.world]:
            found, auxiliary = self.errors(mine)
            (total(found, self.config.loss, auxiliary).sum() / len(batch)).backward()
            sums = shown(found, mine)
        self._stop = self._asked
        if self.world > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            found_and_asked = _sum_over_processes(gradients, np.append(sums, float(self._asked)), self.device)
            sums, self._stop = found_and_asked[:-1], bool(found_and_asked[-1])  # all stop at the same step
        norm = clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.step += 1
        if self._counted(bool(torch.isfinite(norm)), batch):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * schedule(self.step, self.config)
            self.optimizer.step()
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return sums / len(batch)

    def _counted(self, finite: bool, batch: Sequence[Example]) -> bool:
        """Return whether the gradient is finite; count skipped steps, and raise after too many in a row."""
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if not finite:
            self.skipped += 1
            self._suspects |= dict.fromkeys(e.name for e in batch)
        if self._in_a_row >= MOST_SKIPPED:
            raise ModelError(f"step {self.step}: the loss was not finite for {MOST_SKIPPED} steps in a row; {ADVICE}.")
        return finite

    def errors(self, batch: Sequence[Example]) -> tuple[Errors, Tensor | None]:
        """Return the errors in the loss, and those of the traces for a network with the tracegrad wrapper."""
        inputs, targets = collate(batch)
        inputs, targets = inputs.to(self.device, torch.float32), targets.to(self.device)
        template = self.model.template
        orientation = self.model.orientation((self.config.seed, self.step))  # another one each step
        output, traces = self.model.for_training(inputs, orientation)
        found = errors(output, inputs, targets, template)
        return found, None if traces is None else trace_error(traces, inputs, targets, template)

    def validate(self, train_errors: np.ndarray) -> None:
        """Evaluate and log the averaged weights, and write them if they are the best; train_errors: means, (3,)."""
        skipped, self.skipped = self.skipped, 0
        suspects, self._suspects = list(self._suspects), {}
        if self.rank:
            return
        each = evaluate(self.average, self.val_set)
        found = mean(each)
        row = {"step": self.step, "seconds": round(self.seconds), "lr": self.optimizer.param_groups[0]["lr"]}
        row |= dict(zip(("train_absolute", "train_spectral", "train_density"), map(float, train_errors), strict=True))
        self._log(row | {key: float(value) for key, value in found._asdict().items()})
        self.console.print(
            f"step {self.step}: H MAE {found.h_mae:.2e} Ha, density error {found.density:.4f}, "
            f"occupied orbital energies {found.occupied_mae:.2e} Ha, intruders {found.intruders:.2f}"
        )
        if skipped:
            names = ", ".join(suspects[:SUSPECTS]) + (", ..." if len(suspects) > SUSPECTS else "")
            text = f"{skipped} earlier steps were skipped: the loss was not finite. Their molecules: {names}."
            print_line(self.console, text)
        if failed := sum(not math.isfinite(m.density) for m in each):
            self.console.print(f"The prediction for {failed} of {len(each)} validation molecules is not finite.")
        if (error := criterion(each, self.val_set[0].sample.periodic)) < self.best:
            self.best = error
            weights = {k: v.cpu().numpy() for k, v in self.average.state_dict().items()}
            checkpoint.write(self.output / "model", self.model_config, weights)

    def _log(self, row: dict[str, float]) -> None:
        """Add an evaluation to the log, and draw the curve again; the run continues without it."""
        self.rows.append(row)
        write_log(self.output, self.rows)
        try:
            draw_curve(self.output, self.rows)
        except Exception as error:
            note = f"{self.output / CURVE} could not be drawn ({type(error).__name__}: {error}); the run continues."
            print_line(self.console, note)

    def save(self) -> None:
        """Write a checkpoint from which the run resumes exactly."""
        if self.rank:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        about = {key: getattr(self, key) for key in PROGRESS} | {"config": self.identity}
        data = save({k: v.contiguous() for k, v in tensors.items()}, metadata={"progress": json.dumps(about)})
        checkpoint.replace_file(self.output / STATE, data)

    def resume(self) -> None:
        """Resume from the last checkpoint if there is one."""
        if (path := self.output / STATE).exists():
            try:
                self._load(path)
            except ModelError:
                raise
            except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ModelError(f"{path}: damaged ({error}); remove it to start again.") from error
        if self.rank == 0 and self.rows:
            write_log(self.output, self.rows)

    def _load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
        if different := differences(about["config"], self.identity):
            text = f"belongs to a run with other settings or other data ({', '.join(different)}); restore them"
            raise ModelError(f"{path}: {text}, or name another output folder.")
        for name, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, slot = key.split(".")
                state.setdefault(int(index), {})[slot] = value
        if state:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for key in PROGRESS:
            setattr(self, key, about[key])


def shown(found: Errors, batch: Sequence[Example]) -> np.ndarray:
    """Return sums of the logged errors over molecules, (3,), with the density's error as in validation."""
    absolute, spectral, density = (e.detach().double().cpu().numpy() for e in found)
    whole = density * np.sqrt([e.n_occupied for e in batch])
    return np.array([absolute.sum(), spectral.sum(), whole.sum()])


def schedule(step: int, config: TrainConfig) -> float:
    """Return the learning rate over its highest value; step: number of the step, from 1."""
    rise = min(1.0, step / max(1, config.warmup))
    done = step / config.steps
    if config.schedule == "cosine":
        return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
    return rise * min(1.0, max(0.01, (1 - done) / FINAL_SHARE))


def epoch_batches(sizes: Sequence[int], limit: int, seed: Sequence[int]) -> Iterator[list[int]]:
    """Draw every index once, in batches that exceed the limit of pairs by less than one molecule."""
    batch: list[int] = []
    pairs = 0
    for index in np.random.default_rng(seed).permutation(len(sizes)):
        batch.append(int(index))
        pairs += sizes[index]
        if pairs >= limit:
            yield batch
            batch, pairs = [], 0
    if batch:
        yield batch


def _start_at_the_mean(model: HamiltonianModel, train: Sequence[Example]) -> None:
    """Initialise each element's isotropic onsite blocks by their mean over the training set."""
    coupling, biases = model.onsite.coupling, model.onsite.biases.weight
    sums, counts = torch.zeros_like(biases), torch.zeros(len(biases), 1)
    for example in train:
        species = model.index[torch.from_numpy(example.sample.numbers)]
        scalars = coupling.irreps_from_blocks(torch.from_numpy(example.onsite))[0, True][:, 0]
        sums.index_add_(0, species, scalars)
        counts.index_add_(0, species, torch.ones(len(species), 1))
    with torch.no_grad():
        biases.copy_(sums / counts.clamp(min=1) / model.options.scale)


def _sum_over_processes(gradients: list[Tensor], sums: np.ndarray, device: torch.device) -> np.ndarray:
    """Sum gradients in place, and return the sum of the errors, over all processes."""
    summed = [torch.tensor(sums, dtype=torch.float32, device=device), *gradients]
    flat = parameters_to_vector(summed)
    distributed.all_reduce(flat)
    vector_to_parameters(flat, summed)
    return summed[0].double().cpu().numpy()


def train(config: TrainConfig, console: Console) -> None:
    """Train a model by its settings; under torchrun, together with the other processes."""
    with contextlib.ExitStack() as stack:
        if "WORLD_SIZE" in os.environ and not distributed.is_initialized():
            how = "nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(how, timeout=VALIDATION)
            stack.callback(distributed.destroy_process_group)
        Trainer(config, *prepare(config, console), console).run()
