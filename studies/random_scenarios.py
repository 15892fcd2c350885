"""Random cards under random loads, for studies: everything follows from a seed, and the truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.scenario import Card, Counter, Fault, FaultKind, Scenario, Sensor

LEAD_S = 1.5
"""Sampled before the window and after it, as a run does."""
GAIN_SD = 0.05
OFFSET_SD_W = 1.0
RESONANT_MS = (50.0, 100.0, 300.0)
"""Step periods that alias with a sensor of 100 ms; scaled for one of another period."""
SENSORS = {
    "25 of 100 ms": ("NVIDIA H100 80GB HBM3", 0.1, 0.025),
    "10 of 20 ms": ("Tesla V100-SXM2-32GB", 0.02, 0.010),
    "100 of 100 ms": ("NVIDIA RTX A6000", 0.1, 0.1),
}
"""Name of a card, how often its sensor is refreshed and how long it looks."""
KINDS = {"constant": 1, "square wave": 4, "resonant": 4, "jittered": 2, "wandering": 2, "phases": 3}
"""Kinds of load and their weights."""


@dataclass(frozen=True)
class Case:
    """One scenario and the window in it."""

    number: int
    kind: str
    sensor: str
    counter_of: str
    scenario: Scenario
    start_s: float
    window_s: float
    step_s: float | None  # mean length of a step, delays included
    jitter_s: float = 0.0  # largest random delay after each step
    off_resonance: float | None = None  # of a resonant load: relative distance from the resonance
    read_seed: int = 0

    @property
    def seconds(self) -> float:
        """How long it is to be sampled."""
        return self.start_s + self.window_s + LEAD_S


def draw(number: int, *, shortest_s: float = 5.0, longest_s: float = 600.0) -> Case:
    """Scenario ``number`` of so many seconds (log-uniform); the same call gives the same scenario."""
    rng = random.Random(f"scenario {number}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    sensor = rng.choice(list(SENSORS))
    window_s = math.exp(rng.uniform(math.log(shortest_s), math.log(longest_s)))
    start_s = LEAD_S + rng.uniform(0.0, 1.0)
    load, step_s, jitter_s, off = _load(rng, kind, SENSORS[sensor][1], start_s + window_s + LEAD_S)
    card = _draw_card(rng, sensor, start_s, window_s)
    return Case(
        number=number,
        kind=kind,
        sensor=sensor,
        counter_of=card.counter.of if card.counter else "",
        scenario=Scenario(title=f"study {number}: {kind}", load=load, cards=(card,)),
        start_s=start_s,
        window_s=window_s,
        step_s=step_s,
        jitter_s=jitter_s,
        off_resonance=off,
        read_seed=rng.randrange(1 << 30),
    )


def paired(case: Case, saving: float) -> Case:
    """The other arm on the same card: other steps at fewer watts, which save about so much energy."""
    rng = random.Random(f"arm of {case.number}")
    stretch = rng.uniform(0.6, 1.1)
    load = case.scenario.load
    curve = tuple((at_s * stretch, watts * (1 - saving) / stretch) for at_s, watts in load.curve)
    power_w = None if load.power_w is None else load.power_w * (1 - saving) / stretch
    repeat_s = None if load.repeat_s is None else load.repeat_s * stretch
    window_s = case.window_s * stretch
    # A card's losses are its own: other reads fail, the rest of the card is the same.
    card = case.scenario.cards[0].model_copy(update={"faults": (), "seed": rng.randrange(1 << 30)})
    return replace(
        case,
        scenario=Scenario(
            title=f"{case.scenario.title}, other arm",
            load=Load(power_w=power_w, curve=curve, repeat_s=repeat_s),
            cards=(card,),
        ),
        start_s=case.start_s + rng.uniform(0.0, 0.2),
        window_s=window_s,
        step_s=None if case.step_s is None else case.step_s * stretch,
        jitter_s=case.jitter_s * stretch,
        off_resonance=None,
        read_seed=rng.randrange(1 << 30),
    )


def _draw_card(rng: random.Random, sensor: str, start_s: float, window_s: float) -> Card:
    """A card with this sensor: random phases, gain, offset, noise, and in one of four some lost reads."""
    name, period_s, look_s = SENSORS[sensor]
    of: Literal["sensor", "power"] = "sensor" if rng.random() < 0.5 else "power"
    faults: list[Fault] = []
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 3)):
            at_s = start_s + rng.uniform(0.0, window_s)
            faults.append(Fault(kind=FaultKind.MISSING, from_s=at_s, until_s=at_s + rng.uniform(0.02, 0.01 * window_s)))
    return Card(
        name=name,
        sensor=Sensor(
            period_s=period_s, window_s=look_s, phase_s=rng.uniform(0.0, period_s), noise_w=rng.uniform(0.2, 3.0)
        ),
        counter=Counter(of=of, period_s=period_s, phase_s=rng.uniform(0.0, period_s)),
        timestamps="refresh" if rng.random() < 0.5 else "read",
        gain=max(0.5, rng.gauss(1.0, GAIN_SD)),
        offset_w=rng.gauss(0.0, OFFSET_SD_W),
        seed=rng.randrange(1 << 30),
        faults=tuple(faults),
    )


def _load(
    rng: random.Random, kind: str, sensor_s: float, seconds: float
) -> tuple[Load, float | None, float, float | None]:
    """A load, its step, its largest delay and its distance from a resonance."""
    high_w = rng.uniform(250.0, 700.0)
    low_w = rng.uniform(60.0, 0.8 * high_w)
    duty = rng.uniform(0.3, 0.7)
    if kind == "constant":
        return Load(power_w=high_w), None, 0.0, None
    step_s = math.exp(rng.uniform(math.log(0.005), math.log(5.0)))
    if kind == "square wave":
        return square_wave(step_s, high_w, low_w, duty), step_s, 0.0, None
    if kind == "resonant":
        off = rng.choice([0.0, math.exp(rng.uniform(math.log(1e-3), math.log(0.05))) * rng.choice([-1, 1])])
        step_s = rng.choice(RESONANT_MS) / 1e3 * (sensor_s / 0.1) * (1 + off)
        return square_wave(step_s, high_w, low_w, duty), step_s, 0.0, abs(off)
    step_s = max(step_s, 0.02)
    if kind == "jittered":  # high for a step, low for a random delay after it
        jitter_s = rng.uniform(0.2, 1.0) * step_s
        load = _steps(seconds, high_w, low_w, lambda: (step_s, rng.uniform(0.0, jitter_s)))
        return load, step_s + jitter_s / 2, jitter_s, None
    if kind == "wandering":
        spread = rng.uniform(0.01, 0.05)

        def wandering() -> tuple[float, float]:
            length_s = step_s * max(0.5, rng.gauss(1.0, spread))
            return duty * length_s, (1 - duty) * length_s

        return _steps(seconds, high_w, low_w, wandering), step_s, 0.0, None
    return _phases(rng, seconds, high_w, low_w, duty, step_s), step_s, 0.0, None


def _steps(seconds: float, high_w: float, low_w: float, lengths: Callable[[], tuple[float, float]]) -> Load:
    """Steps of which ``lengths`` gives the seconds at high and at low power, one after the other."""
    curve: list[tuple[float, float]] = []
    at_s = 0.0
    while at_s < seconds:
        busy_s, idle_s = lengths()
        curve += [(at_s, high_w), (at_s + busy_s, low_w)]
        at_s += busy_s + max(idle_s, 1e-6)
    return Load(curve=tuple(curve))


def _phases(rng: random.Random, seconds: float, high_w: float, low_w: float, duty: float, step_s: float) -> Load:
    """A training: a ramp while it warms up, then steps with probes at full power and pauses to evaluate."""
    ramp_s = min(5.0, 0.1 * seconds)
    curve = [(i * ramp_s / 20, low_w + (high_w - low_w) * i / 20) for i in range(20)]
    at_s = ramp_s
    while at_s < seconds:
        steps = rng.randint(10, 100)
        for start_s in accumulate([at_s] + [step_s] * (steps - 1)):
            curve += [(start_s, high_w), (start_s + duty * step_s, low_w)]
            if start_s > seconds:
                break
        at_s += steps * step_s
        pause_s = rng.uniform(0.2, 2.0)
        curve.append((at_s, high_w if rng.random() < 0.5 else 0.5 * (high_w + low_w)))
        at_s += pause_s
    return Load(curve=tuple(curve))
