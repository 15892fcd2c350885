"""Samples that were recorded earlier, played again from the moment the meter is opened: ``replay:FILE``.

For tests and demos, and to look at a recording through everything that comes after the meter. FILE is a samples
file (``samples.py``). It was recorded while something else ran, so every number is marked as simulated, whatever
instrument it came from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.meter.base import Meter, MeterInfo, ReadStatus, Sample
from harness.meter.clock import read_ns
from harness.meter.samples import Recording, read
from harness.types import Basis, UserError


class ReplayMeter(Meter):
    """Plays one samples file, once. Past its end every channel is lost: a recording knows nothing more."""

    name = "replay"
    basis = Basis.SIMULATED
    argument = "FILE"

    @classmethod
    def options_of(cls, argument: str) -> dict[str, Any]:
        """A file."""
        if not argument:
            raise UserError("meter 'replay' needs a file: replay:FILE")
        _recording(Path(argument))
        return {"file": str(Path(argument).absolute())}

    def __init__(self, file: str | Path) -> None:
        self._path = Path(file)
        self._recording: Recording | None = None
        self._shift_ns = 0
        self._played = 0

    @classmethod
    def available(cls) -> str | None:
        """Always: it needs nothing but a file."""
        return None

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        """Read the file; its first sample is due now.

        Raises:
            UserError: there is no such file, it is no samples file, it is torn, or it holds no samples.
        """
        recording = self._recording = _recording(self._path)
        self._played = 0
        self._shift_ns = read_ns() - recording.samples[0].at_ns
        info = recording.info
        return info.model_copy(
            update={
                "name": self.name,
                "basis": Basis.SIMULATED,
                "source": f"replay of {self._path.name}: {info.source}",
                "channels": tuple(c.model_copy(update={"basis": Basis.SIMULATED}) for c in info.channels),
                "assumptions": (*info.assumptions, "recorded earlier, played again: no measurement of this run"),
            }
        )

    def read(self) -> list[Sample]:
        """What the recording has up to now."""
        assert self._recording is not None, "read before open"
        samples, now_ns = self._recording.samples, read_ns()
        due: list[Sample] = []
        while self._played < len(samples) and samples[self._played].at_ns + self._shift_ns <= now_ns:
            sample = samples[self._played]
            at_ns = sample.at_ns + self._shift_ns
            due.append(Sample(sample.channel, at_ns, sample.status, sample.value, sample.sensor_ns))
            self._played += 1
        if due or self._played < len(samples):
            return due
        return [Sample(i, now_ns, ReadStatus.LOST) for i in range(len(self._recording.info.channels))]


def _recording(path: Path) -> Recording:
    """A samples file that can be played."""
    if not os.path.isfile(path):
        raise UserError(f"meter 'replay': there is no file {str(path)!r}")
    recording = read(path)
    if recording.torn:
        raise UserError(f"meter 'replay': {recording.torn}")
    if not recording.samples:
        raise UserError(f"meter 'replay': {path} holds no samples")
    return recording
