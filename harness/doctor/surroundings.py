"""Virtual machine, container, clock and load: what stands between a meter and the work."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.doctor.types import Surroundings

_CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
STEADY_CLOCKS = frozenset({"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"})
"""Clock sources that are read without a system call or a trap; others cost microseconds a read."""


def surroundings(virtual: bool | None) -> Surroundings:
    """Look around; costs a millisecond."""
    clock = _read(_CLOCK).strip() or "unknown"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    notes = []
    if clock not in STEADY_CLOCKS and clock != "unknown":
        notes.append(f"clock source {clock} is slow to read: windows of milliseconds are blurred")
    cores = os.cpu_count() or 1
    if load is not None and load > 0.5 * cores:
        notes.append(f"the machine is busy (load {load:.1f} on {cores} cores): wait, or figures carry its noise")
    return Surroundings(
        virtual=virtual, container=container(), clock=clock, clock_step_s=_clock_step_s(), load_1min=load,
        notes=tuple(notes),
    )  # fmt: skip


def container() -> str | None:
    """The kind of container this runs in, as far as it shows."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    for word in ("docker", "kubepods", "containerd", "lxc"):
        if word in _read(Path("/proc/1/cgroup")):
            return word
    return None


def _clock_step_s() -> float:
    """Smallest step of the monotonic clock between two reads, in seconds."""
    smallest = float("inf")
    for _ in range(200):
        first = time.monotonic_ns()
        second = time.monotonic_ns()
        if second > first:
            smallest = min(smallest, second - first)
    return smallest / 1e9 if smallest < float("inf") else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
