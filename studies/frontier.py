"""Loss against FLOPs: what grows against dense models that are smaller or shorter, from result sets.

Reads the sets of the suites frontier, growth-ideas, ablation, frontier-decisive, frontier-confirm, frontier-longer and
frontier-deep. ``studies/frontier.py`` writes their tables and the figure into docs/frontier.md; ``--quick`` prints the
tables. Folders of other sets may be given, which are then taken together.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import document_tables
import frontier_figure
from scipy import stats

from harness.record.ledger import Ledger, latest
from harness.record.record import Record, Status

RESULTS = Path(__file__).parents[1] / "results"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "search": ("frontier-cpu", "growth-ideas-cpu", "ablation-cpu"),
    "fresh seeds": ("frontier-decisive-cpu", "frontier-confirm-cpu"),
    "longer": ("frontier-longer-cpu",),
    "deep": ("frontier-deep-cpu",),
}
"""Sets whose arms stand in one table. Seeds by which an arm was chosen never meet those it is confirmed with."""

FIGURE = ("frontier-cpu", "growth-ideas-cpu")
"""Sets whose arms are drawn: the ablation's many single settings would hide them."""

BASES = {f"backward-{change}": "backward-drop" for change in ("half", "tail", "random")}
"""Arms that differ in one setting from another whose name theirs does not begin with."""

SHALLOW = "shallow-"


class Setting(NamedTuple):
    """What arms must share to be compared."""

    size: str
    tokens_per_parameter: float
    decay_share: float
    layers: int = 0  # where they are not the ladder's

    def __str__(self) -> str:
        size = f"{self.size} in {self.layers} layers" if self.layers else self.size
        return f"{size}, {self.tokens_per_parameter:g} tokens per parameter, decay {self.decay_share:g}"


@dataclass(frozen=True)
class Arm:
    """One way of training in one setting, at its best learning rate. ``losses`` by seed."""

    name: str
    setting: Setting
    learning_rate: float
    flops: float  # of a whole training, as counted
    losses: Mapping[int, float]
    by_rate: Mapping[float, Mapping[int, float]] = field(default_factory=dict)  # losses at every learning rate tried

    @property
    def mean(self) -> float:
        """Held-out loss, nats per token, over the seeds."""
        return sum(self.losses.values()) / len(self.losses)

    @property
    def dense(self) -> bool:
        """Whether it is a point of the dense line."""
        return self.name == "dense" or self.name.startswith(SHALLOW)


