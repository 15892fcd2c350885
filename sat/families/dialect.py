"""What families of transformers differ in: how the list of layers and the projections are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from sat.naming import MLP, Attention, Layers, structure_of
from sat.projection import MissingError
from sat.structure import Structure

Container = nn.ModuleList | nn.Sequential

CONFIG_FIELDS = ("num_hidden_layers",)


@dataclass(frozen=True)
class Dialect:
    """A family that is known by its names, wherever in a model its lists of layers are.

    ``identity`` is False where a norm follows the residual sum. ``config_fields`` may depend on the layer.
    """

    family: str
    attribute: str  # of the list
    sites: tuple[Attention | MLP, ...]
    identity: bool = True
    config_fields: Callable[[nn.Module], tuple[str, ...]] = lambda layer: CONFIG_FIELDS

    def __call__(self, model: nn.Module) -> Structure | str:
        """The structure of ``model``: all lists of this family; or what was looked for and missed.

        A list that fits in part is no list of this family.
        """
        lists = dict(lists_called(model, self.attribute))
        if not lists:
            needed = [site for site in self.sites if not (isinstance(site, Attention) and site.optional)]
            names = ", ".join(name for site in needed for name in site.names())
            return f"an nn.ModuleList '{self.attribute}' of layers with {names}: not there"
        found, missed = [], []
        for path, layers in lists.items():
            named = Layers(path, *self.sites, identity=self.identity, config_fields=self.config_fields(layers[0]))
            try:
                named.find(model)
                found.append(named)
            except MissingError as error:
                missed.append(str(error))
        return structure_of(model, found, self.family) if found else missed[0]


def lists_called(model: nn.Module, attribute: str) -> Iterator[tuple[str, Container]]:
    """Non-empty lists of modules that are called so, with their path in the model."""
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == attribute and isinstance(module, nn.ModuleList | nn.Sequential) and len(module):
            yield path, module
