"""CodeCarbon's offline tracker beside ours, at its default interval of 15 s, its kWh given as joules.

CodeCarbon adds up CPU, memory and GPU; here each part stands alone with its own basis: its CPU is modelled from
the load of the whole machine and a table of thermal design powers unless it can read RAPL, its memory is always
modelled from the number of modules it supposes, its GPU is the driver's counter.

Nothing of the user's CodeCarbon configuration changes the figures, no file is written and nothing is asked of
the network: outputs are off, the carbon intensity is fixed, PUE is 1. GPUs are chosen by NVML's own index, found
from the UUID, because the tracker's matching of UUIDs drops what starts with "GPU-" and then reports 0.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any

from harness.meter.opinions.base import Opinion, Part, SecondOpinion
from harness.meter.opinions.quiet import Quiet, no_print
from harness.types import Basis

INSTALL = "the package codecarbon is not installed: pip install 'codecarbon>=3.3.2'"
J_PER_KWH = 3.6e6
INTERVAL_S = 15
"""CodeCarbon's default ``measure_power_secs``: a second opinion is that of the tool as people use it."""


MEASURED_MODES = frozenset({"intel_rapl", "windows_emi", "intel_power_gadget"})
"""CodeCarbon's names of the ways in which it reads a CPU's energy; the others are models."""
UNKNOWN_CPU = "but we don't know it"


class CodeCarbonOpinion(Opinion):
    """CPU, memory and GPUs of the machine, each apart."""

    name = "codecarbon"
    title = "CodeCarbon"

    def __init__(self) -> None:
        super().__init__()
        self._tracker: Any = None
        self._indices: list[int] = []
        self._began_s: float | None = None
        self._quiet: Quiet | None = None

    @classmethod
    def available(cls) -> str | None:
        """What is missing: the package."""
        return None if importlib.util.find_spec("codecarbon") else INSTALL

    def _prepare(self, devices: Sequence[str]) -> None:
        self._quiet = Quiet("codecarbon")
        with no_print():
            from codecarbon import OfflineEmissionsTracker

            self._indices = _indices_of(devices) if devices else []
            self._tracker = OfflineEmissionsTracker(
                country_iso_code="USA",  # asked for, but without effect: the intensity is given
                force_carbon_intensity_g_co2e_kwh=0.0,
                output_methods=[],
                output_handlers=[],
                emissions_endpoint=None,
                measure_power_secs=INTERVAL_S,
                tracking_mode="machine",
                allow_multiple_runs=True,
                pue=1.0,
                wue=0.0,
                force_cpu_power=None,
                force_ram_power=None,
                gpu_ids=self._indices,
                log_level="warning",
            )
            self._tracker.get_detected_hardware()  # the slow half of its start
        if devices and self._part("GPU") is None:
            raise LookupError("it finds no GPU (it looks for the program nvidia-smi and for NVML)")

    def _start(self) -> None:
        self._tracker.start()  # swallows whatever goes wrong
        self._began_s = self._tracker._start_time

    def _stop(self) -> list[SecondOpinion]:
        self._tracker.stop()
        data = getattr(self._tracker, "final_emissions_data", None)
        if data is None:
            raise RuntimeError("it did not finish and keeps the reason to itself")
        # Up to its last measurement: the tracker's own duration goes on while it looks up its tables.
        seconds = data.duration if self._began_s is None else self._tracker._last_measured_time - self._began_s
        opinions = []
        if self._indices:
            count = len(self._indices)
            covers = f"{count} GPU{'s' if count > 1 else ''} by the driver's energy counter"
            opinions.append(self._figure(Part.GPU, data.gpu_energy, Basis.MEASURED, covers, seconds))
        cpu = self._part("CPU")
        mode, full_w = getattr(cpu, "_mode", "no mode"), getattr(cpu, "_tdp", None)
        basis = Basis.MEASURED if mode in MEASURED_MODES else Basis.MODELLED
        how = mode if basis is Basis.MEASURED or full_w is None else f"{mode}, {full_w:g} W at full load"
        covers = f"CPU of the machine ({how})"
        opinions.append(self._figure(Part.CPU, data.cpu_energy, basis, covers, seconds))
        covers = "memory of the machine, by the modules it supposes"
        opinions.append(self._figure(Part.MEMORY, data.ram_energy, Basis.MODELLED, covers, seconds))
        return opinions

    def _figure(self, part: Part, kwh: float, basis: Basis, covers: str, seconds: float) -> SecondOpinion:
        reasons = _about(part, [] if self._quiet is None else self._quiet.warnings)
        if part is Part.GPU and kwh == 0:
            reasons.insert(0, "0 is also what CodeCarbon gives where it could read nothing")
        return SecondOpinion(
            tool=self._tool(),
            part=part,
            joules=kwh * J_PER_KWH,
            basis=basis,
            covers=covers,
            seconds=seconds,
            reason="; ".join(reasons),
        )

    def _part(self, kind: str) -> Any:
        """The tracker's own object for a part of the machine."""
        hardware = getattr(self._tracker, "_hardware", [])
        return next((item for item in hardware if type(item).__name__ == kind), None)

    def _release(self) -> None:
        if self._quiet:
            self._quiet.release()

    def _tool(self) -> str:
        try:
            return f"CodeCarbon {importlib.metadata.version('codecarbon')}"
        except importlib.metadata.PackageNotFoundError:
            return "CodeCarbon"


def _about(part: Part, said: Sequence[str]) -> list[str]:
    """What the tool's warnings say of a part's figure."""
    if part is Part.CPU:
        return ["its table does not know this CPU"] if any(UNKNOWN_CPU in text for text in said) else []
    words = {Part.GPU: ("of gpu", "gpu information", "gpu utilization"), Part.MEMORY: ("ram ",)}[part]
    return [text for text in said if any(word in text.lower() for word in words)]


def _indices_of(uuids: Sequence[str]) -> list[int]:
    """NVML's own numbers of the cards, which are CodeCarbon's.

    Raises:
        LookupError: NVML is not there, or does not know one of them.
    """
    from codecarbon.core import gpu_nvidia

    nvml: Any = getattr(gpu_nvidia, "pynvml", None)
    if nvml is None:
        raise LookupError("it can't open NVML")
    nvml.nvmlInit()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        given = [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    finally:
        nvml.nvmlShutdown()
    seen = [uuid.decode() if isinstance(uuid, bytes) else uuid for uuid in given]
    wanted = [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in uuids]
    missing = [uuid for uuid in wanted if uuid not in seen]
    if missing:
        raise LookupError(f"NVML does not show it {', '.join(missing)}; it shows {', '.join(seen) or 'no card'}")
    return [seen.index(uuid) for uuid in wanted]
