"""NVML on a real card: the counter, the second channel, the delays that wait in the device's queue."""

from __future__ import annotations

import time

import pynvml
import pytest
import torch

from harness.doctor.square_wave.load_torch import CudaDevice, run
from harness.doctor.square_wave.schedule import Done, Stretch
from harness.run.jitter import Jitter
from harness.run.worker import device_id


@pytest.fixture
def product(device):
    """About 20 ms of matrix products."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)

    def work() -> None:
        for _ in range(12):
            torch.mm(a, a)

    work()
    torch.cuda.synchronize(device)
    return work


def counter_mj(device) -> int:
    handle = pynvml.nvmlDeviceGetHandleByUUID(device_id(device).encode())
    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def test_the_energy_is_that_of_the_cards_own_counter(reader, product, device):
    pynvml.nvmlInit()
    before = counter_mj(device)
    energy, _, _ = reader.energy_while(product, 6.0)
    outer_j = (counter_mj(device) - before) / 1e3  # with the rests at both ends
    assert energy.known
    assert energy.coverage > 0.95
    assert 0.6 * outer_j < energy.joules <= outer_j * 1.01


def test_the_two_channels_agree_within_their_uncertainty(reader, product):
    energy, _, _ = reader.energy_while(product, 10.0)
    assert energy.second_joules is not None, "no second channel: the card has no instant power or no counter"
    assert energy.second_joules == pytest.approx(energy.joules, rel=0.10)


def test_work_draws_more_than_rest(reader, product):
    busy, _, _ = reader.energy_while(product, 4.0)
    rest, _, _ = reader.energy_while(lambda: time.sleep(0.02), 4.0)
    assert busy.joules > 1.5 * rest.joules


def test_jitter_waits_in_the_queue_and_not_in_python(device):
    jitter = Jitter(0.02, "test", device)
    jitter.delay()
    torch.cuda.synchronize(device)
    began = time.monotonic()
    for _ in range(20):
        jitter.delay()
    queued_s = time.monotonic() - began
    torch.cuda.synchronize(device)
    took_s = time.monotonic() - began
    assert queued_s < 0.02, "the delays held Python up"
    assert 0.1 < took_s < 0.4, "twenty delays of 10 ms on average"


def test_the_square_wave_is_on_for_its_share_of_the_time(device):
    wave = Stretch(kind="wave", seconds=3.0, period_s=0.1, duty=0.5)
    done: list[Done] = []
    run([wave], CudaDevice(torch), done.append)
    assert done[0].on_s == pytest.approx(1.5, rel=0.03)
    assert (done[0].end_ns - done[0].start_ns) / 1e9 == pytest.approx(3.0, rel=0.01)
