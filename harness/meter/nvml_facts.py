"""What a sceptic wants to know of a card: its identity and its modes, each as read or said to be not readable."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.meter.nvml_cards import text

UPDATE_PERIOD_S = 0.1
"""The slowest refresh seen of counter and sensor (20 to 100 ms, Yang, Adamek and Armour, SC24), of any card."""
_GRAPHICS, _MEMORY = 0, 2  # nvmlClockType_t


@dataclass(frozen=True, slots=True)
class Look:
    """How often, and how long of each period, a card's power sensor looks at its load."""

    period_s: float
    look_s: float
    published: bool = True  # for this very card


_LOOKS: tuple[tuple[str, Look], ...] = (
    (r"\bH100 PCIe\b", Look(0.1, 0.0226)),
    (r"\bA100\b.*\b80GB\b", Look(0.1, 0.0243)),
    (r"\bA100\b.*\b40GB\b", Look(0.1, 0.0187)),
    (r"\bV100\b", Look(0.02, 0.0106)),
)
"""By the name that NVML gives (Yang, Adamek and Armour, SC24, arXiv 2312.02741)."""
_ELSE = Look(UPDATE_PERIOD_S, 0.025, published=False)
"""Any other card, an H100 SXM for one, is not in the source: taken for a sensor like those of A100 and H100, so
that no check for aliasing is left out for want of a number."""


def look_of(names: list[str]) -> Look:
    """The power sensors of these cards, as published for the one kind that they are of."""
    looks = {next((look for pattern, look in _LOOKS if re.search(pattern, name)), _ELSE) for name in names}
    return looks.pop() if len(looks) == 1 else _ELSE


def look_note(look: Look) -> str:
    """What was assumed of the sensor, for people."""
    taken = (
        f"counter and sensor are taken to be refreshed every {look.period_s * 1e3:g} ms, of which the power sensor "
        f"looks {look.look_s * 1e3:g} ms"
    )
    if look.published:
        return f"{taken} (Yang, Adamek and Armour, SC24)"
    return f"{taken}: of this kind of card nobody has published it, so it is taken for like A100 and H100"


def facts_of(nvml: Any, handle: Any) -> str:
    """Identity and modes of a card in one line."""

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except (AttributeError, nvml.NVMLError):
            return None

    def fact(name: str, value: Any, show: Callable[[Any], str]) -> str:
        return f"{name} {'not readable' if value is None else show(value)}"

    clocks = [ask("nvmlDeviceGetApplicationsClock", kind) for kind in (_GRAPHICS, _MEMORY)]
    highest = [ask("nvmlDeviceGetMaxClockInfo", kind) for kind in (_GRAPHICS, _MEMORY)]
    return ", ".join(
        [
            fact("part", ask("nvmlDeviceGetBoardPartNumber"), text),
            fact("PCI", ask("nvmlDeviceGetPciInfo"), lambda info: text(info.busId)),
            fact("VBIOS", ask("nvmlDeviceGetVbiosVersion"), text),
            fact("ECC", ask("nvmlDeviceGetEccMode"), lambda modes: _switch(modes[0])),
            fact("MIG", ask("nvmlDeviceGetMigMode"), lambda modes: _switch(modes[0])),
            fact("persistence mode", ask("nvmlDeviceGetPersistenceMode"), _switch),
            fact("power limit", ask("nvmlDeviceGetEnforcedPowerLimit"), _watts),
            fact("by default", ask("nvmlDeviceGetPowerManagementDefaultLimit"), _watts),
            fact("application clocks", None if None in clocks else clocks, _clocks),
            fact("highest clocks", None if None in highest else highest, _clocks),
        ]
    )


def _switch(state: int) -> str:
    return "on" if state else "off"


def _watts(milliwatts: int) -> str:
    return f"{milliwatts / 1000:g} W"


def _clocks(pair: list[int]) -> str:
    return f"{pair[0]} MHz and memory {pair[1]} MHz"
