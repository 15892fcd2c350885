"""Runs and their samples to figures. Pure: the same files give the same numbers at any time.

The window of a run is from its exec to its exit. What a process tree uses lies inside it whole, so a meter by CPU
seconds counts from its last sample before the window to its first one after it: nothing is interpolated. Every
other meter is read at the window's edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.measure.types import Figure, MeterRun, Net, Opined, Plan, Run, RunFigures, Window
from harness.meter.aliasing import Aliasing, check
from harness.meter.alive import believable
from harness.meter.base import METERS, Energy, MeterInfo, Quantity, Sample
from harness.meter.budget import GAIN, MODEL
from harness.meter.energy import MIN_COVERAGE, energy_of, scopes_of
from harness.meter.opinions.base import Part, SecondOpinion
from harness.meter.opinions.compare import compare
from harness.meter.samples import Recording
from harness.meter.validity import cautions_about, conditions_of, reasons_against

J_PER_KWH = 3.6e6
SHORT = 10.0
"""A window of fewer refreshes of the meter than this is mostly edges."""
SURVIVORS_TOLD = 5
"""Of the processes that outlived the command so many are named in a caution; the run keeps all."""

Recordings = dict[str, Recording]
"""Samples files as read, by their path in the folder."""


def figures_of(plan: Plan, run: Run, recordings: Recordings) -> RunFigures:
    """Everything that follows from one run."""
    figures = tuple(_figure(plan, run, left, recordings) for left in run.meters)
    return RunFigures(
        run=run,
        seconds=run.seconds,
        figures=figures,
        opinions=tuple(_opined(plan, run, figures)) if figures else (),
    )


def _figure(plan: Plan, run: Run, left: MeterRun, recordings: Recordings) -> Figure:
    recording = recordings.get(left.samples.path) if left.samples else None
    if recording is None or run.start_ns is None or run.end_ns is None:
        reason = left.problem or run.error or _why_unread(run, left)
        return _unknown(left, next(m for m in plan.meters if m.label == left.meter).name, reason, run.seconds)
    info = recording.info
    window = bracket(info, recording.samples, run.start_ns, run.end_ns)
    samples, dead = believable(info, recording.samples, [window])
    met = _aliasing(plan, run, info)
    energy = energy_of(info, samples, *window, aliasing=met.relative_sd if met else None)
    energy = energy.model_copy(update={"seconds": run.seconds})
    problem = left.problem or recording.torn
    if problem:
        energy = energy.model_copy(
            update={"joules": None, "second_joules": None, "disagreement": None, "uncertainty_j": None, "parts": {},
                    "dominating": "", "reason": problem}
        )  # fmt: skip
    net, no_net = _net(energy, info, left.idle, recordings)
    seconds = run.seconds or 0.0
    return Figure(
        meter=left.meter,
        energy=energy,
        kwh=None if energy.joules is None else energy.joules / J_PER_KWH,
        uncertainty_95_j=energy.expanded_j,
        mean_power_w=None if energy.joules is None or not seconds else energy.joules / seconds,
        net=net,
        no_net=no_net,
        other_scopes=tuple(energy_of(info, samples, *window, scope=scope) for scope in scopes_of(info)[1:]),
        invalid=(problem,) if problem else _invalid(reasons_against(info, samples, [window]), dead),
        cautions=(*dead, *cautions_about(info, samples, [window]), *_cautions(run, info, met)),
        conditions=conditions_of(info, samples),
        assumptions=info.assumptions,
        sample_hz=info.sample_hz,
        sampling_cpu_share=left.cpu_share,
        samples=left.samples,
    )


def _invalid(reasons: Sequence[str], dead: Sequence[str]) -> tuple[str, ...]:
    """Readings that are not believed speak against a run only if too few are left."""
    return (*reasons, *dead) if reasons else ()


def bracket(info: MeterInfo, samples: Sequence[Sample], start_ns: int, end_ns: int) -> tuple[int, int]:
    """The window to be metered: for CPU seconds the samples around it, for all others itself."""
    if not any(channel.quantity is Quantity.CPU_S for channel in info.channels):
        return start_ns, end_ns
    times = [sample.at_ns for sample in samples if sample.value is not None]
    before = max((at for at in times if at <= start_ns), default=start_ns)
    return before, min((at for at in times if at >= end_ns), default=end_ns)


def _net(energy: Energy, info: MeterInfo, idle: Window | None, recordings: Recordings) -> tuple[Net | None, str]:
    """Net of idle, or why not.

    The sensor's gain is the same at rest and at work, so it applies to the difference; everything else is
    independent.
    """
    if any(channel.quantity is Quantity.CPU_S for channel in info.channels):
        return None, "the model counts CPU seconds of the process tree alone: it is net of idle as it is"
    recording = recordings.get(idle.samples.path) if idle else None
    if idle is None or recording is None:
        return None, "no idle baseline was taken"
    rest = energy_of(recording.info, recording.samples, idle.start_ns, idle.end_ns)
    if energy.joules is None or energy.seconds is None:
        return None, "the energy is not known"
    if rest.joules is None or not rest.seconds or rest.coverage < MIN_COVERAGE:
        return None, f"the idle baseline can't be used: {rest.reason or f'only {rest.coverage:.1%} observed'}"
    factor = energy.seconds / rest.seconds
    joules = energy.joules - rest.joules * factor
    relative = sum(energy.parts.get(name, 0.0) for name in (GAIN, MODEL)) / energy.joules if energy.joules else 0.0
    others = [value for name, value in energy.parts.items() if name not in {GAIN, MODEL}]
    others += [value * factor for name, value in rest.parts.items() if name not in {GAIN, MODEL}]
    return (
        Net(
            joules=joules,
            uncertainty_j=math.hypot(relative * joules, *others),
            idle_power_w=rest.joules / rest.seconds,
        ),
        "",
    )


def _aliasing(plan: Plan, run: Run, info: MeterInfo) -> Aliasing | None:
    """What the command's steps do to a sensor that looks part of the time; ``None`` if it does not, or nobody knows."""
    if plan.step_s is None or not run.seconds or not info.update_period_s or not info.look_s:
        return None
    return check(plan.step_s, run.seconds, info.update_period_s, info.look_s)


