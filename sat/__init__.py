"""Sparse adaptive training: train with a part of the model, on stock kernels.

``import sat`` loads no torch; the parts that need it load at first use.

>>> controller = sat.sparsify_(model, optimizer, sat.SATConfig(axis="width"), total_steps=10_000, loss=probe_loss)
>>> ...                   # the user's own loop
>>> controller.step()     # after optimizer.step()
>>> sat.densify_(model)   # back to the plain model
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sat.config import Decision, PhasePlan, SATConfig, decisions, phases
from sat.units import attention_units, mlp_units, units_kept

if TYPE_CHECKING:
    from sat.controller import Controller as Controller
    from sat.controller import densify_ as densify_
    from sat.controller import sparsify_ as sparsify_
    from sat.controller import state_dict as state_dict
    from sat.families import UnknownStructureError as UnknownStructureError
    from sat.families import sites as sites
    from sat.site import Site as Site

_LAZY = {
    "Controller": "sat.controller",
    "UnknownStructureError": "sat.families",
    "Site": "sat.site",
    "densify_": "sat.controller",
    "sites": "sat.families",
    "sparsify_": "sat.controller",
    "state_dict": "sat.controller",
}

__all__ = [
    "Controller", "Decision", "PhasePlan", "SATConfig", "Site", "UnknownStructureError", "attention_units",
    "decisions", "densify_", "mlp_units", "phases", "sites", "sparsify_", "state_dict", "units_kept",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sat' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
