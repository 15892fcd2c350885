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

from sat import schedules
from sat.config import Decision, PhasePlan, SATConfig, decisions, phases
from sat.units import attention_units, mlp_units, units_kept

if TYPE_CHECKING:
    from sat.attach import densify_ as densify_
    from sat.attach import plain as plain
    from sat.attach import sparsify_ as sparsify_
    from sat.attach import state_dict as state_dict
    from sat.average import EMA as EMA
    from sat.cache import ActivationCache as ActivationCache
    from sat.compiled import compile_layers as compile_layers
    from sat.controller import Controller as Controller
    from sat.families import UnknownStructureError as UnknownStructureError
    from sat.integrations import SATCallback as SATCallback
    from sat.listing import SiteInfo as SiteInfo
    from sat.listing import Sites as Sites
    from sat.listing import sites as sites
    from sat.memory import Memory as Memory
    from sat.naming import MLP as MLP
    from sat.naming import Attention as Attention
    from sat.naming import Layers as Layers
    from sat.optimizers import Elementwise as Elementwise
    from sat.optimizers import PerTensor as PerTensor
    from sat.optimizers import Reduced as Reduced
    from sat.optimizers import register_optimizer as register_optimizer
    from sat.report import Report as Report
    from sat.report import Switch as Switch
    from sat.structure import Count as Count
    from sat.structure import Cut as Cut
    from sat.structure import Gate as Gate
    from sat.structure import Site as Site
    from sat.structure import Stack as Stack
    from sat.structure import Structure as Structure

_LAZY = {
    "ActivationCache": "sat.cache",
    "Attention": "sat.naming",
    "Controller": "sat.controller",
    "Count": "sat.structure",
    "Cut": "sat.structure",
    "EMA": "sat.average",
    "Elementwise": "sat.optimizers",
    "Gate": "sat.structure",
    "Layers": "sat.naming",
    "MLP": "sat.naming",
    "Memory": "sat.memory",
    "PerTensor": "sat.optimizers",
    "Reduced": "sat.optimizers",
    "Report": "sat.report",
    "SATCallback": "sat.integrations",
    "Site": "sat.structure",
    "SiteInfo": "sat.listing",
    "Sites": "sat.listing",
    "Stack": "sat.structure",
    "Structure": "sat.structure",
    "Switch": "sat.report",
    "UnknownStructureError": "sat.families",
    "compile_layers": "sat.compiled",
    "densify_": "sat.attach",
    "plain": "sat.attach",
    "register_optimizer": "sat.optimizers",
    "sites": "sat.listing",
    "sparsify_": "sat.attach",
    "state_dict": "sat.attach",
}

__all__ = [
    "EMA", "MLP", "ActivationCache", "Attention", "Controller", "Count", "Cut", "Decision", "Elementwise", "Gate",
    "Layers", "Memory", "PerTensor", "PhasePlan", "Reduced", "Report", "SATCallback", "SATConfig", "Site",
    "SiteInfo", "Sites", "Stack", "Structure", "Switch", "UnknownStructureError", "attention_units",
    "compile_layers", "decisions", "densify_", "mlp_units", "phases", "plain", "register_optimizer", "schedules",
    "sites", "sparsify_", "state_dict", "units_kept",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sat' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
