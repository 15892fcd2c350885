"""What metering costs: the sampler's share of one core at 20 Hz, one read of a meter, and the analysis.

``pytest tests/benchmarks/test_sampler.py --benchmark-only``; ``cpu_share_percent`` stands in the extra info.
Where cards are read, the library is a stand-in that answers at once (``tests/stub_nvml.c``), called by the
real ``pynvml`` from the real sampler: everything is in the figure but the driver's own time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_nvml import build

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.energy import windows_energy
from harness.meter.modelled import ModelledCpuMeter
from harness.meter.sampler import Sampler
from harness.meter.samples import read, write
from harness.types import Basis

NS = 1_000_000_000
HZ = 20.0


@pytest.fixture
def training():
    """A process that keeps one core busy, with a sleeping child, as a training with a loader has."""
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "while True: pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    yield process
    process.kill()
    process.wait()


def hour() -> tuple[MeterInfo, list[Sample], list[tuple[int, int]]]:
    """An hour of one card at 20 Hz: counter and power, and 1,000 windows."""
    rng = random.Random(0)
    common = {"device": "GPU-a", "scope": "gpu", "basis": Basis.MEASURED}
    info = MeterInfo(
        name="fake",
        basis=Basis.MEASURED,
        source="synthetic",
        channels=(
            Channel(name="energy", quantity=Quantity.ENERGY_J, quantum=1e-3, **common),
            Channel(name="power", quantity=Quantity.POWER_W, quantum=1e-3, **common),
        ),
        sample_hz=HZ,
    )
    samples, joules = [], 0
    for i in range(round(3600 * HZ)):
        at, watts = i * round(NS / HZ), rng.randrange(200_000, 600_000)
        samples += [
            Sample(0, at, ReadStatus.OK, joules * 1e-3),
            Sample(1, at, ReadStatus.OK, watts * 1e-3),
        ]
        joules += watts // 20
    step = 3600 * NS // 1000
    return info, samples, [(i * step, (i + 1) * step) for i in range(1000)]


def test_sampler_share_of_one_core_at_20_hz(benchmark, training, tmp_path):
    shares = []

    def sample_for_a_while() -> None:
        path = tmp_path / str(len(shares))
        sampler.start(training.pid, None, path)
        time.sleep(5.0)
        shares.append(sampler.stop().cpu_share)

    with Sampler("modelled", {}, HZ) as sampler:
        benchmark.pedantic(sample_for_a_while, rounds=3, iterations=1)
    benchmark.extra_info["cpu_share_percent"] = [round(100 * share, 3) for share in shares]


def test_sampler_share_of_one_core_with_eight_cards_at_20_hz(benchmark, tmp_path, monkeypatch):
    """160 reads of 8 fields a second, slow channels, encoding, compression and wake-ups: under 1 %."""
    library = tmp_path / "library"
    library.mkdir()
    for name, value in (build(library) | {"STUB_NVML_CARDS": "8"}).items():
        monkeypatch.setenv(name, value)
    shares, bits = [], []

    def sample_for_a_while() -> None:
        path = tmp_path / str(len(shares))
        sampler.start(os.getpid(), None, path)
        time.sleep(10.0)
        done = sampler.stop()
        shares.append(done.cpu_share)
        bits.append(8 * path.stat().st_size / done.count)

    with Sampler("nvml", {}, HZ) as sampler:
        benchmark.pedantic(sample_for_a_while, rounds=3, iterations=1)
    benchmark.extra_info["cpu_share_percent"] = [round(100 * share, 3) for share in shares]
    benchmark.extra_info["bits_per_sample"] = round(max(bits), 1)
    assert min(shares) < 0.01  # of three: a busy neighbour makes a read cost more, never less


def test_one_read_of_eight_cards(benchmark, tmp_path, monkeypatch):
    code = (
        "import time\n"
        "from harness.meter.nvml import NvmlMeter\n"
        "meter = NvmlMeter(); meter.open(None, None)\n"
        "for _ in range(200): meter.read()\n"
        "began = time.process_time()\n"
        "for _ in range(2000): meter.read()\n"
        "print((time.process_time() - began) / 2000)\n"
    )
    environment = os.environ | build(tmp_path) | {"STUB_NVML_CARDS": "8"}

    def read_often() -> float:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout)

    seconds = benchmark.pedantic(read_often, rounds=1, iterations=1)
    benchmark.extra_info["microseconds_of_cpu"] = round(1e6 * seconds, 1)


def test_one_read_of_the_modelled_meter(benchmark, training):
    meter = ModelledCpuMeter()
    meter.open(training.pid, None)
    benchmark(meter.read)


def test_start_and_stop_of_one_run(benchmark, tmp_path):
    count = 0

    def start_and_stop() -> None:
        nonlocal count
        count += 1
        sampler.start(os.getpid(), None, tmp_path / str(count))
        sampler.stop()

    with Sampler("modelled", {}, HZ) as sampler:
        start_and_stop()
        benchmark(start_and_stop)


def test_energies_of_a_thousand_windows_in_an_hour_of_samples(benchmark):
    info, samples, windows = hour()
    energies = benchmark.pedantic(windows_energy, args=(info, samples, windows), rounds=3, iterations=1)
    assert sum(energy.coverage for energy in energies) > 999


def test_read_an_hour_of_samples(benchmark, tmp_path: Path):
    info, samples, _ = hour()
    write(tmp_path / "s", info, samples)
    benchmark.extra_info["bits_per_sample"] = round(8 * (tmp_path / "s").stat().st_size / len(samples), 1)
    recording = benchmark.pedantic(read, args=(tmp_path / "s",), rounds=3, iterations=1)
    assert recording.torn == ""
