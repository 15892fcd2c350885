"""Saving and resuming, bit for bit.

The state holds model and optimizer in their plain, full shape (so a dense training can load them too), and
what only SAT knows: active sets, history, scores, gates on their way, the place in the schedule. Random draws
need no state: they are derived from the seed and the step.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from sat.tally import Tally

if TYPE_CHECKING:
    from sat.controller import Controller

VERSION = 2


def save(controller: Controller) -> dict[str, Any]:
    """Everything a resume needs; tensors are copies. Learning-rate schedule and torch's generators are the loop's."""
    with controller.plain():
        model = {name: value.detach().clone() for name, value in controller.model.state_dict().items()}
        optimizer = copy.deepcopy(controller.optimizer.state_dict()) if controller.optimizer is not None else None
    return {**save_progress(controller), "model": model, "optimizer": optimizer}


def save_progress(controller: Controller) -> dict[str, Any]:
    """What only SAT knows, in plain values, for where something else keeps the plain model and optimizer."""
    return {
        "version": VERSION,
        "config": controller.config.to_dict(),
        "total_steps": controller.total_steps,
        **controller.progress(),
        "seconds": controller.seconds(),
    }


def load(controller: Controller, state: dict[str, Any]) -> None:
    """Bring a freshly sparsified model (same configuration, same optimizer class) to the saved point.

    Raises:
        ValueError: the state is of another version, configuration, length or structure; the text says which.
    """
    check(controller, state)
    if (state["optimizer"] is None) != (controller.optimizer is None):
        raise ValueError("this SAT state and the controller must both have an optimizer, or neither")
    controller.ramp.stop()
    for part in controller.parts:
        part.switch(tuple(range(part.units)))
    controller.model.load_state_dict(state["model"])
    if controller.optimizer is not None:
        controller.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    _resume(controller, state)


def load_progress(controller: Controller, state: dict[str, Any]) -> None:
    """Go on from :func:`save_progress` with the plain model and optimizer as they are: loaded by someone else.

    Raises:
        ValueError: as :func:`load`.
    """
    check(controller, state)
    controller.ramp.stop()
    for part in controller.parts:
        part.switch(tuple(range(part.units)))
    _resume(controller, state)


def check(controller: Controller, state: dict[str, Any]) -> None:
    """Raises ValueError: the state is of another version, configuration, length or structure."""
    for what, ours in (
        ("version", VERSION),
        ("config", controller.config.to_dict()),
        ("total_steps", controller.total_steps),
    ):
        if state.get(what) != ours:
            raise ValueError(f"this SAT state can't be resumed here: its {what} is {state.get(what)!r}, ours {ours!r}")
    ours_units = {part.name: part.units for part in controller.parts}
    theirs_units = {name: len(part["waiting"]) for name, part in state["parts"].items()}
    if ours_units != theirs_units:
        raise ValueError(
            f"this SAT state is of another model: units by part are {theirs_units} there and {ours_units} here"
        )


def _resume(controller: Controller, state: dict[str, Any]) -> None:
    for part in controller.parts:
        part.switch(tuple(state["parts"][part.name]["active"]))
    controller.resume(state, Tally(**state["tally"]))