class Difference(NamedTuple):
    """Mean of paired differences with the half width of its 95 % interval (Student's t)."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half:.4f}"


def arms(records: Iterable[Record]) -> list[Arm]:
    """Every arm at its best learning rate among those that all of its seeds have."""
    found: dict[tuple[str, Setting], dict[float, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        spec = record.spec
        if record.status is Status.OK and record.flops is not None and "loss" in record.quality:
            options = spec.workload_options
            setting = Setting(
                spec.size, options["tokens_per_parameter"], spec.recipe.decay_share, options.get("layers") or 0
            )
            found[spec.arm, setting][spec.recipe.learning_rate][spec.seed] = record
    best = []
    for (name, setting), rates in found.items():
        most = max(len(seeds) for seeds in rates.values())
        tried = [
            Arm(name, setting, rate, _total(seeds.values()), {seed: r.quality["loss"] for seed, r in seeds.items()})
            for rate, seeds in rates.items()
            if len(seeds) == most
        ]
        by_rate = {arm.learning_rate: arm.losses for arm in tried}
        best.append(replace(min(tried, key=lambda arm: arm.mean), by_rate=by_rate))
    return best


def dense_line(flops: float, dense: Iterable[Arm], seed: int) -> float | None:
    """Loss of dense models at so many FLOPs for one seed; ``None`` outside the range that was run."""
    points = sorted((math.log(each.flops), each.losses[seed]) for each in dense if seed in each.losses)
    at = math.log(flops)
    for (left, low), (right, high) in itertools.pairwise(points):
        if left - 1e-6 <= at <= right + 1e-6:
            return low + (high - low) * (at - left) / (right - left)
    return None


def difference(values: Sequence[float]) -> Difference | None:
    """Of paired differences; ``None`` below two."""
    if len(values) < 2:
        return None
    return Difference(sum(values) / len(values), float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)))


def against_line(arm: Arm, here: Sequence[Arm]) -> Difference | None:
    """Loss of an arm less that of the dense line at its FLOPs, paired by seed."""
    dense = [each for each in here if each.dense]
    found = [(loss, dense_line(arm.flops, dense, seed)) for seed, loss in arm.losses.items()]
    return difference([loss - line for loss, line in found if line is not None])


def against(arm: Arm, other: Arm) -> Difference | None:
    """Loss of an arm less that of another, paired by seed."""
    return difference([arm.losses[seed] - other.losses[seed] for seed in sorted(set(arm.losses) & set(other.losses))])


def base(arm: Arm, here: Iterable[Arm]) -> Arm | None:
    """The arm that this one differs from in one setting, by its name: ``half-rewarm`` from ``half``."""
    known = {each.name: each for each in here}
    name = arm.name
    if name in BASES:
        return known.get(BASES[name])
    while "-" in name:
        name = name.rpartition("-")[0]
        if name in known:
            return known[name]
    return None


def against_base(arm: Arm, here: Iterable[Arm]) -> Difference | None:
    """Loss of an arm less that of its base at the same learning rate; ``None`` where there is none."""
    other = base(arm, here)
    if other is None:
        return None
    return against(arm, replace(other, losses=other.by_rate.get(arm.learning_rate, {})))


def table(here: Sequence[Arm]) -> str:
    """The arms of one setting: FLOPs, loss, difference from dense, from the dense line and from their base."""
    full = next(arm for arm in here if arm.name == "dense")
    lines = [
        "| arm | FLOPs, % of dense | learning rate | seeds | loss, nats per token | minus dense | minus dense line "
        "| minus its base |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in sorted(here, key=lambda arm: (-arm.flops, arm.mean)):
        from_full = "" if arm is full else _shown(against(arm, full))
        from_line = "" if arm.dense else _shown(against_line(arm, here))
        from_base = "" if base(arm, here) is None else _shown(against_base(arm, here))
        lines.append(
            f"| {arm.name} | {arm.flops / full.flops:.0%} | {arm.learning_rate:g} | {len(arm.losses)} | {arm.mean:.4f} "
            f"| {from_full} | {from_line} | {from_base} |"
        )
    return "\n".join(lines)


def by_setting(found: Iterable[Arm]) -> dict[Setting, list[Arm]]:
    """Arms that may be compared, where a dense one is among them."""
    groups: dict[Setting, list[Arm]] = defaultdict(list)
    for arm in found:
        groups[arm.setting].append(arm)
    return {setting: groups[setting] for setting in sorted(groups) if any(a.name == "dense" for a in groups[setting])}


def _shown(value: Difference | None) -> str:
    return "not known" if value is None else str(value)


def _total(records: Iterable[Record]) -> float:
    totals = [record.flops.total for record in records if record.flops is not None]
    return sum(totals) / len(totals)


def _found(sets: Iterable[Path]) -> dict[Setting, list[Arm]]:
    return by_setting(arms(record for folder in sets for record in latest(Ledger(folder).records()).values()))


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "sets", nargs="*", type=Path, help="folders of result sets, taken together; default: all of ours"
    )
    parser.add_argument("--quick", action="store_true", help="print the tables instead of writing docs/frontier.md")
    given = parser.parse_args()
    groups: dict[str, Sequence[Path]]
    groups = {"given": given.sets} if given.sets else {n: [RESULTS / s for s in sets] for n, sets in GROUPS.items()}
    found = {name: _found(sets) for name, sets in groups.items()}
    tables = {f"{name}: {s}": table(here) for name, settings in found.items() for s, here in settings.items()}
    if given.quick or given.sets:
        print("\n\n".join(f"{name}\n{text}" for name, text in tables.items()))
        return
    document_tables.write("frontier.md", tables)
    largest = max(_found([RESULTS / name for name in FIGURE]).values(), key=len)
    document_tables.DOCS.joinpath("frontier.svg").write_text(frontier_figure.draw(largest), encoding="utf-8")


if __name__ == "__main__":
    main()
