"""RAPL: the energy counters of CPU packages and memory that Linux shows under ``/sys/class/powercap``.

Packages and DRAM are summed. ``psys`` covers the whole platform, packages included, and is left out; ``core``
and ``uncore`` are parts of a package; ``intel-rapl-mmio`` repeats ``intel-rapl`` over another bus; on
multi-die AMD parts one counter may show under several dies, and is counted once. A counter starts again at
``max_energy_range_uj``; where that can't be read, the interval of the wrap is missing.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from harness.meter.base import Channel, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.types import Basis, UserError

ROOT = Path("/sys/class/powercap")
PACKAGE_GAIN_ERROR = 0.05
"""One standard deviation, relative: Khan et al., RAPL in Action (ACM TOMPECS 3(2), 2018)."""
DRAM_GAIN_ERROR = 0.2
"""Desrochers, Paradis and Weaver, A Validation of DRAM RAPL Power Measurements (MEMSYS 2016)."""
UPDATE_PERIOD_S = 0.001
"""RAPL counters are refreshed about once a millisecond (Intel SDM volume 3, chapter on power management)."""

REMEDY = (
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj   (until the next boot; for good: a udev rule "
    'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj" '
    "in /etc/udev/rules.d/70-rapl.rules)"
)


@dataclass(frozen=True, slots=True)
class Domain:
    """One counter of the powercap tree."""

    name: str  # "package-0", "dram-0"
    folder: Path
    wrap_at_j: float | None

    @property
    def file(self) -> Path:
        """The counter, in microjoules."""
        return self.folder / "energy_uj"


class RaplMeter(Meter):
    """All packages of the machine with their memory; the process is not told apart from its neighbours."""

    name = "rapl"
    covers = frozenset({"cpu"})
    calibrates = True

    def __init__(self, root: str | Path = ROOT) -> None:
        self._root = Path(root)
        self._files: list[int | None] = []
        self._domains: list[Domain] = []

    @classmethod
    def available(cls) -> str | None:
        """What is missing on this machine."""
        return missing(ROOT)

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Open every counter once; ``pid`` and ``device`` play no part.

        Raises:
            UserError: no counter, or none that may be read.
        """
        problem = missing(self._root)
        if problem:
            raise UserError(problem)
        every = domains(self._root)
        mirrors = mirrored(every)
        self._domains = [domain for domain in every if domain.name not in mirrors]
        self._files = [_open(domain.file) for domain in self._domains]
        has_dram = any(domain.name.startswith("dram") for domain in self._domains)
        scope = "packages and memory" if has_dram else "packages"
        assumptions = [f"covers {scope} of the whole machine, whatever else runs on it"]
        if not has_dram:
            assumptions.append("this machine shows no DRAM counter: memory is not in the figure")
        assumptions += [f"{name} repeats the counter of {first} and is left out" for name, first in mirrors.items()]
        assumptions += [
            f"{domain.name}: max_energy_range_uj can't be read, the interval of a wrap-around is missing"
            for domain in self._domains
            if domain.wrap_at_j is None
        ]
        return MeterInfo(
            name=self.name,
            basis=Basis.MEASURED,
            source=f"RAPL ({', '.join(domain.name for domain in self._domains)})",
            channels=tuple(_channel(domain, scope) for domain in self._domains),
            assumptions=tuple(assumptions),
            update_period_s=UPDATE_PERIOD_S,
        )

    def read(self) -> list[Sample]:
        """Every counter in joules."""
        at_ns = read_ns()
        return [self._sample(index, at_ns) for index in range(len(self._domains))]

    def close(self) -> None:
        """Close the counters."""
        for file in self._files:
            if file is not None:
                os.close(file)
        self._files = []

    def _sample(self, index: int, at_ns: int) -> Sample:
        file = self._files[index]
        if file is None:
            return Sample(index, at_ns, ReadStatus.DENIED)
        try:
            return Sample(index, at_ns, ReadStatus.OK, int(os.pread(file, 32, 0)) * 1e-6)
        except PermissionError:
            return Sample(index, at_ns, ReadStatus.DENIED)
        except (OSError, ValueError):
            return Sample(index, at_ns, ReadStatus.MISSING)


def missing(root: Path) -> str | None:
    """Why RAPL can't be used under ``root``, and what to do; ``None`` if it can."""
    if not root.is_dir():
        return f"no RAPL: {root} does not exist (virtual machines have none; on bare metal: modprobe intel_rapl_msr)"
    found = domains(root)
    if not found:
        return f"no RAPL: {root} has no package domain (on bare metal: modprobe intel_rapl_msr)"
    denied = [domain.name for domain in found if not _readable(domain.file)]
    if denied:
        return f"RAPL counters of {', '.join(denied)} may not be read by this user. Grant it: {REMEDY}"
    return None


def domains(root: Path) -> list[Domain]:
    """Package and DRAM domains, packages first, in the order of their numbers."""
    found = []
    for folder in root.glob("intel-rapl:*"):
        numbers = re.fullmatch(r"intel-rapl:(\d+)(?::(\d+))?", folder.name)
        name = _text(folder / "name")
        if numbers is None or name is None:
            continue
        if name == "dram" and numbers[2] is not None:
            name = f"dram-{numbers[1]}"
        elif not name.startswith("package"):
            continue
        limit = _text(folder / "max_energy_range_uj")
        wrap_at_j = int(limit) * 1e-6 if limit and limit.isdigit() and int(limit) > 0 else None
        found.append((name.startswith("dram"), int(numbers[1]), int(numbers[2] or 0), Domain(name, folder, wrap_at_j)))
    return [domain for *_, domain in sorted(found, key=lambda row: row[:3])]


def mirrored(found: list[Domain], looks: int = 3) -> dict[str, str]:
    """Packages that show an earlier package's counter: name to the earlier name.

    Each time the later counter must lie between two readings of the earlier one taken around it. Two
    different counters pass that three times by an accident nobody will see. Zero says nothing.
    """
    packages = [domain for domain in found if domain.name.startswith("package")]
    mirrors: dict[str, str] = {}
    for index, domain in enumerate(packages):
        for first in packages[:index]:
            if first.name not in mirrors and _same_counter(first, domain, looks):
                mirrors[domain.name] = first.name
                break
    return mirrors


def _same_counter(first: Domain, second: Domain, looks: int) -> bool:
    for _ in range(looks):
        values = [_text(domain.file) for domain in (first, second, first)]
        if not all(value and value.isdigit() for value in values):
            return False
        before, between, after = (int(value) for value in values if value)
        if between == 0 or not before <= between <= after:
            return False
        time.sleep(0.005)
    return True


def _channel(domain: Domain, scope: str) -> Channel:
    return Channel(
        name=f"{domain.name}/energy",
        quantity=Quantity.ENERGY_J,
        device=domain.name,
        scope=scope,
        basis=Basis.MEASURED,
        wrap_at=domain.wrap_at_j,
        quantum=1e-6,
        gain_error=DRAM_GAIN_ERROR if domain.name.startswith("dram") else PACKAGE_GAIN_ERROR,
    )


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _readable(path: Path) -> bool:
    file = _open(path)
    if file is None:
        return False
    os.close(file)
    return True


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
