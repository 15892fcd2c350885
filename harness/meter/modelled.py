"""CPU energy by a model: CPU seconds of the process tree times watts per core. Never a measurement.

Watts per core come from the CPU table that CodeCarbon ships (``data/hardware/cpu_power.csv``: name, thermal
design power of the whole package). The table is read as a file, so CodeCarbon's trackers are never imported.
It gives watts of a package, so watts per core are to be had only where the machine shows the whole package.
Everywhere else CodeCarbon's own constant for a CPU it does not know is taken, and the record says so.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.meter.base import Channel, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.meter.proctree import TreeClock
from harness.types import Basis, UserError

WATTS_PER_UNKNOWN_CORE = 4.0
"""``DEFAULT_POWER_PER_CORE`` in ``codecarbon/core/cpu.py``, watts per logical CPU of an unknown model."""
TABLE_GAIN_ERROR = 0.3
"""Thermal design power against real power under load, one relative standard deviation: a judgement."""
CONSTANT_GAIN_ERROR = 0.5
"""The constant against the table: EPYC parts lie between about 2 and 8 W per logical CPU, 4 is inside."""

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class CpuModel:
    """Watts of one busy logical CPU, and where the number is from."""

    watts_per_core: float
    gain_error: float
    source: str
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cpu:
    """What the kernel says of the processor."""

    name: str
    logical: int  # logical CPUs of the machine
    sockets: int
    virtual: bool  # inside a virtual machine, which may see a part of the package


class ModelledCpuMeter(Meter):
    """CPU seconds of a process tree, with a channel that says how many watts each is worth.

    ``watts_per_core`` overrides the table; it is recorded as an assumption of the user's.
    """

    name = "modelled"
    basis = Basis.MODELLED
    covers = frozenset({"cpu"})

    def __init__(self, watts_per_core: float | None = None) -> None:
        if watts_per_core is not None and not 0 < watts_per_core < 1000:
            raise UserError(f"watts_per_core must lie between 0 and 1000, not {watts_per_core}")
        self._override = watts_per_core
        self._clock: TreeClock | None = None

    @classmethod
    def available(cls) -> str | None:
        """Needs Linux's ``/proc``."""
        return None if Path("/proc/self/stat").exists() else "needs Linux: process times are read from /proc"

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Follow ``pid``'s tree; without one there is nothing to follow and every reading is missing.

        Raises:
            UserError: no such process.
        """
        assumptions: tuple[str, ...] = (
            "modelled, not measured: CPU seconds of the process tree x watts per core; "
            "memory, idle power and clock frequency are not in it",
        )
        if pid is not None:
            self._clock = TreeClock(pid)
            if self._clock.read_ns() is None:
                raise UserError(f"modelled CPU meter: there is no process {pid}")
        if self._override is None:
            model = model_here()
        else:
            model = CpuModel(
                self._override, CONSTANT_GAIN_ERROR, "given watts per core", ("watts per core were given",)
            )
        channel = Channel(
            name="cpu/seconds",
            quantity=Quantity.CPU_S,
            device="cpu",
            scope="process tree",
            basis=Basis.MODELLED,
            scale=model.watts_per_core,
            quantum=1e-6,
            gain_error=model.gain_error,
        )
        return MeterInfo(
            name=self.name,
            basis=Basis.MODELLED,
            source=model.source,
            channels=(channel,),
            assumptions=assumptions + model.assumptions,
        )

    def read(self) -> list[Sample]:
        """CPU seconds used so far, in whole microseconds."""
        at_ns = read_ns()
        if self._clock is None:
            return [Sample(0, at_ns, ReadStatus.MISSING)]
        used_ns = self._clock.read_ns()
        if used_ns is None:
            return [Sample(0, at_ns, ReadStatus.LOST)]
        return [Sample(0, at_ns, ReadStatus.OK, used_ns // 1000 * 1e-6)]


@cache
def model_here() -> CpuModel:
    """Watts per logical CPU of this machine; looked up once."""
    return model_of(cpu_of(_CPUINFO.read_text(errors="replace")), *cpu_table())


def model_of(cpu: Cpu, table: dict[str, float], table_name: str) -> CpuModel:
    """Watts per logical CPU of a processor.

    The table's package power is divided by the logical CPUs of a package, which only the bare machine shows.
    An unknown or generic name, and a virtual machine, get CodeCarbon's constant for unknown processors.
    """
    entry = find(cpu.name, table)
    if entry is not None and not cpu.virtual:
        threads = cpu.logical / cpu.sockets
        watts = table[entry] / threads
        return CpuModel(
            watts,
            TABLE_GAIN_ERROR,
            f"{table_name}: {entry}",
            (
                f"{table[entry]:g} W thermal design power of {entry!r} over {threads:g} logical CPUs = "
                f"{watts:.3g} W per core",
            ),
        )
    name = cpu.name or "no name"
    if entry is None:
        why = f"the processor calls itself {name!r}, which is not in the table"
    else:
        why = (
            f"{entry!r} is in the table at {table[entry]:g} W, but this is a virtual machine with "
            f"{cpu.logical} logical CPUs of it and the table does not say how many the whole has"
        )
    return CpuModel(
        WATTS_PER_UNKNOWN_CORE,
        CONSTANT_GAIN_ERROR,
        f"{table_name}: constant for unknown processors",
        (f"{WATTS_PER_UNKNOWN_CORE:g} W per core, CodeCarbon's constant for unknown processors, because {why}",),
    )


def find(name: str, table: dict[str, float]) -> str | None:
    """The table's entry for a processor name, or ``None``.

    All words of the entry must stand in the name one after the other, and one must hold a digit: a generic
    name such as "AMD EPYC" is no entry. Of several the longest wins; of equally long ones none, unless they
    agree on the watts.
    """
    words = _words(name)
    hits: dict[str, int] = {}
    for entry in table:
        wanted = _words(entry)
        long_enough = len(wanted) >= 2 and any(character.isdigit() for character in "".join(wanted))
        if long_enough and any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1)):
            hits[entry] = len(wanted)
    best = [entry for entry, length in hits.items() if length == max(hits.values())]
    return best[0] if best and len({table[entry] for entry in best}) == 1 else None


def cpu_of(cpuinfo: str) -> Cpu:
    """The processor by the text of ``/proc/cpuinfo``."""

    def values(key: str) -> list[str]:
        return re.findall(rf"^{key}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)

    names = values("model name") or values("Model") or [""]
    return Cpu(
        name=names[0].strip(),
        logical=len(values("processor")) or os.cpu_count() or 1,
        sockets=len(set(values("physical id"))) or 1,
        virtual=any("hypervisor" in flags.split() for flags in values("flags")),
    )


def cpu_table() -> tuple[dict[str, float], str]:
    """CodeCarbon's CPU table, name to watts, and its name with the version; the package is not imported.

    Raises:
        UserError: CodeCarbon is not installed or has no such table.
    """
    spec = importlib.util.find_spec("codecarbon")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / "data" / "hardware" / "cpu_power.csv"
        if path.is_file():
            table: dict[str, float] = {}
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    # A few rows hold no number ("27.29.5"); of a name that stands twice the first counts, as
                    # in CodeCarbon.
                    if re.fullmatch(r"\d+(\.\d+)?", row["TDP"].strip()):
                        table.setdefault(row["Name"], float(row["TDP"]))
            return table, f"CodeCarbon {importlib.metadata.version('codecarbon')} CPU table"
    raise UserError("the modelled CPU meter needs CodeCarbon's CPU table: pip install 'codecarbon>=3.3.2'")


def _words(name: str) -> list[str]:
    name = re.sub(r"\((R|TM)\)|[®™]", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"@.*$|\bCPU\b", " ", name)
    return name.casefold().split()
