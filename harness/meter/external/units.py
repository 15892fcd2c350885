"""Units of power and energy as column headings and metric names spell them."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.meter.base import Quantity


class Unit(NamedTuple):
    """What a number is and the factor that makes it watts or joules."""

    quantity: Quantity
    factor: float


_POWER, _ENERGY = Quantity.POWER_W, Quantity.ENERGY_J
_SYMBOLS = {
    "W": Unit(_POWER, 1.0),
    "kW": Unit(_POWER, 1e3),
    "MW": Unit(_POWER, 1e6),
    "mW": Unit(_POWER, 1e-3),
    "J": Unit(_ENERGY, 1.0),
    "kJ": Unit(_ENERGY, 1e3),
    "MJ": Unit(_ENERGY, 1e6),
    "mJ": Unit(_ENERGY, 1e-3),
    "uJ": Unit(_ENERGY, 1e-6),
    "Wh": Unit(_ENERGY, 3600.0),
    "kWh": Unit(_ENERGY, 3.6e6),
    "MWh": Unit(_ENERGY, 3.6e9),
    "mWh": Unit(_ENERGY, 3.6),
}
_PREFIXES = {"": 1.0, "kilo": 1e3, "mega": 1e6, "milli": 1e-3, "micro": 1e-6}
_WORDS = {
    f"{prefix}{word}{plural}": Unit(unit.quantity, unit.factor * factor)
    for prefix, factor in _PREFIXES.items()
    for word, unit in {"watt": _SYMBOLS["W"], "joule": _SYMBOLS["J"], "watthour": _SYMBOLS["Wh"]}.items()
    for plural in ("", "s")
}
AMBIGUOUS = {"mw", "mj", "mwh"}
"""Milli or mega: only their spelling with a capital tells."""
_FOLDED = {symbol.lower(): unit for symbol, unit in _SYMBOLS.items() if symbol.lower() not in AMBIGUOUS}
KNOWN = ", ".join([*_SYMBOLS, "watts", "joules", "watthours (with kilo, mega, milli, micro)"])


def unit_of(text: str) -> Unit | None:
    """The unit that a text spells, or ``None``. ``mw``, ``mj`` and ``mwh`` in small letters spell none."""
    folded = text.lower().replace("-", "").replace("_", "").replace(" ", "")
    return _SYMBOLS.get(text.replace("µ", "u")) or _WORDS.get(folded) or _FOLDED.get(folded)


def unit_in(name: str) -> Unit | None:
    """The last unit named within a column heading or a metric's name, e.g. ``power_w``, ``Energy [kWh]``."""
    words = re.findall(r"[A-Za-zµ]+", name)
    for last in range(len(words), 0, -1):
        for first in (last - 2, last - 1):  # "watt hours" before "hours"
            unit = unit_of("".join(words[first:last])) if first >= 0 else None
            if unit is not None:
                return unit
    return None
