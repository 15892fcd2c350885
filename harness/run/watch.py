"""One worker's process under the meter, from its start to its end.

Whatever happens to the process or the meter is told in :class:`Ended`, not raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.meter.base import MeterInfo, Sample
from harness.meter.live import Live
from harness.meter.sampler import Sampled, Sampler, SamplerError
from harness.meter.samples import read
from harness.record.record import Status
from harness.run.events import Event, Failed, Finished, Progress, Started, parse
from harness.run.launch.local import LocalLauncher
from harness.suite.spec import Protocol, RunSpec
from harness.types import UserError

INTERRUPTED = "interrupted"
_POLL_S = 0.05


@dataclass
class Ended:
    """What became of one run, in the terms of its record."""

    events: list[Event] = field(default_factory=list)
    info: MeterInfo | None = None
    samples: Sequence[Sample] = ()
    meter_problem: str = ""
    sampler_cpu_share: float | None = None
    status: Status = Status.FAILED
    reason: str = ""
    device_id: str | None = None  # as a metered worker names it


class Metering:
    """One run's sampling, from a worker's start to its end; what went wrong is kept, not raised."""

    def __init__(self, sampler: Sampler, path: Path) -> None:
        self._sampler = sampler
        self._path = path
        self._running = False
        self.info: MeterInfo | None = None
        self.sampled: Sampled | None = None
        self.problem = ""

    def start(self, pid: int, device_id: str, options: dict[str, str]) -> None:
        """Begin; the first sample is taken before this returns."""
        try:
            self.info = self._sampler.start(pid, uuid_of(device_id), path=self._path, options=options)
            self._running = True
        except (SamplerError, UserError) as error:
            self.problem = f"the meter could not be started: {error}"

    def settle(self) -> None:
        """Let the refreshes pass that a window's edge needs beside it; before the first window and after the last."""
        if self._running and self.info is not None:
            time.sleep(self.info.margin_s)

    def peek(self) -> Live:
        """For the live line."""
        return self._sampler.peek() if self._running else Live(None, None)

    def stop(self) -> None:
        """End, with one last sample; does nothing the second time."""
        if not self._running:
            return
        self._running = False
        try:
            self.sampled = self._sampler.stop()
        except SamplerError as error:
            self.problem = str(error)

    def samples(self) -> Sequence[Sample]:
        """What was read. A file that is torn, or that can't be read at all, is a problem that is kept."""
        if self.info is None or not self._path.exists():
            return ()
        try:
            recording = read(self._path)
        except UserError as error:
            self.problem = self.problem or str(error)
            return ()
        self.problem = self.problem or recording.torn
        return recording.samples


def watch(
    launcher: LocalLauncher,
    spec: RunSpec,
    events_path: Path,
    metering: Metering,
    *,
    options: dict[str, str],
    timeout_s: float,
    update: Callable[[Progress, float, Live], None],
) -> Ended:
    """Start a worker, meter it from its word that it is ready, follow it to its end.

    ``options`` are the meter's for this run; ``update`` gets the progress told, the seconds so far and a live reading.
    ``^C`` ends the run, not the caller.
    """
    ended = Ended()
    began = time.monotonic()
    worker = launcher.start(spec, events_path)
    tail = _Tail(events_path, ended.events)
    stopped = ""
    try:
        while worker.alive:
            for event in tail.read():
                if isinstance(event, Started) and spec.protocol is not Protocol.COUNT:
                    ended.device_id = event.device
                    metering.start(worker.pid, event.device, options)
                    metering.settle()
                    worker.go()
                elif isinstance(event, Progress):
                    update(event, time.monotonic() - began, metering.peek())
                elif isinstance(event, Finished):
                    metering.settle()
                    metering.stop()
                    worker.bye()
            if time.monotonic() - began > timeout_s:
                stopped = f"took longer than the suite's timeout of {timeout_s:g} s"
                metering.stop()  # a process that is gone can't be read any more
                worker.kill()
            worker.wait(_POLL_S)
    except KeyboardInterrupt:
        stopped = INTERRUPTED
        try:
            metering.stop()
        finally:  # whatever a second ^C does to the line above
            worker.kill()
    finally:
        metering.stop()
    ended.samples = metering.samples()
    ended.info, ended.meter_problem = metering.info, metering.problem
    ended.sampler_cpu_share = metering.sampled.cpu_share if metering.sampled is not None else None
    tail.read()
    ended.status, ended.reason = _verdict(ended.events, worker.exit_code, stopped)
    worker.close()
    return ended


class _Tail:
    """Follows a growing events file, whole lines only."""

    def __init__(self, path: Path, events: list[Event]) -> None:
        self._path = path
        self._events = events
        self._offset = 0

    def read(self) -> list[Event]:
        """What is new since the last call; also kept in ``events``."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        end = content.rfind(b"\n") + 1
        self._offset += end
        new = [parse(line) for line in content[:end].splitlines()]
        self._events.extend(new)
        return new


def uuid_of(device_id: str) -> str | None:
    """What the meter wants to know of a device: a card's UUID, nothing for the CPU."""
    return None if device_id == "cpu" else device_id


def _verdict(events: list[Event], exit_code: int | None, stopped: str) -> tuple[Status, str]:
    """How the process ended, in the terms of a record."""
    if stopped:
        return Status.FAILED, stopped
    last = events[-1] if events else None
    if isinstance(last, Finished):
        return Status.OK, ""
    if isinstance(last, Failed):
        return (Status.OUT_OF_MEMORY if last.out_of_memory else Status.FAILED), last.error
    if exit_code is not None and exit_code < 0:
        hint = " (often the kernel, when memory runs out)" if exit_code == -9 else ""
        return Status.FAILED, f"killed by signal {-exit_code}{hint}"
    return Status.FAILED, f"ended with exit code {exit_code} without saying why"
