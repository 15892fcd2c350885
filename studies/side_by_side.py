"""Zeus, CodeCarbon and our meter on the same simulated cards: how far each is from the known truth.

``python studies/side_by_side.py`` writes the two tables of docs/second-opinions.md; ``--quick`` prints short ones.
Same scenarios as the study of our own accuracy (``random_scenarios.py``), none drawn for this comparison; every
eighth gets more cards of its kind. What is real and what is simulated: ``other_tools.py``.

Errors are relative to what the cards' own sensors would say of the whole window if they missed nothing: truth x
gain + offset. A card's gain, the same for all three tools, is so left out; a stated interval is held against
the truth itself.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import median

import document_tables
from other_tools import gpu_opinion
from random_scenarios import GAIN_SD, OFFSET_SD_W, SENSORS, Case, draw

from harness.meter.aliasing import check
from harness.meter.base import Energy
from harness.meter.energy import energy_of
from harness.meter.simulated.load import Load, square_wave
from harness.meter.simulated.play import NS, Played, play
from harness.meter.simulated.scenario import Card, Fault, FaultKind, Scenario
from harness.meter.validity import reasons_against

CASES, QUICK_CASES, QUICK_LONGEST_S = 240, 16, 40.0
SEVERAL = 8  # every so many scenarios have several cards
OURS, ZEUS, CODECARBON = "ours", "Zeus", "CodeCarbon"
TOOLS = {ZEUS: "zeus", CODECARBON: "codecarbon"}


@dataclass(frozen=True)
class Result:
    """One scenario as the three tools saw it: relative errors, ``None`` where a tool gave no figure."""

    case: Case
    cards: int
    dropouts: bool
    errors: dict[str, float | None]
    flagged: bool  # our aliasing check warns of the steps
    covered: bool  # our stated 95 % interval holds the truth


def with_more_cards(case: Case) -> Case:
    """The same load on two to eight cards of one kind, each with sensor phase, gain and share of its own."""
    rng = random.Random(f"cards {case.number}")
    (first,) = case.scenario.cards
    assert first.counter is not None
    cards = [first]
    for _ in range(rng.randint(1, 7)):
        phases = [rng.uniform(0.0, period_s) for period_s in (first.sensor.period_s, first.counter.period_s)]
        changed = {
            "sensor": first.sensor.model_copy(update={"phase_s": phases[0]}),
            "counter": first.counter.model_copy(update={"phase_s": phases[1]}),
            "gain": max(0.5, rng.gauss(1.0, GAIN_SD)),
            "offset_w": rng.gauss(0.0, OFFSET_SD_W),
            "load_scale": rng.uniform(0.5, 1.0),
            "seed": rng.randrange(1 << 30),
            "faults": (),
        }
        cards.append(first.model_copy(update=changed))
    return replace(case, scenario=case.scenario.model_copy(update={"cards": tuple(cards)}))


def run(number: int, longest_s: float) -> Result:
    """Meter one scenario three times."""
    case = draw(number, longest_s=longest_s)
    if number % SEVERAL == SEVERAL - 1:
        case = with_more_cards(case)
    scenario = case.scenario
    played = play(scenario, case.seconds, seed=case.read_seed)
    start_ns, end_ns = window_of(played, case.start_s, case.window_s)
    truth_j = played.true_energy_j(start_ns, end_ns)
    seen_j = sum(
        card.true_energy_j(case.start_s, case.start_s + case.window_s) * card.card.gain
        + card.card.offset_w * case.window_s
        for card in played.nvml.cards
    )
    ours, flagged = ours_of(case, played)
    errors = {OURS: _error(ours.joules, seen_j)}
    for title, tool in TOOLS.items():
        said = gpu_opinion(tool, scenario, case.start_s, case.window_s, seed=number)
        errors[title] = _error(said.joules, seen_j)
    interval = ours.interval_j
    return Result(
        case=case,
        cards=len(scenario.cards),
        dropouts=any(card.faults for card in scenario.cards),
        errors=errors,
        flagged=flagged,
        covered=interval is not None and interval[0] <= truth_j <= interval[1],
    )


def window_of(played: Played, start_s: float, window_s: float) -> tuple[int, int]:
    """The window on the clock of a play."""
    return played.start_ns + round(start_s * NS), played.start_ns + round((start_s + window_s) * NS)


def ours_of(case: Case, played: Played) -> tuple[Energy, bool]:
    """Our energy as a run states it, with the doubt that its steps' meeting with the sensor adds, and the flag."""
    info = played.info
    met = None
    if case.step_s is not None and info.update_period_s and info.look_s:
        met = check(case.step_s, case.window_s, info.update_period_s, info.look_s, jitter_s=case.jitter_s)
    window = window_of(played, case.start_s, case.window_s)
    energy = energy_of(info, played.samples, *window, aliasing=met.relative_sd if met else None)
    return energy, met is not None and met.flagged


