"""A card for the tests that need one; without it they are skipped, each with the reason."""

from __future__ import annotations

import time

import pytest
import torch

from harness.meter.energy import energy_of
from harness.meter.nvml import NvmlMeter
from harness.run.worker import device_id


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = "torch finds no CUDA device" if not torch.cuda.is_available() else NvmlMeter.available()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if why:
                item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA card: {why}"))


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


class Reader:
    """The NVML meter on the card that torch uses, read from this process at a steady pace while work runs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.meter = NvmlMeter()

    def energy_while(self, work, seconds: float):
        """Energy of calling ``work`` over and over for about ``seconds``, and how often it was called."""
        info = self.meter.open(None, device_id(self.device))
        try:
            samples, calls = [], 0
            self._rest(samples, info.margin_s)
            torch.cuda.synchronize(self.device)
            start_ns = time.monotonic_ns()
            while time.monotonic_ns() - start_ns < seconds * 1e9:
                work()
                torch.cuda.synchronize(self.device)
                calls += 1
                samples += self.meter.read()
            end_ns = time.monotonic_ns()
            self._rest(samples, info.margin_s)
            return energy_of(info, samples, start_ns, end_ns), calls, info
        finally:
            self.meter.close()

    def _rest(self, samples: list, seconds: float) -> None:
        until = time.monotonic() + seconds + 0.2
        while time.monotonic() < until:
            samples += self.meter.read()
            time.sleep(0.02)


@pytest.fixture
def reader(device: torch.device) -> Reader:
    return Reader(device)
