"""Made-up but complete records with planted savings, quality differences and scatter.

For tests, benchmarks and the page's author: ``records(...)`` is deterministic from its seed. What is
planted is exact in expectation: with ``noise=0`` every pair shows the planted saving to the last digit.

    records()                                        three sizes, three seeds, all the usual arms
    records(arms={"sat": Planted(0.6)}, noise=0.02)  one arm beside dense
    records(protocol=Protocol.COUNT, sizes=("13B",)) counted FLOPs only
    many(1000)                                       about a thousand runs
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.meter.base import Channel, Energy, MeterInfo, Quantity
from harness.record.record import (
    ActivityPoint,
    CurvePoint,
    Flops,
    Record,
    Status,
    WindowEnergy,
)
from harness.run.events import WindowKind
from harness.suite.spec import Arm, Phase, Protocol, Recipe, RunSpec
from harness.types import Basis, digest

LADDER: dict[str, int] = {
    "0.1M": 110_000, "0.3M": 320_000, "1M": 1_050_000, "3M": 3_100_000, "10M": 10_400_000,
    "30M": 31_000_000, "124M": 124_000_000, "350M": 354_000_000, "1.3B": 1_310_000_000,
    "7B": 6_740_000_000, "13B": 13_000_000_000, "30B": 30_200_000_000, "70B": 70_500_000_000,
}  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """What an arm truly does, against dense.

    ``saving`` is of energy (share). ``time`` is the saving of wall time; by default 85 % of ``saving``
    on the log scale, the rest is lower power. ``flops`` is the counted saving; by default a little above
    ``saving``, as overheads demand. ``loss`` (nats per token) and ``accuracy`` (points) are added to the
    dense arm's quality; accuracy follows loss where it is not given. ``slope`` adds saving per decade of
    parameters, from the first size on. ``active`` is the time-averaged active share of units.
    """

    saving: float = 0.0
    method: str = "sat"
    time: float | None = None
    flops: float | None = None
    loss: float = 0.0
    accuracy: float | None = None
    slope: float = 0.0
    active: float | None = None
    returns: int = 0
    match: str | None = None
    shape: str = "grow"  # how the schedule looks: grow, width, freeze, short, small, dense

    def arm(self) -> Arm:
        """The arm as a suite would define it."""
        return Arm(method=self.method, match=self.match)


Saving = Planted

ARMS: dict[str, Planted] = {
    "dense-aa": Planted(method="dense", shape="dense"),
    "sat": Planted(0.60, loss=0.02, active=0.33),
    "sat-width": Planted(0.50, loss=0.05, active=0.36, returns=6, shape="width"),
    "dense-short": Planted(0.62, method="dense-short", loss=0.12, match="sat", shape="short"),
    "dense-small": Planted(0.61, method="dense-small", loss=0.02, match="sat", shape="small"),
    "dense-narrow": Planted(0.61, method="dense-small", loss=0.03, match="sat", shape="small"),
    "sat-random": Planted(0.50, loss=0.20, match="sat-width", active=0.36, returns=40, shape="width"),
    "freeze": Planted(0.15, loss=0.03, active=0.5, shape="freeze"),
}

BASELINE = Planted(method="dense", shape="dense")


def suite_arms(arms: Mapping[str, Planted] = ARMS) -> dict[str, Arm]:
    """The ``arms`` section of a suite that holds dense and ``arms``."""
    return {"dense": Arm(method="dense"), **{name: planted.arm() for name, planted in arms.items()}}


def records(
    sizes: Sequence[str] | Mapping[str, int] = ("0.3M", "1M", "3M"),
    seeds: Sequence[int] = (0, 1, 2),
    arms: Mapping[str, Planted] | None = None,
    *,
    noise: float = 0.02,
    quality_noise: float = 0.005,
    basis: Basis = Basis.MODELLED,
    protocol: Protocol = Protocol.TRAIN,
    card: str = "NVIDIA H100 80GB HBM3",
    steps: int = 200,
    evaluations: int = 8,
    statuses: Mapping[tuple[str, int, str], Status] | None = None,
    retried: Sequence[tuple[str, int, str]] = (),
    seed: int = 0,
    workload: str = "language",
) -> list[Record]:
    """Every size, seed and arm (dense first), in a counter-balanced order.

    Args:
        sizes: names of :data:`LADDER`, or names with their numbers of parameters.
        seeds: seeds of the blocks.
        arms: what is planted beside ``dense``; :data:`ARMS` by default.
        noise: standard deviation of ln(energy) of one run; a pair's scatter is sqrt(2) times that.
        quality_noise: standard deviation of one run's loss in nats, 25 times that in points of accuracy.
        basis: MEASURED gives an NVML card, MODELLED a CPU model, SIMULATED a replayed meter.
        protocol: TRAIN, STEADY or COUNT.
        card: name of the GPU, for MEASURED.
        steps: optimizer steps of the dense arm.
        evaluations: points of a learning curve.
        statuses: ``(size, seed, arm)`` to another status than OK.
        retried: runs whose first attempt failed half-way and whose second is OK.
        seed: of the scatter.
        workload: name of the workload.
    """
    planted = {"dense": BASELINE, **(ARMS if arms is None else arms)}
    ladder = sizes if isinstance(sizes, Mapping) else {name: LADDER[name] for name in sizes}
    smallest = min(ladder.values())
    found: list[Record] = []
    for size, parameters in ladder.items():
        decades = math.log10(parameters / smallest)
        for block_index, block_seed in enumerate(seeds):
            order = list(planted)
            if block_index % 2:
                order.reverse()
            for position, name in enumerate(order):
                truth = planted[name]
                if truth.slope:
                    truth = replace(truth, saving=truth.saving + truth.slope * decades)
                entropy = (seed, parameters % 2**31, block_seed, _number(name))
                run = _Run(
                    name, truth, size, parameters, block_seed, position, entropy, noise, quality_noise, basis,
                    protocol, card, steps, evaluations, workload,
                )  # fmt: skip
                key = (size, block_seed, name)
                if key in retried:
                    found.append(run.failed(Status.FAILED, "killed by signal 9"))
                    found.append(run.record().model_copy(update={"attempt": 2}))
                elif statuses and statuses.get(key, Status.OK) is not Status.OK:
                    found.append(run.failed(statuses[key], REASONS[statuses[key]]))
                else:
                    found.append(run.record())
    return found


REASONS = {
    Status.FAILED: "timed out after 3600 s",
    Status.OUT_OF_MEMORY: "CUDA out of memory: tried to allocate 20.00 GiB",
    Status.INVALID: "coverage 81 % is under 95 %",
    Status.SKIPPED: "needs 98 GB of memory, this machine has 16 GB",
}


def many(runs: int, **options: Any) -> list[Record]:
    """At least ``runs`` records over five sizes and all arms, as many seeds as that takes."""
    sizes = ("0.1M", "0.3M", "1M", "3M", "10M")
    per_seed = len(sizes) * (len(ARMS) + 1)
    return records(sizes, range(-(-runs // per_seed)), **options)


def _number(name: str) -> int:
    return int(digest(name, 8), 16)


@dataclass(frozen=True)
class _Run:
    """Makes one record; ``entropy`` seeds its scatter."""

    name: str
    truth: Planted
    size: str
    parameters: int
    seed: int
    position: int
    entropy: tuple[int, ...]
    noise: float
    quality_noise: float
    basis: Basis
    protocol: Protocol
    card: str
    dense_steps: int
    evaluations: int
    workload: str

    @property
    def flops_saving(self) -> float:
        truth = self.truth
        if truth.flops is not None:
            return truth.flops
        return truth.saving + 0.1 * truth.saving * (1 - truth.saving)

    @property
    def on_gpu(self) -> bool:
        return self.basis is Basis.MEASURED

    @property
    def device_id(self) -> str:
        return "GPU-5c8d1a2e-0001-4b7a-9f00-00000000000a" if self.on_gpu else "cpu"

    @property
    def spec(self) -> RunSpec:
        steps = self.dense_steps
        if self.truth.shape == "short":
            steps = max(1, round(steps * (1 - self.flops_saving)))
        layers = max(2, round(self.parameters**0.25 / 6))
        width = max(32, 32 * round((self.parameters / (12 * layers)) ** 0.5 / 32))
        if self.truth.shape == "small":
            layers = max(1, round(layers * (1 - self.flops_saving)))
        return RunSpec(
            workload=self.workload, workload_version=1, size=self.size, seed=self.seed,
            protocol=self.protocol, arm=self.name, method=self.truth.method, method_version=1,
            model={"layers": layers, "width": width, "vocabulary": 256},
            recipe=Recipe(steps=steps, batch_size=16, learning_rate=3e-3, evaluations=self.evaluations),
            phases=self._phases(steps), device="cuda" if self.on_gpu else "cpu",
        )  # fmt: skip

    def _phases(self, steps: int) -> tuple[Phase, ...]:
        shape = self.truth.shape
        if shape in {"dense", "short", "small"} or steps < 10:
            return (Phase(steps=steps),)
        average = self.truth.active or max(0.05, 1 - self.flops_saving)
        shares = _growing(average)
        lengths = [round(w * steps) for w in _WEIGHTS]
        lengths[-1] += steps - sum(lengths)
        axis = {"grow": "depth", "width": "width", "freeze": "gradient"}[shape]
        return tuple(
            Phase(steps=n, probes=1 if shape == "width" and share < 1 else 0, **{axis: share})
            for n, share in zip(lengths, shares, strict=True)
        )

    def record(self) -> Record:
        """The whole run."""
        spec = self.spec
        steps, phases = spec.recipe.steps, spec.phases
        tokens_per_step = spec.recipe.batch_size * 256
        dense_flops = 6.0 * self.parameters * tokens_per_step * self.dense_steps
        relative = self._relative_costs(phases)
        total_flops = dense_flops * (1 - self.flops_saving)
        flops = Flops(
            total=total_flops,
            per_step=tuple(total_flops * r for r in relative),
            per_probe=tuple(0.0 for _ in phases),
        )
        common: dict[str, Any] = {
            "run_id": spec.run_id, "spec": spec, "status": Status.OK, "position": self.position,
            "block_id": f"{self.workload}-{self.size}-s{self.seed}-{self.protocol.value}",
            "wall_clock": f"2026-11-{1 + self.seed % 28:02d}T12:{self.position % 60:02d}:00+00:00",
            "fingerprint": self._fingerprint(), "fingerprint_id": digest(self._machine()),
            "device_id": "none" if self.protocol is Protocol.COUNT else self.device_id, "flops": flops,
            "parameters": round(self.parameters * (1 - self.flops_saving))
            if self.truth.shape == "small" else self.parameters,
        }  # fmt: skip
        if self.protocol is Protocol.COUNT:
            return Record(**common)
        scatter = np.random.default_rng(self.entropy).normal(size=2)
        rate, power = (4e14, 620.0) if self.on_gpu else (6e10, 31.0)
        idle = 90.0 if self.on_gpu else 9.0
        saving = self.truth.saving
        time_saving = self.truth.time if self.truth.time is not None else 1 - (1 - saving) ** 0.85
        seconds = dense_flops / rate * (1 - time_saving) * math.exp(self.noise / 2 * scatter[0])
        joules = dense_flops / rate * power * (1 - saving) * math.exp(self.noise * scatter[1])
        steady = self.protocol is Protocol.STEADY
        windows = (
            self._steady(spec, relative, joules, seconds) if steady else self._train(spec, relative, joules, seconds)
        )
        charged = [w for w in windows if w.charged]
        total = sum(w.energy.joules or 0.0 for w in charged)
        charged_s = sum(w.seconds for w in charged)
        measured: dict[str, Any] = {
            "meter": self._meter(), "windows": tuple(windows), "energy": self._energy(total, charged_s),
            "seconds": charged_s, "idle_power_w": idle, "peak_memory_bytes": int(self.parameters * 20 + 3e8),
            "conditions": {"throttled_s": 0.0, "power_limit_w": 700.0 if self.on_gpu else None,
                           "foreign_processes": 0, "start_temperature_c": 41.0},
        }  # fmt: skip
        if steady:
            return Record(
                **common, **measured, energy_per_step=self._energy(joules / steps, seconds / steps),
                seconds_per_step=seconds / steps, steps=sum(w.steps for w in charged),
            )  # fmt: skip
        quality, errors = self._quality(1.0, tokens_per_step)
        return Record(
            **common, **measured, steps=steps, examples=steps * tokens_per_step,
            curve=self._curve(
                spec, windows, total_flops=total_flops, relative=relative,
                tokens_per_step=tokens_per_step, final=quality,
            ),
            quality=quality, quality_errors=errors, activity=self._activity(spec),
        )  # fmt: skip

    def failed(self, status: Status, reason: str) -> Record:
        """What is left of a run that did not end well: half its windows, no quality."""
        whole = self.record()
        kept = {} if status is not Status.SKIPPED else {
            "windows": (), "energy": None, "energy_per_step": None, "seconds": None,
            "seconds_per_step": None, "meter": None, "fingerprint": {}, "fingerprint_id": "", "flops": None,
        }  # fmt: skip
        if status in {Status.FAILED, Status.OUT_OF_MEMORY}:
            windows = whole.windows[: max(1, len(whole.windows) // 2)]
            charged = [w for w in windows if w.charged]
            kept = {
                "windows": windows, "energy": self._energy(
                    sum(w.energy.joules or 0.0 for w in charged), sum(w.seconds for w in charged)
                ),
                "seconds": sum(w.seconds for w in charged), "steps": sum(w.steps for w in charged),
                "energy_per_step": None, "seconds_per_step": None,
            }  # fmt: skip
        if status is not Status.INVALID:
            kept |= {"curve": (), "quality": {}, "quality_errors": {}, "activity": ()}
        return whole.model_copy(update={"status": status, "reason": reason, **kept})

    def _relative_costs(self, phases: tuple[Phase, ...]) -> list[float]:
        """Share of the run's cost of one step of each phase; adds up to 1 over all steps."""
        shape = self.truth.shape
        raw = [1 - (1 - p.gradient) / 3 if shape == "freeze" else 0.05 + 0.95 * p.depth * p.width for p in phases]
        total = sum(r * p.steps for r, p in zip(raw, phases, strict=True))
        return [r / total for r in raw]

    def _energy(self, joules: float, seconds: float) -> Energy:
        scope = "gpu" if self.on_gpu else "process tree"
        gain = 0.05 if self.on_gpu else 0.2
        return Energy(
            joules=joules, basis=self.basis, source=self._meter().source, scope=scope, coverage=0.999,
            uncertainty_j=gain * joules, dominating="sensor gain" if self.on_gpu else "watts per core",
            second_joules=joules * 1.011 if self.on_gpu else None,
            disagreement=0.011 if self.on_gpu else None, seconds=seconds,
        )  # fmt: skip

    def _meter(self) -> MeterInfo:
        if self.on_gpu:
            channel = Channel(
                name="gpu0/energy", quantity=Quantity.ENERGY_J, device=self.device_id, scope="gpu",
                basis=self.basis, quantum=0.1, gain_error=0.05,
            )  # fmt: skip
            return MeterInfo(
                name="nvml", basis=self.basis, source="NVML energy counter, driver 570.86",
                channels=(channel,), update_period_s=0.1, sample_hz=20.0,
            )  # fmt: skip
        channel = Channel(
            name="cpu/seconds", quantity=Quantity.CPU_S, device="cpu", scope="process tree",
            basis=self.basis, scale=8.3, quantum=0.01, gain_error=0.2,
        )  # fmt: skip
        name, source = {
            Basis.MODELLED: ("modelled", "CPU seconds x 8.3 W per core (CodeCarbon 3.3.2 CPU table)"),
            Basis.SIMULATED: ("replay", "replayed synthetic readings"),
        }[self.basis]
        return MeterInfo(name=name, basis=self.basis, source=source, channels=(channel,), sample_hz=20.0)

    def _machine(self) -> dict[str, Any]:
        return {
            "cpu": "AMD EPYC 7B13", "cores": 2, "memory_bytes": 16 * 2**30, "os": "Linux 6.1", "python": "3.11.9",
            "virtual": True, "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
        }  # fmt: skip

    def _fingerprint(self) -> dict[str, Any]:
        facts = {**self._machine(), "revision": "0123456789ab", "meter_choice": "planted", "threads": 2}
        if self.on_gpu:
            facts |= {"gpu": self.card, "gpu_memory_bytes": 80 * 2**30, "cuda": "12.8"}
        return facts

    def _window(
        self, kind: WindowKind, at: float, seconds: float, joules: float, *, phase: int, first: int, steps: int
    ) -> WindowEnergy:
        return WindowEnergy(
            kind=kind, start_s=at, end_s=at + seconds, phase=phase, first_step=first, steps=steps,
            energy=self._energy(joules, seconds),
        )  # fmt: skip

    def _train(self, spec: RunSpec, relative: list[float], joules: float, seconds: float) -> list[WindowEnergy]:
        """Train windows between evaluations and phase changes, a probe before each change, evaluations."""
        steps = spec.recipe.steps
        starts = np.cumsum([0, *(p.steps for p in spec.phases)]).tolist()
        evaluations = set(_evaluation_steps(spec))
        edges = sorted({*starts, *evaluations})
        windows: list[WindowEnergy] = []
        at = 0.1
        probes = 0.01 if any(p.probes for p in spec.phases) else 0.0  # share of the run
        probing = sum(1 for p in spec.phases if p.probes)
        for first, last in itertools.pairwise(edges):
            phase = max(i for i, start in enumerate(starts[:-1]) if start <= first)
            if probes and first == starts[phase] and spec.phases[phase].probes:
                windows.append(
                    self._window(
                        WindowKind.PROBE,
                        at,
                        seconds * probes / probing,
                        joules * probes / probing,
                        phase=phase,
                        first=first,
                        steps=0,
                    )
                )
                at = windows[-1].end_s
            cost = relative[phase] * (last - first) * (1 - probes)
            kind = WindowKind.WARMUP if first == 0 and last <= 0.05 * steps else WindowKind.TRAIN
            windows.append(
                self._window(kind, at, seconds * cost, joules * cost, phase=phase, first=first, steps=last - first)
            )
            at = windows[-1].end_s
            if last in evaluations:
                share = 0.02
                windows.append(
                    self._window(
                        WindowKind.EVALUATE, at, seconds * share, joules * share, phase=phase, first=last, steps=0
                    )
                )
                at = windows[-1].end_s
        return windows

    def _steady(self, spec: RunSpec, relative: list[float], joules: float, seconds: float) -> list[WindowEnergy]:
        """Twenty steps of every phase after five of warm-up; the whole schedule would take ``joules``."""
        windows: list[WindowEnergy] = []
        at = 0.1
        probing = sum(phase.probes for phase in spec.phases)
        probes = 0.01 if probing else 0.0  # share of the whole schedule
        for index, share in enumerate(relative):
            parts = [
                (WindowKind.WARMUP, 5, 5 * share * (1 - probes)),
                (WindowKind.TRAIN, 20, 20 * share * (1 - probes)),
            ]
            if spec.phases[index].probes:
                parts.append((WindowKind.PROBE, 0, probes / probing))
            for kind, steps, cost in parts:
                windows.append(self._window(kind, at, seconds * cost, joules * cost, phase=index, first=0, steps=steps))
                at = windows[-1].end_s
        return windows

    def _quality(self, progress: float, tokens_per_step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Loss falls as a power of the steps done and of the parameters; the rest follows from it.

        The same seed gives both arms the same data: half of the scatter is the block's and cancels.
        """
        block = np.random.default_rng([7, self.seed, self.parameters % 2**31]).normal(0, self.quality_noise)
        own = np.random.default_rng((*self.entropy, 1)).normal(0, self.quality_noise) if progress == 1.0 else 0.0
        bottom = 0.9 + 1.5 * (self.parameters / 1e5) ** -0.12
        loss = bottom + 1.6 * ((1 + 30 * progress) ** -0.5) + self.truth.loss + block + own
        planted = self.truth.accuracy if self.truth.accuracy is not None else -25 * self.truth.loss
        accuracy = 100 - 25 * (loss - self.truth.loss) + planted
        quality = {
            "loss": loss, "perplexity": math.exp(loss), "accuracy": min(99.0, max(1.0, accuracy)),
            "bits_per_byte": loss / math.log(2),
        }  # fmt: skip
        errors = {"loss": 0.01, "perplexity": 0.01 * math.exp(loss), "accuracy": 0.2, "bits_per_byte": 0.0144}
        return quality, errors

    def _curve(
        self, spec: RunSpec, windows: list[WindowEnergy], *, total_flops: float, relative: list[float],
        tokens_per_step: int, final: dict[str, float],
    ) -> tuple[CurvePoint, ...]:  # fmt: skip
        points = []
        for step in _evaluation_steps(spec):
            before = [
                w for w in windows if w.charged and w.first_step + w.steps <= step and (w.steps or w.first_step < step)
            ]
            metrics = (
                final if step == spec.recipe.steps else self._quality(step / spec.recipe.steps, tokens_per_step)[0]
            )
            points.append(
                CurvePoint(
                    step=step, examples=step * tokens_per_step,
                    energy_j=sum(w.energy.joules or 0.0 for w in before),
                    seconds=sum(w.seconds for w in before),
                    flops=sum(total_flops * relative[w.phase] * w.steps for w in before), metrics=metrics,
                    standard_errors={"loss": 0.02},
                )
            )  # fmt: skip
        return tuple(points)

    def _activity(self, spec: RunSpec) -> tuple[ActivityPoint, ...]:
        if self.truth.shape not in {"grow", "width", "freeze"}:
            return ()
        points, step = [], 0
        for index, phase in enumerate(spec.phases):
            share = phase.depth * phase.width * phase.gradient
            points.append(
                ActivityPoint(
                    step=step, active_units=share, active_parameters=0.08 + 0.92 * share,
                    entries=4 if index else 0, exits=self.truth.returns if index else 0,
                    returns=self.truth.returns // 3 if index else 0,
                )
            )  # fmt: skip
            step += phase.steps
        return tuple(points)


_WEIGHTS = (0.40, 0.30, 0.20, 0.10)  # of the steps, by phase; the last phase is dense


def _growing(average: float) -> tuple[float, ...]:
    """Four shares, the last one 1, whose mean over the steps is ``average`` (at least 0.12)."""
    shape = (0.6, 1.0, 1.6)
    scale = (average - _WEIGHTS[3]) / sum(w * s for w, s in zip(_WEIGHTS, shape, strict=False))
    return (*(min(1.0, max(0.02, s * scale)) for s in shape), 1.0)


def _evaluation_steps(spec: RunSpec) -> list[int]:
    points, steps = spec.recipe.evaluations, spec.recipe.steps
    return sorted({max(1, round(steps * (i + 1) / points)) for i in range(points)})
