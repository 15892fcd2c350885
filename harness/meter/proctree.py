"""A process and its descendants, seen from outside through ``/proc``, and the CPU time they used.

CPU time comes from the kernel's per-process clock (``CPUCLOCK_SCHED``), which counts all threads, those that
ended too, in nanoseconds. A child that ended is found again in its parent's ``cutime`` once it was waited for;
one that nobody waits for keeps the last time that was read.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

NS = 1_000_000_000
TICK_NS = NS // os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of ``/proc/<pid>/stat`` that matter here."""

    parent: int
    own_ns: int  # user + system time, in ticks of 10 ms
    waited_ns: int  # the same of all descendants that ended and were waited for
    started: int  # ticks since boot; with the pid it names a process for good
    zombie: bool  # ended, not waited for yet


def stat_of(pid: int) -> Stat | None:
    """Its ``stat``, or ``None`` if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The command's name comes second, in brackets, and may hold spaces and brackets itself.
    fields = text[text.rindex(b")") + 2 :].split()
    user, system, waited_user, waited_system = (int(field) for field in fields[11:15])
    return Stat(
        parent=int(fields[1]),
        own_ns=(user + system) * TICK_NS,
        waited_ns=(waited_user + waited_system) * TICK_NS,
        started=int(fields[19]),
        zombie=fields[0] == b"Z",
    )


def cpu_ns(pid: int) -> int | None:
    """CPU time of a process with all its threads, in nanoseconds; ``None`` if it is gone."""
    try:
        # linux/posix-timers_types.h: the clock of process `pid` is ~pid << 3 | CPUCLOCK_SCHED (2).
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        stat = stat_of(pid)
        return stat.own_ns if stat else None


def children_of(pid: int) -> list[int]:
    """Direct children, of any thread."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, (_PROC / str(pid) / "task" / thread / "children").read_bytes().split())
    except FileNotFoundError:
        if stat_of(pid) is None or _has_children_files():
            return found  # it, or one of its threads, ended meanwhile
        return _children_by_parent(pid)
    except OSError:
        return found
    return found


def tree_of(pid: int) -> list[int]:
    """``pid`` and all its descendants that live."""
    tree, todo = [], [pid]
    while todo:
        tree.append(todo.pop())
        todo += children_of(tree[-1])
    return tree


class TreeClock:
    """CPU time of a process tree as a counter that never falls.

    Every read takes the clocks of the known processes; on every ``rescan``-th, and when one has ended, the
    tree is looked through for new children and for waited time as well. Once the root is a zombie every read
    does: a root that is reaped after the last read is complete with all it waited for. What a child used
    before it was found counts at once, and one that came and went between two looks is in its parent's waited
    time. Of a child that nobody waits for, what it used after the last read is lost, and all of it if that is
    under 20 ms (``/proc`` gives waited time in ticks).
    """

    def __init__(self, root: int, rescan: int = 5) -> None:
        self._root = root
        self._rescan = rescan
        self._reads = 0
        self._used: dict[_Key, _Used] = {}
        self._orphaned_ns = 0  # time of processes that ended and were never waited for
        self._highest_ns = 0

    def read_ns(self) -> int | None:
        """Nanoseconds used so far; ``None`` once the root is gone."""
        due = self._reads % self._rescan == 0 or _is_zombie(self._root)
        self._reads += 1
        used = None if due else self._clocks()
        if used is None:
            if due:
                self._look()
            used = self._snapshot()
        if not any(pid == self._root for pid, _ in used):
            return None
        ended = self._used.keys() - used.keys()
        vanished_ns = sum(self._used[key].own_ns + self._used[key].waited_ns for key in ended)
        gained_ns = sum(now.waited_ns - self._used[key].waited_ns for key, now in used.items())
        # A child that was waited for is in its parent's time, kept in whole ticks of user and of system
        # time; the rest of what vanished was waited for by nobody in the tree.
        if vanished_ns - gained_ns > 2 * TICK_NS * len(ended):
            self._orphaned_ns += vanished_ns - gained_ns
        self._used = used
        total_ns = sum(now.own_ns + now.waited_ns for now in used.values()) + self._orphaned_ns
        self._highest_ns = max(self._highest_ns, total_ns)
        return self._highest_ns

    def _clocks(self) -> dict[_Key, _Used] | None:
        """Own times now beside the waited times known before; ``None`` if a process has ended."""
        used: dict[_Key, _Used] = {}
        for key, before in self._used.items():
            own_ns = cpu_ns(key[0])
            if own_ns is None:
                return None
            used[key] = _Used(own_ns, before.waited_ns)
        return used

    def _snapshot(self) -> dict[_Key, _Used]:
        """Own and waited time of all known processes that live.

        All waited times are read before all own times, and again if a process ended in between, so that no
        child is in its own time and in its parent's as well.
        """
        used: dict[_Key, _Used] = {}
        for _ in range(5):
            stats = {key: stat_of(key[0]) for key in self._used}
            waited = {key: stat.waited_ns for key, stat in stats.items() if stat is not None and stat.started == key[1]}
            own = {key: cpu_ns(key[0]) for key in waited}
            used = {key: _Used(ns, waited[key]) for key, ns in own.items() if ns is not None}
            if len(used) == len(waited):
                break
        return used

    def _look(self) -> None:
        # From every known process, so that a tree stays known when its middle dies.
        for start in {self._root, *(pid for pid, _ in self._used)}:
            for pid in tree_of(start):
                stat = stat_of(pid)
                if stat is not None:
                    self._used.setdefault((pid, stat.started), _Used(0, stat.waited_ns))


_Key = tuple[int, int]  # pid and the tick it started at


@dataclass(frozen=True, slots=True)
class _Used:
    own_ns: int
    waited_ns: int


def _is_zombie(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and stat.zombie


def _has_children_files() -> bool:
    """Whether the kernel was built with CONFIG_PROC_CHILDREN."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            stat = stat_of(int(entry))
            if stat is not None and stat.parent == pid:
                found.append(int(entry))
    return found
