"""Putting SAT on a model and taking it off again: the functions most users need."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sat.config import SATConfig
from sat.controller import ATTACHED, NO_LOSS, Controller
from sat.families import Described, find_structure
from sat.optimizers import described
from sat.score import Loss


def sparsify_(
    model: nn.Module,
    optimizer: Optimizer | None,
    config: SATConfig,
    *,
    total_steps: int,
    loss: Loss | None = None,
    structure: Described | None = None,
    start: bool = True,
    process_group: ProcessGroup | None = None,
) -> Controller:
    """Attach SAT to a model in place.

    Args:
        model: in its full shape, on its final device, train-time settings (gradient checkpointing) made.
        optimizer: built on the full model, perhaps wrapped (Accelerate, Lightning); ``None`` only to look at shapes
            (counting FLOPs).
        config: what to do.
        total_steps: optimizer steps of the whole training.
        loss: for scores that probe: returns the loss of probe micro-batch i, computed with ``model`` on data of
            the training split; i counts on from probe to probe.
        structure: what can be switched, for a model that no family knows: its sites by name,
            ``[sat.Layers("blocks", sat.MLP(inputs=["up"], output="down"))]``, or a whole :class:`sat.Structure`.
        start: make the decision of step 0 now. A loop that calls ``begin_step`` itself (to meter it) passes False.
        process_group: the processes that train this model together, if not all of them (docs/distributed.md).

    Returns:
        The controller; call its :meth:`Controller.step` after each ``optimizer.step()``.

    Raises:
        UnknownStructureError: no family knows the model, or what ``structure`` names is not there.
        ValueError: the model is wrapped, compiled as a whole, or sparsified already (a part of it counts), the
            optimizer is not known or does not hold its parameters, a needed ``loss`` is missing, or the structure
            can't follow the configuration.
    """
    if not isinstance(config, SATConfig):
        raise ValueError(f"sparsify_ takes a sat.SATConfig as its third argument, not {type(config).__name__}")
    if loss is not None and not callable(loss):
        raise ValueError(
            f"loss must be a callable that returns the loss of probe micro-batch i, not {type(loss).__name__}; give "
            "sparsify_ a function that runs the model"
        )
    _check_bare(model)
    if config.needs_probe and loss is None and next(model.parameters()).device.type != "meta":
        raise ValueError(NO_LOSS.format(config.score))
    optimizer = _unwrapped(optimizer)
    if optimizer is not None:
        described(optimizer)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
        if lost:
            raise ValueError(
                f"the optimizer does not hold {lost[0]!r} and {len(lost) - 1} other parameters of the model; build it "
                "on the full model, before sparsify_"
            )
    found = find_structure(model, structure)
    controller = Controller(
        model, optimizer, config, total_steps=total_steps, loss=loss, structure=found, process_group=process_group
    )
    if start and config.mode == "skip" and optimizer is not None and optimizer.state:
        warnings.warn(
            "the optimizer has trained this model already, and to SAT units are new that have not worked since "
            f"sparsify_: those that are out now come in by entry {config.entry!r}, and what they had learned is lost; "
            "modes 'freeze', 'backward_drop' and 'prefix' keep it",
            stacklevel=2,
        )
    _check_first_updates(config, optimizer)
    try:
        if start:
            controller.begin_step(0)
        controller.replicas.install()
    except BaseException:  # a start that fails leaves model and optimizer as they were
        controller.withdraw()
        raise
    setattr(model, ATTACHED, controller)
    if hasattr(model, "save_pretrained"):
        model.__dict__["save_pretrained"] = controller.save_pretrained
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


@contextmanager
def plain(model: nn.Module, *, states: bool = True, keep: bool = True) -> Iterator[nn.Module]:
    """The model with its plain names, shapes and configuration for a while, sparsified or not.

    Weights of units that are out are those of the bank; the model it would be if training ended now is another
    matter (:meth:`Controller.finish`). Look, save, and write weights if you like; gradients computed inside are not
    part of training.

    Args:
        model: the model. With the bank on the host its full weights are on the device inside.
        states: its optimizer shows the full state inside, for a save of it; of units that are out, on the bank's
            device.
        keep: what is written to the weights inside stays. Whoever only looks saves the way back to the bank.
    """
    controller = getattr(model, ATTACHED, None)
    if controller is None:
        yield model
        return
    with controller.plain(states=states, keep=keep):
        yield model


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's ``state_dict`` with the plain model's names and shapes, as in :func:`plain`; tensors are copies."""
    with plain(model, states=False, keep=False):
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _check_bare(model: nn.Module) -> None:
    """Raises ValueError: the model is in something that can't follow a switch, or sparsified already."""
    if isinstance(model, DistributedDataParallel):
        raise ValueError(
            "sparsify_ takes the model itself, not its DistributedDataParallel: sat.sparsify_(ddp.module, ...); go "
            "on training with ddp"
        )
    if isinstance(model, nn.DataParallel):
        raise ValueError(
            "DataParallel copies the model at every step and can't follow a switch; start one process per device with "
            "torchrun, and use DistributedDataParallel"
        )
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:  # wrapped, or in place
        raise ValueError(
            "the model is compiled as a whole, and every switch would cost a new graph of all of it, until torch goes "
            "on in eager; leave torch.compile(model) out and call sat.compile_layers(model) before sparsify_"
        )
    for name, module in model.named_modules():
        if ATTACHED in vars(module):
            part = f": its part {name!r}" if name else ""
            raise ValueError(
                f"{type(model).__name__} is sparsified already{part}; call sat.densify_ on {'that' if name else 'it'} "
                "first"
            )


def _unwrapped(optimizer: Optimizer | None) -> Optimizer | None:
    """The optimizer itself: wrappers (Accelerate's, Lightning's) hold it as ``optimizer``, and its state in it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _check_first_updates(config: SATConfig, optimizer: Optimizer | None) -> None:
    """Warn where units that come in along the width would be moved by several times the learning rate at first.

    Adam's bias correction belongs to the whole tensor, so from moments of zero the first update of a new unit is
    (1 - beta1) / sqrt(1 - beta2) of the rate.
    """
    if config.axis != "width" or config.entry_moment != "zero" or optimizer is None:
        return
    for first, second in (group["betas"] for group in optimizer.param_groups if "betas" in group):
        times = (1.0 - float(first)) / max(1e-12, 1.0 - float(second)) ** 0.5
        if times > 2.0:
            warnings.warn(
                f"with betas {float(first):g} and {float(second):g} the first update of a unit that comes in is "
                f"{times:.1f} times the learning rate; entry_moment='mean' gives it the usual size",
                stacklevel=3,
            )
            return
