"""The four numbers above the fold: saving, cost in quality, best control, counted saving at the largest size."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.controls import is_fair, only_before_holm
from harness.judge.types import Comparison, ControlRow, Estimate
from harness.report import formats
from harness.report.view import View
from harness.workloads.base import Metric


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """One tile. Without an estimate, ``note`` says why."""

    label: str
    estimate: Estimate | None
    note: str
    signed: bool = False


def key_numbers(view: View) -> list[KeyNumber]:
    """Always four, in the same order; what is not known says so."""
    arm = view.methods[0] if view.methods else "the method"
    return [_saving(view, arm), _quality(view, arm), _control(view, arm), _counted(view, arm)]


def _saving(view: View, arm: str) -> KeyNumber:
    best = view.headline
    label = f"energy saved by {arm}"
    if best is None or best.saving is None:
        return KeyNumber(label, None, "no whole training of a pair has a known energy")
    others = [c.saving.value for c in view.comparisons("train", [arm]) if c.saving and not c.invalid]
    note = f"whole training, {best.size} parameters"
    if len(others) > 1:
        low, high = formats.percent(min(others)), formats.percent(max(others))
        note += f" (the largest trained); {low} to {high} over {len(others)} sizes"
    return KeyNumber(label, best.saving, note)


def _quality(view: View, arm: str) -> KeyNumber:
    best, metric = view.headline, view.metric
    label = f"{metric.label if metric else 'quality'}, {arm} against {view.baseline}"
    estimate = best.quality.get(metric.name) if best and metric else None
    if best is None or metric is None or estimate is None:
        return KeyNumber(label, None, "no pair of runs has a held-out quality")
    return KeyNumber(label, estimate, f"{best.size} parameters; {direction(view, metric, estimate)}", signed=True)


def direction(view: View, metric: Metric, estimate: Estimate) -> str:
    """What a difference (arm − baseline) means, in words, without claiming more than its interval."""
    if metric.name in view.undeclared:
        return "which direction is better was not declared"
    sign = 1 if metric.better == "lower" else -1
    word = "the same" if estimate.value == 0 else "worse" if sign * estimate.value > 0 else "better"
    hint = f"{metric.better} is better"
    if estimate.low is None or estimate.high is None:
        return f"{word} than {view.baseline} in a single pair ({hint})"
    if estimate.low <= 0 <= estimate.high:
        return f"no difference shown ({hint})"
    return f"{word} than {view.baseline} ({hint})"


def _control(view: View, arm: str) -> KeyNumber:
    label = f"best control against {arm}"
    row = best_control(view, arm)
    if row is None:
        return KeyNumber(label, None, "no control that spends the same FLOPs was compared")
    outcome = {
        "arm better": f"{arm} is better at equal FLOPs",
        "control better": f"{row.control} is better at equal FLOPs",
        "no difference shown": "no difference shown at equal FLOPs",
    }[row.outcome]
    if only_before_holm(row):
        outcome = "not decided at equal FLOPs: the interval alone leaves out 0, not after Holm's correction"
    label = f"best control: {row.control}"
    name = next((m.label for m in view.metrics if m.name == row.metric), row.metric)
    return KeyNumber(label, row.difference, f"{formats.inner(name)}, {arm} − {row.control}: {outcome}", signed=True)


def best_control(view: View, arm: str) -> ControlRow | None:
    """The control that does best against ``arm`` in the headline metric."""
    rows = [r for r in view.judgement.controls if r.arm == arm and r.control not in view.repeats and is_fair(r)]
    metric = view.metric
    if metric and any(r.metric == metric.name for r in rows):
        rows = [r for r in rows if r.metric == metric.name]
    if not rows:
        return None
    declared = {m.name: 1 if m.better == "lower" else -1 for m in view.metrics}
    rank = {"control better": 0, "no difference shown": 1, "arm better": 2}
    return min(rows, key=lambda r: (rank[r.outcome], -declared.get(r.metric, 1) * r.difference.value, r.control))


def _counted(view: View, arm: str) -> KeyNumber:
    found: list[Comparison] = [
        c for p in ("count", "steady", "train") for c in view.comparisons(p, [arm]) if c.flops_saving is not None
    ]
    if not found:
        return KeyNumber(f"FLOPs saved by {arm}", None, "no FLOPs were counted")
    large = max(found, key=lambda c: c.parameters)
    claimed = next(
        (v.claim.at_least for v in view.judgement.verdicts if v.claim.metric == "flops_saving" and v.claim.at_least),
        None,
    )
    note = "exact count on the model's shapes, not an energy"
    if claimed is not None:
        note = f"claimed: {formats.bound(claimed, 'share')}. An exact count, not an energy"
    return KeyNumber(f"FLOPs saved by {arm} at {large.size}", large.flops_saving, note)
