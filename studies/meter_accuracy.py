"""How near to the truth our energies are, and whether their stated uncertainty covers what is left.

Random cards under random loads (``random_scenarios.py``) are read by the NVML meter itself in virtual time and
put through ``windows_energy``, as a run is. ``python studies/meter_accuracy.py`` writes the table into
docs/accuracy.md; ``--quick`` takes seconds and writes nothing; ``--seed`` draws other scenarios.

*Apart from gain* compares with what a card would say that is read perfectly: truth x gain + offset. What is left
is ours: edges, sampling, aliasing, lost reads.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import document_tables
from random_scenarios import SENSORS, Case, draw, paired

from harness.meter.aliasing import check
from harness.meter.base import Energy, Quantity
from harness.meter.budget import GAIN, combined_j
from harness.meter.energy import energy_of
from harness.meter.simulated.play import Played, play

NS = 1_000_000_000
SCENARIOS, PAIRS = 600, 60
LONG_S = 60.0
ALIASED = 0.01
"""An error of the looks above this is aliasing, if it is the steps' ..."""
NEAR = 0.02
"""... and so is, whatever it came to, a step this near to a resonance by construction."""
PERIODIC = frozenset({"square wave", "resonant"})


@dataclass(frozen=True)
class Outcome:
    """One scenario, metered."""

    case: Case
    energy: Energy
    truth_j: float
    card_j: float  # truth x gain + offset
    looks_error: float  # of perfectly read looks against the truth over the same time, relative
    aliased: bool
    flagged: bool
    naive_counter_j: float
    naive_power_j: float

    @property
    def error(self) -> float:
        """Relative, apart from gain."""
        return (self.energy.joules or 0.0) / self.card_j - 1

    @property
    def integral_error(self) -> float:
        """Of the second channel, relative, apart from gain."""
        return (self.energy.second_joules or 0.0) / self.card_j - 1

    @property
    def covered(self) -> bool:
        """Whether the stated interval holds the truth."""
        return abs((self.energy.joules or 0.0) - self.truth_j) <= (self.energy.expanded_j or 0.0)

    @property
    def covered_apart(self) -> bool:
        """Whether what is stated beside gain covers what the gain does not explain."""
        return abs((self.energy.joules or 0.0) - self.card_j) <= 2 * combined_j(self.energy.parts, [GAIN])

    @property
    def clean(self) -> bool:
        """Off resonance: neither aliased nor flagged."""
        return not self.aliased and not self.flagged


def meter(case: Case) -> Outcome:
    """Play a scenario and put its samples through the estimator."""
    played = play(case.scenario, case.seconds, seed=case.read_seed)
    start_ns = played.start_ns + round(case.start_s * NS)
    end_ns = start_ns + round(case.window_s * NS)
    info, card = played.info, case.scenario.cards[0]
    flagged, relative_sd = False, None
    if case.step_s is not None and info.update_period_s and info.look_s:
        found = check(case.step_s, case.window_s, info.update_period_s, info.look_s, jitter_s=case.jitter_s)
        flagged, relative_sd = found.flagged, found.relative_sd
    energy = energy_of(info, played.samples, start_ns, end_ns, aliasing=relative_sd)
    if energy.joules is None:
        raise RuntimeError(f"{case.scenario.title}: {energy.reason}")
    truth_j = played.true_energy_j(start_ns, end_ns)
    looks_error, by_chance = _looks_error(case)
    return Outcome(
        case=case,
        energy=energy,
        truth_j=truth_j,
        card_j=truth_j * card.gain + card.offset_w * case.window_s,
        looks_error=looks_error,
        aliased=_is_aliased(case, looks_error, by_chance),
        flagged=flagged,
        naive_counter_j=_counter_by_plain_reads(played, start_ns, end_ns),
        naive_power_j=_rectangles_of_mean_power(played, start_ns, end_ns),
    )