def _cautions(run: Run, info: MeterInfo, met: Aliasing | None) -> Iterable[str]:
    period_s, look_s, seconds = info.update_period_s, info.look_s, run.seconds or 0.0
    if period_s and seconds < SHORT * period_s:
        yield (
            f"the window is shorter than {SHORT:g} refreshes of the meter ({period_s * 1e3:.3g} ms): mostly edges; "
            "measure something longer, or repeat the work inside the command"
        )
    if met is not None and met.flagged:
        yield met.text
    elif met is None and period_s and look_s and look_s < period_s:
        yield (
            f"the power sensor looks {look_s * 1e3:.3g} of every {period_s * 1e3:.3g} ms: work that repeats in step "
            "with it is misjudged; --step-time checks that"
        )
    if info.name == "rapl":
        yield "covers everything that ran on these CPU packages, not the command alone; --idle shows what rest takes"
    if run.survivors:
        told = [f"{survivor.name[:60]} (pid {survivor.pid})" for survivor in run.survivors[:SURVIVORS_TOLD]]
        more = len(run.survivors) - len(told)
        names = ", ".join(told) + (f" and {more} more" if more else "")
        yield f"lived on after the command, and what it takes from there is not in the figure: {names}"


def _opined(plan: Plan, run: Run, figures: Sequence[Figure]) -> Iterable[Opined]:
    """What other tools say of a card is set against our card's meter, the rest against the CPU's."""
    on_card = {meter.label: "cuda" in METERS.get(meter.name).covers for meter in plan.meters}
    sorted_out: dict[str, list[SecondOpinion]] = {figure.meter: [] for figure in figures}
    for opinion in run.opinions:
        wanted = opinion.part is Part.GPU
        nearest = next((figure for figure in figures if on_card[figure.meter] == wanted), figures[0])
        sorted_out[nearest.meter].append(opinion)
    for figure in figures:
        for row in compare(figure.energy, sorted_out[figure.meter])[1:]:  # the first is ours again
            yield Opined(meter=figure.meter, row=row)


def _why_unread(run: Run, left: MeterRun) -> str:
    if run.start_ns is None:
        return "the command was not started"
    return f"{left.samples.path} is missing or can't be read" if left.samples else "the meter left no samples"


def _unknown(left: MeterRun, name: str, reason: str, seconds: float | None) -> Figure:
    energy = Energy(
        joules=None,
        basis=METERS.get(name).basis,
        source=name,
        scope="unknown",
        coverage=0.0,
        reason=reason,
        seconds=seconds,
    )
    return Figure(
        meter=left.meter,
        energy=energy,
        kwh=None,
        uncertainty_95_j=None,
        mean_power_w=None,
        net=None,
        no_net="the energy is not known",
        invalid=(reason,),
        samples=left.samples,
    )
