"""Zeus (``zeus`` 0.16, ml-energy) beside ours: ``ZeusMonitor`` over the same window.

Zeus takes the difference of the driver's energy counter between two calls, without any check, and RAPL's on
the CPU. Cards are found by UUID whatever ``CUDA_VISIBLE_DEVICES`` says: Zeus reads that variable once, knows
only whole numbers in it, and is therefore shown none while it looks for cards. CUDA is not synchronised, as
the work is done in another process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from harness.meter.opinions.base import Opinion, Part, SecondOpinion
from harness.meter.opinions.quiet import Quiet, no_print
from harness.types import Basis

INSTALL = "the package zeus is not installed: pip install 'sat-harness[opinions]' (or 'zeus>=0.16,<0.17')"
MILLI = 1e-3
_WINDOW = "harness"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class ZeusOpinion(Opinion):
    """GPUs by the driver's counter, CPU and memory by RAPL, systems on a chip by their rails."""

    name = "zeus"
    title = "Zeus"

    def __init__(self) -> None:
        super().__init__()
        self._monitor: Any = None
        self._uuids: list[str] = []
        self._quiet: Quiet | None = None

    @classmethod
    def available(cls) -> str | None:
        """What is missing: the package."""
        return None if importlib.util.find_spec("zeus") else INSTALL

    def _prepare(self, devices: Sequence[str]) -> None:
        self._quiet = Quiet("zeus")
        with no_print(), _all_cards_visible():
            from zeus.monitor import ZeusMonitor

            indices = _indices_of(devices) if devices else []
            # On cards their counter alone; on the CPU every RAPL zone that Zeus may read.
            self._monitor = ZeusMonitor(gpu_indices=indices, cpu_indices=[] if devices else None)
        self._uuids = list(devices)
        if not devices and not self._monitor.cpu_indices and not self._monitor.soc_is_present:
            raise RuntimeError("it finds no RAPL zone that it may read, and it has no other CPU meter")

    def _start(self) -> None:
        self._monitor.begin_window(_WINDOW, sync_execution=False)

    def _stop(self) -> list[SecondOpinion]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            measured = self._monitor.end_window(_WINDOW, sync_execution=False)
        said = [" ".join(str(warning.message).split()) for warning in caught]
        said += self._quiet.warnings if self._quiet else []
        opinions = []
        if self._uuids:
            count = len(self._uuids)
            covers = f"{count} GPU{'s' if count > 1 else ''} by the driver's energy counter"
            opinions.append(self._figure(Part.GPU, measured.total_energy, covers, measured.time, said))
        zones = [self._monitor.cpus.cpus[i].rapl_file.name for i in measured.cpu_energy or ()]
        for part, energies, what in (
            (Part.CPU, measured.cpu_energy, f"RAPL zones {', '.join(zones)} of the machine"),
            (Part.MEMORY, measured.dram_energy, "memory of the machine by RAPL"),
        ):
            if energies:
                opinions.append(self._figure(part, sum(energies.values()), what, measured.time, said))
        if measured.soc_energy is not None and not self._uuids:
            rails = {field.name: getattr(measured.soc_energy, field.name) for field in _fields(measured.soc_energy)}
            opinions += [
                self._figure(Part.SOC, energy * MILLI, name.removesuffix("_mj"), measured.time, said)
                for name, energy in rails.items()
                if isinstance(energy, int | float)
            ]
        return opinions

    def _figure(self, part: Part, joules: float, covers: str, seconds: float, said: list[str]) -> SecondOpinion:
        reasons = list(said)
        if joules < 0:
            reasons.insert(0, "negative: a counter was reset in the window, which Zeus does not check")
        return SecondOpinion(
            tool=self._tool(),
            part=part,
            joules=joules,
            basis=Basis.MEASURED,
            covers=covers,
            seconds=seconds,
            reason="; ".join(reasons),
        )

    def _release(self) -> None:
        if self._quiet:
            self._quiet.release()

    def _tool(self) -> str:
        try:
            return f"Zeus {importlib.metadata.version('zeus')}"
        except importlib.metadata.PackageNotFoundError:
            return "Zeus"


def _indices_of(uuids: Sequence[str]) -> list[int]:
    """Zeus's own numbers of the cards with these UUIDs.

    Raises:
        LookupError: Zeus does not see one of them.
    """
    from zeus.device import get_gpus
    from zeus.device.gpu import nvidia

    seen = [_text(nvidia.pynvml.nvmlDeviceGetUUID(gpu.handle)) for gpu in get_gpus().gpus]
    missing = [uuid for uuid in uuids if _full(uuid) not in seen]
    if missing:
        raise LookupError(f"it does not see {', '.join(missing)}; it sees {', '.join(seen) or 'no card'}")
    return [seen.index(_full(uuid)) for uuid in uuids]


def _full(uuid: str) -> str:
    """torch gives UUIDs without the kind in front."""
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _fields(measurement: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(measurement) if dataclasses.is_dataclass(measurement) else ()


@contextlib.contextmanager
def _all_cards_visible() -> Iterator[None]:
    """Zeus stumbles over UUIDs in the variable and over an empty one; CUDA is not used in this process."""
    hidden = os.environ.pop(_VISIBLE, None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[_VISIBLE] = hidden