def _looks_error(case: Case) -> tuple[float, float]:
    """Relative error of perfectly read looks, and two standard deviations of as many that fall at random."""
    card, load = case.scenario.cards[0], case.scenario.load
    period_s, look_s, phase_s = card.sensor.period_s, card.sensor.window_s, card.sensor.phase_s
    first = math.ceil((case.start_s - phase_s) / period_s) + 1
    last = math.floor((case.start_s + case.window_s - phase_s) / period_s)
    ends = [phase_s + i * period_s for i in range(first, last + 1)]
    looks_w = [(load.energy_until(end_s) - load.energy_until(end_s - look_s)) / look_s for end_s in ends]
    mean_w = load.mean_power(ends[0] - period_s, ends[-1])
    looked_w = math.fsum(looks_w) / len(looks_w)
    spread_w = math.sqrt(math.fsum((watts - looked_w) ** 2 for watts in looks_w) / len(looks_w))
    return looked_w / mean_w - 1, 2 * spread_w / math.sqrt(len(looks_w)) / mean_w


def _is_aliased(case: Case, looks_error: float, by_chance: float) -> bool:
    """By the truth, or by construction. A strictly periodic load leaves nothing to chance; another's error must
    be more than looks that fall at random give."""
    if SENSORS[case.sensor][1] == SENSORS[case.sensor][2]:
        return False  # it never looks away
    if case.off_resonance is not None and case.off_resonance <= NEAR:
        return True
    return abs(looks_error) > max(ALIASED, 0.0 if case.kind in PERIODIC else by_chance)


def _counter_by_plain_reads(played: Played, start_ns: int, end_ns: int) -> float:
    """The counter's last reading in the window less its last one before it."""
    return _last_value(played, Quantity.ENERGY_J, end_ns) - _last_value(played, Quantity.ENERGY_J, start_ns)


