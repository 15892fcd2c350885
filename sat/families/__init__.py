"""Finding the structure of a model: one small file per family. A model may hold stacks of several families.

A finder returns the :class:`~sat.structure.Structure` it knows, or a line that says what it looked for and missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from sat.families.bert import find_bert
from sat.families.clip import find_clip
from sat.families.gpt2 import find_gpt2
from sat.families.llama import find_llama
from sat.families.marian import find_marian
from sat.families.resnet import find_resnet
from sat.families.t5 import find_t5
from sat.families.vit import find_vit
from sat.naming import Layers, structure_of
from sat.projection import MissingError
from sat.structure import Structure

FAMILIES: dict[str, Callable[[nn.Module], Structure | str]] = {
    "llama": find_llama,
    "gpt2": find_gpt2,
    "bert": find_bert,
    "vit": find_vit,
    "clip": find_clip,
    "marian": find_marian,
    "t5": find_t5,
    "resnet": find_resnet,
}
"""Finders by family; a new family is one file and one line here."""

Described = Structure | Sequence[Layers]
"""How a user describes a model: in full, or by the names of its lists of layers."""


class UnknownStructureError(ValueError):
    """No family knows the model; the text lists what was looked for."""


def find_structure(model: nn.Module, described: Described | None = None) -> Structure:
    """The structure of ``model``: as ``described``, else by its method ``sat_structure``, else by the families.

    Raises:
        UnknownStructureError: no finder knows it, or what is named is not there.
    """
    if described is not None:
        return _checked(model, described, "structure")
    own = getattr(model, "sat_structure", None)
    if own is not None:
        return _checked(model, own() if callable(own) else own, f"{type(model).__name__}.sat_structure")
    looked = {family: find(model) for family, find in FAMILIES.items()}
    found = [each for each in looked.values() if isinstance(each, Structure)]
    if found:
        return Structure(
            "+".join(each.family for each in found),
            tuple(stack for each in found for stack in each.stacks),
            tuple(site for each in found for site in each.parts),
        )
    missed = "\n".join(f"  {family}: {text}" for family, text in looked.items())
    raise UnknownStructureError(
        f"{type(model).__name__}: no known structure to switch. Looked for:\n{missed}\n"
        "  own: a method sat_structure() on the model that returns a sat.Structure\n"
        "Name your own sites, e.g. structure=[sat.Layers('blocks', sat.MLP(inputs=['up'], output='down'))] in "
        "sat.sparsify_ or sat.sites (docs/sat-models.md), give the model that method, or add a finder in sat/families/."
    )


def _checked(model: nn.Module, described: object, where: str) -> Structure:
    if isinstance(described, Structure):
        return described
    if isinstance(described, list | tuple) and all(isinstance(each, Layers) for each in described):
        try:
            return structure_of(model, described)
        except MissingError as error:
            raise UnknownStructureError(f"{type(model).__name__}: {where}: looked for {error}") from None
    verb = "be" if where == "structure" else "return"
    raise UnknownStructureError(f"{where} must {verb} a sat.Structure or a list of sat.Layers, not {described!r:.80}")
