"""RAPL: the energy counters of CPU packages and memory that Linux shows under ``/sys/class/powercap``.

Packages and DRAM are summed. ``psys`` covers the whole platform, packages included, and is left out; ``core``
and ``uncore`` are parts of a package; ``intel-rapl-mmio`` repeats ``intel-rapl`` over another bus and is read only
where there is no other; on multi-die AMD parts one counter may show under several dies, and is counted once. A
counter that stands at 0 is none. A counter starts again at ``max_energy_range_uj``; where that can't be read, the
interval of the wrap is missing.

A package does not tell the run from its neighbours, so the CPU time of all others is recorded beside it.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from harness.meter.base import Channel, Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.meter.neighbours import Neighbours
from harness.types import Basis, UserError

ROOT = Path("/sys/class/powercap")
MSR, MMIO = "intel-rapl", "intel-rapl-mmio"
_DENIED = "denied"
PACKAGE_GAIN_ERROR = 0.05
"""One standard deviation, relative: Khan et al., RAPL in Action (ACM TOMPECS 3(2), 2018)."""
DRAM_GAIN_ERROR = 0.2
"""Desrochers, Paradis and Weaver, A Validation of DRAM RAPL Power Measurements (MEMSYS 2016)."""
UPDATE_PERIOD_S = 0.001
"""RAPL counters are refreshed about once a millisecond (Intel SDM volume 3, chapter on power management)."""

NEIGHBOURS_NS = 250_000_000
"""So often the CPU time of others is read: looking through a process tree costs more than reading counters."""
STILL_S = 0.02
"""Between the looks that tell a counter that stands at 0: 20 refreshes."""

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

    @property
    def is_package(self) -> bool:
        """Else it is memory."""
        return self.name.startswith("package")


class RaplMeter(Meter):
    """All packages of the machine with their memory; the process is not told apart from its neighbours."""

    name = "rapl"
    covers = frozenset({"cpu"})
    calibrates = True

    def __init__(self, root: str | Path = ROOT) -> None:
        self._root = Path(root)
        self._files: list[int | None] = []
        self._domains: list[Domain] = []
        self._neighbours = Neighbours(None)
        self._neighbours_due_ns = 0

    @classmethod
    def available(cls) -> str | None:
        """What is missing on this machine."""
        return missing(ROOT)

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Open every counter once; ``pid`` tells the run from its neighbours, ``device`` plays no part.

        Raises:
            UserError: no counter, none that may be read, or a package's that can't be.
        """
        problem = missing(self._root)
        if problem:
            raise UserError(problem)
        every = domains(self._root)
        left_out = _useless(every)
        self._domains = [domain for domain in every if domain.name not in left_out]
        if not any(domain.is_package for domain in self._domains):
            raise UserError(f"RAPL shows no package that counts: {'; '.join(left_out.values())}")
        self._files = [_open(domain.file) for domain in self._domains]
        self._neighbours = Neighbours(pid)
        self._neighbours_due_ns = 0
        has_dram = not all(domain.is_package for domain in self._domains)
        scope = "packages and memory" if has_dram else "packages"
        assumptions = [
            f"covers {scope} of the whole machine, whatever else runs on it; the CPU time of others is recorded"
        ]
        if not has_dram:
            assumptions.append("this machine shows no DRAM counter: memory is not in the figure")
        assumptions += left_out.values()
        if any(domain.folder.name.startswith(MMIO) for domain in self._domains):
            assumptions.append("read over MMIO (intel-rapl-mmio): this machine shows no other RAPL counters")
        assumptions += [
            f"{domain.name}: max_energy_range_uj can't be read, the interval of a wrap-around is missing"
            for domain in self._domains
            if domain.wrap_at_j is None
        ]
        return MeterInfo(
            name=self.name,
            basis=Basis.MEASURED,
            source=f"RAPL ({', '.join(domain.name for domain in self._domains)})",
            channels=(*(_channel(domain, scope) for domain in self._domains), *_CPU_TIME),
            assumptions=tuple(assumptions),
            update_period_s=UPDATE_PERIOD_S,
        )

    def read(self) -> list[Sample]:
        """Every counter in joules; four times a second the CPU time of the machine and of others."""
        at_ns = read_ns()
        samples = [self._sample(index, at_ns) for index in range(len(self._domains))]
        if at_ns >= self._neighbours_due_ns:
            self._neighbours_due_ns = at_ns + NEIGHBOURS_NS
            samples += self._cpu_time(at_ns)
        return samples

    def read_last(self) -> list[Sample]:
        """The same with the CPU time in any case, so that it spans the whole run."""
        self._neighbours_due_ns = 0
        return self.read()

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
        except OSError as error:
            gone = error.errno in {errno.ENODEV, errno.ENXIO, errno.ENOENT}  # the driver was taken out
            return Sample(index, at_ns, ReadStatus.LOST if gone else ReadStatus.MISSING)
        except ValueError:
            return Sample(index, at_ns, ReadStatus.MISSING)

    def _cpu_time(self, at_ns: int) -> list[Sample]:
        first = len(self._domains)
        used = self._neighbours.read()
        if used is None:
            return [Sample(first, at_ns, ReadStatus.MISSING), Sample(first + 1, at_ns, ReadStatus.MISSING)]
        return [
            Sample(first, at_ns, ReadStatus.OK, used.busy_ns // 1000 * 1e-6),
            Sample(first + 1, at_ns, ReadStatus.OK, used.others_ns // 1000 * 1e-6),
        ]


def missing(root: Path) -> str | None:
    """Why RAPL can't be used under ``root``, and what to do; ``None`` if it can."""
    if not root.is_dir():
        return f"no RAPL: {root} does not exist (virtual machines have none; on bare metal: modprobe intel_rapl_msr)"
    found = domains(root)
    if not any(domain.is_package for domain in found):
        if any(root.glob("intel-rapl*:*")):
            return (
                f"no RAPL: the domains under {root} lead nowhere: a container hides them; start it with "
                "--security-opt systempaths=unconfined"
            )
        return f"no RAPL: {root} has no package domain (on bare metal: modprobe intel_rapl_msr)"
    problems = {domain.name: problem for domain in found if (problem := _problem(domain))}
    denied = [name for name, problem in problems.items() if problem == _DENIED]
    if denied:
        return f"RAPL counters of {', '.join(denied)} may not be read by this user. Grant it: {REMEDY}"
    broken = [f"{domain.name} ({problems[domain.name]})" for domain in found if domain.name in problems]
    if any(domain.is_package and domain.name in problems for domain in found):
        return (
            f"RAPL counters can be opened but not read: {', '.join(broken)}; a figure without them would be too small"
        )
    return None


def domains(root: Path) -> list[Domain]:
    """Package and DRAM domains, packages first, in the order of their numbers."""
    found = _domains(root, MSR)
    return found if any(domain.is_package for domain in found) else _domains(root, MMIO)


def _domains(root: Path, kind: str) -> list[Domain]:
    found = []
    for folder in root.glob(f"{kind}:*"):
        numbers = re.fullmatch(rf"{kind}:(\d+)(?::(\d+))?", folder.name)
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
    in_order = [domain for *_, domain in sorted(found, key=lambda row: row[:3])]
    names = Counter(domain.name for domain in in_order)
    return [
        replace(domain, name=f"{domain.name} ({domain.folder.name})") if names[domain.name] > 1 else domain
        for domain in in_order
    ]


def _useless(found: list[Domain]) -> dict[str, str]:
    """Domains that must not be added up, and why: broken memory counters, counters at 0, repetitions."""
    broken = {domain.name for domain in found if not domain.is_package and _problem(domain)}
    still = {domain.name for domain in found if domain.name not in broken and _text(domain.file) == "0"}
    if still:
        time.sleep(STILL_S)
        still = {domain.name for domain in found if domain.name in still and _text(domain.file) == "0"}
    return (
        {name: f"{name} can't be read and is left out" for name in broken}
        | {name: f"{name} stands at 0, so it counts nothing and is left out" for name in still}
        | {name: f"{name} repeats the counter of {first} and is left out" for name, first in mirrored(found).items()}
    )


def mirrored(found: list[Domain], looks: int = 3) -> dict[str, str]:
    """Domains that show the counter of an earlier one of their kind: name to the earlier name.

    Each time the later counter must lie between two readings of the earlier one taken around it. Two
    different counters pass that three times by an accident nobody will see. Zero says nothing.
    """
    mirrors: dict[str, str] = {}
    for index, domain in enumerate(found):
        for first in found[:index]:
            if first.is_package != domain.is_package or first.name in mirrors:
                continue
            if _same_counter(first, domain, looks):
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


_CPU_TIME = tuple(
    Channel(name=name, quantity=quantity, device="cpu", scope="machine", basis=Basis.MEASURED, quantum=1e-6)
    for name, quantity in (("cpu/busy", Quantity.BUSY_CPU_S), ("cpu/others", Quantity.FOREIGN_CPU_S))
)


def _channel(domain: Domain, scope: str) -> Channel:
    return Channel(
        name=f"{domain.name}/energy",
        quantity=Quantity.ENERGY_J,
        device=domain.name,
        scope=scope,
        basis=Basis.MEASURED,
        wrap_at=domain.wrap_at_j,
        quantum=1e-6,
        gain_error=PACKAGE_GAIN_ERROR if domain.is_package else DRAM_GAIN_ERROR,
    )


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _problem(domain: Domain) -> str:
    """Why a counter can't be read now, or nothing. One that opens may still refuse."""
    try:
        int(domain.file.read_text())
    except PermissionError:
        return _DENIED
    except FileNotFoundError:
        return "it has no energy_uj"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return "it holds no number"
    return ""


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
