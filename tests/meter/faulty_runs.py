"""A training on simulated cards, metered in virtual time and put together to a record; its truth is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from harness.meter.base import MeterInfo, Sample
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.play import Played, play
from harness.meter.simulated.scenario import Card, Fault, Scenario, Sensor
from harness.record.assemble import Attempt, assemble
from harness.record.record import Record, Status
from harness.run.events import Event, Finished, Started, Window, WindowKind
from harness.suite.spec import Phase, Protocol, Recipe, RunSpec
from harness.types import UserError

NS = 1_000_000_000
STEP_S = 0.137
LOAD = square_wave(STEP_S, 620.0, 240.0)
START_S, END_S, STOP_S = 2.0, 26.0, 30.0  # of the charged window, and of the metering
STEPS = round((END_S - START_S) / STEP_S)


def spec_of(arm: str = "dense", steps: int = STEPS, jitter_s: float = 0.0) -> RunSpec:
    """A training of so many steps."""
    return RunSpec(
        workload="language",
        workload_version=1,
        size="1M",
        seed=0,
        protocol=Protocol.TRAIN,
        arm=arm,
        method="dense",
        method_version=1,
        model={},
        recipe=Recipe(steps=steps, batch_size=1, learning_rate=1e-3, jitter_s=jitter_s),
        phases=(Phase(steps=steps),),
        device="cuda",
    )


def card(*faults: Fault, **fields) -> Card:
    """A card with a usual error and noise."""
    return Card(gain=1.03, sensor=Sensor(noise_w=4.0, phase_s=0.03), faults=faults, **fields)


def events_of(start_ns: int, spans: list[tuple[int, int, int]], device: str = "cpu", **ended) -> list[Event]:
    """What a worker says; ``spans`` are start, end and steps of each window."""
    steps = sum(span[2] for span in spans)
    return [
        Started(at_ns=start_ns, pid=1, wall_clock="2026-01-01T00:00:00", device=device, parameters=1),
        *(
            Window(kind=WindowKind.TRAIN, start_ns=start, end_ns=end, steps=count, first_step=0)
            for start, end, count in spans
        ),
        *([] if ended.get("killed") else [Finished(at_ns=spans[-1][1], steps=steps, examples=steps)]),
    ]


@dataclass(frozen=True)
class Run:
    """A record and what an ideal meter would have read in its charged windows."""

    record: Record
    truth_j: float | None = None


def attempt_of(status: Status = Status.OK, reason: str = "", problem: str = "", **spec) -> Attempt:
    """What the runner knows."""
    return Attempt(spec_of(**spec), "b", 0, 1, {}, "m", status, reason, meter_problem=problem)


def metered(
    *cards: Card,
    load: Load = LOAD,
    status: Status = Status.OK,
    reason: str = "",
    device: str = "cpu",
    step_s: float = STEP_S,
    jitter_s: float = 0.0,
    spans_s: tuple[tuple[float, float], ...] = ((START_S, END_S),),
    stop_s: float = STOP_S,
) -> Run:
    """Play a scenario and assemble its record, as the runner does; a card that can't be metered is told as it would."""
    try:
        played = play(Scenario(load=load, cards=cards), stop_s, seed=_seed(cards))
    except UserError as error:
        problem = f"the meter could not be started: {error}"
        events = events_of(0, [(round(START_S * NS), round(END_S * NS), STEPS)], device)
        return Run(assemble(attempt_of(status, reason, problem), events, None, (), None, None))
    spans = [
        (played.start_ns + round(a * NS), played.start_ns + round(b * NS), max(1, round((b - a) / step_s)))
        for a, b in spans_s
    ]
    record = record_of(played.info, played.samples, spans, status, reason, played.error, device, jitter_s)
    return Run(record, sum(played.true_energy_j(a, b, _scope(played)) for a, b, _ in spans))


def record_of(
    info: MeterInfo | None,
    samples: tuple[Sample, ...],
    spans: list[tuple[int, int, int]],
    status: Status = Status.OK,
    reason: str = "",
    problem: str = "",
    device: str = "cpu",
    jitter_s: float = 0.0,
) -> Record:
    """What ``assemble`` makes of it."""
    steps = sum(span[2] for span in spans)
    attempt = attempt_of(status, reason, problem, steps=steps, jitter_s=jitter_s)
    events = events_of(spans[0][0], spans, device, killed=status is not Status.OK)
    return assemble(attempt, events, info, samples, None, None)


def _scope(played: Played) -> str:
    return "module" if any(c.scope == "module" for c in played.info.channels) else "gpu"


def _seed(cards: tuple[Card, ...]) -> int:
    return int(hashlib.sha256(repr(cards).encode()).hexdigest()[:8], 16)
