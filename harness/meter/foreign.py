"""Whose processes are on a card: the run's own, or somebody else's."""

from __future__ import annotations

import os

from harness.meter.proctree import tree_of

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel


class Kin:
    """The process tree under ``root``, looked through at most once for all cards until :meth:`forget`.

    ``None`` is no tree: then every process is somebody else's.
    """

    def __init__(self, root: int | None) -> None:
        self._root = root
        self._namespace = in_pid_namespace()
        self.forget()

    def forget(self) -> None:
        """Look again when asked next."""
        self._tree: set[int] | None = None
        self._users: int | None = None

    def strangers(self, running: list[int]) -> int:
        """How many of a card's compute processes do not belong to the tree.

        In a container NVML may give the host's process numbers. One that names no process here can't be told
        apart, so as many of those as the tree has users of a card (at least one, the run itself) are its own.
        """
        if self._root is None or not running:
            return len(running)
        if self._tree is None:
            self._tree = set(tree_of(self._root))
        others = [pid for pid in running if pid not in self._tree]
        if not others or not self._namespace:
            return len(others)
        nameless = [pid for pid in others if not os.path.exists(f"/proc/{pid}")]
        recognised = len(running) - len(others)
        if self._users is None:
            self._users = max(1, sum(_uses_a_card(pid) for pid in self._tree))
        own = max(0, self._users - recognised)
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
