"""Finding the structure of a model: one small file per family, tried in turn.

A finder returns the :class:`~sat.structure.Structure`, or a line that says what it looked for and missed.
A model of one's own names its sites with a method ``sat_structure(self) -> sat.Structure``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sat.families.llama import find_llama
from sat.structure import SiteInfo, Structure, describe

FAMILIES: dict[str, Callable[[nn.Module], Structure | str]] = {"llama": find_llama}
"""Finders by family; a new family is one file and one line here."""


class UnknownStructureError(ValueError):
    """No family knows the model; the text lists what was looked for."""


def find_structure(model: nn.Module) -> Structure:
    """The structure of ``model``.

    Raises:
        UnknownStructureError: no finder knows it and it has no method ``sat_structure``.
    """
    own = getattr(model, "sat_structure", None)
    if own is not None:
        structure = own() if callable(own) else own
        if not isinstance(structure, Structure):
            raise UnknownStructureError(
                f"{type(model).__name__}.sat_structure must return a sat.Structure, not {type(structure).__name__}"
            )
        return structure
    missed = []
    for family, find in FAMILIES.items():
        found = find(model)
        if isinstance(found, Structure):
            return found
        missed.append(f"  {family}: {found}")
    raise UnknownStructureError(
        f"{type(model).__name__}: no known structure to switch. Looked for:\n"
        + "\n".join(missed)
        + "\n  own: a method sat_structure() on the model that returns a sat.Structure\n"
        "Give the model that method, or add a finder in sat/families/."
    )


def sites(model: nn.Module) -> list[SiteInfo]:
    """What can be switched in ``model`` (in its full shape), with the cost of a unit in FLOPs per token.

    Raises:
        UnknownStructureError: as :func:`find_structure`.
    """
    return describe(find_structure(model))
