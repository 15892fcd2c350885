"""Events and samples of one run → its record. Pure: the audit calls it again and must get the same.

``windows_energy`` and ``validity`` of the meter do the physics; here windows are put together into the
headline, the learning curve gets its joules, and the steady protocol its energy per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.meter.aliasing import Aliasing
from harness.meter.alive import believable
from harness.meter.base import Energy, MeterInfo, Sample
from harness.meter.energy import combine, energy_of, scale, windows_energy
from harness.meter.validity import cautions_about, conditions_of, of_another_card, reasons_against
from harness.record.record import (
    ActivityPoint,
    CurvePoint,
    Ended,
    Flops,
    IdleBaseline,
    Record,
    SamplesFile,
    Status,
    WindowEnergy,
)
from harness.record.resonance import checks_of, resonance_of
from harness.run.events import (
    CHARGED,
    Activity,
    Counted,
    Evaluated,
    Event,
    Finished,
    Started,
    Window,
    WindowKind,
)
from harness.suite.spec import Protocol, RunSpec

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the runner knows of a run beside what the worker said and the meter saw."""

    spec: RunSpec
    block_id: str
    position: int
    number: int
    fingerprint: dict[str, Any]
    fingerprint_id: str
    status: Status  # as the process ended; a validity gate may still turn OK into INVALID
    reason: str = ""
    idle_power_w: float | None = None
    meter_problem: str = ""  # the sampler's own failure
    idle: IdleBaseline | None = None  # what ``idle_power_w`` is from
    calibration: SamplesFile | None = None
    sampler_cpu_share: float | None = None  # share of one core that the sampling took


def assemble(
    attempt: Attempt,
    events: Sequence[Event],
    info: MeterInfo | None,
    samples: Sequence[Sample],
    samples_file: SamplesFile | None,
    events_file: SamplesFile | None,
) -> Record:
    """One attempt's record."""
    started = _first(events, Started)
    counted = _first(events, Counted)
    finished = _first(events, Finished)
    said = [event for event in events if isinstance(event, Window)]
    dead: list[str] = []
    if info is not None:
        samples, dead = believable(info, samples, [(window.start_ns, window.end_ns) for window in said])
    aliasing = checks_of(attempt.spec, info, said) if info is not None else []
    windows = _windows(said, aliasing, info, samples, started)
    charged = [window for window in windows if window.charged]
    energy = _headline(attempt, charged, info, samples)
    status, reason = attempt.status, attempt.reason
    warnings: list[str] = list(finished.notes) if finished else []
    conditions: dict[str, Any] = {}
    measured = attempt.spec.protocol is not Protocol.COUNT
    if measured and status is Status.OK and attempt.meter_problem:
        status, reason = Status.INVALID, attempt.meter_problem
    if info is not None and started is not None:
        spans = [(window.start_ns, window.end_ns) for window in said if window.kind in CHARGED]
        conditions = conditions_of(info, samples, spans)
        warnings += cautions_about(info, samples, spans)
        if resonance := resonance_of(attempt.spec, info, said, aliasing):
            conditions["aliasing"] = resonance
            warnings.append(f"{resonance['text']}; {resonance['cure']}")
        against = [*of_another_card(info, started.device), *reasons_against(info, samples, spans)]
        if status is Status.OK and against:
            status, reason = Status.INVALID, "; ".join([*against, *dead])
        warnings += dead
    if attempt.sampler_cpu_share is not None:
        conditions["sampler_cpu_share"] = attempt.sampler_cpu_share
    if measured and status is Status.OK and (energy is None or not energy.known):
        status, reason = Status.INVALID, energy.reason if energy else "no energy was measured"
    final = next((e for e in events if isinstance(e, Evaluated) and e.final), None)
    steady = attempt.spec.protocol is Protocol.STEADY and status is Status.OK
    return Record(
        run_id=attempt.spec.run_id,
        block_id=attempt.block_id,
        spec=attempt.spec,
        attempt=attempt.number,
        status=status,
        reason=reason,
        position=attempt.position,
        wall_clock=started.wall_clock if started else "",
        fingerprint=attempt.fingerprint | (started.fingerprint if started else {}),
        fingerprint_id=attempt.fingerprint_id,
        device_id=started.device if started else "",
        meter=info,
        parameters=started.parameters if started else None,
        windows=tuple(windows),
        energy=energy,
        energy_per_step=_energy_per_step(attempt.spec, windows) if steady else None,
        seconds=sum(window.seconds for window in charged) if charged else None,
        seconds_per_step=_seconds_per_step(attempt.spec, windows) if steady else None,
        idle_power_w=attempt.idle_power_w,
        flops=Flops(total=counted.total, per_step=counted.per_step, per_probe=counted.per_probe) if counted else None,
        steps=finished.steps if finished else sum(window.steps for window in charged),
        examples=finished.examples if finished else 0,
        peak_memory_bytes=finished.peak_memory_bytes if finished else None,
        curve=tuple(_curve(attempt.spec, events, windows, started, counted)),
        quality=final.metrics if final else {},
        quality_errors=final.standard_errors if final else {},
        activity=tuple(
            ActivityPoint(
                step=e.step,
                active_units=e.active_units,
                active_parameters=e.active_parameters,
                entries=e.entries,
                exits=e.exits,
                returns=e.returns,
            )
            for e in events
            if isinstance(e, Activity)
        ),
        conditions=conditions,
        warnings=tuple(warnings),
        samples=samples_file,
        events=events_file,
        ended=Ended(status=attempt.status, reason=attempt.reason, meter_problem=attempt.meter_problem),
        idle=attempt.idle,
        calibration=attempt.calibration,
    )


