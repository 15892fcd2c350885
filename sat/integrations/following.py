"""What the callbacks of all frameworks do alike."""

from __future__ import annotations

from sat.controller import Controller
from sat.optimizers import StepWatch

COMPILE = "call sat.compile_layers(model) before training instead, which compiles layer by layer and counts the graphs"
"""What to do where a framework would compile the whole model."""


def watched(controller: Controller) -> StepWatch:
    """Tells whether the optimizer took the step that a framework says has ended; until the model is plain again.

    Frameworks count steps that a gradient scaler left out because of an overflow, too. The controller's own position
    counts those taken, and a checkpoint keeps it.
    """
    assert controller.optimizer is not None, "a framework trains with an optimizer"
    watch = StepWatch(controller.optimizer)
    controller.at_finish(watch.remove)
    return watch
