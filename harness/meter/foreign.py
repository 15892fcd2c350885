"""Whose processes are on a card: the run's own, or somebody else's."""

from __future__ import annotations

import os

from harness.meter.proctree import tree_of

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel


def foreign_processes(running: list[int], root: int | None) -> int:
    """How many of the card's compute processes do not belong to the tree under ``root``.

    In a container NVML may give the host's process numbers. One that names no process here can't be told
    apart, so as many of those as the tree has users of a card (at least one, the run itself) are its own.
    """
    if root is None:
        return len(running)
    tree = set(tree_of(root))
    others = [pid for pid in running if pid not in tree]
    if not in_pid_namespace():
        return len(others)
    nameless = [pid for pid in others if not os.path.exists(f"/proc/{pid}")]
    recognised = len(running) - len(others)
    own = max(0, max(1, sum(_uses_a_card(pid) for pid in tree)) - recognised)
    return len(others) - len(nameless) + max(0, len(nameless) - own)


def in_pid_namespace() -> bool:
    """Whether process numbers here may differ from the driver's: inside a PID namespace."""
    try:
        return os.readlink("/proc/self/ns/pid") != _INITIAL_PID_NAMESPACE
    except OSError:
        return True


def _uses_a_card(pid: int) -> bool:
    """Whether a process holds NVIDIA's unified-memory device open, as every user of CUDA does."""
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{fd}") == "/dev/nvidia-uvm" for fd in os.listdir(folder))
    except OSError:
        return False