def _first(events: Sequence[Event], kind: type[E]) -> E | None:
    return next((event for event in events if isinstance(event, kind)), None)


def _windows(
    said: Sequence[Window],
    aliasing: Sequence[Aliasing | None],
    info: MeterInfo | None,
    samples: Sequence[Sample],
    started: Started | None,
) -> list[WindowEnergy]:
    if info is None or started is None or not said:
        return []
    energies = windows_energy(
        info,
        samples,
        [(window.start_ns, window.end_ns) for window in said],
        aliasing=[None if found is None else found.relative_sd for found in aliasing],
    )
    return [
        WindowEnergy(
            kind=window.kind,
            start_s=(window.start_ns - started.at_ns) / 1e9,
            end_s=(window.end_ns - started.at_ns) / 1e9,
            phase=window.phase,
            first_step=window.first_step,
            steps=window.steps,
            energy=energy,
        )
        for window, energy in zip(said, energies, strict=True)
    ]


def _headline(
    attempt: Attempt, charged: Sequence[WindowEnergy], info: MeterInfo | None, samples: Sequence[Sample]
) -> Energy | None:
    """Charged windows of a run that ended well; all that was seen of one that did not (it is wasted)."""
    if attempt.status is Status.OK:
        return combine([window.energy for window in charged]) if charged else None
    if info is None or len(samples) < 2:
        return None
    return energy_of(info, samples, samples[0].at_ns, samples[-1].at_ns)


def _of_phase(windows: Sequence[WindowEnergy], kind: WindowKind, phase: int) -> WindowEnergy:
    return next(window for window in windows if window.kind is kind and window.phase == phase)


def _energy_per_step(spec: RunSpec, windows: Sequence[WindowEnergy]) -> Energy:
    """Mean energy of a step of the whole training that the steady run stands for.

    (sum over phases of steps x energy of a step + probes x energy of a probe) / steps, the phases and
    probes being those of the whole training.
    """
    parts = []
    for index, phase in enumerate(spec.phases):
        train = _of_phase(windows, WindowKind.TRAIN, index)
        parts.append(scale(train.energy, phase.steps / (train.steps * spec.recipe.steps)))
        if phase.probes:
            probe = _of_phase(windows, WindowKind.PROBE, index)
            parts.append(scale(probe.energy, phase.probes / spec.recipe.steps))
    return combine(parts)


def _seconds_per_step(spec: RunSpec, windows: Sequence[WindowEnergy]) -> float:
    """Likewise for time."""
    total = 0.0
    for index, phase in enumerate(spec.phases):
        train = _of_phase(windows, WindowKind.TRAIN, index)
        total += phase.steps * train.seconds / train.steps
        if phase.probes:
            total += phase.probes * _of_phase(windows, WindowKind.PROBE, index).seconds
    return total / spec.recipe.steps


def _curve(
    spec: RunSpec,
    events: Sequence[Event],
    windows: Sequence[WindowEnergy],
    started: Started | None,
    counted: Counted | None,
) -> list[CurvePoint]:
    if started is None:
        return []
    points = []
    for event in events:
        if not isinstance(event, Evaluated) or event.final:
            continue
        until = (event.at_ns - started.at_ns) / 1e9
        before = [window for window in windows if window.charged and window.end_s <= until]
        spent = combine([window.energy for window in before]) if before else None
        points.append(
            CurvePoint(
                step=event.step,
                examples=event.examples,
                energy_j=spent.joules if spent else None,
                seconds=sum(window.seconds for window in before),
                flops=_flops_until(spec, counted, before),
                metrics=event.metrics,
                standard_errors=event.standard_errors,
            )
        )
    return points


def _flops_until(spec: RunSpec, counted: Counted | None, before: Sequence[WindowEnergy]) -> float | None:
    if counted is None:
        return None
    probes = [window for window in before if window.kind is WindowKind.PROBE and spec.phases[window.phase].probes]
    steps = sum(window.steps * counted.per_step[window.phase] for window in before)
    return steps + sum(counted.per_probe[window.phase] for window in probes)