def _error(joules: float | None, seen_j: float) -> float | None:
    return None if joules is None else joules / seen_j - 1


CLASSES: dict[str, Callable[[Result], bool]] = {
    "all": lambda r: True,
    "flagged as aliased by ours": lambda r: r.flagged,
    "not flagged": lambda r: not r.flagged,
    "windows of 5 to 15 s": lambda r: r.case.window_s < 15,
    "windows of 15 to 60 s": lambda r: 15 <= r.case.window_s < 60,
    "windows of 60 to 600 s": lambda r: r.case.window_s >= 60,
    "constant load": lambda r: r.case.kind == "constant",
    "square wave": lambda r: r.case.kind == "square wave",
    "resonant with the sensor": lambda r: r.case.kind == "resonant",
    "jittered steps": lambda r: r.case.kind == "jittered",
    "wandering steps": lambda r: r.case.kind == "wandering",
    "training with phases": lambda r: r.case.kind == "phases",
    "counter of the sensor's looks": lambda r: r.case.counter_of == "sensor",
    "counter of all power": lambda r: r.case.counter_of == "power",
    **{f"sensor looks {name}": (lambda r, name=name: r.case.sensor == name) for name in SENSORS},
    "reads that fail now and then": lambda r: r.dropouts,
    "2 to 8 cards": lambda r: r.cards > 1,
}


def accuracy_table(results: Sequence[Result]) -> list[list[str]]:
    """Cells: class, number, then of each tool median, 95th percentile and worst, then our coverage."""
    rows = [
        [
            "scenarios",
            "n",
            *(f"{_titled(tool)}: median / p95 / worst" for tool in (OURS, *TOOLS)),
            "ours nearer than Zeus / CodeCarbon",
            "our 95 % interval holds",
        ]
    ]
    for name, belongs in CLASSES.items():
        mine = [result for result in results if belongs(result)]
        if mine:
            held = sum(result.covered for result in mine)
            spreads = [spread(result.errors[tool] for result in mine) for tool in (OURS, *TOOLS)]
            nearer = " / ".join(share_nearer(mine, tool) for tool in TOOLS)
            rows.append([name, str(len(mine)), *spreads, nearer, f"{held / len(mine):.0%}"])
    return rows


def share_nearer(results: Sequence[Result], tool: str) -> str:
    """In which share of the scenarios ours is nearer to the truth; a tool without a figure is no nearer."""
    pairs = [(result.errors[OURS], result.errors[tool]) for result in results]
    won = sum(ours is not None and (theirs is None or abs(ours) < abs(theirs)) for ours, theirs in pairs)
    return f"{won / len(pairs):.0%}"


def _titled(tool: str) -> str:
    return f"{tool} {version(TOOLS[tool])}" if tool in TOOLS else tool


def spread(errors: Iterable[float | None]) -> str:
    """Median, 95th percentile and worst of the absolute errors in per cent, and how many gave no figure."""
    given = list(errors)
    known = sorted(abs(error) for error in given if error is not None)
    if not known:
        return "no figure"
    p95 = known[min(len(known) - 1, round(0.95 * (len(known) - 1)))]
    text = " / ".join(f"{100 * value:.3f} %" for value in (median(known), p95, known[-1]))
    silent = len(given) - len(known)
    return text + (f" ({silent} without a figure)" if silent else "")


FAULT_START_S, FAULT_WINDOW_S = 3.0, 60.0
_MIDDLE_S = FAULT_START_S + FAULT_WINDOW_S / 2
_END_S = FAULT_START_S + FAULT_WINDOW_S


def _fault(kind: FaultKind, from_s: float, until_s: float | None = None, **more: object) -> Fault:
    return Fault.model_validate({"kind": kind, "from_s": from_s, "until_s": until_s, **more})


