"""SAT as an arm: the one file in which harness and the library ``sat`` meet.

Planning is free of torch: ``sat.config`` decides the schedule for both sides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from harness.methods.base import Controller, Method, MethodPlan, PlanRequest, with_steps
from harness.run.events import Activity
from harness.suite.flops import total_flops
from harness.suite.spec import Json, Phase, RunSpec
from harness.types import Frozen, UserError
from harness.workloads.base import Task
from sat.config import PhasePlan, SATConfig, phases
from sat.schedules import Schedule
from sat.units import units_kept

if TYPE_CHECKING:
    import torch

    import sat


UNPLANNED = (
    "with threshold 'global', buckets or a floor along the width, how many units of which kind work is known in the "
    "run alone; the plan's FLOPs are those of the same share at every site, its budget"
)


CLAIMED: Mapping[tuple[str, str], Schedule] = {
    # share 0 is the floor: one layer, then all of them ("zero/one-layer expansion", arXiv 2511.04981)
    ("skip", "depth"): ((0.0, 0.0), (0.8, 1.0)),
    # time-averaged share .318 of the units, which with the embeddings is inside the claim's 25 to 38 % of parameters
    ("skip", "width"): ((0.0, 0.17), (0.6, 0.33), (0.8, 0.5), (0.9, 1.0)),
    ("freeze", "depth"): ((0.0, 0.30),),
    ("backward_drop", "depth"): ((0.0, 0.30),),
    ("prefix", "depth"): ((0.0, 0.30),),
}
"""Schedules of arms that name none: those of the claim under test, on average 25 to 38 % of the parameters of small
models at work. They are not the library's defaults, which were chosen by what they lose (``sat/METHOD_CARD.md``)."""

T = TypeVar("T")
Setting = Annotated[T | None, Field(exclude_if=lambda value: value is None)]


