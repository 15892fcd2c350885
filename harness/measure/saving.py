"""Pairs of runs to what B saves against A. Pure.

The unit is the pair: ``ln(E_b / E_a)`` of two runs one after the other, under the same meter. The saving is
``1 - exp(mean)`` with Student's t interval (:mod:`harness.judge.stats`); with E = P t it is split into a time part
and a power part, ``1 - saving = (1 - time part)(1 - power part)``. Errors that both runs of a pair share, such as a
sensor's gain or the watts per core of a model, cancel and are not in the interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.judge import stats
from harness.judge.gates import unlike
from harness.judge.types import Estimate
from harness.measure.types import Figure, OpinionSaving, PairRow, Plan, Role, Run, RunFigures, Saving
from harness.types import Basis

Pair = tuple[RunFigures, RunFigures]  # a, b


def counting_attempts(plan: Plan, runs: Iterable[Run]) -> dict[int, int]:
    """Which attempt of each pair counts, by its number: the last in which both commands were run to their end.

    A failed command makes no pair, unless failures are allowed: such a pair is done, and left out by name.
    """
    halves: dict[tuple[int, int], set[str]] = {}
    for run in runs:
        if run.role is Role.PAIR and not run.interrupted and (run.ok or plan.allow_failures):
            halves.setdefault((run.pair, run.attempt), set()).add(run.arm)
    return {pair: attempt for (pair, attempt), arms in sorted(halves.items()) if arms == {"a", "b"}}


def complete_pairs(plan: Plan, made: Sequence[RunFigures]) -> dict[int, Pair]:
    """The pairs that are done, by number."""
    counting = counting_attempts(plan, [each.run for each in made])
    halves = {
        (each.run.pair, each.run.arm): each
        for each in made
        if each.run.role is Role.PAIR and counting.get(each.run.pair) == each.run.attempt
    }
    return {pair: (halves[pair, "a"], halves[pair, "b"]) for pair in counting}


def savings(plan: Plan, pairs: dict[int, Pair]) -> tuple[Saving, ...]:
    """By each meter."""
    return tuple(_saving(meter.label, pairs) for meter in plan.meters) if pairs else ()


def opinion_savings(pairs: dict[int, Pair]) -> tuple[OpinionSaving, ...]:
    """By each other tool's figures."""
    found: dict[tuple[str, str], list[float]] = {}
    bases: dict[tuple[str, str], Basis] = {}
    for a, b in pairs.values():
        said = {(o.tool, o.covers): o for o in a.run.opinions}
        for opinion in b.run.opinions:
            key = (opinion.tool, opinion.covers)
            other = said.get(key)
            if other is None or not (a.run.ok and b.run.ok):
                continue
            bases[key] = opinion.basis
            values = found.setdefault(key, [])
            if opinion.joules and other.joules:
                values.append(math.log(opinion.joules / other.joules))
    return tuple(
        OpinionSaving(tool=tool, covers=covers, used=len(values), energy=_share(values, bases[tool, covers]))
        for (tool, covers), values in found.items()
    )


def _saving(meter: str, pairs: dict[int, Pair]) -> Saving:
    rows, net, used = [], [], []
    for number, (a, b) in pairs.items():
        figure_a, figure_b = _figure(a, meter), _figure(b, meter)
        row = _row(number, a, b, figure_a, figure_b)
        rows.append(row)
        if row.left_out:
            continue
        used.append((figure_a, figure_b))
        if figure_a.net and figure_b.net and figure_a.net.joules > 0 and figure_b.net.joules > 0:
            net.append(math.log(figure_b.net.joules / figure_a.net.joules))
    good = [row for row in rows if not row.left_out]
    energy = [row.log_energy_ratio for row in good if row.log_energy_ratio is not None]
    time = [row.log_time_ratio for row in good]
    first = used[0][0] if used else _figure(next(iter(pairs.values()))[0], meter)
    basis = first.energy.basis
    return Saving(
        meter=meter,
        scope=first.energy.scope,
        basis=basis,
        source=first.energy.source,
        pairs=tuple(rows),
        used=len(good),
        energy=_share(energy, basis),
        time=_share(time, Basis.MEASURED),
        power=_share([e - t for e, t in zip(energy, time, strict=True)], basis),
        net=_share(net, basis) if len(net) == len(good) else None,
        order_effect=_order_effect(good, basis),
        mean_joules_a=_mean([a.energy.joules for a, _ in used]),
        mean_joules_b=_mean([b.energy.joules for _, b in used]),
        cautions=tuple(dict.fromkeys(text for both in used for figure in both for text in figure.cautions)),
    )


