"""Signals held back while a command runs, so that its report always comes.

In a terminal ``^C`` reaches every process of the foreground group: the command has it already and must not get it
twice. What another process sends to us alone is meant for the command and is handed on. ``si_code`` tells the two
apart, so signals are blocked and fetched with ``sigtimedwait`` instead of handled.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

_SI_KERNEL = 0x80  # include/uapi/asm-generic/siginfo.h: sent by the kernel, as a terminal does
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HANDED_ON = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2)
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by Python itself, not by whoever started us


class InterruptedBySignalError(Exception):
    """A signal that asks us to end came while no command was running."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Signals:
    """Holds signals back in this thread, and in threads started later, until it is left.

    Those that were ignored when it was entered (``nohup``) stay ignored. ``ended_by`` is the last signal that
    asked for an end, 0 if none did.
    """

    def __init__(self) -> None:
        self.ended_by = 0
        self._held: set[signal.Signals] = set()
        self._before: set[int | signal.Signals] = set()

    def __enter__(self) -> Signals:
        self._held = {number for number in _HANDED_ON if signal.getsignal(number) is not signal.SIG_IGN}
        self._before = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._held | {signal.SIGCHLD}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while signal.sigtimedwait(self._held | {signal.SIGCHLD}, 0) is not None:
            pass  # whoever sent it has had his answer by now, or will have it by the exit code
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    @contextmanager
    def released(self) -> Iterator[None]:
        """For a moment as they were before, for a process that is started and is to get signals as ever."""
        held = signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def wait(self, seconds: float) -> tuple[int, bool] | None:
        """Wait for a signal, at most so long: its number, and whether the command has to be told.

        ``SIGCHLD`` is never to be told; ``None`` if the time is over.
        """
        got = signal.sigtimedwait(self._held | {signal.SIGCHLD}, max(0.0, seconds))
        if got is None:
            return None
        if got.si_signo in _ENDING:
            self.ended_by = got.si_signo
        return got.si_signo, got.si_signo != signal.SIGCHLD and got.si_code != _SI_KERNEL

    def pause(self, seconds: float) -> None:
        """Let time pass with no command running.

        Raises:
            InterruptedBySignalError: a signal asks for an end, or did before.
        """
        deadline = time.monotonic() + seconds
        while True:
            left_s = deadline - time.monotonic()
            got = self.wait(left_s)
            if self.ended_by:
                raise InterruptedBySignalError(self.ended_by)
            if got is None and left_s <= 0:
                return

    def restore_in_child(self) -> None:
        """Between fork and exec: everything as it was when we were started."""
        if callable(signal.getsignal(signal.SIGINT)):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
