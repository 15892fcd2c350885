"""How units are really switched: one class per kind of execution, all with the face of :class:`Part`."""

from sat.parts.backward import BypassedLayers
from sat.parts.base import Part, Scaled
from sat.parts.layers import FrozenLayers, SkippedLayers
from sat.parts.prefix import FrozenPrefix
from sat.parts.width import CompactSite

__all__ = ["BypassedLayers", "CompactSite", "FrozenLayers", "FrozenPrefix", "Part", "Scaled", "SkippedLayers"]
