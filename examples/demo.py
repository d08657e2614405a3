"""Ethanol and paracetamol with PySCF's default guess, the learned one, and the two-level solver, side by side.

python examples/demo.py [--xc b3lyp] [--basis def2-svp] [--molecule ethanol]
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import pyscf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import pyscf_mlham
from pyscf_mlham.scf.counting import counting_fock_builds

ETHANOL = """
C  -0.8883  0.1670 -0.0273
C   0.4658 -0.5116 -0.0368
O   1.4311  0.3229  0.5867
H  -1.6412 -0.4785 -0.4912
H  -1.2104  0.4012  0.9918
H  -0.8432  1.1043 -0.5912
H   0.7825 -0.7445 -1.0590
H   0.4176 -1.4563  0.5141
H   1.4860  1.1955  0.1129
"""

PARACETAMOL = """
O   4.8050  0.2730  0.0000
C   3.4530  0.2420  0.0000
C   2.7250  1.4280  0.0000
C   1.3340  1.4080  0.0000
C   0.6580  0.1860  0.0000
C   1.3930 -1.0050  0.0000
C   2.7800 -0.9700  0.0000
N  -0.7460  0.0430  0.0000
C  -1.6790  1.0540  0.0000
C  -3.1180  0.5660  0.0000
O  -1.4370  2.2490  0.0000
H   5.1170 -0.6430  0.0000
H   3.2580  2.3710  0.0000
H   0.7580  2.3230  0.0000
H   0.8750 -1.9590  0.0000
H   3.3540 -1.8900  0.0000
H  -1.1060 -0.9020  0.0000
H  -3.2810 -0.0540 -0.8860
H  -3.2810 -0.0540  0.8860
H  -3.7840  1.4290  0.0000
"""

MOLECULES = {"ethanol": ETHANOL, "paracetamol": PARACETAMOL}


class Row(NamedTuple):
    """One SCF run: its guess, cycles (of accelerate(): full ones), full Fock builds, seconds and energy (Hartree)."""

    guess: str
    cycles: int
    builds: int
    seconds: float
    energy: float


def run(mf: Any, guess: str, label: str) -> Row:
    """Converge a fresh mean-field object from a guess, counting."""
    mf.init_guess = guess
    with counting_fock_builds(mf) as counter:
        start = time.perf_counter()
        mf.kernel()
        seconds = time.perf_counter() - start
    return Row(label, mf.cycles, counter.builds, seconds, mf.e_tot)


def compare(geometry: str, xc: str, basis: str) -> list[Row]:
    """Run PySCF's guess, the learned one, and both again with accelerate(); geometry: atoms in Angstrom."""
    mol = pyscf.M(atom=geometry, basis=basis, verbose=0)
    plain = [run(mol.RKS(xc=xc), guess, guess) for guess in ("minao", "ml")]
    quick = [run(pyscf_mlham.accelerate(mol.RKS(xc=xc)), g, f"{g}, accelerate()") for g in ("minao", "ml")]
    return plain + quick


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xc", default="b3lyp", help="functional, default %(default)s")
    parser.add_argument("--basis", default="def2-svp", help="basis set, default %(default)s")
    parser.add_argument("--molecule", choices=MOLECULES, action="append", help="only this one; may be repeated")
    args = parser.parse_args()

    console = Console()
    # loading torch and the model is no part of an SCF, and happens once
    pyscf_mlham.guess(pyscf.M(atom="H 0 0 0; H 0 0 0.74", basis=args.basis, verbose=0).RKS(xc=args.xc))
    table = Table(title=f"{args.xc}/{args.basis}; builds are full Fock builds")
    for heading in ("molecule", "guess", "cycles", "builds", "time/s", "energy/Ha"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("molecule", "guess") else "right")
    with Progress(console=console, transient=True) as progress:
        for name in progress.track(args.molecule or list(MOLECULES), description="SCF"):
            for row in compare(MOLECULES[name], args.xc, args.basis):
                numbers = (str(row.cycles), str(row.builds), f"{row.seconds:.1f}", f"{row.energy:.8f}")
                table.add_row(name, row.guess, *numbers)
    console.print(table)


if __name__ == "__main__":
    main()
