"""The schedule on a real card: matrix products on, nothing off. A process of its own, ``python -m`` this module.

It reads the schedule as JSON from stdin, prints ``{"uuid": ...}`` when it is warm, waits for a line, and prints each
stretch as it was: start and end by the monotonic clock at a synchronised device, and the time under load by CUDA
events. Edges are on a grid of absolute times, so that lateness does not add up.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from harness.doctor.square_wave.schedule import Done, Stretch
from harness.meter.refresh import NS

KERNEL_S = 4e-4
"""A matrix product should take about this: short against every half period, long against its launch."""
SPIN_S = 1.5e-3
"""The end of a wait is spun, for sleep is late by a scheduler's tick."""


class Device(Protocol):
    """What carries the load."""

    def work_until(self, deadline_ns: int) -> float:
        """Work until then; returns the seconds that the device was at it. Ends synchronised."""


def run(
    stretches: list[Stretch],
    device: Device,
    said: Callable[[Done], None],
    clock: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Carry out the schedule, and report each stretch as it ends."""

    def rest_until(deadline_ns: int) -> None:
        while (left_s := (deadline_ns - clock()) / NS) > 0:
            if left_s > SPIN_S:
                sleep(left_s - SPIN_S)

    for stretch in stretches:
        if stretch.offset_s:
            rest_until(clock() + round(stretch.offset_s * NS))
        start_ns = clock()
        end_ns = start_ns + round(stretch.seconds * NS)
        on_s = 0.0
        if stretch.kind == "wave":
            for cycle in range(round(stretch.seconds / stretch.period_s)):
                begin_ns = start_ns + round(cycle * stretch.period_s * NS)
                rest_until(begin_ns)
                on_s += device.work_until(begin_ns + round(stretch.duty * stretch.period_s * NS))
            rest_until(end_ns)
        elif stretch.kind == "off":
            rest_until(end_ns)
        else:
            on_s = device.work_until(end_ns)
        said(Done(stretch=stretch, start_ns=start_ns, end_ns=max(end_ns, clock()), on_s=on_s))


class CudaDevice:
    """Matrix products in half precision, each about :data:`KERNEL_S` long."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        size = 1024
        while True:
            self._a = torch.randn(size, size, device="cuda", dtype=torch.float16)
            self._out = torch.empty_like(self._a)
            self._kernel_s = self._time()
            if self._kernel_s >= KERNEL_S / 2 or size >= 8192:
                break
            size *= 2

    @property
    def uuid(self) -> str:
        """Of the card, as torch gives it."""
        return str(self._torch.cuda.get_device_properties(0).uuid)

    def work_until(self, deadline_ns: int) -> float:
        """Keep one product in flight and one waiting, until the next would end too late."""
        cuda = self._torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        pending: list[Any] = []
        while time.monotonic_ns() + round((len(pending) + 0.5) * self._kernel_s * NS) < deadline_ns:
            self._torch.mm(self._a, self._a, out=self._out)
            mark = cuda.Event()
            mark.record()
            pending.append(mark)
            if len(pending) > 1:
                pending.pop(0).synchronize()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def _time(self) -> float:
        """Seconds of one product, after a warm-up."""
        cuda = self._torch.cuda
        for _ in range(5):
            self._torch.mm(self._a, self._a, out=self._out)
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        for _ in range(20):
            self._torch.mm(self._a, self._a, out=self._out)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / 20


def main() -> None:
    """See the module."""
    stretches = [Stretch.model_validate(item) for item in json.loads(sys.stdin.readline())]

    def say(content: dict[str, Any]) -> None:
        print(json.dumps(content), flush=True)

    try:
        import torch

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA card")
        device = CudaDevice(torch)
    except Exception as error:
        say({"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    say({"uuid": device.uuid})
    if sys.stdin.readline():
        run(stretches, device, lambda done: say(done.model_dump(mode="json")))


if __name__ == "__main__":
    main()
