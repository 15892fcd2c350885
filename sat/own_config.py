"""Configurations that follow a model's layers are the model's own: another model may have been built from the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from sat.structure import Structure


def with_own_config(model: nn.Module, structure: Structure) -> Structure:
    """Give ``model`` a copy of each configuration that its stacks change (and of those that hold one).

    ``transformers`` models read the number of their layers from ``config``, and models built from one configuration
    share the object: a teacher, say, would lose its upper layers when its student does.

    Returns:
        The structure, whose stacks have the copies.
    """
    changed = {id(stack.config) for stack in structure.stacks if stack.config is not None}
    copies: dict[int, Any] = {}
    for module in model.modules():
        config = vars(module).get("config")
        if config is not None and (id(config) in changed or not changed.isdisjoint(map(id, _inside(config)))):
            module.config = copy.deepcopy(config, copies)
    stacks = tuple(replace(stack, config=copies.get(id(stack.config), stack.config)) for stack in structure.stacks)
    return replace(structure, stacks=stacks)


def _inside(config: object) -> list[object]:
    """Configurations of a model's parts, in that of the whole."""
    return list(getattr(config, "__dict__", {}).values())
