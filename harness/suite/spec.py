"""What is to be run: the types between a suite file and a worker. No torch here.

``load.py`` turns a YAML file into a :class:`Suite`; ``plan.py`` turns a suite into :class:`Block` s.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.types import Frozen, digest

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Json = dict[str, Any]
Level = bool | int | float | str
Levels = dict[str, Level]
"""Factors of an experiment and the level of each: ``{"precision": "bf16", "compile": True}``."""


class Protocol(StrEnum):
    """What a run is for."""

    TRAIN = "train"  # a whole training: energy and quality
    STEADY = "steady"  # a few steps of every phase of a whole training's schedule: energy per step, no quality
    COUNT = "count"  # FLOPs only, counted on meta tensors, nothing is trained


def _is_default(value: Any) -> bool:
    """Left out of a specification's canonical form, so that runs recorded before a key existed keep their ids."""
    return not value


class Recipe(Frozen):
    """How a model is trained, the same for every arm of a block unless the arm exists to differ.

    The learning rate is warm-up, stable, decay (WSD): linear from 0 over the first ``warmup_share`` of
    the steps, constant, linear to 0 over the last ``decay_share``.
    """

    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]  # sequences, images, pairs ... per optimizer step
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_share: Share = 0.05
    decay_share: Share = 0.15
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    # bf16: autocast, parameters and optimizer stay fp32; pure-bf16: those are bf16 too, 8 bytes a parameter
    precision: Literal["fp32", "bf16", "pure-bf16"] = "fp32"
    checkpointing: bool = False  # gradient checkpointing
    compile: bool = False
    evaluations: Annotated[int, Field(ge=1)] = 8  # points of the learning curve, the last after the last step
    threads: Annotated[int, Field(ge=1)] | None = None  # of torch on the CPU; None: as many as there are cores
    sampled_steps: Annotated[int, Field(ge=1)] = 8  # steady protocol: steps measured in each phase, at least
    # steady protocol: seconds that a phase is measured at least; its number of steps follows from a paced start
    sampled_seconds: Annotated[float, Field(ge=0, exclude_if=_is_default)] = 0.0
    jitter_s: Annotated[float, Field(ge=0)] = 0.0  # largest random delay after each step: the cure of aliasing

    @model_validator(mode="after")
    def _shares_fit(self) -> Recipe:
        if self.warmup_share + self.decay_share > 1:
            raise ValueError("warmup_share + decay_share must be at most 1")
        return self

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step ``step`` (0-based) of ``steps``."""
        warmup = self.warmup_share * self.steps
        decay_from = self.steps - self.decay_share * self.steps
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if step >= decay_from:
            return self.learning_rate * max(0.0, (self.steps - step) / (self.steps - decay_from + 1))
        return self.learning_rate


class Phase(Frozen):
    """A stretch of steps in which the same share of the model works.

    ``depth`` is the share of residual layers present in forward and backward, ``width`` the share of
    the switchable parts of each present layer (MLP blocks, KV groups). Of the present layers, ``gradient`` is the
    share whose weight gradients are computed, ``backward`` the share whose branches have a backward pass at all
    (the others are passed by along the residual path), ``suffix`` the share above a frozen prefix, which with
    the embeddings below it has none either. All 1 is dense.
    """

    steps: Annotated[int, Field(ge=1)]
    depth: Share = 1.0
    width: Share = 1.0
    gradient: Share = 1.0
    backward: Share = 1.0
    suffix: Share = 1.0
    probes: Annotated[int, Field(ge=0)] = 0  # importance probes inside the phase
    probe_batches: Annotated[int, Field(ge=1)] = 4  # micro-batches of one probe, each of the recipe's batch size

    @property
    def is_dense(self) -> bool:
        """Whether the whole model works in this phase."""
        return self.depth == self.width == self.gradient == self.backward == self.suffix == 1.0


class RunSpec(Frozen):
    """All that decides a run's outcome, apart from the machine and the code revision."""

    workload: str
    workload_version: int
    workload_options: Json = Field(default_factory=dict)
    size: str  # the rung of the ladder its block stands on; a smaller control keeps the rung of its block
    seed: int
    protocol: Protocol
    levels: Levels = Field(default_factory=dict, exclude_if=_is_default)  # of the experiment's factors, all in recipe
    arm: str
    method: str
    method_version: int
    method_options: Json = Field(default_factory=dict)
    model: Json  # the shape that is really built, as the workload defines it
    recipe: Recipe
    phases: tuple[Phase, ...]
    device: Literal["cpu", "cuda"]

    @model_validator(mode="after")
    def _phases_cover_the_steps(self) -> RunSpec:
        planned = sum(phase.steps for phase in self.phases)
        if planned != self.recipe.steps:
            raise ValueError(f"phases hold {planned} steps, the recipe {self.recipe.steps}")
        return self

    @property
    def run_id(self) -> str:
        """``<size>-s<seed>-<arm>-<protocol>-<hash>``: the hash is of the whole canonical JSON."""
        return f"{self.size}-s{self.seed}-{self.arm}-{self.protocol.value}-{digest(self)}"


