"""What this machine can hold and about how fast it is. No torch: /proc, cgroups and NVML.

The speeds are guesses made before anything has run, good to a factor of two or so; finished records
correct them (``predict.History``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import psutil

from harness.meter.modelled import cpu_of, cpu_table, model_of
from harness.meter.nvml_cards import text
from harness.meter.visible import visible_cards
from harness.record.fingerprint import cpu_name
from harness.registry import did_you_mean
from harness.suite.units import gib
from harness.types import Frozen, UserError

CPU_FLOPS_PER_CORE = 50e9
"""fp32 matmul FLOPs a second and core that small trainings sustain in torch with AVX-512: 8-layer
models of 0.1 to 0.9 M parameters on two cores of an AMD EPYC (Zen 4) fit 107 GFLOP/s and a fixed cost."""
CPU_LAYER_STEP_S = 6e-3
"""The fixed cost of that fit: seconds per residual layer and optimizer step, whatever the width."""
CPU_CORES_USED = 16
"""Beyond this many cores small trainings get no faster."""
GPU_UTILISATION = 0.35
"""Share of the dense peak that eager training of stock transformers reaches at large sizes."""
GPU_LAYER_STEP_S = 1.0e-3
"""Launch-bound floor in eager mode: about 100 kernels per layer and step at 10 us."""

BF16_PEAKS: dict[str, float] = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 tensor-core FLOPs a second by the makers' data sheets; the longest name that fits counts."""
UNKNOWN_GPU_PEAK = 50e12

CARDS = {
    "H100": (79.6, 700.0),
    "H100 PCIe": (79.6, 350.0),
    "H200": (140.4, 700.0),
    "A100": (79.3, 400.0),
    "A100 40GB": (39.4, 400.0),
    "L40S": (44.5, 350.0),
}
"""Memory that the driver reports in GiB and power limit in W, by the makers' data sheets; for plans alone."""


class Machine(Frozen):
    """This computer and the one device of it that a suite runs on, as far as the plan needs to know them.

    Speeds and power are projected (``sources`` says from what), the rest is read from the system.
    """

    device: Literal["cpu", "cuda"]
    name: str  # of the processor or the card
    cores: int
    memory_bytes: float  # of the device
    flops_per_second: float  # sustained in training, without the fixed cost per layer
    layer_step_s: float  # fixed cost of one residual layer in one optimizer step
    watts: float  # under load
    sources: tuple[str, ...] = ()
    uuid: str | None = None  # of the card

    @property
    def description(self) -> str:
        """For people: ``AMD EPYC, 2 cores, 24 GiB`` or ``NVIDIA H100, 80 GiB of GPU memory``."""
        if self.device == "cuda":
            return f"{self.name}, {gib(self.memory_bytes)} of GPU memory, {self.cores} CPU cores"
        return f"{self.name}, {self.cores} cores, {gib(self.memory_bytes)} of memory"


def detect(wanted: Literal["auto", "cpu", "cuda"] = "auto") -> Machine:
    """Look at this machine; costs a few milliseconds and starts nothing on the GPU.

    ``auto`` takes the first visible NVIDIA card, else the CPU. Where ``cuda`` is wanted and there is no
    card the CPU is described, and the plan skips what needs the card.
    """
    cores = available_cores()
    gpu = _gpu(cores) if wanted != "cpu" else None
    if gpu is not None:
        return gpu
    cpu = model_of(cpu_of(_read("/proc/cpuinfo")), *cpu_table())
    return Machine(
        device="cpu",
        name=cpu_name(),
        cores=cores,
        memory_bytes=available_memory_bytes(),
        flops_per_second=CPU_FLOPS_PER_CORE * min(cores, CPU_CORES_USED),
        layer_step_s=CPU_LAYER_STEP_S,
        watts=cpu.watts_per_core * cores,
        sources=(
            f"speed: {CPU_FLOPS_PER_CORE / 1e9:g} GFLOP/s per core and {CPU_LAYER_STEP_S * 1e3:g} ms per layer and "
            "step, fitted to small trainings on one machine",
            f"power: {cpu.watts_per_core:g} W per core, all {cores} busy; {cpu.source}",
        ),
    )


