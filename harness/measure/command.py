"""One command: forked and held until the meters run, executed, followed to its end, and only then reaped.

It is forked first, so that a meter of a process tree knows its root before there is anything to measure; between
fork and exec it does nothing but wait for a byte. At its end it stays a zombie until :meth:`Command.reap`, so that
the meter's last sample still finds its CPU time and that of the children it waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness.measure.signals import Signals
from harness.measure.types import Survivor
from harness.meter.proctree import children_of, stat_of, tree_of

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it (POSIX 2.8.2)
_PR_SET_CHILD_SUBREAPER = 36
_GO = b"g"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what the kernel says it used (``wait4``: itself and what it waited for).

    ``peak_memory_bytes`` is of its largest process. It is ``None`` where that stayed below what we had ourselves at
    the fork: the kernel counts from there (``ru_maxrss`` outlives an exec).
    """

    exit_code: int  # as shells give it: 128 + N where signal N ended it
    signal: int | None
    cpu_s: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Streams:
    """File descriptors the command gets instead of ours; ``None`` leaves ours."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


def refusal(argv: Sequence[str]) -> tuple[int, str] | None:
    """Exit code and reason if a command can't be started, as a shell would say it; ``None`` if it can."""
    name = argv[0]
    if not name:
        return NOT_FOUND, "the command is empty"
    if shutil.which(name) and not (os.sep in name and os.path.isdir(name)):
        return None
    places = [name] if os.sep in name else [os.path.join(folder, name) for folder in os.get_exec_path()]
    if any(os.path.isdir(place) for place in places if os.sep in name):
        return NOT_EXECUTABLE, f"{name}: is a directory"
    if any(os.path.isfile(place) for place in places):
        return NOT_EXECUTABLE, f"{name}: permission denied (chmod +x makes a file executable)"
    if os.sep in name:
        return NOT_FOUND, f"{name}: no such file"
    return NOT_FOUND, f"{name}: command not found"


class Command:
    """A forked command that waits for :meth:`go`.

    Orphans of its tree become our children while it lives (``PR_SET_CHILD_SUBREAPER``), which is how those that
    outlive it can be named; those that end are reaped at once, as init would.
    """

    def __init__(self, argv: Sequence[str], signals: Signals, streams: Streams = Streams()) -> None:
        self._subreaper = _subreaper(True)
        self._ours = {*children_of(os.getpid())}
        go_read, self._go = os.pipe()
        self._said, say = os.pipe()
        self._floor_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)  # else our death would not be seen as the end of the pipe
            _become(argv, signals, streams, go_read, say)
        os.close(go_read)
        os.close(say)
        self._ours.add(self.pid)
        self._reaped = False

    def go(self) -> str:
        """Execute it; returns at once after the exec, with what went wrong or nothing.

        A command that was killed while it waited is no error here: it has ended.
        """
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, _GO)
        answer = os.read(self._said, 64)  # ends with the exec: the pipe is closed by it
        self._close_pipes()
        if not answer:
            return ""
        number = int(answer)
        hint = " (a script needs a #! line, or use --shell)" if number == errno.ENOEXEC else ""
        return f"{os.strerror(number)}{hint}"

    def follow(self, signals: Signals, wait_s: float = 0.5) -> bool:
        """Wait a while and hand on signals; whether it has ended."""
        if self._has_ended():
            return True
        got = signals.wait(wait_s)
        if got is not None:
            number, tell = got
            if tell:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            elif number == signal.SIGCHLD:
                self._reap_orphans()
        return self._has_ended()

    def survivors(self) -> tuple[Survivor, ...]:
        """Processes of the tree that live on after the command's end."""
        self._reap_orphans()
        adopted = [pid for pid in children_of(os.getpid()) if pid not in self._ours]
        return tuple(Survivor(pid=pid, name=_name(pid)) for child in adopted for pid in tree_of(child))

    def reap(self) -> Ended:
        """Let go of it, once it has ended and the meters have seen that."""
        _, status, used = os.wait4(self.pid, 0)
        self._release()
        code = os.waitstatus_to_exitcode(status)
        return Ended(
            exit_code=code if code >= 0 else 128 - code,
            signal=-code if code < 0 else None,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_memory_bytes=used.ru_maxrss * 1024 if used.ru_maxrss > self._floor_kib else None,
        )

    def abandon(self) -> None:
        """End it at once, whatever it was doing; nothing happens once it was reaped."""
        if self._reaped:
            return
        self._close_pipes()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._release()

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _reap_orphans(self) -> None:
        for pid in children_of(os.getpid()):
            if pid not in self._ours:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)

    def _release(self) -> None:
        self._reaped = True
        self._close_pipes()
        if self._subreaper:
            _subreaper(False)

    def _close_pipes(self) -> None:
        for end in (self._go, self._said):
            if end >= 0:
                os.close(end)
        self._go = self._said = -1


def _become(argv: Sequence[str], signals: Signals, streams: Streams, go: int, say: int) -> NoReturn:
    """In the child: wait for the word, then be the command. Never returns."""
    try:
        signals.restore_in_child()
        if os.read(go, 1) != _GO:
            os._exit(1)  # the parent is gone: nothing was asked for
        for target, source in enumerate((streams.stdin, streams.stdout, streams.stderr)):
            if source is not None:
                os.dup2(source, target)
        os.execvp(argv[0], list(argv))
    except OSError as error:
        os.write(say, str(error.errno).encode())
        os._exit(NOT_FOUND if error.errno in {errno.ENOENT, errno.ENOTDIR} else NOT_EXECUTABLE)
    finally:
        os._exit(NOT_EXECUTABLE)


def _subreaper(on: bool) -> bool:
    """Whether the kernel did it."""
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _name(pid: int) -> str:
    """Its command line, or its name where it shows none."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return line or Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"


def alive(pid: int, started: int) -> bool:
    """Whether the process that had this number and start (ticks since boot) still runs."""
    stat = stat_of(pid)
    return stat is not None and stat.started == started and not stat.zombie


def wall_clock() -> str:
    """Now in UTC, for people and records; no interval is taken from it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
