"""The sampler's own process: ``python -m harness.meter.sampling_process``, started by ``sampler.py``.

It reads requests from stdin and writes replies to stdout, one JSON object a line, each with the request's
``id``. Requests: ``start`` (meter, options, sample_hz, pid, device, path, calibration), ``peek``, ``stop``, and
between runs ``calibrate`` (meter, options, pid, device, path). It leaves when stdin closes, so it never outlives
its parent, and ignores ``^C``: the parent says when to stop.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.meter.base import METERS, Calibration, Meter, MeterInfo
from harness.meter.calibration import calibrated
from harness.meter.live import Live, Tally
from harness.meter.polling import poll
from harness.meter.samples import SamplesWriter
from harness.meter.track import NS
from harness.types import UserError

Message = dict[str, Any]


class Session:
    """One run's sampling: a meter, a file, a schedule."""

    def __init__(
        self,
        meter: Meter,
        sample_hz: float,
        pid: int | None,
        device: str | None,
        path: Path,
        calibration: Calibration | None = None,
    ) -> None:
        self._meter = meter
        self._period_ns = round(NS / sample_hz)
        self.error = ""
        try:
            info = meter.open(pid, device)
            if info.sample_hz is None:  # else readings come from elsewhere, at a rate of their own
                info = info.model_copy(update={"sample_hz": sample_hz})
            self.info: MeterInfo = calibrated(info, calibration)
            self._writer = SamplesWriter(path, self.info)
        except BaseException:
            meter.close()
            raise
        self._tally = Tally(self.info)
        self._cpu_ns, self._start_ns = time.process_time_ns(), time.monotonic_ns()
        self._due_ns = time.monotonic_ns()
        self.sample()

    def wait_s(self) -> float | None:
        """Time until the next sample is due; ``None`` once sampling has failed."""
        return None if self.error else max(0.0, (self._due_ns - time.monotonic_ns()) / NS)

    def sample(self, *, last: bool = False) -> None:
        """Take one round of samples. A failure of the meter itself ends the sampling and is kept."""
        if self.error:
            return
        try:
            samples = self._meter.read_last() if last else self._meter.read()
            self._writer.append(samples)
            self._tally.feed(samples)
        except Exception as error:
            self.error = f"sampling failed: {type(error).__name__}: {error}"
        # On a grid of its own: what comes late is not made up for by a burst.
        late_ns = time.monotonic_ns() - self._due_ns
        self._due_ns += self._period_ns * (late_ns // self._period_ns + 1)

    def live(self) -> Live:
        """Power and joules so far."""
        return self._tally.live()

    def finish(self) -> Message:
        """Last sample, end mark, and what the sampling cost since the meter was open."""
        self.sample(last=True)
        try:
            self._writer.close()
        except OSError as error:
            self.error = self.error or f"the samples file could not be finished: {error}"
        self._meter.close()
        return {
            "count": self._writer.count,
            "error": self.error,
            "cpu_s": (time.process_time_ns() - self._cpu_ns) / NS,
            "seconds": (time.monotonic_ns() - self._start_ns) / NS,
        }


class Server:
    """Answers requests; samples between them."""

    def __init__(self, reply: Callable[[Message], None]) -> None:
        self._reply = reply
        self._session: Session | None = None
        self._verbs = {"start": self._start, "peek": self._peek, "stop": self._stop, "calibrate": self._calibrate}

    def serve(self, requests: int) -> None:
        """Until the file descriptor ``requests`` is at its end."""
        pending = b""
        try:
            while True:
                wait_s = self._session.wait_s() if self._session else None
                if self._session and wait_s == 0.0:
                    self._session.sample()
                    continue
                if not select.select([requests], [], [], wait_s)[0]:
                    continue
                data = os.read(requests, 1 << 16)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._reply(self.answer(json.loads(line)))
        finally:
            if self._session:
                self._session.finish()

    def answer(self, request: Message) -> Message:
        """The reply to one request."""
        reply: Message = {"id": request["id"]}
        try:
            return reply | self._verbs[request["do"]](request)
        except UserError as error:
            return reply | {"failed": str(error), "user": True}
        except Exception as error:
            return reply | {"failed": f"{type(error).__name__}: {error}", "user": False}

    def _start(self, request: Message) -> Message:
        meter = self._meter(request)
        calibration = request.get("calibration")
        self._session = Session(
            meter,
            request["sample_hz"],
            request["pid"],
            request["device"],
            Path(request["path"]),
            None if calibration is None else Calibration.model_validate(calibration),
        )
        return {"info": self._session.info.model_dump(mode="json")}

    def _calibrate(self, request: Message) -> Message:
        meter = self._meter(request)
        try:
            info = meter.open(request["pid"], request["device"])
            done = poll(meter, info, Path(request["path"]))
        finally:
            meter.close()
        return {"count": done.count, "read_s": done.read_s, "read_cpu_s": done.read_cpu_s}

    def _meter(self, request: Message) -> Meter:
        if self._session:
            raise RuntimeError("a run is being sampled already")
        meter_class = METERS.get(request["meter"])
        try:
            return meter_class(**request["options"])
        except TypeError as error:
            raise UserError(f"meter {request['meter']!r}: {error}") from error

    def _peek(self, _: Message) -> Message:
        live = self._session.live() if self._session else Live(None, None)
        return {"power_w": live.power_w, "joules": live.joules}

    def _stop(self, _: Message) -> Message:
        if not self._session:
            raise RuntimeError("nothing is being sampled")
        session, self._session = self._session, None
        return session.finish()


def main() -> None:
    """Serve stdin until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leaves through ``finally``: the file gets its end
    # A driver's library that prints must not get into the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(message: Message) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        Server(reply).serve(0)
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
