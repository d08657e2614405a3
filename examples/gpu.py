"""Checks on a machine with a GPU, in a few minutes: `python examples/gpu.py`.

The network on the GPU against the CPU; with gpu4pyscf (pip install gpu4pyscf-cuda12x): guesses, decorations and
energies of its objects. Every check prints a line; the first that fails raises an error.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyscf
import torch
from demo import ETHANOL, PARACETAMOL

import pyscf_mlham
from pyscf_mlham.model.network import NetworkModel
from pyscf_mlham.model.store import load

SAME = 1e-8  # Hartree
PRECISION = 1e-5  # Hartree; networks are in single precision
REPEATS = 5


def molecule(atom: str) -> Any:
    """Return the density-fitted object of a molecule."""
    return pyscf.M(atom=atom, basis="def2-svp", verbose=0).RKS(xc="b3lyp").density_fit()


def check(text: str, passed: bool) -> None:
    """Print the result of a check; raise an error if it fails."""
    print(f"{'passed' if passed else 'FAILED'}: {text}", flush=True)
    if not passed:
        raise SystemExit(1)


def seconds(function: Any) -> float:
    """Return the wall time of the fastest call."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def network() -> None:
    """Compare the network on the GPU with the same one on the CPU."""
    model = load("b3lyp-svp")
    assert isinstance(model, NetworkModel)
    parameter = next(model.network.parameters())
    check(f"the network is on {parameter.device}", parameter.device.type == "cuda")
    for name, atom in (("ethanol", ETHANOL), ("paracetamol", PARACETAMOL)):
        mf = molecule(atom)
        there, fast = pyscf_mlham.fock(mf, model), seconds(lambda mf=mf: pyscf_mlham.fock(mf, model))
        model.network.to("cpu")
        here, slow = pyscf_mlham.fock(mf, model), seconds(lambda mf=mf: pyscf_mlham.fock(mf, model))
        model.network.to("cuda")
        error = float(np.abs(there - here).max())
        check(f"{name}: Fock matrices of CPU and GPU differ by {error:.1e} Ha; {slow / fast:.1f} times as fast",
              error < PRECISION)  # fmt: skip


def objects() -> None:
    """Run SCFs of gpu4pyscf from all guesses, and of decorated objects."""
    for name, atom in (("ethanol", ETHANOL), ("paracetamol", PARACETAMOL)):
        reference = molecule(atom).run().e_tot
        for key in ("minao", "scc", "ml"):
            mf = molecule(atom).to_gpu()
            mf.init_guess = key
            energy = float(mf.kernel())
            check(f"{name}, {key}: {getattr(mf, 'cycles', '?')} cycles, {energy - reference:+.1e} Ha",
                  bool(mf.converged) and abs(energy - reference) < SAME)  # fmt: skip
        for decorate in (pyscf_mlham.accelerate, pyscf_mlham.track):
            mf = decorate(molecule(atom))
            there = mf.to_gpu()
            energy = float(there.kernel())
            check(
                f"{name}, {decorate.__name__} on the GPU: {energy - reference:+.1e} Ha", abs(energy - reference) < SAME
            )
            back = there.to_cpu()
            check(f"{name}, {decorate.__name__} back on the CPU", type(back) is type(mf))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is False; see `nvidia-smi` and the CUDA wheel of torch.")
    network()
    try:
        import gpu4pyscf  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"gpu4pyscf is not installed ({error}); its objects were not checked.") from error
    objects()
