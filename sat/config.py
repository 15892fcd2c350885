"""What is switched, when and by which score. Pure: no torch here.

:func:`decisions` and :func:`phases` are the only source of truth for the schedule; the controller, the
harness's plan and the closed-form FLOP counts all read it from here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sat.schedules import Schedule, check_decay
from sat.units import attention_units, mlp_units, round_half_up, units_kept

__all__ = [
    "DEFAULT_SCHEDULES", "Decision", "PhasePlan", "SATConfig", "attention_units", "decisions", "mlp_units",
    "phases", "round_half_up", "units_kept",
]  # fmt: skip

Mode = Literal["skip", "freeze", "backward_drop", "prefix"]
Axis = Literal["depth", "width"]
Score = Literal["order", "gate_probe", "taylor", "magnitude", "random"]
Entry = Literal["zero", "copy", "interleaved", "split", "random"]
EntryState = Literal["fresh", "copied"]
EntryMoment = Literal["mean", "zero"]
Regime = Literal["growing", "rotating", "persistent", "narrowing"]
Bank = Literal["device", "host"]
Threshold = Literal["site", "global"]

DEFAULT_SCHEDULES: Mapping[tuple[str, str], Schedule] = {
    ("skip", "depth"): ((0.0, 0.5), (0.5, 1.0)),
    ("skip", "width"): ((0.0, 0.5), (0.5, 1.0)),
    ("freeze", "depth"): ((0.0, 0.3), (0.6, 1.0)),
    ("backward_drop", "depth"): ((0.0, 0.3), (0.6, 1.0)),
    ("prefix", "depth"): ((0.0, 1.0), (0.5, 0.67), (0.75, 0.34)),
}
"""(share of the steps at which it starts, active share): of those tried, the one with the least loss above dense models
of the same FLOPs (``docs/frontier.md``). What the article describes works with less, and loses more."""

_DEFAULT_SCORES: Mapping[tuple[str, str], Score] = {
    ("skip", "depth"): "order",
    ("skip", "width"): "gate_probe",
    ("freeze", "depth"): "taylor",
    ("backward_drop", "depth"): "taylor",
    ("prefix", "depth"): "order",
}
_DEFAULT_REGIMES: Mapping[str, Regime] = {
    "skip": "growing",
    "freeze": "rotating",
    "backward_drop": "rotating",
    "prefix": "narrowing",
}


MOST_BUCKETS = 5
"""With several sites in a layer, each count of units may cost graphs; torch falls back to eager beyond 8."""


@dataclass(frozen=True)
class SATConfig:
    """Settings of one training. Fields left at ``None`` take the default of the mode and axis.

    Attributes:
        mode: ``skip`` takes inactive units out of forward and backward. The others leave the forward pass as it
            is: ``freeze`` computes no weight gradient for inactive layers; ``backward_drop`` no gradient at all
            through their branches, only along the residual path; ``prefix`` no gradient for the lowest layers and
            what is below them, a part that only grows (fine-tuning).
        axis: ``depth`` switches whole residual layers, ``width`` MLP blocks and KV groups of every layer.
        schedule: pairs (start as a share of the steps, active share), the first at 0, starts rising.
        interval: steps between re-evaluations where the regime re-chooses.
        score: ``gate_probe`` (gradient of unit gates), ``taylor`` (moving average of (sum w g)^2),
            ``magnitude`` (mean w^2), ``random``, or ``order`` (fixed: from the bottom up, or filling the
            largest gap where ``entry`` is ``interleaved``). In mode ``prefix``, ``order`` is the schedule alone;
            with a score a layer is frozen only while it is among the lowest of those not frozen yet.
        entry: how a never-trained unit comes in. ``zero``: its output projection is zero, so that entry
            changes nothing; ``random``: as initialised; depth only: ``copy`` of trained layers stacked on
            top, ``interleaved`` copies of the trained layer below, or ``split``: interleaved copies which share
            what their source adds to the residual stream, so that the function (nearly) stays; see :mod:`sat.entry`.
            Left out: ``copy`` where the depth grows, ``zero`` elsewhere.
        entry_state: the optimizer state of copied layers: ``fresh``, as of any new layer, or ``copied`` from their
            source (moments and step counter).
        probe_batches: micro-batches of one probe.
        regime: ``growing`` never drops a unit and ends with the full model; ``rotating`` re-chooses at every
            interval, the final model is full with outputs scaled; ``persistent`` re-chooses likewise, the
            final model is the active part; ``narrowing`` (mode ``prefix``, and no other) never takes a layer back
            that it froze.
        threshold: where the score that keeps a unit in is set. ``site``: at each site, which keeps the same share
            everywhere. ``global``: once, over the units of all sites by score per FLOP, under a budget of the share of
            all units' FLOPs; sites then keep more or less than the share, but at least the floor.
        buckets: at most so many (1 to 5) different numbers of active units at a site, at equal distances, so that
            the shapes that a compiler sees stay few; ``None``: any number.
        floor: fewest active units of a site.
        swap_share: largest share of a site's active units exchanged at one re-evaluation.
        swap_until: share of the steps at which the swap share has fallen (linearly) to 0; ``None``: constant.
        hysteresis: a unit displaces an active one only with a score this much (relative) above it.
        staleness: relative bonus on the score of an inactive unit per re-evaluation spent outside.
        explore: chance of each entering unit to be drawn at random instead of by score.
        observe_every: steps between Taylor observations.
        smoothing: weight of the past in the moving average of Taylor observations.
        entry_moment: the second moments (Adam's ``exp_avg_sq``, RMSprop's ``square_avg``) of a never-trained unit
            inside a tensor (width): the ``mean`` of the active units, or ``zero``. The step counter is that of the
            tensor, so that zero gives first updates of (1 - beta1) / sqrt(1 - beta2) of the learning rate.
        decay_from: share of the steps at which the learning rate starts to decay, if it is to be checked that no
            expansion comes later; ``sat.schedules`` places them.
        rewarm_steps: steps over which the *updates* of units that entered or returned rise linearly to full size:
            j/n of the update in the j-th of n steps, whatever the optimizer and its schedule; 0: at once.
        protect_steps: for so many steps after units entered, the updates of those active before are scaled.
        protect: by this: 0 holds them still, 1 is no protection.
        rate_exponent: with mode ``skip``, the learning rate is multiplied by (share of the units that work) to the
            power of minus this: 0 leaves it alone, 0.5 is Depth-muP's; see :mod:`sat.rate`.
        ramp_steps: steps over which the gate of a *returning* unit rises to 1; 0: at once.
        bank: where the full weights and optimizer state lie: on the parameters' device, or on the host.
        seed: of random scores and exploration; independent of torch's generators.

    Raises:
        ValueError: a value that is unknown, out of range, or contradicts another; the text says which.
    """

    mode: Mode = "skip"
    axis: Axis = "depth"
    schedule: Schedule | None = None
    interval: int = 500
    score: Score | None = None
    entry: Entry | None = None
    entry_state: EntryState = "fresh"
    entry_moment: EntryMoment = "zero"
    decay_from: float | None = None
    probe_batches: int = 1
    regime: Regime | None = None
    threshold: Threshold = "site"
    buckets: int | None = None
    floor: int = 1
    swap_share: float | None = None
    swap_until: float | None = None
    hysteresis: float = 0.1
    staleness: float = 0.1
    explore: float = 0.0
    observe_every: int = 8
    smoothing: float = 0.9
    rewarm_steps: int = 0
    protect_steps: int = 0
    protect: float = 1.0
    rate_exponent: float = 0.0
    ramp_steps: int = 20
    bank: Bank = "device"
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, get_args(Mode))
        _one_of("axis", self.axis, get_args(Axis))
        if (self.mode, self.axis) not in DEFAULT_SCHEDULES:
            raise ValueError(f"SATConfig: mode {self.mode!r} switches whole layers: axis must be 'depth', not 'width'")
        self._default("score", _DEFAULT_SCORES[self.mode, self.axis])
        self._default("regime", _DEFAULT_REGIMES[self.mode])
        grows_in_depth = self.mode == "skip" and self.axis == "depth" and self.regime == "growing"
        self._default("entry", "copy" if grows_in_depth else "zero")
        if self.swap_share is None:
            # a whole forward pass loses nothing that was trained, so all may change at once and to the end
            self._default("swap_share", 1.0 if self.whole_forward else 0.3)
            self._default("swap_until", None if self.whole_forward else 0.75)
        self._default("schedule", DEFAULT_SCHEDULES[self.mode, self.axis])
        _one_of("score", self.score, get_args(Score))
        _one_of("entry", self.entry, get_args(Entry))
        _one_of("entry_state", self.entry_state, get_args(EntryState))
        _one_of("entry_moment", self.entry_moment, get_args(EntryMoment))
        _one_of("regime", self.regime, get_args(Regime))
        _one_of("bank", self.bank, get_args(Bank))
        _one_of("threshold", self.threshold, get_args(Threshold))
        if self.buckets is not None:
            _whole("buckets", self.buckets, 1)
            if self.buckets > MOST_BUCKETS:
                raise ValueError(f"SATConfig: buckets must be {MOST_BUCKETS} at most, not {self.buckets}")
        for name in ("interval", "probe_batches", "floor", "observe_every"):
            _whole(name, getattr(self, name), 1)
        for name in ("rewarm_steps", "protect_steps", "ramp_steps"):
            _whole(name, getattr(self, name), 0)
        _whole("seed", self.seed, None)
        for name in ("swap_share", "explore", "smoothing", "protect"):
            _within(name, getattr(self, name), 1.0)
        _within("rate_exponent", self.rate_exponent, 2.0)
        for name in ("hysteresis", "staleness"):
            _within(name, getattr(self, name), math.inf)
        if self.swap_until is not None:
            _within("swap_until", self.swap_until, 1.0)
        object.__setattr__(self, "schedule", _checked_schedule(self.schedule))
        if self.decay_from is not None:
            try:
                check_decay(self.stages, self.decay_from)
            except ValueError as error:
                raise ValueError(f"SATConfig: {error}") from None
        self._check_combinations()

    def _default(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def _check_combinations(self) -> None:
        shares = [share for _, share in self.stages]
        if self.threshold == "global" and self.score == "order":
            raise ValueError(
                "SATConfig: threshold 'global' ranks units by score, and 'order' has none; use another score"
            )
        if self.bank == "host" and self.whole_forward:
            raise ValueError(
                f"SATConfig: bank 'host' holds units that are out, and mode {self.mode!r} leaves none out; leave bank "
                "out"
            )
        if self.regime == "narrowing" and (self.threshold == "global" or self.buckets is not None):
            raise ValueError("SATConfig: regime 'narrowing' moves one boundary; leave threshold and buckets out")
        self._check_entry()
        self._check_updates()
        if self.axis == "width" and self.score == "order":
            raise ValueError("SATConfig: score 'order' places layers; with axis 'width' use another score")
        if (self.mode == "prefix") != (self.regime == "narrowing"):
            raise ValueError(
                f"SATConfig: regime {self.regime!r} with mode {self.mode!r}: a frozen prefix only grows, regime "
                "'narrowing', and no other mode does; leave regime out"
            )
        if self.regime == "narrowing":
            if shares != sorted(shares, reverse=True):
                raise ValueError(f"SATConfig: mode 'prefix' never thaws a layer, but the active shares rise: {shares}")
            return
        if self.regime != "growing":
            if self.score == "order":
                raise ValueError(f"SATConfig: regime {self.regime!r} re-chooses units and needs a score, not 'order'")
            return
        if self.whole_forward:
            raise ValueError(
                f"SATConfig: mode {self.mode!r} re-chooses layers: regime must be 'rotating' or 'persistent'"
            )
        if shares != sorted(shares):
            raise ValueError(f"SATConfig: regime 'growing' never drops a unit, but the shares fall: {shares}")
        if shares[-1] != 1.0:
            raise ValueError(
                f"SATConfig: regime 'growing' ends with the full model, but the last share is {shares[-1]}; end the "
                "schedule with 1.0, or use regime 'persistent' to keep a part of the model"
            )

    def _check_entry(self) -> None:
        if self.axis == "width" and self.copies:
            raise ValueError(f"SATConfig: entry {self.entry!r} copies layers; with axis 'width' use 'zero' or 'random'")
        if self.whole_forward and self.entry != "zero":
            raise ValueError(
                f"SATConfig: entry {self.entry!r}: mode {self.mode!r} leaves the forward pass as it is, so no unit "
                "enters it; leave entry out"
            )
        if self.entry == "split" and self.regime != "growing":
            raise ValueError(
                f"SATConfig: entry 'split' shares a layer's result among its copies, and regime {self.regime!r} would "
                "take some of them out again; use regime 'growing', or entry 'interleaved'"
            )
        if self.entry_state == "copied" and not self.copies:
            raise ValueError(
                f"SATConfig: entry_state 'copied' is for copies of layers, and entry {self.entry!r} copies nothing; "
                "use entry 'copy', 'interleaved' or 'split', or leave entry_state out"
            )

    def _check_updates(self) -> None:
        if self.protect < 1.0 and not self.protect_steps:
            raise ValueError(
                f"SATConfig: protect {self.protect} scales updates for protect_steps after an expansion, which is 0; "
                "set protect_steps, or leave protect out"
            )
        if self.protect_steps and self.protect == 1.0:
            raise ValueError(
                f"SATConfig: protect_steps {self.protect_steps} with protect 1 protects nothing; set protect below 1"
            )
        if self.rate_exponent and self.whole_forward:
            raise ValueError(
                f"SATConfig: rate_exponent {self.rate_exponent} follows the size of the model at work, and mode "
                f"{self.mode!r} leaves all of it at work; leave rate_exponent out"
            )

    @property
    def copies(self) -> bool:
        """Whether new layers start as copies of trained ones."""
        return self.entry in {"copy", "interleaved", "split"}

    @property
    def spreads(self) -> bool:
        """Whether score ``order`` places new layers between the trained ones, not on top."""
        return self.entry in {"interleaved", "split"}

    @property
    def stages(self) -> Schedule:
        """The schedule, defaults filled in."""
        assert self.schedule is not None
        return self.schedule

    @property
    def needs_probe(self) -> bool:
        """Whether scores come from probes (and a probe loss must be given)."""
        return self.score == "gate_probe" or (self.score == "taylor" and self.whole_forward)

    @property
    def whole_forward(self) -> bool:
        """Whether inactive units still compute: all modes but ``skip``."""
        return self.mode != "skip"

    @property
    def rechooses(self) -> bool:
        """Whether the active set may change between the stages of the schedule."""
        return self.regime != "growing" and self.score != "order"

    def swap_share_at(self, step: int, total_steps: int) -> float:
        """Largest share of the active units that may be exchanged before ``step`` (0-based)."""
        assert self.swap_share is not None
        if self.swap_until is None:
            return self.swap_share
        end = self.swap_until * total_steps
        return self.swap_share * max(0.0, 1.0 - step / end) if end > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready; ``SATConfig(**config.to_dict())`` gives an equal configuration."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Decision:
    """The active set is chosen anew before ``step`` (0-based), for ``share``, after a probe if ``probe``."""

    step: int
    share: float
    probe: bool


@dataclass(frozen=True)
class PhasePlan:
    """A stretch of ``steps`` steps from ``first_step`` on with one active share and ``probes`` probes in it."""

    first_step: int
    steps: int
    share: float
    probes: int


def decisions(config: SATConfig, total_steps: int) -> list[Decision]:
    """Every point at which the active set is chosen, in order; the first is before step 0.

    A stage starts at ``round_half_up(start * total_steps)``; a stage that gets no step is left out. A stage
    begins with a decision; regimes that re-choose also decide at every multiple of ``interval`` while the
    swap share is above 0 and the share below 1. A probe is taken only where it can change something: never
    for a share of 1, never for scores that need none.

    Raises:
        ValueError: ``total_steps`` < 1.
    """
    _whole("total_steps", total_steps, 1)
    found: list[Decision] = []
    starts = [round_half_up(start * total_steps) for start, _ in config.stages] + [total_steps]
    for (_, share), first, end in zip(config.stages, starts, starts[1:], strict=False):
        if first == end:
            continue
        steps = {first}
        if config.rechooses and share < 1.0:
            multiples = range(-(-first // config.interval) * config.interval, end, config.interval)
            steps |= {step for step in multiples if config.swap_share_at(step, total_steps) > 0}
        found += [Decision(step, share, config.needs_probe and share < 1.0) for step in sorted(steps)]
    return found


def phases(config: SATConfig, total_steps: int) -> list[PhasePlan]:
    """Stretches of equal share; their steps add up to ``total_steps``. Equal neighbours are one phase.

    Raises:
        ValueError: ``total_steps`` < 1.
    """
    merged: list[tuple[int, float, int]] = []  # first step, share, probes
    for decision in decisions(config, total_steps):
        if merged and merged[-1][1] == decision.share:
            first, share, probes = merged[-1]
            merged[-1] = (first, share, probes + decision.probe)
        else:
            merged.append((decision.step, decision.share, int(decision.probe)))
    ends = [first for first, _, _ in merged[1:]] + [total_steps]
    return [
        PhasePlan(first, end - first, share, probes) for (first, share, probes), end in zip(merged, ends, strict=True)
    ]


def _checked_schedule(value: Any) -> Schedule:
    try:
        pairs = tuple((float(start), float(share)) for start, share in value)
    except (TypeError, ValueError):
        raise ValueError(
            f"SATConfig: schedule must be pairs (start as a share of the steps, active share), not {value!r}"
        ) from None
    if not pairs:
        raise ValueError("SATConfig: schedule is empty; give at least one pair (0.0, active share)")
    for start, share in pairs:
        if not 0.0 <= start < 1.0:
            raise ValueError(
                f"SATConfig: schedule: a stage starts at a share of the steps in 0 <= start < 1, not {start}"
            )
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"SATConfig: schedule: an active share lies between 0 and 1, not {share}")
    starts = [start for start, _ in pairs]
    if starts[0] != 0.0:
        raise ValueError(f"SATConfig: schedule: the first stage must start at 0, not {starts[0]}")
    if any(later <= earlier for earlier, later in itertools.pairwise(starts)):
        raise ValueError(f"SATConfig: schedule: starts must rise: {starts}")
    return pairs


def _one_of(name: str, value: object, known: Iterable[str]) -> None:
    if value not in tuple(known):
        raise ValueError(f"SATConfig: {name} must be one of {', '.join(known)}, not {value!r}")


def _whole(name: str, value: object, low: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (low is not None and value < low):
        raise ValueError(
            f"SATConfig: {name} must be a whole number{'' if low is None else f' >= {low}'}, not {value!r}"
        )


def _within(name: str, value: object, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value <= high:
        bound = f"between 0 and {high:g}" if high < math.inf else "0 or more"
        raise ValueError(f"SATConfig: {name} must be {bound}, not {value!r}")
