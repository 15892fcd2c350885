"""Counter and sensor against the mean power that is known from the duty. Pure.

Each of the two is compared with what *its own* readings of steady load and steady rest give for the duty, so that
neither's gain and offset play a part::

    known = duty x on + (1 - duty) x off + cost of switching / period

The cost of switching is taken from the wave hardly out of step with the sensor (101 ms), over whole beats, where
both read the true mean whatever the answer is. In step with the sensor it sees one phase for ever and is wrong by a
*deviation*; the counter is wrong by ``share x deviation``: a share of 1 is a counter that adds up the sensor's looks,
a share of 0 one that integrates all the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from harness.doctor.square_wave.schedule import SETTLE_S, Done, transition_period_s
from harness.judge.words import listing
from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.refresh import NS
from harness.types import Frozen, UserError

Answer = Literal["integrates all the time", "shares the sensor's window", "can't tell"]
ALL: Answer = "integrates all the time"
SHARES: Answer = "shares the sensor's window"
OPEN: Answer = "can't tell"

OFF_RESONANCE = 0.014
"""How far a sensor of 25 in 100 ms is off the mean of a wave out of step, as a share of on minus off (simulated)."""
CLEAR = 4.0
"""The sensor is clearly wrong if its deviation is so many times its standard uncertainty ..."""
CLEAR_SHARE = 0.04
"""... and so much of the difference between on and off."""
NEAR = 0.25
"""A share may be so far from 0 or 1, beside twice its uncertainty, to count as such."""


class Row(Frozen):
    """One period: means over its phases, in watts, and what follows."""

    period_s: float
    duty: float
    known_w: float  # by the counter's own references
    sensor_off_w: float  # the largest deviation of the sensor from its known mean, with its sign
    counter_off_w: float  # the counter's, in that same phase
    sensor_uncertainty_w: float
    counter_uncertainty_w: float
    share: float | None  # of the sensor's deviation that the counter shows too; None: the sensor was not clearly wrong
    share_uncertainty: float | None = None  # one standard deviation
    answer: Answer
    why: str = ""


class Findings(Frozen):
    """What the experiment says."""

    answer: Answer
    why: str
    share: float | None
    share_uncertainty: float | None
    rows: tuple[Row, ...]
    on_w: float  # of the counter
    off_w: float
    sensor_on_w: float
    sensor_off_w: float
    switching_j: float  # cost of one on and off, by the counter
    sensor_period_s: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """A stretch as counter and sensor saw it."""

    done: Done
    seconds: float
    counter_w: float
    sensor_w: float


@dataclass(frozen=True, slots=True)
class _References:
    """Steady levels of one channel and their standard uncertainties, in watts."""

    on_w: float
    off_w: float
    on_sd_w: float
    off_sd_w: float
    switching_j: float = 0.0
    switching_sd_j: float = 0.0

    @property
    def swing_w(self) -> float:
        return self.on_w - self.off_w

    def known(self, duty: float, period_s: float) -> tuple[float, float]:
        """Mean power of a wave and its standard uncertainty."""
        watts = duty * self.on_w + (1 - duty) * self.off_w + self.switching_j / period_s
        return watts, math.hypot(duty * self.on_sd_w, (1 - duty) * self.off_sd_w, self.switching_sd_j / period_s)


def analyse(info: MeterInfo, samples: Sequence[Sample], stretches: Sequence[Done], sensor_s: float) -> Findings:
    """The answer, with a row for each period.

    Raises:
        UserError: no counter or no instant power, a load that makes no difference, or readings with holes.
    """
    counter, sensor = _series(info, samples, Quantity.ENERGY_J), _series(info, samples, Quantity.POWER_W)
    if counter is None or sensor is None:
        lacking = "energy counter" if counter is None else "instant power"
        raise UserError(f"square wave: this card or driver gives no {lacking}: there is nothing to compare")
    seen = [_seen(counter, sensor, one) for one in stretches if one.stretch.kind != "warm-up"]
    waves = [one for one in seen if one.done.stretch.kind == "wave"]
    own = [_with_switching(_levels(seen, which), waves, which, transition_period_s(sensor_s)) for which in (0, 1)]
    for name, levels in zip(("counter", "sensor"), own, strict=True):
        if levels.swing_w <= max(5.0, 5 * math.hypot(levels.on_sd_w, levels.off_sd_w)):
            raise UserError(
                f"square wave: the {name} reads {levels.on_w:.0f} W under load and {levels.off_w:.0f} W at rest: the "
                "load makes too little difference to tell anything (is the card used by others?)"
            )
    poll_s = median([b - a for a, b in pairwise(sensor[0])]) / NS
    grouped: dict[float, list[_Seen]] = {}
    for wave in waves:
        grouped.setdefault(wave.done.stretch.period_s, []).append(wave)
    rows = tuple(_row(period, group, own, sensor_s, poll_s) for period, group in sorted(grouped.items()))
    answer, why, share, spread = _together(rows)
    return Findings(
        answer=answer, why=why, share=share, share_uncertainty=spread, rows=rows, on_w=own[0].on_w, off_w=own[0].off_w,
        sensor_on_w=own[1].on_w, sensor_off_w=own[1].off_w, switching_j=own[0].switching_j, sensor_period_s=sensor_s,
    )  # fmt: skip


_Series = tuple[list[int], list[float]]


def _series(info: MeterInfo, samples: Sequence[Sample], quantity: Quantity) -> _Series | None:
    """Times and values of the first channel of a quantity."""
    index = next((i for i, channel in enumerate(info.channels) if channel.quantity is quantity), None)
    if index is None:
        return None
    good = [(s.at_ns, s.value) for s in samples if s.channel == index and s.status is ReadStatus.OK]
    known = [(at, value) for at, value in good if value is not None]
    return ([at for at, _ in known], [value for _, value in known]) if len(known) > 1 else None


def _seen(counter: _Series, sensor: _Series, done: Done) -> _Seen:
    """Mean power of a stretch, from one step of the counter to another, whole periods of the wave apart."""
    first_ns = done.start_ns + round(SETTLE_S * NS)
    at, values = counter
    steps = [
        ((at[i - 1] + at[i]) / 2, values[i])
        for i in range(1, len(at))
        if values[i] != values[i - 1] and first_ns <= at[i - 1] and at[i] <= done.end_ns
    ]
    if len(steps) < 3:
        raise UserError(
            f"square wave: the counter stood still in a stretch of {done.stretch.kind}; it was reset, lost or not read"
        )
    start_ns, start_j = steps[0]
    end_ns, end_j = _whole_periods(steps, done.stretch.period_s)
    if end_j < start_j:
        raise UserError("square wave: the counter was reset while the experiment ran; run it again")
    return _Seen(
        done=done,
        seconds=(end_ns - start_ns) / NS,
        counter_w=(end_j - start_j) / ((end_ns - start_ns) / NS),
        sensor_w=_held_mean(sensor, start_ns, end_ns),
    )


def _whole_periods(steps: Sequence[tuple[float, float]], period_s: float) -> tuple[float, float]:
    """The step that ends the window: as near to a whole number of periods as there is, in the later half."""
    if not period_s:
        return steps[-1]
    start = steps[0][0]
    candidates = steps[len(steps) // 2 :]

    def off(step: tuple[float, float]) -> float:
        cycles = (step[0] - start) / NS / period_s
        return abs(cycles - round(cycles))

    least = min(off(step) for step in candidates)
    return [step for step in candidates if off(step) <= least + 0.02][-1]


def _held_mean(sensor: _Series, start_ns: float, end_ns: float) -> float:
    """Mean of a power that is held from each read to the next, in watts."""
    total = 0.0
    for (a, b), watts in zip(pairwise(sensor[0]), sensor[1], strict=False):
        total += max(0.0, min(b, end_ns) - max(a, start_ns)) * watts
    return total / (end_ns - start_ns)


def _levels(seen: Sequence[_Seen], which: int) -> _References:
    """On and off, before and after: their mean, and half their difference as its standard uncertainty."""
    levels = []
    for kind in ("on", "off"):
        watts = [(one.counter_w, one.sensor_w)[which] for one in seen if one.done.stretch.kind == kind]
        if not watts:
            raise UserError(f"square wave: there is no reference of steady {kind}")
        middle = math.fsum(watts) / len(watts)
        spread = (max(watts) - min(watts)) / 2
        levels.append((middle, math.hypot(spread, 1e-4 * middle)))
    (on, on_sd), (off, off_sd) = levels
    return _References(on, off, on_sd, off_sd)


def _with_switching(levels: _References, waves: Sequence[_Seen], which: int, period_s: float) -> _References:
    """The cost of switching, from the wave hardly out of step; none is known where that was not run."""
    waves = [one for one in waves if math.isclose(one.done.stretch.period_s, period_s, rel_tol=1e-6)]
    if not waves:
        raise UserError(
            f"square wave: the wave of {period_s * 1e3:g} ms, which tells the cost of switching, is missing"
        )
    costs = []
    for one in waves:
        base, _ = levels.known(one.done.duty, period_s)
        costs.append(((one.counter_w, one.sensor_w)[which] - base) * period_s)
    return _References(
        levels.on_w,
        levels.off_w,
        levels.on_sd_w,
        levels.off_sd_w,
        math.fsum(costs) / len(costs),
        OFF_RESONANCE * abs(levels.swing_w) * period_s,
    )


def _row(period_s: float, group: Sequence[_Seen], own: Sequence[_References], sensor_s: float, poll_s: float) -> Row:
    off: list[tuple[float, float]] = []  # of sensor and counter, in each phase
    sds: list[tuple[float, float]] = []
    known_w = []
    for one in group:
        deviations, uncertainties = [], []
        for levels, watts, edge_s in ((own[1], one.sensor_w, sensor_s), (own[0], one.counter_w, poll_s)):
            known, sd = levels.known(one.done.duty, period_s)
            edge = levels.swing_w * edge_s / one.seconds / math.sqrt(6)
            deviations.append(watts - known)
            uncertainties.append(math.hypot(sd, edge))
        off.append((deviations[0], deviations[1]))
        sds.append((uncertainties[0], uncertainties[1]))
        known_w.append(own[0].known(one.done.duty, period_s)[0])
    sensor_sd, counter_sd = (math.sqrt(math.fsum(sd[i] ** 2 for sd in sds) / len(sds)) for i in (0, 1))
    worst = max(off, key=lambda pair: abs(pair[0]))
    share = spread = None
    if abs(worst[0]) > max(CLEAR * sensor_sd, CLEAR_SHARE * own[1].swing_w):
        # Through the origin: what of the sensor's deviation is in the counter's. Uncertainties of references and
        # switching are common to all phases, so more phases do not shrink them.
        power = math.fsum(s * s for s, _ in off)
        share = math.fsum(s * c for s, c in off) / power
        spread = math.hypot(counter_sd, share * sensor_sd) * math.sqrt(len(off) / power)
    answer, why = _rule(share, spread)
    return Row(
        period_s=period_s, duty=group[0].done.duty, known_w=math.fsum(known_w) / len(known_w), sensor_off_w=worst[0],
        counter_off_w=worst[1], sensor_uncertainty_w=sensor_sd, counter_uncertainty_w=counter_sd, share=share,
        share_uncertainty=spread, answer=answer, why=why,
    )  # fmt: skip


def _rule(share: float | None, spread: float | None) -> tuple[Answer, str]:
    if share is None or spread is None:
        return OPEN, "the sensor read this period right"
    if share + 2 * spread < 0.5 and abs(share) <= NEAR + 2 * spread:
        return ALL, ""
    if share - 2 * spread > 0.5 and abs(share - 1) <= NEAR + 2 * spread:
        return SHARES, ""
    return OPEN, "neither of the two"


def _together(rows: Sequence[Row]) -> tuple[Answer, str, float | None, float | None]:
    telling = [(row, row.share, row.share_uncertainty) for row in rows]
    known = [(row, share, sd) for row, share, sd in telling if share is not None and sd is not None]
    if not known:
        return (
            OPEN, "the sensor read every period right: it looks all the time, or its period is another than assumed",
            None, None,
        )  # fmt: skip
    weights = [1 / max(sd, 1e-6) ** 2 for _, _, sd in known]
    share = math.fsum(w * s for w, (_, s, _) in zip(weights, known, strict=True)) / math.fsum(weights)
    spread = 1 / math.sqrt(math.fsum(weights))
    answers = {row.answer for row, _, _ in known}
    told = listing([f"{row.period_s * 1e3:g}" for row, _, _ in known])
    if {ALL, SHARES} <= answers:
        return OPEN, f"the periods contradict each other ({told} ms)", share, spread
    answer, why = _rule(share, spread)
    if answer is OPEN:
        return OPEN, f"at {told} ms the counter shows {share:.2f} of what the sensor is off: {why}", share, spread
    return (
        answer,
        f"at {told} ms the counter shows {share:.2f} ± {2 * spread:.2f} of what the sensor is off",
        share,
        spread,
    )
