"""SAT inside the training loops of others. Each part loads its framework at first use.

``SATCallback``: Hugging Face ``Trainer``; ``SATLightningCallback``: Lightning (extra ``lightning``);
``Checkpointed``: for loops whose framework saves model and optimizer itself, such as Accelerate's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sat.integrations.checkpointed import Checkpointed as Checkpointed
    from sat.integrations.hf_trainer import SATCallback as SATCallback
    from sat.integrations.lightning_callback import SATLightningCallback as SATLightningCallback

_LAZY = {
    "Checkpointed": "sat.integrations.checkpointed",
    "SATCallback": "sat.integrations.hf_trainer",
    "SATLightningCallback": "sat.integrations.lightning_callback",
}

__all__ = ["Checkpointed", "SATCallback", "SATLightningCallback"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sat.integrations' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
