"""Validity gates over comparisons: reasons why a number must not be believed.

Each reason names what spoke. Energy that can't be believed leaves quality and counted FLOPs standing
(``invalid_scope = "energy"``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.judge import stats
from harness.judge.types import Comparison
from harness.judge.words import count
from harness.record.record import Record

MIN_COVERAGE = 0.95  # share of the charged time that was really observed
CEILING_TOLERANCE = 0.05
"""A saving this much (in shares) above the counted one is a fault. Not 0: FLOPs count matrix products
only, and norms, softmax, optimizer and memory traffic can shrink a little more than those do."""
AA_TOLERANCE = 0.01  # an A/A difference below 1 % is beyond what any of the meters can resolve
AA_LEVEL = 0.05  # two-sided, after Holm over all A/A comparisons
THROTTLE_TOLERANCE = 0.01  # of the charged time
DISAGREEMENT = 0.10  # of the two channels of a meter: a warning, not a refusal


def apply_gates(comparisons: Sequence[Comparison], records: Mapping[str, Record]) -> tuple[Comparison, ...]:
    """Comparisons with ``invalid`` set where a gate speaks. ``records`` are the OK ones by run id."""
    spoilt = aa_failures(comparisons)
    gated = []
    for comparison in comparisons:
        reasons = energy_reasons(comparison, records)
        failure = spoilt.get((comparison.protocol, comparison.place))
        if failure and comparison.saving is not None:
            reasons.append(failure)
        said = [comparison.invalid] if comparison.invalid else []
        scope = comparison.invalid_scope or ("energy" if reasons else "")
        update = {"invalid": "; ".join([*said, *reasons]), "invalid_scope": scope}
        gated.append(comparison.model_copy(update=update))
    return tuple(gated)


def aa_failures(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], str]:
    """Protocol and place of every A/A comparison that shows a difference, with the sentence that says so."""
    tested: list[tuple[Comparison, float]] = []
    for comparison in comparisons:
        if not comparison.is_aa:
            continue
        values = [row.log_energy_ratio for row in comparison.pairs if row.log_energy_ratio is not None]
        p = stats.mean(values).p_two_sided() if values else None
        if p is not None:
            tested.append((comparison, p))
    found: dict[tuple[str, str], str] = {}
    for (comparison, _), p in zip(tested, stats.holm([p for _, p in tested]), strict=True):
        saving = comparison.saving
        if saving is not None and p < AA_LEVEL and abs(saving.value) > AA_TOLERANCE:
            found[comparison.protocol, comparison.place] = (
                f"the A/A arm {comparison.arm}, which is {comparison.baseline} again, differs from it by "
                f"{abs(saving.value):.1%} (p = {p:.2g}): the meter sees what is not there"
            )
    return found


def energy_reasons(comparison: Comparison, records: Mapping[str, Record]) -> list[str]:
    """Why the energy of a comparison can't be believed."""
    reasons, paired = [], []
    saving, ceiling = comparison.saving, comparison.ceiling
    if saving is not None and ceiling is not None:
        sure = saving.low if saving.low is not None else saving.value
        if sure > ceiling + CEILING_TOLERANCE:
            reasons.append(
                f"an energy saving of {saving.value:.1%} is more than the counted FLOPs allow ({ceiling:.1%})"
            )
    for row in comparison.pairs:
        base, run = records.get(row.base_run), records.get(row.arm_run)
        if base is None or run is None:
            continue
        paired += [base, run]
        reasons += [f"seed {row.seed}: {why}" for why in (*_coverage(base), *_coverage(run), *_conditions(base, run))]
    return list(dict.fromkeys([*reasons, *_aliasing(paired)]))


