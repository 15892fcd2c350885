"""Optimizers: how the state of each follows its parameter, and whether a step was really taken.

When units come and go along the width, a parameter's optimizer state must be cut as the parameter is. What a
state tensor's shape means can't be told from the shape alone (a square matrix has rows and columns of one
length), so every optimizer is described, key by key; :func:`register_optimizer` describes another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sat.structure import Cut

Entry = Literal["zero", "mean"]


@dataclass(frozen=True)
class Elementwise:
    """State of the parameter's shape, one number for each weight.

    ``entry`` is what a unit without history starts from: ``zero``, or the ``mean`` of the units that were active,
    for averages that are not corrected for their start at zero (a second moment near zero means a huge step).
    ``power`` is the power of the gradient that the state follows: 2 for second moments, 0 if it does not.
    """

    entry: Entry = "zero"
    power: int = 1


@dataclass(frozen=True)
class Reduced:
    """State that a reduction over dimension ``dim`` of the parameter left over; the dimension has size 1 or is gone.

    Units that lie along ``dim`` share their entries, which stay as they are. The rest as in :class:`Elementwise`.
    """

    dim: int
    entry: Entry = "zero"
    power: int = 2


@dataclass(frozen=True)
class PerTensor:
    """State of the whole parameter, such as a count of steps: left alone, whatever its shape."""


Follows = Elementwise | Reduced | PerTensor

_STEP: Mapping[str, Follows] = {"step": PerTensor()}
_ADAM: Mapping[str, Follows] = {
    "exp_avg": Elementwise(),
    "exp_avg_sq": Elementwise(power=2),
    "max_exp_avg_sq": Elementwise(power=2),
    **_STEP,
}
_KNOWN: dict[type[Optimizer], Mapping[str, Follows]] = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.SGD: {"momentum_buffer": Elementwise()},
    torch.optim.RMSprop: {
        "square_avg": Elementwise(power=2),
        "momentum_buffer": Elementwise(),
        "grad_avg": Elementwise(),
        **_STEP,
    },
    # its averages are not bias-corrected: from zero, the first update would be clipped over the whole tensor
    torch.optim.Adafactor: {
        "row_var": Reduced(-1, entry="mean"),
        "col_var": Reduced(-2, entry="mean"),
        "variance": Elementwise(entry="mean", power=2),
        **_STEP,
    },
}
_KNOWN_BY_NAME: dict[str, Mapping[str, Follows]] = {  # of libraries that are not loaded for it
    "transformers.optimization.Adafactor": {  # what the Trainer's optim="adafactor" is
        "exp_avg_sq_row": Reduced(-1, entry="mean"),
        "exp_avg_sq_col": Reduced(-2, entry="mean"),
        "exp_avg_sq": Elementwise(entry="mean", power=2),
        "exp_avg": Elementwise(power=0),  # of updates, not of gradients
        "RMS": PerTensor(),
        **_STEP,
    },
}


def register_optimizer(cls: type[Optimizer], describe: Mapping[str, Follows]) -> None:
    """Tell how the state of an optimizer follows its parameters.

    >>> sat.register_optimizer(Lion, {"exp_avg": sat.Elementwise(), "step": sat.PerTensor()})

    The optimizer must leave parameters without a gradient alone, as those of torch do, and must keep its state in
    ``optimizer.state[parameter]``, a dictionary. Subclasses are known by their base.

    Args:
        cls: the class of the optimizer.
        describe: for each key of a parameter's state: :class:`Elementwise`, :class:`Reduced` or :class:`PerTensor`.

    Raises:
        ValueError: ``cls`` is no optimizer, or a description is none of the three.
    """
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise ValueError(f"sat.register_optimizer: {cls!r} is no class derived from torch.optim.Optimizer")
    for key, follows in describe.items():
        if not isinstance(follows, Follows):
            raise ValueError(
                f"sat.register_optimizer: state {key!r} of {cls.__name__} must be described by sat.Elementwise(), "
                f"sat.Reduced(dim) or sat.PerTensor(), not {follows!r}"
            )
    _KNOWN[cls] = MappingProxyType(dict(describe))


def described(optimizer: Optimizer) -> Mapping[str, Follows]:
    """How the state of ``optimizer`` follows its parameters.

    Raises:
        ValueError: it is no optimizer of torch's kind, or nobody has described it.
    """
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"sparsify_ takes one torch.optim.Optimizer, not {type(optimizer).__name__}; put parameters with other "
            "settings into groups of their own"
        )
    kind = type(optimizer)
    for cls in kind.__mro__:
        if cls in _KNOWN:
            return _KNOWN[cls]
        if _qualified(cls) in _KNOWN_BY_NAME:
            return _KNOWN_BY_NAME[_qualified(cls)]
    raise ValueError(
        f"optimizer {_shown(_qualified(kind))}: SAT knows {', '.join(map(_shown, _known_names()))}, and not how the "
        f"state of this one follows its parameters; say so before sparsify_: "
        f"sat.register_optimizer({kind.__name__}, {{'exp_avg': sat.Elementwise(), ...}}) (docs/sat-training.md)"
    )


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _known_names() -> list[str]:
    return [*map(_qualified, _KNOWN), *_KNOWN_BY_NAME]


def _shown(qualified: str) -> str:
    """A class's name, with its module where another optimizer is called the same."""
    short = qualified.rpartition(".")[2]
    alike = {name for name in (qualified, *_known_names()) if name.rpartition(".")[2] == short}
    return qualified if len(alike) > 1 else short


