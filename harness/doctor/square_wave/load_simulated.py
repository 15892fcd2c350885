"""The schedule as a simulated card's own load, metered in virtual time: it takes a second, not minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.doctor.square_wave.schedule import Done, Stretch
from harness.meter.base import MeterInfo, Sample
from harness.meter.refresh import NS
from harness.meter.simulated.load import Load
from harness.meter.simulated.play import play
from harness.meter.simulated.scenario import Scenario, load_scenario

ON_SHARE = 0.75
"""Of the card's power limit."""
OFF_W = 90.0


def simulate(
    scenario: Scenario | Path, stretches: Sequence[Stretch], *, sample_hz: float, seed: int = 0
) -> tuple[MeterInfo, tuple[Sample, ...], list[Done]]:
    """What the meter reads while the first card of a scenario carries the schedule. Its own loads play no part."""
    if isinstance(scenario, Path):
        scenario = load_scenario(scenario)
    card = scenario.cards[0]
    on_w = ON_SHARE * card.power_limit_w
    curve, spans = _curve(stretches, on_w)
    load = Load(curve=tuple(curve))
    seconds = spans[-1][1] + 0.5
    played = play(scenario.model_copy(update={"cards": (card,)}), seconds, sample_hz=sample_hz, load=load, seed=seed)
    done = [
        Done(
            stretch=stretch,
            start_ns=played.start_ns + round(start_s * NS),
            end_ns=played.start_ns + round(end_s * NS),
            on_s=on_s,
        )
        for stretch, (start_s, end_s, on_s) in zip(stretches, spans, strict=True)
    ]
    return played.info, played.samples, done


def _curve(
    stretches: Sequence[Stretch], on_w: float
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Steps of the load, and start, end and time under load of each stretch, in seconds."""
    steps: list[tuple[float, float]] = []
    spans = []

    def level(at_s: float, watts: float) -> None:
        if not steps or steps[-1][1] != watts:
            steps.append((at_s, watts))

    now_s = 0.0
    for stretch in stretches:
        if stretch.offset_s:
            level(now_s, OFF_W)
            now_s += stretch.offset_s
        start_s = now_s
        if stretch.kind == "wave":
            for cycle in range(round(stretch.seconds / stretch.period_s)):
                level(start_s + cycle * stretch.period_s, on_w)
                level(start_s + (cycle + stretch.duty) * stretch.period_s, OFF_W)
            on_s = stretch.duty * stretch.seconds
        else:
            level(now_s, OFF_W if stretch.kind == "off" else on_w)
            on_s = 0.0 if stretch.kind == "off" else stretch.seconds
        now_s = start_s + stretch.seconds
        spans.append((start_s, now_s, on_s))
    level(now_s, OFF_W)
    return steps, spans