def _aliasing(records: Sequence[Record]) -> list[str]:
    """Steps that alias with the power sensor: the error may be the same in every pair, and another in each arm."""
    arms: dict[str, list[Mapping[str, Any] | None]] = {}
    for record in records:
        found = record.conditions.get("aliasing")
        arms.setdefault(record.spec.arm, []).append(found if found and found["error"] >= found["limit"] else None)
    reasons = []
    for arm, findings in arms.items():
        spoilt = [found for found in findings if found is not None]
        if not spoilt:
            continue
        worst = max(spoilt, key=lambda found: float(found["error"]))
        low, high = (f"{pick(found['step_s'] for found in spoilt) * 1e3:.3g}" for pick in (min, max))
        reasons.append(
            f"{arm}: steps of {low if low == high else f'{low} to {high}'} ms alias with a power sensor that is read "
            f"every {worst['sensor_period_s'] * 1e3:.4g} ms in {len(spoilt)} of {count(len(findings), 'run')}, whose "
            f"energy may be off by up to {worst['error']:.1%}; {worst['cure']}"
        )
    return reasons


def _coverage(record: Record) -> list[str]:
    energy = record.energy
    if energy is None or energy.coverage >= MIN_COVERAGE:
        return []
    return [f"{record.spec.arm}: only {energy.coverage:.0%} of the training was observed (at least 95 % is needed)"]


def _conditions(base: Record, run: Record) -> list[str]:
    return unlike(base.conditions, run.conditions, (base.seconds, run.seconds), (base.spec.arm, run.spec.arm))


def unlike(
    base: Mapping[str, Any],
    run: Mapping[str, Any],
    seconds: tuple[float | None, float | None],
    names: tuple[str, str],
) -> list[str]:
    """Throttling and power limits that differ between the runs of a pair, foreign processes that were there.

    Throttling that one of the two could not read is not taken for none: it makes them unlike.

    ``base`` and ``run`` are conditions as ``validity.conditions_of`` gives them, ``seconds`` the length of what
    was measured, for throttling as a share of it.
    """
    mine, other = _flat(base), _flat(run)
    found = []
    for key in sorted(mine.keys() | other.keys()):
        a, b = mine.get(key), other.get(key)
        if "throttl" in key:
            if (a is None) != (b is None):
                unread, other_name = names if a is None else names[::-1]
                found.append(f"throttling can't be compared: {key} was read in {other_name}, not in {unread}")
                continue
            shares = _share(a, key, seconds[0]), _share(b, key, seconds[1])
            if None not in shares and abs(_number(shares[0]) - _number(shares[1])) > THROTTLE_TOLERANCE:
                found.append(f"throttling differs: {key} {a:g} in {names[0]}, {b:g} in {names[1]}")
        elif key == "power_limit_w" and a is not None and b is not None and not math.isclose(a, b, rel_tol=1e-3):
            found.append(f"power limit differs: {a:g} W in {names[0]}, {b:g} W in {names[1]}")
        elif key == "foreign_processes":
            found += [
                f"{_number(value):g} foreign processes on the device during {name}"
                for value, name in zip((a, b), names, strict=True)
                if value
            ]
    return found


def _number(value: float | None) -> float:
    assert value is not None
    return value


def _share(value: float | None, key: str, seconds: float | None) -> float | None:
    """A throttling figure as a share of the charged time, by the unit in its name."""
    amount = _number(value)
    if key.endswith("share"):
        return amount
    if not seconds:
        return None
    scale = 1e-9 if key.endswith("_ns") else 1.0
    return amount * scale / seconds


def _flat(conditions: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in conditions.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def disagreements(records: Mapping[str, Record]) -> list[str]:
    """Runs whose two energy channels differ by more than 10 %, in one sentence for each arm."""
    found: dict[str, list[float]] = {}
    for record in records.values():
        if record.energy is not None and record.energy.disagreement is not None:
            found.setdefault(record.spec.arm, []).append(record.energy.disagreement)
    return [
        f"{arm}: the meter's two channels disagree by up to {max(map(abs, values)):.0%}"
        for arm, values in sorted(found.items())
        if max(map(abs, values)) > DISAGREEMENT
    ]
