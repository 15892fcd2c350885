"""Putting SAT on a model and taking it off again: the functions most users need."""

from __future__ import annotations

from contextlib import ExitStack

from torch import Tensor, nn
from torch.optim import Optimizer

from sat.config import SATConfig
from sat.controller import ATTACHED, NO_LOSS, Controller
from sat.families import find_structure
from sat.score import Loss, is_compiled


def sparsify_(
    model: nn.Module,
    optimizer: Optimizer | None,
    config: SATConfig,
    *,
    total_steps: int,
    loss: Loss | None = None,
    start: bool = True,
) -> Controller:
    """Attach SAT to a model in place.

    Args:
        model: in its full shape, on its final device, train-time settings (gradient checkpointing) made.
        optimizer: built on the full model; ``None`` only to look at shapes (counting FLOPs).
        config: what to do.
        total_steps: optimizer steps of the whole training.
        loss: for scores that probe: returns the loss of probe micro-batch i, computed with ``model`` on data of
            the training split; i counts on from probe to probe.
        start: make the decision of step 0 now. A loop that calls ``begin_step`` itself (to meter it) passes False.

    Returns:
        The controller; call its :meth:`Controller.step` after each ``optimizer.step()``.

    Raises:
        UnknownStructureError: no family knows the model.
        ValueError: the model is sparsified already, the optimizer does not hold its parameters, or a needed
            ``loss`` is missing.
    """
    if getattr(model, ATTACHED, None) is not None:
        raise ValueError(f"{type(model).__name__} is sparsified already; call sat.densify_(model) first")
    structure = find_structure(model)
    if is_compiled(model) and config.mode == "skip" and config.regime != "growing" and config.ramp_steps > 1:
        raise ValueError(
            "the gates of returning units are hooks, and compiled modules would ignore them: set ramp_steps=0, or "
            "don't compile the model"
        )
    if config.needs_probe and loss is None and next(model.parameters()).device.type != "meta":
        raise ValueError(NO_LOSS.format(config.score))
    if optimizer is not None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
        if lost:
            raise ValueError(
                f"the optimizer does not hold {lost[0]!r} and {len(lost) - 1} other parameters of the model; build it "
                "on the full model, before sparsify_"
            )
    controller = Controller(model, optimizer, config, total_steps=total_steps, loss=loss, structure=structure)
    if start:
        controller.begin_step(0)
    setattr(model, ATTACHED, controller)  # last: a start that fails leaves the model as it was
    return controller


def densify_(model: nn.Module) -> nn.Module:
    """Back to the plain model: full weights in place, the original parameters, names and shapes.

    What the weights are is a matter of the regime: see :meth:`Controller.finish`. The optimizer holds full
    state, so that plain training can go on.

    Raises:
        ValueError: the model is not sparsified.
    """
    controller = getattr(model, ATTACHED, None)
    if controller is None:
        raise ValueError(f"{type(model).__name__} is not sparsified: there is nothing to densify")
    controller.finish()
    return model


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's ``state_dict`` with the plain model's names and shapes, sparsified or not; tensors are copies.

    Weights of units that are out are those of the bank; the model it would be if training ended now is another
    matter (:meth:`Controller.finish`).
    """
    controller = getattr(model, ATTACHED, None)
    with ExitStack() as stack:
        for part in controller.parts if controller is not None else ():
            stack.enter_context(part.full())
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
