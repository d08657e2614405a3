"""Names of networks, wrappers and refiners, without torch: the code of each is imported on use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from pyscf_mlham.errors import ModelError


class Entry(NamedTuple):
    """Location of a network's code."""

    module: str  # inside `pyscf_mlham.nn`
    network: str  # class of the network
    options: str  # dataclass of its sizes
    extra: str = ""  # optional dependency of the package that it needs

    def load(self) -> tuple[Callable[..., Any], type[Any]]:
        """Import the class of the network and the dataclass of its sizes."""
        try:
            module = import_module(f"pyscf_mlham.nn.{self.module}")
        except ModuleNotFoundError as error:
            if not self.extra:
                raise
            name = self.module.rpartition(".")[2]
            install = f"pip install 'pyscf-mlham[{self.extra}]'"
            raise ModelError(f"{name} needs {error.name}; install it with: {install}") from error
        return getattr(module, self.network), getattr(module, self.options)


ARCHITECTURES = {
    "qhnet": Entry("architectures.qhnet", "QHNet", "QHNetOptions", extra="qhnet"),
    "qhnetv2": Entry("qhnetv2", "QHNetV2", "QHNetV2Options"),
}
WRAPPERS = {"tracegrad": Entry("architectures.tracegrad", "TraceGrad", "TraceGradOptions")}
REFINERS = {"harmose": Entry("architectures.harmose", "HarmoSE", "HarmoSEOptions")}
