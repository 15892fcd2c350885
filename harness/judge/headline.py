"""The answer in one sentence."""

from __future__ import annotations

import math

from harness.judge.controls import is_fair
from harness.judge.metrics import Directions
from harness.judge.types import Comparison, Judgement, VerdictStatus
from harness.judge.words import interval, listing, percent
from harness.types import Basis

_HOW = {
    Basis.MEASURED: "measured",
    Basis.MODELLED: "modelled, not measured",
    Basis.SIMULATED: "simulated, nothing was measured",
    Basis.COUNTED: "counted",
    Basis.PROJECTED: "projected",
}


def headline(judgement: Judgement, directions: Directions) -> str:
    """What was found at the largest size trained, at what cost in quality, whose merit it is, and the verdicts."""
    parts = [part for part in (_found(judgement, directions), _merit(judgement, directions), _tally(judgement)) if part]
    return "; ".join(parts) + "."


def _claimed(judgement: Judgement) -> list[str]:
    return list(dict.fromkeys(arm for verdict in judgement.verdicts for arm in verdict.claim.arms))


def _best(judgement: Judgement) -> Comparison | None:
    """The claimed arm that is first in the claims, at the largest size whose whole training was paired."""
    usable = [
        c for c in judgement.comparisons
        if c.protocol == "train" and c.saving is not None and not c.invalid and c.arm in _claimed(judgement)
    ]  # fmt: skip
    if not usable:
        return None
    order = _claimed(judgement)
    return max(usable, key=lambda c: (c.parameters, -order.index(c.arm)))


def _found(judgement: Judgement, directions: Directions) -> str:
    best = _best(judgement)
    if best is None or best.saving is None:
        counted = [c for c in judgement.comparisons if c.flops_saving is not None and c.arm in _claimed(judgement)]
        if counted and judgement.basis is Basis.COUNTED:
            largest = max(counted, key=lambda c: c.parameters)
            assert largest.flops_saving is not None
            return f"{largest.arm} saves {percent(largest.flops_saving.value)} of the FLOPs at {largest.size} (counted)"
        return "No pair of trainings allows an answer"
    saving = best.saving
    less = "less" if saving.value >= 0 else "more"
    text = (
        f"At {best.size}{_length(best)}, {best.arm} takes {percent(abs(saving.value))} {less} energy than "
        f"{best.baseline}{interval(saving, share=True)}, {_HOW[saving.basis]}"
    )
    name = directions.headline(best.quality)
    if name is None:
        return text
    quality = best.quality[name]
    if math.isclose(quality.value, 0.0, abs_tol=1e-12):
        return f"{text}, with the same {name}"
    if quality.low is not None and quality.high is not None and quality.low <= 0 <= quality.high:
        return f"{text}, with no difference in {name} shown{interval(quality, share=False)}"
    direction = "higher" if quality.value > 0 else "lower"
    unit = "" if quality.unit == name else f" {quality.unit}"
    return f"{text}, with a {name} {abs(quality.value):.3f}{unit} {direction}{interval(quality, share=False)}"


def _length(comparison: Comparison) -> str:
    """A saving in a training that is far too short says little of one that is not."""
    tokens = comparison.tokens_per_parameter
    if tokens is None:
        return ""
    return f" and {tokens:,.0f} tokens per parameter" if tokens >= 10 else f" and {tokens:.2g} tokens per parameter"


def _merit(judgement: Judgement, directions: Directions) -> str:
    best = _best(judgement)
    if best is None:
        return ""
    metric = directions.headline(row.metric for row in judgement.controls)
    fair = [r for r in judgement.controls if r.arm == best.arm and r.metric == metric and is_fair(r)]
    matching = [r.control for r in fair if r.outcome == "control better"]
    level = [r.control for r in fair if r.outcome == "no difference shown" and r.difference.low is not None]
    if matching:
        return f"with the same FLOPs {listing(matching)} did better"
    if level:
        return f"with the same FLOPs it is not shown to be better than {listing(level)}"
    if fair and all(r.outcome == "arm better" for r in fair):
        return "it beats every control that spent the same FLOPs"
    return ""


def _tally(judgement: Judgement) -> str:
    claims = [v for v in judgement.verdicts if not v.claim.context]
    counts = []
    for status in VerdictStatus:
        number = sum(v.status is status for v in claims)
        if number:
            counts.append(f"{number} {status.value}")
    return f"of {len(claims)} claims {listing(counts)}" if counts else ""
