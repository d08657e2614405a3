"""The command line: mlham bench, trust, md-bench, opt-bench, guess, data, train, eval, models."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyscf_mlham
from pyscf_mlham.configuration import PLAIN
from pyscf_mlham.errors import MLHamError
from pyscf_mlham.options import add_command
from pyscf_mlham.workers import check_scratch, environment

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 160  # columns of output to a file or a pipe, so that tables are complete


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        sys.stderr.write(f'error: {error.name} is not installed; try: pip install "pyscf-mlham[all]"\n')
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    version = argparse.ArgumentParser(prog="mlham", add_help=False)
    version.add_argument("--version", action="version", version=f"%(prog)s {pyscf_mlham.__version__}")
    version.parse_known_args(arguments)  # needs no extra, unlike all commands

    from rich.console import Console
    from rich.markup import escape

    args = _parser(version).parse_args(arguments)
    pyscf_mlham.register(accelerate=False)  # plain SCF must be plain, also in worker processes
    written = not (sys.stdout.isatty() or "COLUMNS" in os.environ)
    console = Console(width=WIDTH if written else None)
    try:
        check_scratch()
        with environment(**{PLAIN: "1"}):
            return int(args.run(args, console))
    except (MLHamError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(version: argparse.ArgumentParser) -> argparse.ArgumentParser:
    from pyscf_mlham.bench.commands import add_commands
    from pyscf_mlham.data.commands import add_parser

    description = "Learned Fock matrices and multilevel SCF for PySCF."
    parser = argparse.ArgumentParser(prog="mlham", description=description, parents=[version])
    commands = parser.add_subparsers(required=True, metavar="command")
    add_commands(commands)

    example = "example: mlham train my.yaml\n         torchrun --nproc-per-node 2 -m pyscf_mlham train my.yaml"
    train = add_command(commands, "train", "train a network by a YAML file; the same command resumes", _train, example)
    train.add_argument("config", type=Path, help="YAML file of settings")

    example = "example: mlham eval b3lyp-svp labelled.h5 --split test --scf 20"
    evaluate = add_command(commands, "eval", "evaluate a model on labelled molecules", _eval, example)
    evaluate.add_argument("model", help="name of a shipped model, or a model folder")
    evaluate.add_argument("data", type=Path, help="file of labelled molecules")
    evaluate.add_argument("--split", default="test", choices=("train", "val", "test", "all"), help="default test")
    evaluate.add_argument("--scf", type=int, default=0, metavar="N", help="also run SCF on the first N molecules")
    guesses = "guesses to compare with --scf; default %(default)s"
    evaluate.add_argument("--guess", default="minao,scc,ml", help=guesses)

    add_parser(commands.add_parser("data", help="make, import and inspect labelled molecules"))
    add_command(commands, "models", "list the shipped models", _models)
    return parser


def _train(args: argparse.Namespace, console: Console) -> int:
    from pyscf_mlham.train.config import read_config
    from pyscf_mlham.train.trainer import train

    train(read_config(args.config), console)
    return 0


def _eval(args: argparse.Namespace, console: Console) -> int:
    from pyscf_mlham.train.evaluation import evaluate_model

    evaluate_model(args.model, args.data, args.split, args.scf, args.guess, console)
    return 0


def _models(args: argparse.Namespace, console: Console) -> int:  # noqa: ARG001  (every command has both)
    from rich.table import Table

    from pyscf_mlham import checkpoint
    from pyscf_mlham.model.domain import signed, symbols
    from pyscf_mlham.model.store import shipped

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "elements", "charges", "level of theory", "H0", "network"):
        table.add_column(heading, overflow="fold")
    for name, folder in shipped().items():
        config = checkpoint.read_config(folder)
        level = "/".join(filter(None, (config.xc, config.basis, config.pseudo)))
        of_network = (level, config.baseline, config.architecture)
        table.add_row(name, symbols(config.elements), signed(config.charges), *of_network)
    console.print(table if table.rows else "This version ships no model.")
    return 0
