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
    from sat.attach import densify_ as densify_
    from sat.attach import plain as plain
    from sat.attach import sparsify_ as sparsify_
    from sat.attach import state_dict as state_dict
    from sat.controller import Controller as Controller
    from sat.families import UnknownStructureError as UnknownStructureError
    from sat.integrations import SATCallback as SATCallback
    from sat.listing import SiteInfo as SiteInfo
    from sat.listing import Sites as Sites
    from sat.listing import sites as sites
    from sat.naming import MLP as MLP
    from sat.naming import Attention as Attention
    from sat.naming import Layers as Layers
    from sat.report import Report as Report
    from sat.report import Switch as Switch
    from sat.structure import Count as Count
    from sat.structure import Cut as Cut
    from sat.structure import Gate as Gate
    from sat.structure import Site as Site
    from sat.structure import Stack as Stack
    from sat.structure import Structure as Structure

_LAZY = {
    "Attention": "sat.naming",
    "Controller": "sat.controller",
    "Count": "sat.structure",
    "Cut": "sat.structure",
    "Gate": "sat.structure",
    "Layers": "sat.naming",
    "MLP": "sat.naming",
    "Report": "sat.report",
    "SATCallback": "sat.integrations",
    "Site": "sat.structure",
    "SiteInfo": "sat.listing",
    "Sites": "sat.listing",
    "Stack": "sat.structure",
    "Structure": "sat.structure",
    "Switch": "sat.report",
    "UnknownStructureError": "sat.families",
    "densify_": "sat.attach",
    "sites": "sat.listing",
    "plain": "sat.attach",
    "sparsify_": "sat.attach",
    "state_dict": "sat.attach",
}

__all__ = [
    "MLP", "Attention", "Controller", "Count", "Cut", "Decision", "Gate", "Layers", "PhasePlan", "Report",
    "SATCallback", "SATConfig", "Site", "SiteInfo", "Sites", "Stack", "Structure", "Switch", "UnknownStructureError",
    "attention_units", "decisions", "densify_", "mlp_units", "phases", "plain", "sites", "sparsify_", "state_dict",
    "units_kept",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sat' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
