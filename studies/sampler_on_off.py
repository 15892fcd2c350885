"""What the sampler costs a training: the same steps with it off and on, in counter-balanced pairs.

A small model is trained on one thread, so many steps at a time (a *block*). Blocks come in fours, off on on off
(ABBA), so that a drift of the machine cancels, and between them in fours in which the sampler is off throughout:
these A/A pairs tell how large a difference nothing at all makes here. Slow-down is the ratio of times, its mean
taken of logarithms, with a paired t interval: of wall-clock time, which is what counts, and of the training's own
CPU time, which neighbours disturb less.

``python studies/sampler_on_off.py`` takes under two minutes and writes the table into docs/metering.md;
``--quick`` takes seconds and writes nothing. ``--device cuda`` trains on the card, metered by NVML, and writes nothing.
``--same-core`` puts training and sampler on one core: what they
cost each other where no core is free. A busy machine widens the intervals, so the table says how busy it was.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import document_tables
import torch
from scipy.stats import t as student

from harness.meter.choose import choose
from harness.meter.sampler import Sampler
from harness.record.fingerprint import cpu_name
from harness.run.train import synchronize
from harness.run.watch import uuid_of
from harness.run.worker import device_id

PAIRS, QUICK_PAIRS = 28, 4
BLOCK_S, QUICK_BLOCK_S = 0.9, 0.1
HZ = 20.0


@dataclass(frozen=True)
class Ratio:
    """How much longer the second of a pair takes, as a share of the first, with its 95 % interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def text(self) -> str:
        """In per cent."""
        return f"{self.mean:+.2%} ({self.low:+.2%} to {self.high:+.2%}, n={self.pairs})"


def ratio_of(pairs: list[tuple[float, float]]) -> Ratio:
    """Paired t interval of the mean log ratio, as a relative difference."""
    logs = [math.log(second / first) for first, second in pairs]
    mean = statistics.fmean(logs)
    half = float(student.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.expm1(mean), math.expm1(mean - half), math.expm1(mean + half), len(logs))


def training(device: torch.device) -> Callable[[], None]:
    """One step of a small model; on a card a wider one, so that it works rather than waits for launches."""
    torch.manual_seed(0)
    width = 128 if device.type == "cpu" else 4096
    with device:
        up, down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        batch = torch.randn(width // 2, width)
    model = torch.nn.Sequential(up, torch.nn.GELU(), down)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss: torch.Tensor = torch.nn.functional.mse_loss(model(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class Spent(NamedTuple):
    """What a block took."""

    wall_s: float
    cpu_s: float


Pairs = list[tuple[Spent, Spent]]


class Blocks:
    """Runs blocks of a fixed number of steps with the sampler off or on."""

    def __init__(self, sampler: Sampler, folder: Path, block_s: float, device: torch.device) -> None:
        self._sampler = sampler
        self._folder = folder
        self._device = device
        self._uuid = uuid_of(device_id(device))
        self._step = training(device)
        self._count = 0
        self.shares: list[float] = []
        self._steps = 20
        self._time(self._steps)  # warm
        self._steps = max(1, round(self._steps * block_s / self._time(self._steps).wall_s))

    def run(self, on: bool) -> Spent:
        """One block."""
        if not on:
            return self._time(self._steps)
        self._count += 1
        self._sampler.start(os.getpid(), self._uuid, self._folder / str(self._count))
        spent = self._time(self._steps)
        self.shares.append(self._sampler.stop().cpu_share)
        return spent

    def pairs(self, *, second_on: bool) -> Pairs:
        """Two pairs from four blocks, A B B A; B is with the sampler on, or like A."""
        first, second, third, fourth = (self.run(on) for on in (False, second_on, second_on, False))
        return [(first, second), (fourth, third)]

    def _time(self, steps: int) -> Spent:
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self._step()
        synchronize(self._device)
        return Spent(time.perf_counter() - began, time.process_time() - cpu_began)


def study(meter: str, pairs: int, block_s: float, same_core: bool, device: torch.device) -> list[str]:
    """The table's lines."""
    torch.set_num_threads(1)
    choice = choose(meter, "cuda" if device.type == "cuda" else "cpu")
    busy_before, began = _busy_s(), time.monotonic()
    own_before = time.process_time()
    on_off: Pairs = []
    off_off: Pairs = []
    if same_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before the sampler starts: it inherits
    with tempfile.TemporaryDirectory() as folder, Sampler(choice.name, choice.options, HZ) as sampler:
        blocks = Blocks(sampler, Path(folder), block_s, device)
        blocks.run(on=True)  # the first start of the process is no part of any block
        blocks.shares.clear()
        while len(on_off) < pairs:
            on_off += blocks.pairs(second_on=True)
            off_off += blocks.pairs(second_on=False)
    seconds = time.monotonic() - began
    others = (_busy_s() - busy_before - (time.process_time() - own_before)) / seconds
    place = "one core for both" if same_core else "one thread of training, the sampler where the kernel puts it"
    rows = [
        f"| {name} | {ratio_of([(getattr(a, field), getattr(b, field)) for a, b in on_off]).text} "
        f"| {ratio_of([(getattr(a, field), getattr(b, field)) for a, b in off_off]).text} |"
        for name, field in (("wall-clock time", "wall_s"), ("CPU time of the training", "cpu_s"))
    ]
    return [
        f"| slow-down, {place} | sampler on against off | A/A: off against off |",
        "|---|---|---|",
        *rows,
        "",
        f"Meter {choice.name!r} at {HZ:g} Hz, which took {statistics.fmean(blocks.shares):.2%} of a core. "
        f"{cpu_name()}, {os.cpu_count()} logical CPUs, of which others and the sampler kept {others:.2f} busy; "
        f"blocks of {block_s:g} s; means with 95 % intervals.",
    ]


def _busy_s() -> float:
    """CPU seconds of the whole machine since boot (proc_stat(5): user, nice, system, interrupts)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]]
    return sum(ticks[i] for i in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run it, print the table, write it unless ``--quick``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; writes nothing")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of each kind, {PAIRS} by default")
    parser.add_argument("--meter", help="NAME or NAME:ARGUMENT, as for run; modelled, or nvml on a card")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--same-core", action="store_true", help="training and sampler on one core; writes nothing")
    arguments = parser.parse_args()
    quick = arguments.quick
    lines = study(
        arguments.meter or ("nvml" if arguments.device == "cuda" else "modelled"),
        QUICK_PAIRS if quick else arguments.pairs,
        QUICK_BLOCK_S if quick else BLOCK_S,
        arguments.same_core,
        torch.device(arguments.device),
    )
    print("\n".join(lines))
    plain = arguments.meter is None and arguments.device == "cpu" and not arguments.same_core
    if plain and not quick:
        document_tables.write("metering.md", {"sampler_on_off": "\n".join(lines)})


if __name__ == "__main__":
    main()