class SatOptions(Frozen):
    """Options of an arm. ``None`` is the default of ``sat.SATConfig``; of the schedule it is :data:`CLAIMED`."""

    mode: Literal["skip", "freeze", "backward_drop", "prefix"] = "skip"
    axis: Literal["depth", "width"] = "depth"
    schedule: tuple[tuple[float, float], ...] | None = None  # (start as a share of the steps, active share)
    score: Literal["order", "gate_probe", "taylor", "magnitude", "random"] | None = None
    entry: Literal["zero", "copy", "interleaved", "split", "random"] = "zero"
    entry_state: Literal["fresh", "copied"] = "fresh"  # optimizer state of copied layers
    entry_moment: Literal["mean", "zero"] = "mean"  # second moments of new units along the width
    decay_from: float | None = None  # share of the steps; expansions from there on are refused
    rewarm_steps: int = 0  # over which the updates of units that came in rise to full size
    protect_steps: int = 0  # after an expansion, in which the updates of trained units are scaled
    protect: float = 1.0  # by this
    rate_exponent: float = 0.0  # learning rate times (active share) to the power of minus this
    regime: Literal["growing", "rotating", "persistent", "narrowing"] | None = None
    threshold: Literal["site", "global"] = "site"  # the same share at every site, or by score across sites
    buckets: int | None = None  # most different numbers of active units at a site
    # how units are re-chosen; None is the library's default, and is left out of a run's identity
    floor: Setting[int] = None
    swap_share: Setting[float] = None
    swap_until: Setting[float] = None  # with swap_share given, None is to the end
    hysteresis: Setting[float] = None
    staleness: Setting[float] = None
    explore: Setting[float] = None
    observe_every: Setting[int] = None
    smoothing: Setting[float] = None
    ramp_steps: Setting[int] = None
    interval: int | None = None  # steps; None: 500, but at least ten re-evaluations in a training
    probe_batches: int | None = None  # micro-batches of a probe; None: 4 for 500 steps of interval, fewer for less

    def config(self, steps: int, seed: int) -> SATConfig:
        """Settings of a training of ``steps`` steps.

        Raises:
            UserError: values that contradict each other.
        """
        schedule = CLAIMED.get((self.mode, self.axis)) if self.schedule is None else self.schedule
        interval = max(1, min(500, steps // 10)) if self.interval is None else self.interval
        probe_batches = max(1, min(4, 4 * interval // 500)) if self.probe_batches is None else self.probe_batches
        try:
            return SATConfig(
                **self.model_dump(exclude={"schedule", "interval", "probe_batches"}, exclude_none=True),
                schedule=schedule,
                interval=interval,
                probe_batches=probe_batches,
                seed=seed,
            )
        except ValueError as error:
            raise UserError(f"method sat: {str(error).removeprefix('SATConfig: ')}") from None


class Sat(Method):
    """Sparse adaptive training: skip growing depth or width, or leave parts of the backward pass out."""

    name = "sat"
    version = 1
    Options: ClassVar[type[BaseModel]] = SatOptions
    may_match = True
    summary = "sparse adaptive training: part of the layers or channels works, chosen by score, growing to all"

    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        """The full model, with the phases of the schedule at their realised shares.

        The recipe is the shared one; an arm with ``match`` takes the steps that spend the matched arm's FLOPs
        (a control without scores saves their probes, and gets them back as steps).

        All but width are shares of whole layers. Width is the share asked for: how many units it keeps
        depends on the site, and the workload applies ``sat.units_kept`` to each; see :meth:`unplanned`.

        Raises:
            UserError: options that contradict each other, or probes whose cost can't be told before the run.
        """
        recipe = request.recipe
        planned = _phases(options, recipe.steps, request)
        why = self.unplanned(options)
        if request.target_flops is not None and why is not None:
            raise UserError(f"method sat can't match another arm here: {why}")
        if request.target_flops is not None:
            own = total_flops(request.workload, request.model, recipe, request.workload_options, planned)
            if own is None:
                raise UserError(f"workload {request.workload.name!r} can't tell its FLOPs, so nothing can match them")
            recipe = with_steps(recipe, _steps_for(request.target_flops, recipe.steps, own, options, request))
            planned = _phases(options, recipe.steps, request)
        return MethodPlan(request.model, recipe, planned)

    def unplanned(self, options: Json) -> str | None:
        """Along the width, a global threshold, buckets or a floor: the plan has the budget, ``sat.units_kept`` of each
        site."""
        chosen = _options(options)
        own = chosen.threshold == "global" or chosen.buckets is not None or (chosen.floor or 1) > 1
        if chosen.axis == "width" and own:
            return UNPLANNED
        return None

    def attach(self, spec: RunSpec, task: Task, optimizer: torch.optim.Optimizer) -> Controller:
        """SAT on the task's model; nothing is switched before the first ``begin_step`` or ``enter_phase``."""
        import torch

        import sat

        def probe_loss(index: int) -> torch.Tensor:
            device = next(task.model.parameters()).device.type
            mixed = spec.recipe.precision != "fp32" and device != "meta"  # a probe runs as the training does
            with torch.autocast(device, torch.bfloat16) if mixed else nullcontext():
                return task.loss(task.probe_batch(index))

        steps = spec.recipe.steps
        config = _options(spec.method_options).config(steps, spec.seed)
        try:
            inner = sat.sparsify_(
                task.model,
                optimizer,
                config,
                total_steps=steps,
                loss=probe_loss,
                start=False,
            )
        except ValueError as error:
            raise UserError(f"method sat on workload {spec.workload}: {error}") from error
        notes = (f"sat: {UNPLANNED}",) if self.unplanned(spec.method_options) else ()
        return SatController(inner, task, phases(config, steps), notes)


class SatController(Controller):
    """The library's controller in the harness's terms."""

    def __init__(
        self, inner: sat.Controller, task: Task, planned: list[PhasePlan], notes: tuple[str, ...] = ()
    ) -> None:
        self.inner = inner
        self._task = task
        self._planned = planned
        self._notes = notes

    def due(self, step: int) -> bool:
        """Whether a decision is due before ``step``."""
        return self.inner.due(step)

    def begin_step(self, step: int) -> Activity | None:
        """Probe and switch; the active share after it, if any unit came or went."""
        switch = self.inner.begin_step(step)
        if switch is None or not switch.changed:
            return None
        return Activity(
            at_ns=time.monotonic_ns(),
            step=step,
            active_units=switch.active_units,
            active_parameters=switch.active_parameters,
            entries=switch.entries,
            exits=switch.exits,
            returns=switch.returns,
        )

    def before_optimizer(self, step: int) -> None:
        """Scores from gradients, where the score is one of them."""
        self.inner.before_optimizer(step)

    def end_step(self, step: int) -> None:
        """Book the step."""
        self.inner.end_step(step)

    def enter_phase(self, index: int) -> None:
        """The shape of phase ``index``, by what is known of the units: no probe."""
        self.inner.set_share(self._planned[index].share)

    def probe(self) -> None:
        """One probe: all its micro-batches."""
        self.inner.probe()

    def finish(self) -> tuple[str, ...]:
        """The final model of the regime, plain and full."""
        import sat

        report = self.inner.report()
        sat.densify_(self._task.model)
        return (f"sat: {report.summary}", *self._notes)


def _options(options: dict[str, Any]) -> SatOptions:
    try:
        return SatOptions.model_validate(options)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"options of method sat: {wrong}") from None


def _phase(config: SATConfig, plan: PhasePlan, layers: int) -> Phase:
    """A phase of the run: the realised share of layers, or the share asked for along the width."""
    realised = units_kept(layers, plan.share, config.floor, config.buckets) / layers
    phase = Phase(steps=plan.steps, probes=plan.probes, probe_batches=config.probe_batches)
    if config.axis == "width":
        return phase.model_copy(update={"width": plan.share})
    share = {"skip": "depth", "freeze": "gradient", "backward_drop": "backward", "prefix": "suffix"}[config.mode]
    return phase.model_copy(update={share: realised})


def _steps_for(target: float, steps: int, own: float, options: Json, request: PlanRequest) -> int:
    """Steps that spend ``target`` FLOPs; whole steps in each phase make it uneven, so neighbours are tried too."""
    guess = max(1, round(steps * target / own))

    def miss(count: int) -> float:
        planned = _phases(options, count, request)
        spent = total_flops(request.workload, request.model, request.recipe, request.workload_options, planned)
        assert spent is not None
        return abs(spent - target)

    return min(range(max(1, guess - 4), guess + 5), key=miss)


def _phases(options: Json, steps: int, request: PlanRequest) -> tuple[Phase, ...]:
    config = _options(options).config(steps, seed=0)
    layers = request.workload.layers(request.model)
    planned = tuple(_phase(config, plan, layers) for plan in phases(config, steps))
    _refuse_probes_of_unknown_cost(config, planned, layers)
    return planned


def _refuse_probes_of_unknown_cost(config: SATConfig, planned: tuple[Phase, ...], layers: int) -> None:
    """A phase says which probe runs in it by the share that is below 1: what can't be said so is refused.

    The closed forms of the workloads know the gate probe of ``depth`` and ``width`` and the Taylor probe of modes
    with a whole forward pass; controls are matched to their FLOPs, so a wrong one would give a control too much or
    too little. A frozen prefix that waits for scores costs more than its schedule says, nobody knows how much.
    """
    if config.mode == "prefix" and config.score != "order":
        raise UserError(
            f"method sat: score {config.score!r} with mode 'prefix' lets scores hold the frozen prefix back, so what a "
            "step costs is not known before the run; leave score out, and the schedule alone moves it"
        )
    if config.whole_forward and config.score == "gate_probe":
        raise UserError(
            f"method sat: score 'gate_probe' with mode {config.mode!r} has no closed form for its FLOPs, so no control "
            "could be matched to it; use score 'taylor', 'magnitude' or 'random'"
        )
    for phase in planned:
        if phase.probes and phase.is_dense:
            raise UserError(
                f"method sat: schedule: a share below 1 that keeps all {layers} layers would probe with nothing to "
                "choose; write 1.0 there, or a smaller share"
            )
