"""A linear projection, whichever way its weight lies: ``nn.Linear``, or the transposed ``Conv1D`` of GPT-2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sat.structure import Count, Cut, Gate


class MissingError(ValueError):
    """What was looked for, and that it is not there."""


@dataclass(frozen=True, eq=False)
class Projection:
    """A module with a weight of two dimensions and perhaps a bias; ``name`` is its own in the model."""

    module: nn.Module
    name: str
    out_dim: int  # of the weight
    in_dim: int
    out_attribute: str  # of the module: number of features it writes
    in_attribute: str

    @property
    def out_features(self) -> int:
        """Features that it writes."""
        return int(getattr(self.module, self.out_attribute))

    @property
    def in_features(self) -> int:
        """Features that it reads."""
        return int(getattr(self.module, self.in_attribute))

    def writes(self, size: int | tuple[int, ...]) -> list[Cut]:
        """Cuts where the features it writes belong to units."""
        cuts = [Cut(f"{self.name}.weight", self.module, "weight", self.out_dim, size)]
        if getattr(self.module, "bias", None) is not None:
            cuts.append(Cut(f"{self.name}.bias", self.module, "bias", 0, size))
        return cuts

    def reads(self, size: int) -> Cut:
        """The cut where the features it reads belong to units: it writes their result. Its bias is always active."""
        return Cut(f"{self.name}.weight", self.module, "weight", self.in_dim, size, output=True)

    def out_count(self, size: int | tuple[int, ...]) -> Count:
        """The number of features it writes follows the units."""
        return Count(self.module, self.out_attribute, sum(size) if isinstance(size, tuple) else size)

    def in_count(self, size: int) -> Count:
        """The number of features it reads follows the units."""
        return Count(self.module, self.in_attribute, size)

    def gate(self, size: int) -> Gate:
        """Where the gates of the units stand whose features it reads."""
        return Gate(self.module, size)


def projection(layer: nn.Module, name: str, path: str) -> Projection:
    """The projection at ``path`` in ``layer``, which is called ``name`` in the model.

    Raises:
        MissingError: there is none.
    """
    try:
        module = layer.get_submodule(path)
    except AttributeError:
        module = nn.Identity()
    full = f"{name}.{path}"
    if isinstance(module, nn.Linear):
        return Projection(module, full, 0, 1, "out_features", "in_features")
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "nx"):
        return Projection(module, full, 1, 0, "nf", "nx")  # transformers': weight of shape (in, out)
    raise MissingError(f"nn.Linear '{full}': not there")
