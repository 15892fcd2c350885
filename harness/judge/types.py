"""What the judge concludes. Everything the page shows comes from these and from the records."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from harness.suite.spec import Level, Levels, levels_text
from harness.types import Basis, Frozen


def _is_empty(value: Any) -> bool:
    """Left out where a suite has no factors: judgements sealed before there were any keep their bytes."""
    return not value


class Claim(Frozen):
    """One claim as its author made it, and how it is tested; fixed before the run.

    ``threshold`` and ``margin`` are in the unit of the metric. ``arms`` are tried in order with Holm
    between them: the claim holds if one of them holds.
    """

    id: str
    text: str  # what is claimed, in the claimant's terms
    metric: Literal[
        "energy_saving",
        "energy_saving_slope",
        "quality",
        "flops_saving",
        "cost_saving",
        "active_share",
        "re_entry",
        "hardware",
        "none",
    ]
    arms: tuple[str, ...] = ("sat", "sat-width")
    workload: str = "language"
    protocol: Literal["train", "steady", "count", "any"] = "train"
    min_parameters: float | None = None
    max_parameters: float | None = None
    aggregate: Literal["mean", "each"] = "mean"  # over sizes: their mean, or every size by itself
    at_least: float | None = None
    at_most: float | None = None
    quality_metric: str | None = None  # also demanded: non-inferiority in this metric ...
    quality_margin: float | None = None  # ... by less than this much, in its unit (one-sided)
    quality_relative: bool = False  # margin is a share of the dense value
    hardware: tuple[str, ...] = ()  # card names that must appear in a measured record
    how: str = ""  # how it is tested, for people
    needs: str = ""  # what it would take, where it is not tested
    context: bool = False  # an open question of the article, not a claim


class VerdictStatus(StrEnum):
    """The answer to a claim."""

    VERIFIED = "verified"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    NOT_TESTED = "not tested"


class Estimate(Frozen):
    """A number with its interval. ``low`` and ``high`` are ``None`` at n = 1: there is no interval."""

    value: float
    low: float | None
    high: float | None
    level: float = 0.95
    n: int
    unit: str  # "share", "nats per token", "points" ...
    basis: Basis


class PairRow(Frozen):
    """One pair: the same block's baseline and arm."""

    block_id: str
    seed: int
    base_run: str
    arm_run: str
    log_energy_ratio: float | None  # ln(arm / base), gross
    log_net_energy_ratio: float | None = None  # net of idle
    log_time_ratio: float | None = None
    log_power_ratio: float | None = None
    flops_ratio: float | None = None
    quality: dict[str, float] = Field(default_factory=dict)  # arm - base, per metric


class Comparison(Frozen):
    """One arm against the baseline at one size and protocol, at one level of each factor."""

    arm: str
    baseline: str
    size: str
    parameters: int
    protocol: Literal["train", "steady", "count"]
    levels: Levels = Field(default_factory=dict, exclude_if=_is_empty)  # of the suite's factors, the same in both arms
    pairs: tuple[PairRow, ...]
    saving: Estimate | None  # of energy, share: 1 - exp(mean log ratio)
    net_saving: Estimate | None = None
    time_saving: Estimate | None = None
    power_saving: Estimate | None = None
    flops_saving: Estimate | None = None  # counted
    ceiling: float | None = None  # the counted saving: energy above it (plus tolerance) is invalid
    quality: dict[str, Estimate] = Field(default_factory=dict)  # arm - base, per metric
    tokens_per_parameter: float | None = None
    invalid: str = ""  # why it can't be used
    invalid_scope: Literal["", "energy", "all"] = ""  # "energy": quality and counted FLOPs still stand
    is_aa: bool = False  # the baseline again under another name: it must show no difference

    @property
    def place(self) -> str:
        """``124M``, or ``124M, compile true`` where the suite varies it."""
        return ", ".join([self.size, *([levels_text(self.levels)] if self.levels else [])])


class ControlRow(Frozen):
    """A claim's arm against one control that spends the same FLOPs, pooled over sizes and seeds."""

    arm: str
    control: str
    metric: str
    difference: Estimate  # arm - control, in the metric's unit
    flops_ratio: float  # arm / control, geometric mean: 1 means a fair match
    energy_ratio: float | None = None
    outcome: Literal["arm better", "control better", "no difference shown"]


class Check(Frozen):
    """One condition a verdict rests on."""

    what: str
    outcome: Literal["met", "not met", "open"]
    estimate: Estimate | None = None
    bound: float | None = None
    p_value: float | None = None  # after Holm where several are tested together


class Verdict(Frozen):
    """The answer to one claim, with its reason in a sentence."""

    claim: Claim
    status: VerdictStatus
    model_says: Literal["", "supported by a model", "contradicted by a model"] = ""
    arm: str = ""
    checks: tuple[Check, ...] = ()
    measured_range: str = ""  # sizes and cards the verdict speaks of
    attribution: str = ""  # does the arm beat every control at the same energy, or does one do as well
    reason: str
    needs: str = ""


class Trend(Frozen):
    """Saving over log10(parameters): saving = intercept + slope * log10(parameters)."""

    arm: str
    protocol: Literal["train", "steady", "count"]
    levels: Levels = Field(default_factory=dict, exclude_if=_is_empty)
    slope: Estimate  # per decade of parameters, share
    intercept: float
    from_parameters: float
    to_parameters: float


class FactorEffect(Frozen):
    """What changing one factor from ``reference`` to ``level`` does to an arm's saving at one size.

    ``ratio`` is (arm / baseline at ``level``) / (arm / baseline at ``reference``), of energy: 1 means that the arm
    saves the same share at both, so that the factor's own saving and the arm's multiply; above 1 it saves less.
    """

    arm: str
    size: str
    parameters: int
    protocol: Literal["train", "steady", "count"]
    factor: str
    reference: Level
    level: Level
    others: Levels  # of the factors held fixed
    ratio: Estimate


class Figure(Frozen):
    """One factor or result of the footprint, with all that a sceptic asks of a number."""

    name: str
    value: float
    unit: str
    basis: Basis
    source: str
    year: int | None = None
    kind: str = ""  # e.g. "life-cycle, average"
    low: float | None = None
    high: float | None = None


class FootprintRow(Frozen):
    """Energy of one training of one arm at one size, as kWh, CO2e and money."""

    arm: str
    size: str
    energy: Figure
    carbon: Figure | None
    rental: Figure | None
    electricity: Figure | None


class Footprint(Frozen):
    """The factors used and what comes of them."""

    factors: tuple[Figure, ...]
    rows: tuple[FootprintRow, ...]
    notes: tuple[str, ...] = ()


class Skipped(Frozen):
    """A run that is not there, and why."""

    run_id: str
    arm: str
    size: str
    seed: int
    reason: str
    levels: str = Field(default="", exclude_if=_is_empty)  # of factors, as text


class Judgement(Frozen):
    """All conclusions drawn from one result set."""

    suite: str
    title: str
    baseline: str
    basis: Basis  # the weakest of the energies compared
    verdicts: tuple[Verdict, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[ControlRow, ...]
    trends: tuple[Trend, ...]
    footprint: Footprint | None
    skipped: tuple[Skipped, ...] = ()
    effects: tuple[FactorEffect, ...] = Field(default=(), exclude_if=_is_empty)
    problems: tuple[str, ...] = ()  # validity gates that spoke
    headline: str = ""  # one sentence answer
    provenance: dict[str, Any] = Field(default_factory=dict)
