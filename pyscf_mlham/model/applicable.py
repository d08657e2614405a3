"""Whether `accelerate`, 'ml' and 'scc' are applicable to a mean-field object, before anything is computed."""

from __future__ import annotations

from typing import Any

from pyscf_mlham.errors import reason_of
from pyscf_mlham.h0 import scc
from pyscf_mlham.model.guess import check_spin_symmetry, is_ml, named_model, registered_model
from pyscf_mlham.model.predictor import native_if_applicable
from pyscf_mlham.scf.applicability import inapplicable
from pyscf_mlham.scf.decorator import expect_mean_field

WHAT = ("accelerate", "ml", "scc")


def applicable(mf: Any, what: str = "accelerate") -> str:
    """Return why plain SCF or PySCF's own guess would be used instead, "" if applicable.

    A learned guess can still be rejected after the prediction; `mf.guess_info` has the reason.

    Args:
        mf: PySCF mean-field object; not changed.
        what: "accelerate"; "ml", which loads the model named by mf.init_guess or `register`; or "scc".
    """
    expect_mean_field(mf)
    if what not in WHAT:
        raise ValueError(f"what = {what!r}; expected one of {', '.join(WHAT)}.")
    if what == "ml":
        return _inapplicable_model(mf)
    return inapplicable(mf) if what == "accelerate" else scc.inapplicable(mf, mf.mol)


def _inapplicable_model(mf: Any) -> str:
    try:
        model = registered_model(named_model(mf.init_guess) if is_ml(mf.init_guess) else None, mf)
        check_spin_symmetry(mf, mf.mol, model)
        native_if_applicable(mf, mf.mol, model)
    except Exception as error:  # any error inside a model
        return reason_of(error)
    return ""
