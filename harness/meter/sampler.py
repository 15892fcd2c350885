"""The parent's handle on the sampler's process.

One process serves many runs, one after the other: starting it costs half a second, a run nothing. It is a
process of its own so that sampling goes on when the training is killed for memory, and so that it takes no
time from the training's interpreter. If it dies itself, :meth:`Sampler.stop` says so: that run is invalid,
never a run of zero joules.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness.meter.base import METERS, Calibration, MeterInfo
from harness.meter.calibration import calibrate
from harness.meter.live import Live
from harness.meter.samples import read
from harness.types import UserError

START_TIMEOUT_S = 60.0
"""A driver without persistence mode may take many seconds to wake a card."""
STOP_TIMEOUT_S = 30.0
PEEK_TIMEOUT_S = 0.5
CALIBRATION_TIMEOUT_S = 60.0


class SamplerError(RuntimeError):
    """The sampling failed; no fault of the user's. The run it happened in is invalid."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one run's sampling left, and what it cost."""

    path: Path
    count: int  # samples in the file
    cpu_s: float  # CPU time of the sampler for this run
    seconds: float

    @property
    def cpu_share(self) -> float:
        """Share of one core that the sampling took."""
        return self.cpu_s / self.seconds if self.seconds else 0.0


class Sampler:
    """Samples one meter at ``sample_hz`` reads a second.

    ``meter`` is a name in ``METERS`` and ``options`` its constructor's arguments. ``path`` is the samples
    file where :meth:`start` names none. As a context manager it is opened and closed. Meters registered with
    ``METERS.add`` in the parent are not known in the process: give them an entry point.
    """

    def __init__(
        self,
        meter: str,
        options: Mapping[str, Any] | None = None,
        sample_hz: float = 20.0,
        path: Path | None = None,
    ) -> None:
        self._meter = meter
        self._options = dict(options or {})
        self._sample_hz = sample_hz
        self._default_path = path
        self._path: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._requests = 0
        self._calibrations: dict[str | None, Calibration] = {}  # by device: for every later start on it

    def __enter__(self) -> Sampler:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the process in the background, so that the first run need not wait for it."""
        if self.pid is None:
            self._spawn()

    @property
    def pid(self) -> int | None:
        """Process id of the sampler, while it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def calibrate(self, device: str | None, path: Path) -> Calibration | None:
        """Poll the meter fast for 2 to 3 s into a new samples file, and take what it shows into every later start.

        ``None`` where there is nothing to see: a model, a recording.

        Raises:
            UserError: the meter can't be opened; the text says what to do.
            FileExistsError: raw samples are never overwritten.
            SamplerError: the sampler's process failed.
        """
        if not METERS.get(self._meter).calibrates:
            return None
        if self._path is not None:
            raise RuntimeError("a run is being sampled: calibration comes before or after it")
        if path.exists():
            raise FileExistsError(f"{path}: exists already; raw samples are never overwritten")
        self.open()
        reply = self._answered(
            "calibrate",
            CALIBRATION_TIMEOUT_S,
            meter=self._meter,
            options=self._options,
            pid=None,  # at rest: nothing is trained while it is polled
            device=device,
            path=str(path.absolute()),
        )
        recording = read(path)
        self._calibrations[device] = found = calibrate(
            recording.info, recording.samples, read_s=reply["read_s"], read_cpu_s=reply["read_cpu_s"]
        )
        return found

    def start(
        self,
        pid: int | None,
        device: str | None,
        path: Path | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> MeterInfo:
        """Begin sampling the process tree under ``pid`` or the GPU with UUID ``device`` into a new file.

        ``options`` are added to the meter's for this run alone. The first sample is taken before this
        returns. A sampler that died is started again.

        Raises:
            UserError: the meter can't be opened; the text says what to do.
            FileExistsError: raw samples are never overwritten.
            SamplerError: the sampler's process failed.
        """
        target = path or self._default_path
        if target is None:
            raise ValueError("no path for the samples file")
        if self._path is not None:
            raise RuntimeError("a run is being sampled already: stop() comes first")
        if target.exists():
            raise FileExistsError(f"{target}: exists already; raw samples are never overwritten")
        self.open()
        request = {
            "meter": self._meter,
            "options": self._options | dict(options or {}),
            "sample_hz": self._sample_hz,
            "pid": pid,
            "device": device,
            "path": str(target.absolute()),
        }
        calibration = self._calibrations.get(device)
        if calibration is not None:
            request["calibration"] = calibration.model_dump(mode="json")
        reply = self._answered("start", START_TIMEOUT_S, **request)
        self._path = target
        return MeterInfo.model_validate(reply["info"])

    def peek(self) -> Live:
        """Power and joules so far, for the live line; unknown if the sampler does not answer at once."""
        try:
            reply = self._ask("peek", PEEK_TIMEOUT_S)
        except SamplerError:
            return Live(None, None)
        return Live(reply.get("power_w"), reply.get("joules"))

    def stop(self) -> Sampled:
        """End the run's sampling: one last sample, then the file is complete.

        Raises:
            SamplerError: the sampler died, hung or could not go on reading or writing. The file then ends
                where it did and is readable so far; the run's energy is not known.
        """
        if self._path is None:
            raise RuntimeError("nothing is being sampled")
        path, self._path = self._path, None
        try:
            reply = self._ask("stop", STOP_TIMEOUT_S)
        except SamplerError:
            self._kill()
            raise
        problem = reply.get("failed") or reply.get("error")
        if problem:
            raise SamplerError(problem)
        return Sampled(path, reply["count"], reply["cpu_s"], reply["seconds"])

    def close(self) -> None:
        """End the process; a run still being sampled gets its end mark."""
        process = self._process
        if process is None:
            return
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            pass
        self._kill()
        self._path = None

    def _spawn(self) -> None:
        self._kill()
        root = str(Path(harness.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.meter.sampling_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # ^C in the terminal is the parent's to handle
        )
        self._pending = b""

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _answered(self, do: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """The reply to a request that may fail for good reasons."""
        try:
            reply = self._ask(do, timeout_s, **fields)
        except SamplerError:
            self._kill()  # it may hang in the driver; the next request gets a fresh one
            raise
        if "failed" in reply:
            raise (UserError if reply.get("user") else SamplerError)(reply["failed"])
        return reply

    def _ask(self, do: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply; late replies to earlier requests are dropped."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise SamplerError("the sampler is not running")
        self._requests += 1
        line = json.dumps({"id": self._requests, "do": do, **fields}) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
        except OSError:
            raise SamplerError(self._epitaph(process)) from None
        deadline = time.monotonic() + timeout_s
        while True:
            *lines, self._pending = self._pending.split(b"\n")
            for text in lines:
                reply: dict[str, Any] = json.loads(text)
                if reply["id"] == self._requests:
                    return reply
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
                raise SamplerError(f"the sampler did not answer {do!r} within {timeout_s:g} s")
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                raise SamplerError(self._epitaph(process))
            self._pending += data

    @staticmethod
    def _epitaph(process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"the sampler died ({how}): this run's energy is not known"
