"""Loss against FLOPs: what grows against dense models that are smaller or shorter, from result sets.

Reads the sets of ``suites/frontier.yaml`` and ``suites/growth-ideas.yaml``. ``python studies/frontier.py`` writes the
tables into docs/frontier.md; ``--quick`` prints them. Folders of other sets may be given.

An arm that was run at several learning rates counts at the one with the lowest mean loss over the seeds, and so does
every control: all have the same choice. The *dense line* is the loss of the best depth of dense models at each number
of FLOPs: straight in the logarithm of FLOPs between the neighbouring dense models of one seed.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import document_tables
from scipy import stats

from harness.record.ledger import Ledger, latest
from harness.record.record import Record, Status

RESULTS = Path(__file__).parents[1] / "results"
SETS = (RESULTS / "frontier-cpu", RESULTS / "growth-ideas-cpu")
SHALLOW = "shallow-"


@dataclass(frozen=True)
class Arm:
    """One way of training at one decay of the learning rate, at its best learning rate. ``losses`` by seed."""

    name: str
    decay_share: float
    learning_rate: float
    flops: float  # of a whole training, as counted
    losses: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Held-out loss, nats per token, over the seeds."""
        return sum(self.losses.values()) / len(self.losses)


def arms(records: Iterable[Record]) -> list[Arm]:
    """Every arm at its best learning rate among those that all of its seeds have."""
    found: dict[tuple[str, float], dict[float, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.status is Status.OK and record.flops is not None and "loss" in record.quality:
            recipe = record.spec.recipe
            found[record.spec.arm, recipe.decay_share][recipe.learning_rate][record.spec.seed] = record
    best = []
    for (name, decay), rates in found.items():
        most = max(len(seeds) for seeds in rates.values())
        tried = [
            Arm(name, decay, rate, _total(seeds.values()), {seed: r.quality["loss"] for seed, r in seeds.items()})
            for rate, seeds in rates.items()
            if len(seeds) == most
        ]
        best.append(min(tried, key=lambda arm: arm.mean))
    return best


def dense_line(arm: Arm, dense: Sequence[Arm], seed: int) -> float | None:
    """Loss of dense models at the arm's FLOPs for one seed; ``None`` outside the range that was run."""
    points = sorted((math.log(each.flops), each.losses[seed]) for each in dense if seed in each.losses)
    at = math.log(arm.flops)
    for (left, low), (right, high) in itertools.pairwise(points):
        if left - 1e-6 <= at <= right + 1e-6:
            return low + (high - low) * (at - left) / (right - left)
    return None


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Mean and half width of the 95 % interval (Student's t) of paired differences; ``None`` below two."""
    if len(differences) < 2:
        return None
    spread = stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
    return sum(differences) / len(differences), float(spread)


def table(found: Sequence[Arm], decay_share: float) -> str:
    """One table: every arm with its FLOPs, its loss, and the difference from the dense line, paired by seed."""
    here = [arm for arm in found if arm.decay_share == decay_share]
    full = next(arm for arm in here if arm.name == "dense")
    dense = [full, *(arm for arm in here if arm.name.startswith(SHALLOW))]
    lines = [
        "| arm | FLOPs, % of dense | learning rate | seeds | loss, nats per token | minus dense | minus dense line |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in sorted(here, key=lambda arm: (-arm.flops, arm.name)):
        common = sorted(set(arm.losses) & set(full.losses))
        against_full = interval([arm.losses[seed] - full.losses[seed] for seed in common])
        on_line = [(seed, dense_line(arm, dense, seed)) for seed in common]
        against_line = interval([arm.losses[seed] - line for seed, line in on_line if line is not None])
        lines.append(
            f"| {arm.name} | {arm.flops / full.flops:.0%} | {arm.learning_rate:g} | {len(arm.losses)} | {arm.mean:.4f} "
            f"| {'' if arm is full else _shown(against_full)} | {'' if arm in dense else _shown(against_line)} |"
        )
    return "\n".join(lines)


def _shown(value: tuple[float, float] | None) -> str:
    return "not known" if value is None else f"{value[0]:+.4f} ± {value[1]:.4f}"


def _total(records: Iterable[Record]) -> float:
    totals = [record.flops.total for record in records if record.flops is not None]
    return sum(totals) / len(totals)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", type=Path, default=SETS, help="folders of result sets")
    parser.add_argument("--quick", action="store_true", help="print the tables instead of writing docs/frontier.md")
    given = parser.parse_args()
    found = arms(record for folder in given.sets for record in latest(Ledger(folder).records()).values())
    tables = {f"decay {share:g}": table(found, share) for share in sorted({arm.decay_share for arm in found})}
    if given.quick:
        print("\n\n".join(f"{name}\n{text}" for name, text in tables.items()))
    else:
        document_tables.write("frontier.md", tables)


if __name__ == "__main__":
    main()