def assumed(card: str) -> Machine:
    """A machine with a card that is not here, by the makers' data sheets and this harness's guesses.

    Raises:
        UserError: a card of which nobody wrote down its memory and its power.
    """
    if card not in CARDS:
        raise UserError(f"--card {card}: unknown{did_you_mean(card, CARDS)}; known: {', '.join(CARDS)}")
    memory_gib, watts = CARDS[card]
    return Machine(
        device="cuda",
        name=f"{card} (assumed)",
        cores=CPU_CORES_USED,
        memory_bytes=memory_gib * 2**30,
        flops_per_second=GPU_UTILISATION * peak_flops(card),
        layer_step_s=GPU_LAYER_STEP_S,
        watts=watts,
        sources=(
            "assumed: this card is not here; its memory, power limit and peak are of the maker's data sheet",
            _speed_source(card),
            f"power: {watts:g} W, the limit, assumed to be drawn all the time",
        ),
    )


def available_cores() -> int:
    """Cores this process may use: its affinity, cut by the CPU quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    words = _read("/sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        cores = min(cores, max(1, int(words[0]) // int(words[1])))
    return cores


def available_memory_bytes() -> float:
    """Memory of the machine, cut by the limit of its cgroup (version 2, or 1)."""
    limits = [float(psutil.virtual_memory().total)]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdigit():
            limits.append(float(text))
    return min(limits)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def peak_flops(name: str) -> float:
    """Dense bf16 peak of a card by its name; a low guess for a card that is not in the table."""
    squeezed = name.replace("-", " ").lower()
    fitting = [known for known in BF16_PEAKS if set(known.lower().split()) <= set(squeezed.split())]
    return BF16_PEAKS[max(fitting, key=len)] if fitting else UNKNOWN_GPU_PEAK


def _gpu(cores: int) -> Machine | None:
    """The first card that ``CUDA_VISIBLE_DEVICES`` leaves visible, as NVML sees it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return _read_gpu(pynvml, cores)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _speed_source(name: str) -> str:
    return (
        f"speed: {GPU_UTILISATION:.0%} of a bf16 peak of {peak_flops(name) / 1e12:g} TFLOP/s and "
        f"{GPU_LAYER_STEP_S * 1e3:g} ms per layer and step, assumed"
    )


def _read_gpu(nvml: Any, cores: int) -> Machine | None:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    uuids = [text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    visible = visible_cards(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids)
    if not visible:
        return None
    uuid = visible[0]
    handle = handles[uuids.index(uuid)] if uuid in uuids else nvml.nvmlDeviceGetHandleByUUID(uuid)
    name = text(nvml.nvmlDeviceGetName(handle))
    try:
        watts, source = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000, "the card's power limit"
    except nvml.NVMLError:
        watts, source = 300.0, "assumed: the card does not tell its power limit"
    return Machine(
        device="cuda",
        name=name,
        cores=cores,
        memory_bytes=float(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        flops_per_second=GPU_UTILISATION * peak_flops(name),
        layer_step_s=GPU_LAYER_STEP_S,
        watts=watts,
        sources=(
            _speed_source(name),
            f"power: {source}",
            *_order_notes(nvml, handles, uuid),
        ),
        uuid=uuid,
    )


def _order_notes(nvml: Any, handles: list[Any], uuid: str) -> list[str]:
    """What to know where CUDA may count the cards differently from NVML, which counts by PCI bus.

    CUDA's own order is the fastest card first, unless ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``. It makes a
    difference only among unlike cards, and not to those that are named by UUID.
    """
    by_name = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-"))
    if by_name or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return []
    if len({text(nvml.nvmlDeviceGetName(handle)) for handle in handles}) < 2:
        return []
    return [
        f"card: {uuid} is the first by PCI bus; CUDA takes the fastest of these unlike cards first, and a run is "
        "metered on the card that it says it uses. To choose: CUDA_VISIBLE_DEVICES with a UUID, or "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID"
    ]