FAULTS: dict[str, tuple[Fault, ...]] = {
    "nothing": (),
    "counter reset in the middle": (_fault(FaultKind.RESET, _MIDDLE_S),),
    "counter jumps by 5 kJ": (_fault(FaultKind.JUMP, _MIDDLE_S, value=5000.0),),
    "counter stands still from the middle on": (_fault(FaultKind.FROZEN, _MIDDLE_S, readings=("energy",)),),
    "all readings stand still from the middle on": (_fault(FaultKind.FROZEN, _MIDDLE_S),),
    "counter says 0 from the middle on": (_fault(FaultKind.ZERO, _MIDDLE_S, readings=("energy",)),),
    "counter says 'not available' at the end": (_fault(FaultKind.NOT_AVAILABLE, _END_S - 0.05, readings=("energy",)),),
    "reads fail for 0.3 s at the start": (_fault(FaultKind.MISSING, FAULT_START_S - 0.15, FAULT_START_S + 0.15),),
    "reads fail for 0.3 s at the end": (_fault(FaultKind.MISSING, _END_S - 0.15, _END_S + 0.15),),
    "reads fail for 20 s in the middle": (_fault(FaultKind.MISSING, _MIDDLE_S - 10, _MIDDLE_S + 10),),
    "card lost in the middle": (_fault(FaultKind.LOST, _MIDDLE_S),),
    "card lost in the middle, back after 5 s": (
        _fault(FaultKind.LOST, _MIDDLE_S, _MIDDLE_S + 5),
        _fault(FaultKind.RESET, _MIDDLE_S),
    ),
    "no counter at all": (_fault(FaultKind.UNSUPPORTED, 0.0, readings=("energy",)),),
}
"""What can befall a card within a window of 60 s."""


def fault_table() -> list[list[str]]:
    """What each tool says of each fault: figure and error, or why not; for ours also whether the run counts."""
    rows = [["what happens", OURS, *map(_titled, TOOLS)]]
    load = square_wave(0.333, 500.0, 200.0)
    for name, faults in FAULTS.items():
        # A counter of all power, and an awkward load avoided: what is left is the fault.
        scenario = Scenario(
            load=load, cards=(Card(counter=Card().counter.model_copy(update={"of": "power"}), faults=faults),)
        )
        rows.append(
            [name, _ours_of_fault(scenario, load), *(_theirs_of_fault(t, scenario, load) for t in TOOLS.values())]
        )
    return rows


def _truth_j(load: Load) -> float:
    return load.energy_until(_END_S) - load.energy_until(FAULT_START_S)


def _ours_of_fault(scenario: Scenario, load: Load) -> str:
    played = play(scenario, _END_S + 3.0)
    window = window_of(played, FAULT_START_S, FAULT_WINDOW_S)
    energy = energy_of(played.info, played.samples, *window)
    against = reasons_against(played.info, played.samples, [window])
    said = _figure(energy.joules, _truth_j(load))
    if energy.joules is not None and energy.expanded_j is not None:
        said += f" ± {energy.expanded_j / energy.joules:.1%}"
    return (
        f"{said}; {'run invalid: ' + against[0].replace(played.nvml.uuid_of(0), 'card') if against else 'run counts'}"
    )


def _theirs_of_fault(tool: str, scenario: Scenario, load: Load) -> str:
    said = gpu_opinion(tool, scenario, FAULT_START_S, FAULT_WINDOW_S)
    if said.joules is None:
        return f"no figure: {said.reason.partition(': ')[2].partition(':')[0]}"
    warned = said.reason and not said.reason.startswith(("negative", "0 is also"))
    return _figure(said.joules, _truth_j(load)) + (", with a warning in its log" if warned else "")


def _figure(joules: float | None, truth_j: float) -> str:
    if joules is None:
        return "no figure"
    error = joules / truth_j - 1
    return f"{joules / 1e3:,.2f} kJ ({error:+.1%})" if abs(error) < 10 else f"{joules:.3g} J"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Run the study; the results, for tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CASES} short scenarios, printed only")
    wanted = parser.parse_args(arguments)
    cases, longest_s = (QUICK_CASES, QUICK_LONGEST_S) if wanted.quick else (CASES, 600.0)
    results = [run(number, longest_s) for number in range(cases)]
    accuracy, faults = markdown(accuracy_table(results)), markdown(fault_table())
    if wanted.quick:
        print(accuracy, faults, sep="\n\n")
    else:
        document_tables.write("second-opinions.md", {"accuracy": accuracy, "faults": faults})
    return results


if __name__ == "__main__":
    main()
