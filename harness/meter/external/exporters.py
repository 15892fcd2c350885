"""Metrics of exporters that are known by name, the best of each machine first."""

from __future__ import annotations

from typing import NamedTuple

from harness.meter.base import Quantity
from harness.meter.external.units import Unit


class Known(NamedTuple):
    """A metric, and how its series are told apart: one device for each value of ``device_label``."""

    metric: str
    unit: Unit
    scope: str
    device_label: str = ""  # empty: one device
    zone_label: str = ""  # its value is part of the scope: series of unlike scopes are never added
    sum: bool = False  # series that differ in other labels are parts of one number


_J, _MJ, _W = Unit(Quantity.ENERGY_J, 1.0), Unit(Quantity.ENERGY_J, 1e-3), Unit(Quantity.POWER_W, 1.0)
_MEAN_W = Unit(Quantity.POWER_MEAN_W, 1.0)

KNOWN = (
    # DCGM exporter (fields 156, 157, 155 of DCGM): energy since driver load, instant power, mean power.
    Known("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", _MJ, "gpu by DCGM", "UUID"),
    Known("DCGM_FI_DEV_POWER_USAGE_INSTANT", _W, "gpu by DCGM", "UUID"),
    Known("DCGM_FI_DEV_POWER_USAGE", _MEAN_W, "gpu by DCGM", "UUID"),
    # Kepler up to 0.9: counters split by mode (idle, dynamic).
    Known("kepler_node_platform_joules_total", _J, "node by Kepler", sum=True),
    Known("kepler_node_package_joules_total", _J, "packages by Kepler", "package", sum=True),
    Known("kepler_node_dram_joules_total", _J, "memory by Kepler", "package", sum=True),
    # Kepler from 0.10 on: one counter for each RAPL zone.
    Known("kepler_node_cpu_joules_total", _J, "by Kepler", "path", "zone"),
    # node_exporter's RAPL, IPMI exporter.
    Known("node_rapl_package_joules_total", _J, "packages by node_exporter", "index"),
    Known("node_rapl_dram_joules_total", _J, "memory by node_exporter", "index"),
    Known("ipmi_dcmi_power_consumption_watts", _MEAN_W, "node by IPMI"),
)
