"""A made-up judgement over synthetic records: one verdict of every kind, plain arithmetic, no judge.

For the report's tests and benchmarks: what the page must show is written down here, not derived by the
code under test. ``judged()`` gives a judgement and its records.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from synthetic import LADDER, Planted, records

from harness.judge.types import (
    Check,
    Claim,
    Comparison,
    ControlRow,
    Estimate,
    Figure,
    Footprint,
    FootprintRow,
    Judgement,
    PairRow,
    Skipped,
    Trend,
    Verdict,
    VerdictStatus,
)
from harness.record.record import Record, Status
from harness.suite.spec import Protocol
from harness.types import Basis
from harness.workloads.base import WORKLOADS, Metric
from harness.workloads.language.workload import LanguageWorkload

WORKLOAD = "made-up-language"  # metrics of its own, so that what the page says does not hang on a real workload


@WORKLOADS.add(WORKLOAD)
class MadeUp(LanguageWorkload):
    """Only its metrics are read."""

    name = WORKLOAD
    metrics = (
        Metric(name="loss", unit="nats per token", better="lower", label="held-out loss"),
        Metric(name="accuracy", unit="points", better="higher", label="accuracy", digits=2),
        Metric(name="perplexity", unit="", better="lower", label="perplexity"),
    )


T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}  # Student's t, two-sided 95 %, by degrees of freedom
ARMS = {
    "dense-aa": Planted(method="dense", shape="dense"),
    "sat": Planted(0.46, loss=0.045, active=0.31, slope=0.06, returns=0),
    "sat-width": Planted(0.38, loss=0.072, active=0.36, returns=6, slope=0.05, shape="width"),
    "dense-short": Planted(0.47, method="dense-short", loss=0.13, match="sat", shape="short", slope=0.06),
    "dense-small": Planted(0.47, method="dense-small", loss=0.031, match="sat", shape="small", slope=0.06),
    "sat-random": Planted(0.37, loss=0.20, match="sat-width", active=0.36, returns=40, shape="width", slope=0.05),
    "freeze": Planted(0.12, loss=0.028, active=0.5, shape="freeze"),
}


def judged(
    basis: Basis = Basis.MODELLED,
    seeds: Sequence[int] = (0, 1, 2),
    sizes: Sequence[str] = ("0.1M", "0.3M", "1M", "3M"),
    reason: str = "the saving found is below the claimed range at every size that was trained",
) -> tuple[Judgement, list[Record]]:
    """A judgement and its records: some runs failed, one made good, counted sizes up to 13 B."""
    bad = {(sizes[0], seeds[0], "freeze"): Status.OUT_OF_MEMORY, (sizes[-1], seeds[-1], "sat-random"): Status.FAILED}
    trained = records(
        sizes, seeds, ARMS, basis=basis, noise=0.02, statuses=bad, retried=[(sizes[0], seeds[0], "sat")],
        workload=WORKLOAD,
    )  # fmt: skip
    steady = records(
        ("10M",),
        seeds,
        {a: ARMS[a] for a in ("sat", "sat-width")},
        basis=basis,
        protocol=Protocol.STEADY,
        workload=WORKLOAD,
    )
    ladder = ("10M", "124M", "1.3B", "13B")
    counted = records(
        ladder, (0,),
        {"sat": Planted(0.60, flops=0.66), "sat-width": Planted(0.5, flops=0.58)},
        basis=basis, protocol=Protocol.COUNT, workload=WORKLOAD,
    )  # fmt: skip
    comparisons = [
        *_compare(trained, basis, "train"), *_compare(steady, basis, "steady"), *_compare(counted, basis, "count")
    ]  # fmt: skip
    found = [*trained, *steady, *counted]
    return _judgement(basis, comparisons, reason), found


def _estimate(values: Sequence[float], unit: str, basis: Basis, back: bool = False) -> Estimate:
    mean = statistics.fmean(values)
    low = high = None
    if len(values) > 1:
        half = T975.get(len(values) - 1, 2.0) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = mean - half, mean + half
    if back:
        mean, low, high = (
            1 - math.exp(mean),
            None if high is None else 1 - math.exp(high),
            None if low is None else 1 - math.exp(low),
        )
    return Estimate(value=mean, low=low, high=high, n=len(values), unit=unit, basis=basis)


def _compare(found: Sequence[Record], basis: Basis, protocol: str) -> list[Comparison]:
    runs = {(r.spec.size, r.spec.seed, r.spec.arm): r for r in found if r.ok}
    rows = []
    for size, arm in dict.fromkeys((r.spec.size, r.spec.arm) for r in found if r.spec.arm != "dense"):
        pairs = []
        for (s, seed, a), mine in runs.items():
            base = runs.get((size, seed, "dense"))
            if s == size and a == arm and base is not None:
                pairs.append(_pair(base, mine))
        if not pairs:
            continue
        flops = runs[size, pairs[0].seed, arm].flops
        dense_flops = runs[size, pairs[0].seed, "dense"].flops
        assert flops
        assert dense_flops
        logs = [p.log_energy_ratio for p in pairs if p.log_energy_ratio is not None]
        times = [p.log_time_ratio for p in pairs if p.log_time_ratio is not None]
        powers = [p.log_power_ratio for p in pairs if p.log_power_ratio is not None]
        saved = 1 - flops.total / dense_flops.total
        names = sorted({name for p in pairs for name in p.quality})
        units = {"loss": "nats per token", "accuracy": "points", "bits_per_byte": "bits per byte", "perplexity": ""}
        rows.append(
            Comparison(
                arm=arm, baseline="dense", size=size, parameters=LADDER[size], protocol=protocol, pairs=tuple(pairs),
                saving=_estimate(logs, "share", basis, True) if logs else None,
                net_saving=_estimate([v * 1.04 for v in logs], "share", basis, True) if logs else None,
                time_saving=_estimate(times, "share", Basis.MEASURED, True) if times else None,
                power_saving=_estimate(powers, "share", basis, True) if powers else None,
                flops_saving=Estimate(value=saved, low=None, high=None, n=1, unit="share", basis=Basis.COUNTED),
                ceiling=saved,
                quality={n: _estimate([p.quality[n] for p in pairs], units.get(n, ""), Basis.MEASURED) for n in names},
                is_aa=arm == "dense-aa",
                tokens_per_parameter=819200 / LADDER[size] if protocol == "train" else None,
            )
        )  # fmt: skip
    return rows


def _pair(base: Record, mine: Record) -> PairRow:
    energy, time = (
        _log(_joules(mine), _joules(base)),
        _log(mine.seconds_per_step or mine.seconds, base.seconds_per_step or base.seconds),
    )
    return PairRow(
        block_id=mine.block_id, seed=mine.spec.seed, base_run=base.run_id, arm_run=mine.run_id,
        log_energy_ratio=energy, log_time_ratio=time,
        log_power_ratio=None if energy is None or time is None else energy - time,
        quality={n: mine.quality[n] - base.quality[n] for n in sorted(mine.quality)},
    )  # fmt: skip


def _joules(record: Record) -> float | None:
    energy = record.energy_per_step or record.energy
    return energy.joules if energy else None


def _log(mine: float | None, base: float | None) -> float | None:
    return math.log(mine / base) if mine and base else None


def _judgement(basis: Basis, comparisons: list[Comparison], reason: str) -> Judgement:
    measured = basis is Basis.MEASURED
    by = {(c.arm, c.size, c.protocol): c for c in comparisons}
    large = max((c for c in comparisons if c.arm == "sat" and c.protocol == "train"), key=lambda c: c.parameters)
    small = min((c for c in comparisons if c.arm == "sat" and c.protocol == "train"), key=lambda c: c.parameters)
    smallest, saving = small.saving, large.saving
    assert saving is not None
    quality = large.quality["loss"]
    refuted = VerdictStatus.REFUTED if measured else VerdictStatus.INCONCLUSIVE
    slope = Estimate(value=0.055, low=0.021, high=0.089, n=12, unit="share per decade", basis=basis)
    verdicts = (
        Verdict(
            claim=Claim(id="energy-range", text="Training energy falls by 62 % to 75 %.", metric="energy_saving",
                        at_least=0.62, at_most=0.75, how="Paired energy over whole trainings, mean over sizes."),
            status=refuted, model_says="" if measured else "contradicted by a model", arm="sat", reason=reason,
            checks=(Check(what="saving at least 62 %", outcome="not met", estimate=saving, bound=0.62, p_value=0.00004),
                    Check(what="saving at most 75 %", outcome="met", estimate=saving, bound=0.75, p_value=0.0002)),
            attribution="dense-small does as well at the same FLOPs: the saving is real and not SAT's.",
            measured_range="0.1 M to 3.1 M parameters",
        ),
        Verdict(
            claim=Claim(id="energy-small", text="Below 1 billion parameters the saving averages about 45 %.",
                        metric="energy_saving", at_least=0.40, at_most=0.50, max_parameters=1e9),
            status=VerdictStatus.VERIFIED if measured else VerdictStatus.INCONCLUSIVE,
            model_says="" if measured else "supported by a model", arm="sat",
            reason="the mean over four sizes lies inside 40 to 50 %",
            checks=(Check(what="saving at least 40 %", outcome="met", estimate=smallest,
                          bound=0.4, p_value=0.003),),
            attribution="dense-small does as well.",
        ),
        Verdict(
            claim=Claim(id="energy-large", text="Above 10 billion parameters it is consistently over 70 %.",
                        metric="energy_saving", at_least=0.70, min_parameters=1e10, protocol="steady"),
            status=VerdictStatus.NOT_TESTED, reason="no run above 10 B parameters",
            needs="a card with 640 GB of memory: eight H100 in one machine",
        ),
        Verdict(
            claim=Claim(id="scale-trend", text="The saving grows with model size.", metric="energy_saving_slope",
                        at_least=0.0),
            status=VerdictStatus.INCONCLUSIVE, reason="the slope is above 0 within 0.1 M to 3.1 M, a range too short",
            checks=(Check(what="slope above 0", outcome="open", estimate=slope, bound=0.0, p_value=0.06),),
        ),
        Verdict(
            claim=Claim(id="parity", text="Accuracy stays within 0.3 % of dense.", metric="quality",
                        quality_metric="loss", quality_margin=0.003, quality_relative=True),
            status=VerdictStatus.REFUTED, reason="held-out loss is worse by more than the margin", arm="sat",
            checks=(Check(what="loss worse by less than the margin", outcome="not met", estimate=quality, bound=0.0072,
                          p_value=0.97),),
        ),
        Verdict(
            claim=Claim(id="flops-13b", text="At 13 B parameters FLOPs fall by 73 %, perplexity within 1.2 %.",
                        metric="flops_saving", at_least=0.73, min_parameters=1.2e10, protocol="count"),
            status=VerdictStatus.REFUTED, reason="counted exactly, the saving is 66 %", arm="sat",
            checks=(Check(what="FLOPs saved at 13B", outcome="not met", bound=0.73,
                          estimate=by["sat", "13B", "count"].flops_saving),),
        ),
        Verdict(
            claim=Claim(id="active-share", text="25 % to 38 % of parameters are active on average.",
                        metric="active_share", at_least=0.25, at_most=0.38),
            status=VerdictStatus.INVALID, reason="two runs logged no share",
        ),
        Verdict(
            claim=Claim(id="vision", text="ResNet-152 keeps ImageNet top-1 at 78.9 against 79.1.", metric="none"),
            status=VerdictStatus.NOT_TESTED, reason="no vision run is in this set",
            needs="suites/vision.yaml on ImageNet",
        ),
        Verdict(
            claim=Claim(id="rlhf", text="Does it hold for preference tuning?", metric="none", context=True),
            status=VerdictStatus.NOT_TESTED, reason="no preference run is in this set", needs="a DPO-style suite",
        ),
    )  # fmt: skip
    trend = Trend(arm="sat", protocol="train", slope=slope, intercept=0.46 - 0.055 * math.log10(110_000),
                  from_parameters=110_000, to_parameters=3_100_000)  # fmt: skip
    return Judgement(
        suite="scaling", title="Sparse Adaptive Training: energy and quality over model sizes", baseline="dense",
        basis=basis, verdicts=verdicts, comparisons=tuple(comparisons), controls=_controls(basis), trends=(trend,),
        footprint=_footprint(comparisons, basis),
        skipped=tuple(
            Skipped(run_id=f"13B-s{seed}-{arm}-train-000000000000", arm=arm, size="13B", seed=seed,
                    reason="needs 312 GB of memory, this machine has 16 GB")
            for seed in (0, 1) for arm in ("dense", "sat")
        ),
        problems=("A/A at 0.1M: dense against dense differs by 2.1 %, its interval does not hold 0",),
        headline="SAT uses about half the energy of dense training, and a smaller dense model does as well.",
        provenance={"git": {"revision": "0123456789abcdef", "dirty": ""}, "records": 120,
                    "suite_file": "name: scaling\nseeds: [0, 1, 2]\narms:\n  sat: {method: sat}\n"},
    )  # fmt: skip


def _controls(basis: Basis) -> tuple[ControlRow, ...]:
    rows = (
        ("sat", "dense-small", 0.014, 0.009, 0.019, "control better"),
        ("sat", "dense-short", -0.085, -0.094, -0.076, "arm better"),
        ("sat-width", "sat-random", -0.128, -0.139, -0.117, "arm better"),
        ("sat-width", "dense-small", 0.003, -0.004, 0.010, "no difference shown"),
    )
    return tuple(
        ControlRow(arm=arm, control=control, metric="loss", flops_ratio=1.003, energy_ratio=1.02, outcome=outcome,
                   difference=Estimate(value=v, low=low, high=high, n=12, unit="nats per token", basis=Basis.MEASURED))
        for arm, control, v, low, high, outcome in rows
    )  # fmt: skip


def _footprint(comparisons: Sequence[Comparison], basis: Basis) -> Footprint:
    rows = []
    for size in dict.fromkeys(c.size for c in comparisons if c.protocol == "train"):
        kwh = LADDER[size] / 1e9
        for arm in ("dense", "sat", "sat-width", "dense-small"):
            share = 1.0 if arm == "dense" else 0.52
            rows.append(
                FootprintRow(
                    arm=arm, size=size,
                    energy=Figure(name="energy", value=kwh * share, unit="kWh", basis=basis, source="meter"),
                    carbon=Figure(name="carbon", value=kwh * share * 0.48, unit="kg CO2e", basis=basis, source="grid"),
                    rental=Figure(name="rental", value=kwh * share * 3, unit="USD", basis=basis, source="list price",
                                  low=kwh * share * 2, high=kwh * share * 9),
                    electricity=None,
                )
            )  # fmt: skip
    factors = (
        Figure(name="grid intensity, world", value=0.481, unit="kg CO2e per kWh", basis=Basis.MEASURED, year=2023,
               source="Ember via CodeCarbon 3.3.2", kind="life-cycle, average"),
        Figure(name="PUE", value=1.0, unit="", basis=Basis.PROJECTED, source="not applied"),
        Figure(name="rental of a 2-core machine", value=0.067, unit="USD per hour", basis=Basis.MEASURED, year=2026,
               source="public price lists", low=0.04, high=0.1),
    )  # fmt: skip
    return Footprint(factors=factors, rows=tuple(rows), notes=("No electricity price is set.",))