def _rectangles_of_mean_power(played: Played, start_ns: int, end_ns: int) -> float:
    """``nvmlDeviceGetPowerUsage`` every 100 ms, each reading times the time since the one before."""
    times = [*range(start_ns + NS // 10, end_ns, NS // 10), end_ns]
    joules, before_ns = 0.0, start_ns
    reads = _values(played, Quantity.POWER_MEAN_W)
    at = 0
    for now_ns in times:
        while at + 1 < len(reads) and reads[at + 1][0] <= now_ns:
            at += 1
        joules += reads[at][1] * (now_ns - before_ns) / NS
        before_ns = now_ns
    return joules


def _last_value(played: Played, quantity: Quantity, at_ns: int) -> float:
    return [value for read_ns, value in _values(played, quantity) if read_ns <= at_ns][-1]


def _values(played: Played, quantity: Quantity) -> list[tuple[int, float]]:
    index = next(i for i, channel in enumerate(played.info.channels) if channel.quantity is quantity)
    return [(s.at_ns, s.value) for s in played.samples if s.channel == index and s.value is not None]


def scenarios(count: int, seed: int, *, shortest_s: float = 5.0, longest_s: float = 600.0) -> list[Outcome]:
    """So many scenarios, metered."""
    return [meter(draw(seed + i, shortest_s=shortest_s, longest_s=longest_s)) for i in range(count)]


def savings(count: int, seed: int, *, longest_s: float = 180.0) -> list[tuple[float, float]]:
    """True and measured saving of so many pairs off resonance, each on one card, with windows of 60 s and more."""
    pairs: list[tuple[float, float]] = []
    number = seed + 1_000_000
    while len(pairs) < count:
        number += 1
        # The other arm may be shorter by 40 %, and must still last a minute.
        case = draw(number, shortest_s=LONG_S / 0.6, longest_s=longest_s)
        if case.kind == "resonant":
            continue
        arms = [meter(case), meter(paired(case, 0.6))]
        if all(arm.clean for arm in arms):
            true, measured = [arm.truth_j for arm in arms], [arm.energy.joules or 0.0 for arm in arms]
            pairs.append((1 - true[1] / true[0], 1 - measured[1] / measured[0]))
    return pairs


def report(outcomes: Sequence[Outcome], pairs: Sequence[tuple[float, float]]) -> str:
    """Everything as Markdown."""
    aliased = [o for o in outcomes if o.aliased]
    others = [o for o in outcomes if not o.aliased]
    worst = max(abs(measured - true) for true, measured in pairs)
    lines = [
        f"{len(outcomes)} scenarios, {len(aliased)} of them aliased, windows of "
        f"{min(o.case.window_s for o in outcomes):.0f} to {max(o.case.window_s for o in outcomes):.0f} s; "
        f"{len(pairs)} pairs.",
        "",
        "| stated 95 % interval covers | target | share | 95 % interval of the share |",
        "|---|---|---|---|",
        _coverage("the truth", [o.covered for o in outcomes]),
        _coverage("the truth, aliased scenarios alone", [o.covered for o in aliased]),
        _coverage("apart from gain", [o.covered_apart for o in outcomes]),
        _coverage("apart from gain, aliased scenarios alone", [o.covered_apart for o in aliased]),
        "",
        "| flags | target | share | 95 % interval of the share |",
        "|---|---|---|---|",
        _share("aliased scenarios that are flagged", "100 %", [o.flagged for o in aliased]),
        *(
            _share(f"flagged though not aliased, sensor {name}", "", [o.flagged for o in _of_sensor(others, name)])
            for name in SENSORS
        ),
        "",
        "| saving of 60 % in pairs on one card, off resonance, windows from 60 s | target | points |",
        "|---|---|---|",
        f"| largest error of {len(pairs)} | 1 | {100 * worst:.2f} |",
        f"| median error | | {100 * median(abs(measured - true) for true, measured in pairs):.3f} |",
        "",
        "Error apart from gain, off resonance:",
        "",
        "| estimator | counter of | windows | n | median | 95th percentile | largest | stated, median sd |",
        "|---|---|---|---|---|---|---|---|",
    ]
    clean = [o for o in outcomes if o.clean]
    for label, long in ((f"from {LONG_S:.0f} s", True), (f"under {LONG_S:.0f} s", False)):
        for name, error in ESTIMATORS.items():
            for of in ("sensor", "power"):
                mine = [o for o in clean if o.case.counter_of == of and (o.case.window_s >= LONG_S) is long]
                if mine:
                    lines.append(_errors(name, of, label, mine, error))
    return "\n".join(lines)


ESTIMATORS: dict[str, Callable[[Outcome], float]] = {
    "ours, counter": lambda o: o.error,
    "ours, integral of instant power": lambda o: o.integral_error,
    "naive: counter by plain reads": lambda o: o.naive_counter_j / o.card_j - 1,
    "naive: mean power x 100 ms": lambda o: o.naive_power_j / o.card_j - 1,
}


def _errors(name: str, of: str, label: str, mine: Sequence[Outcome], error: Callable[[Outcome], float]) -> str:
    found = sorted(abs(error(o)) for o in mine)
    high = found[min(len(found) - 1, math.ceil(0.95 * len(found)) - 1)]
    stated = ""
    if name == "ours, counter":
        stated = f"{median(combined_j(o.energy.parts, [GAIN]) / (o.energy.joules or 1.0) for o in mine):.2%}"
    return f"| {name} | {of} | {label} | {len(mine)} | {median(found):.3%} | {high:.2%} | {found[-1]:.2%} | {stated} |"


def _of_sensor(outcomes: Iterable[Outcome], name: str) -> list[Outcome]:
    return [o for o in outcomes if o.case.sensor == name]


def _coverage(what: str, hits: Sequence[bool]) -> str:
    return _share(what, "95 %", hits)


def _share(what: str, target: str, hits: Sequence[bool]) -> str:
    from scipy.stats import binomtest

    if not hits:
        return f"| {what} | {target} | none | |"
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="exact")
    share = f"{sum(hits) / len(hits):.1%} ({sum(hits)} of {len(hits)})"
    return f"| {what} | {target} | {share} | {interval.low:.1%} to {interval.high:.1%} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short scenarios; writes nothing")
    parser.add_argument("--seed", type=int, default=0, help="number of the first scenario")
    parser.add_argument("--print", action="store_true", help="print the table and write nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        text = report(scenarios(40, options.seed, longest_s=90.0), savings(3, options.seed, longest_s=110.0))
    else:
        text = report(scenarios(SCENARIOS, options.seed), savings(PAIRS, options.seed))
    if options.quick or options.print:
        print(text)
        return
    document_tables.write("accuracy.md", {"meter_accuracy": text})


if __name__ == "__main__":
    main()