class Prediction(Frozen):
    """What ``plan`` expects of a run. ``None`` means unknown, never zero. All of it is projected."""

    flops: float | None = None  # matmul FLOPs of the whole run, closed form
    seconds: float | None = None
    energy_j: float | None = None
    memory_bytes: float | None = None
    price_usd: float | None = None  # rental


class PlannedRun(Frozen):
    """A run and what is expected of it. With ``skip`` set it will not be started, and says why."""

    spec: RunSpec
    prediction: Prediction = Prediction()
    skip: str | None = None


class Block(Frozen):
    """One workload, size, seed and protocol with all its arms, in the order they run.

    The unit of scheduling: it is never split over machines or cards.
    """

    block_id: str
    workload: str
    size: str
    seed: int
    protocol: Protocol
    levels: Levels = Field(default_factory=dict, exclude_if=_is_default)
    baseline: str  # the arm the others are compared with
    runs: tuple[PlannedRun, ...]


class Arm(Frozen):
    """One way of training, as the suite file defines it."""

    method: str
    match: str | None = None  # the arm whose counted FLOPs this control spends
    options: Json = Field(default_factory=dict)


class Experiment(Frozen):
    """One crossing of sizes, seeds, levels of factors and arms under one protocol.

    A factor is a key of the recipe that a suite varies, such as ``precision`` or ``compile``.
    """

    protocol: Protocol
    factors: dict[str, tuple[Level, ...]] = Field(default_factory=dict, exclude_if=_is_default)
    sizes: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    recipe: Json = Field(default_factory=dict)  # overrides of the workload's recipe
    options: Json = Field(default_factory=dict)  # overrides of the workload's options

    @property
    def conditions(self) -> list[Levels]:
        """Every combination of its factors' levels, the last factor fastest; one empty one without factors."""
        return [dict(zip(self.factors, levels, strict=True)) for levels in product(*self.factors.values())]


class FootprintOptions(Frozen):
    """Factors that turn joules and hours into CO2e and money; each is cited on the page."""

    region: str = "world"  # a key of `harness ls regions`
    pue: Annotated[float, Field(ge=1.0)] = 1.0  # power usage effectiveness; 1.0 adds nothing
    pue_source: str = "not applied"
    price: str | None = None  # a key of `harness ls prices`; None: chosen by device


class Suite(Frozen):
    """A validated suite file."""

    name: str
    title: str
    question: str = ""
    workload: str
    workload_options: Json = Field(default_factory=dict)
    baseline: str = "dense"
    arms: dict[str, Arm]
    experiments: tuple[Experiment, ...]
    claims: str = "sat-article"  # a shipped claims file by name, or a path beside the suite
    meter: str = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    footprint: FootprintOptions = FootprintOptions()
    budget_s: float | None = None
    timeout_s: float = 3600.0  # of one run
    cooldown_c: float | None = None  # degrees above the block's first start temperature that are waited out
    idle_s: float = 2.0  # idle baseline before each block
    sample_hz: Annotated[float, Field(gt=0, le=100)] = 20.0


def levels_text(levels: Levels) -> str:
    """For people, as the suite file writes it: ``precision bf16, compile true``; empty without factors."""
    return ", ".join(f"{name} {str(level).lower()}" for name, level in levels.items())