def scale_state(optimizer: Optimizer, parameter: Tensor, share: float) -> None:
    """Bring the state of a parameter to where it would be if its gradients had been ``share`` of what they were.

    Raises:
        ValueError: state that is not described.
    """
    follows = described(optimizer)
    for key, value in optimizer.state.get(parameter, {}).items():
        if key not in follows:
            name = _shown(_qualified(type(optimizer)))
            raise ValueError(f"{name}: state {key!r} is not described; see sat.register_optimizer")
        kind = follows[key]
        if isinstance(kind, Elementwise | Reduced) and isinstance(value, Tensor):
            value.mul_(share**kind.power)


def state_cuts(key: str, value: Any, parameter: Tensor, cuts: Sequence[Cut], optimizer: Optimizer) -> tuple[Cut, ...]:
    """Where the units of ``parameter``, cut at ``cuts``, lie in its state ``value``; empty where it is not cut.

    Raises:
        ValueError: the state is not described, or has not the shape of its description.
    """
    if not isinstance(value, Tensor) or value.numel() == 1 < parameter.numel():
        return ()
    follows = described(optimizer).get(key)
    if isinstance(follows, PerTensor):
        return ()
    found = tuple(cuts)
    shape: list[tuple[int, ...]] = [tuple(parameter.shape)]
    if isinstance(follows, Reduced):
        over = follows.dim % parameter.dim()
        gone = value.dim() < parameter.dim()
        left = [cut for cut in cuts if cut.dim != over]
        found = tuple(replace(cut, dim=cut.dim - 1) if gone and cut.dim > over else cut for cut in left)
        sizes = tuple(parameter.shape)
        shape = [sizes[:over] + sizes[over + 1 :], (*sizes[:over], 1, *sizes[over + 1 :])]
    if follows is None or tuple(value.shape) not in shape:
        raise ValueError(
            f"{_shown(_qualified(type(optimizer)))}: state {key!r} of {cuts[0].name} has shape {tuple(value.shape)}, "
            f"the parameter {tuple(parameter.shape)}, and its description is {follows}; axis 'width' must know how it "
            "follows the parameter (sat.register_optimizer), or use axis 'depth'"
        )
    return found


def overflowed(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler called an optimizer for a step that must not be taken.

    It calls fused optimizers always, and their kernels leave the step out where ``found_inf`` is not zero.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def gradient_scale(optimizer: Optimizer) -> float:
    """By how much gradients are too large during the step: a scaler leaves it to fused optimizers to unscale them."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


class StepWatch:
    """Whether the optimizer has stepped since it was last asked.

    Gradient scalers leave steps out whose gradients overflow, and wrappers that accumulate gradients call the
    optimizer every few batches only; neither tells the loop.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._stepped = False
        self._handle = optimizer.register_step_post_hook(self._note)

    def taken(self) -> bool:
        """Whether a step was taken since the last call."""
        stepped, self._stepped = self._stepped, False
        return stepped

    def remove(self) -> None:
        """Stop watching."""
        self._handle.remove()

    def _note(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped = self._stepped or not overflowed(optimizer)