def _row(number: int, a: RunFigures, b: RunFigures, figure_a: Figure, figure_b: Figure) -> PairRow:
    reasons = [f"{name}: exit code {made.run.exit_code}" for name, made in (("A", a), ("B", b)) if not made.run.ok]
    for name, figure in (("A", figure_a), ("B", figure_b)):
        reasons += [f"{name}: {why}" for why in figure.invalid]
        if not figure.energy.known and not figure.invalid:
            reasons.append(f"{name}: {figure.energy.reason}")
        elif figure.energy.joules is not None and figure.energy.joules <= 0:
            reasons.append(f"{name}: took no energy that the meter could see")
    reasons += unlike(figure_a.conditions, figure_b.conditions, (a.seconds, b.seconds), ("A", "B"))
    joules_a, joules_b = figure_a.energy.joules, figure_b.energy.joules
    seconds_a, seconds_b = a.seconds or 0.0, b.seconds or 0.0
    if figure_a.energy.scope != figure_b.energy.scope:
        reasons.append(f"A was metered as {figure_a.energy.scope!r}, B as {figure_b.energy.scope!r}")
    return PairRow(
        pair=number,
        first="a" if a.run.position == 0 else "b",
        joules_a=joules_a,
        joules_b=joules_b,
        seconds_a=seconds_a,
        seconds_b=seconds_b,
        log_energy_ratio=math.log(joules_b / joules_a) if joules_a and joules_b and not reasons else None,
        log_time_ratio=math.log(seconds_b / seconds_a) if seconds_a and seconds_b else 0.0,
        left_out="; ".join(dict.fromkeys(reasons)),
    )


def _order_effect(rows: Sequence[PairRow], basis: Basis) -> Estimate | None:
    """ln of the second run's energy over the first's, were both the same command.

    ``d_AB`` and ``d_BA`` are means of ln(E_b / E_a) of pairs that began with A and with B: an effect of the place
    adds to the one and is taken from the other, so it is ``(d_AB - d_BA) / 2``, with Welch's interval.
    """
    groups = [
        [row.log_energy_ratio for row in rows if row.first == first and row.log_energy_ratio is not None]
        for first in ("a", "b")
    ]
    if not all(groups):
        return None
    a_first, b_first = (stats.mean(group) for group in groups)
    value, low, high = (a_first.value - b_first.value) / 2, None, None
    if a_first.error is not None and b_first.error is not None and a_first.df and b_first.df:
        squares = (a_first.error**2, b_first.error**2)
        low = high = value
        if sum(squares):
            df = sum(squares) ** 2 / (squares[0] ** 2 / a_first.df + squares[1] ** 2 / b_first.df)
            half = stats.t_quantile(0.5 + stats.LEVEL / 2, df) * math.sqrt(sum(squares)) / 2
            low, high = value - half, value + half
    return Estimate(value=value, low=low, high=high, n=len(rows), unit="ln ratio", basis=basis)


def _share(log_ratios: Sequence[float], basis: Basis) -> Estimate | None:
    if not log_ratios:
        return None
    value, low, high = stats.saving(log_ratios)
    return Estimate(value=value, low=low, high=high, n=len(log_ratios), unit="share", basis=basis)


def _figure(made: RunFigures, meter: str) -> Figure:
    return next(figure for figure in made.figures if figure.meter == meter)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def pairs_for(half_width: float, scatter: float) -> int:
    """Pairs planned for an expected half-width of the 95 % interval, in shares, if nothing is saved.

    Without a saving the interval is widest, so the plan errs on the safe side. The number is made even, so that
    each command goes first equally often. ``scatter`` is the standard deviation of ln(energy) of one run.

    Raises:
        ValueError: over a thousand pairs.
    """
    for n in range(2, 1001):
        if stats.half_width(0.0, scatter, n) <= half_width:
            return n + n % 2
    raise ValueError("over a thousand pairs")
