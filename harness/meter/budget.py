"""The uncertainty budget of an energy: its parts, what kind each is, and how they add. Pure.

After GUM (JCGM 100:2008): every part is one standard deviation in joules; *type A* comes from the spread of
the run's own readings, *type B* from what is known of the instrument. Parts are independent of each other and
combine in quadrature (5.1.2); the expanded uncertainty is twice that (coverage factor 2 for about 95 %,
6.3.3). Over windows and devices a part adds linearly where it has one cause for all of them
(:data:`SYSTEMATIC`), else in quadrature.

==================== ==== =====================================================================================
part                 type one standard deviation
==================== ==== =====================================================================================
sensor gain          B    ``joules x gain_error`` of the channel; one card, one gain: it cancels in pairs
watts per core       B    the same of a model
edges                B    counter: ``Track.edge_sd_j``, interpolation between two updates and where in their
                          brackets the updates lie; mean power: ``range x averaging window / sqrt(3)`` an edge
quantum              B    ``quantum / sqrt(12)`` an edge of an energy counter; ticks of CPU seconds are in edges
sampling             A    ``Track.look_sd_j``: the sensor looks only part of the time, and from one look to the
                          next the load changes; nothing public says that a counter does better than its sensor
aliasing             B    ``joules x`` what ``aliasing.check`` says of the steps, where they are known
channel disagreement B    the truth uniform between the two channels: ``|second - first| / sqrt(3)``
clock                B    integrals of power: the monotonic clock's rate, :data:`CLOCK_RATE` uniform
unobserved           B    what was filled in for time that nobody watched, in full
==================== ==== =====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

GAIN, MODEL, EDGES, QUANTUM = "sensor gain", "watts per core", "edges", "quantum"
SAMPLING, ALIASING, DISAGREEMENT = "sampling", "aliasing", "channel disagreement"
CLOCK, UNOBSERVED = "clock", "unobserved"

SYSTEMATIC = frozenset({GAIN, MODEL, ALIASING, CLOCK, UNOBSERVED})
"""Parts that add linearly over windows and devices; the others add in quadrature."""
CLOCK_RATE = 500e-6
"""Largest rate by which NTP may slew a Linux clock (``adjtimex``, MAXFREQ), above any crystal's own error."""


def combined_j(parts: Mapping[str, float], without: Sequence[str] = ()) -> float:
    """Combined standard uncertainty: the root of the sum of squares, ``without`` some parts."""
    return math.hypot(*(value for name, value in parts.items() if name not in without))


def add(part: str, values: Sequence[float]) -> float:
    """One part over several windows or devices."""
    return math.fsum(values) if part in SYSTEMATIC else math.hypot(*values)
