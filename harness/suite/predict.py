"""What a run will take, before it starts. FLOPs are exact; time, energy and money are projected from them.

Time of a step = FLOPs / sustained rate + layers at work x fixed cost per layer. A run adds its start and
its evaluations. Finished records of the same workload and device correct all of it (:class:`History`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.judge.footprint import rental_price
from harness.record.record import Record
from harness.suite.flops import performed, total_flops
from harness.suite.machine import Machine
from harness.suite.spec import Phase, Prediction, Protocol, RunSpec
from harness.workloads.base import Workload

START_S = {"cpu": 2.0, "cuda": 6.0}
"""Seconds from starting a worker to its first step: model, data, counting; on a GPU also its context."""
EVALUATION_SHARE = 0.10
"""Seconds of a training's evaluations, as a share of its steps."""
COMPILE_S = 15.0
"""Seconds that ``torch.compile`` takes in each phase: one graph of a layer forward and backward, more where the
phase gives layers another shape. A guess: nothing was timed on a card."""
COMPILED_LAYER = 0.4
"""Fixed cost of a compiled layer as a share of an eager one: fewer, fused kernels. A guess likewise."""
COUNT_LAYER_S = 0.02
"""Seconds to build and count one residual layer on meta tensors, per phase."""
FP32_SLOWDOWN = {"cpu": 1.0, "cuda": 8.0}
"""fp32 without TF32 against bf16 tensor cores, by the data sheets of A100 and H100 (16 and 15) and the
share of a step that is no product."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Closed-form expectation of a run on a device, before any correction."""

    flops: float | None
    charged_s: float | None  # steps and probes
    wall_s: float | None  # with start and evaluations


def expect(spec: RunSpec, workload: Workload, machine: Machine) -> Expectation:
    """FLOPs that the run executes (count: that it counts) and the seconds that follow from them."""
    if spec.protocol is Protocol.COUNT:
        flops = total_flops(workload, spec.model, spec.recipe, spec.workload_options, spec.phases)
        return Expectation(flops, None, START_S["cpu"] + COUNT_LAYER_S * workload.layers(spec.model) * len(spec.phases))
    slowdown = FP32_SLOWDOWN[machine.device] if spec.recipe.precision == "fp32" else 1.0
    layer_s = workload.layers(spec.model) * machine.layer_step_s * (COMPILED_LAYER if spec.recipe.compile else 1.0)

    def step_s(phase: Phase) -> float:
        flops = workload.step_flops(spec.model, spec.recipe, spec.workload_options, phase) or 0.0
        return flops * slowdown / machine.flops_per_second + layer_s * phase.depth

    phases = performed(spec.protocol, spec.recipe, spec.phases, step_s)
    flops = total_flops(workload, spec.model, spec.recipe, spec.workload_options, phases)
    if flops is None:
        return Expectation(None, None, None)
    layers_s = layer_s * sum((phase.steps + phase.probes) * phase.depth for phase in phases)
    charged = flops * slowdown / machine.flops_per_second + layers_s
    evaluations = EVALUATION_SHARE * charged if spec.protocol is Protocol.TRAIN else 0.0
    charged += spec.recipe.jitter_s / 2 * sum(phase.steps for phase in phases)
    start_s = START_S[machine.device] + (COMPILE_S * len(phases) if spec.recipe.compile else 0.0)
    return Expectation(flops, charged, start_s + charged + evaluations)


def predict(
    spec: RunSpec,
    workload: Workload,
    machine: Machine,
    history: History | None = None,
    usd_per_hour: float | None = None,
) -> Prediction:
    """What to expect of a run.

    ``None`` in the result means unknown: a workload that can't tell its FLOPs, a device without a price, a
    run for another device than the machine's, or (count) nothing that is metered.
    """
    expected = expect(spec, workload, machine)
    factor = history.time_factor(spec) if history else 1.0
    if spec.protocol is Protocol.COUNT:
        return Prediction(flops=expected.flops, seconds=expected.wall_s)
    memory = workload.memory_bytes(spec.model, spec.recipe, spec.workload_options)
    if expected.charged_s is None or expected.wall_s is None or spec.device != machine.device:
        return Prediction(flops=expected.flops, memory_bytes=memory)
    seconds = expected.wall_s * factor
    watts = (history.watts(spec) if history else None) or machine.watts
    return Prediction(
        flops=expected.flops,
        seconds=seconds,
        energy_j=expected.charged_s * factor * watts,
        memory_bytes=memory,
        price_usd=None if usd_per_hour is None else seconds / 3600 * usd_per_hour,
    )


Key = tuple[str, ...]


@dataclass(slots=True)
class History:
    """How far finished runs were from what was expected of them, for the same workload and device.

    The nearest runs count: of the same size, method and protocol; else of the same size and protocol;
    else of the same protocol; else none. Ratios are averaged geometrically.
    """

    _time: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    _watts: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    runs: int = 0  # how many it rests on

    @classmethod
    def of(cls, records: Iterable[Record], workload: Workload, machine: Machine) -> History:
        """From records; those that are not ok, or of another workload or kind of device, are passed over."""
        history = cls()
        for record in records:
            spec = record.spec
            same = spec.workload == workload.name and spec.workload_version == workload.version
            if not record.ok or not same or spec.device != machine.device or not record.windows or not record.seconds:
                continue
            expected = expect(spec, workload, machine)
            wall = max(window.end_s for window in record.windows)
            if not expected.wall_s or wall <= 0:
                continue
            history.runs += 1
            for key in _keys(spec):
                history._time[key].append((wall + START_S[machine.device]) / expected.wall_s)
                if record.energy is not None and record.energy.joules:
                    history._watts[key].append(record.energy.joules / record.seconds)
        return history

    def time_factor(self, spec: RunSpec) -> float:
        """Observed over expected seconds of the nearest runs, 1 where there is none."""
        return _nearest(self._time, spec) or 1.0

    def watts(self, spec: RunSpec) -> float | None:
        """Mean power of the nearest runs, in watts."""
        return _nearest(self._watts, spec)


def _keys(spec: RunSpec) -> tuple[Key, ...]:
    protocol = spec.protocol.value
    return (protocol, spec.size, spec.method), (protocol, spec.size), (protocol,)


def _nearest(known: dict[Key, list[float]], spec: RunSpec) -> float | None:
    for key in _keys(spec):
        if values := known.get(key):
            return _geometric_mean(values)
    return None


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def hourly_price(key: str | None, machine: Machine) -> tuple[float | None, str]:
    """Rental of the machine's device in USD an hour, and where the number is from.

    Args:
        key: an entry of the price table; ``None`` takes the one that fits the device.
        machine: where the suite runs. A processor is rented by its cores.

    Raises:
        UserError: no such key.
    """
    price = rental_price(key, "cpu" if machine.device == "cpu" else machine.name)
    if price is None:
        return None, f"rental: unknown, the price table has nothing for {machine.name}"
    if price.currency != "USD":
        return None, f"rental: unknown, {price.key} is in {price.currency}"
    units = machine.cores if price.per == "vCPU" else 1
    cores = f" x {units}" if units > 1 else ""
    return price.value * units, (
        f"rental: {price.value:g} USD per {price.per} and hour{cores} ({price.low:g} to {price.high:g}, {price.year}; "
        f"{price.source})"
    )
