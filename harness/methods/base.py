"""The seam of methods: how an arm plans its run (no torch) and how it steers the training loop.

A new method is one file with one :class:`Method` subclass and one line in :data:`METHODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from harness.registry import Registry
from harness.run.events import Activity
from harness.suite.spec import Json, Phase, Recipe, RunSpec
from harness.workloads.base import Task, Workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a method sees when it plans: the full model and the shared recipe of its rung."""

    workload: Workload
    workload_options: Json
    model: Json
    recipe: Recipe
    target_flops: float | None = None  # of the arm it must match, where the suite says ``match``


@dataclass(frozen=True, slots=True)
class MethodPlan:
    """What the arm will really do. ``phases`` add up to ``recipe.steps``."""

    model: Json
    recipe: Recipe
    phases: tuple[Phase, ...]


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for another number of steps, its learning rate fully decayed by then."""
    return recipe.model_copy(update={"steps": steps, "evaluations": min(recipe.evaluations, steps)})


class Controller:
    """A method at work inside the training loop. This one, dense, does nothing.

    The loop calls, in order: :meth:`begin_step` at the head of each step when :meth:`due` says so
    (in a window of kind ``probe``), then forward, backward, clip, then :meth:`before_optimizer` and
    the optimizer, then :meth:`end_step`.
    """

    def due(self, step: int) -> bool:
        """Whether :meth:`begin_step` has work to do before step ``step`` (0-based)."""
        return False

    def begin_step(self, step: int) -> Activity | None:
        """Probe and switch; returns the new active share if it changed."""
        return None

    def before_optimizer(self, step: int) -> None:
        """Between backward and the optimizer (scores from gradients)."""

    def end_step(self, step: int) -> None:
        """After the optimizer."""

    def enter_phase(self, index: int) -> None:
        """Put the model into the shape of phase ``index``, without a probe (counting and ``steady``)."""

    def probe(self) -> None:
        """One importance probe alone, changing nothing (counting and ``steady``)."""

    def finish(self) -> tuple[str, ...]:
        """After the last step: leave the final model in place; returns notes for the record."""
        return ()


class Method(ABC):
    """How a model is trained."""

    name: ClassVar[str]
    version: ClassVar[int]
    Options: ClassVar[type[BaseModel]]
    summary: ClassVar[str]  # one line for `ls methods` and the page
    matches: ClassVar[bool] = False  # a control that needs ``match``
    may_match: ClassVar[bool] = False  # takes as many steps as it needs to spend the matched arm's FLOPs

    @abstractmethod
    def plan(self, options: Json, request: PlanRequest) -> MethodPlan:
        """The arm's model, recipe and phases. Raises ``UserError`` if it can't be done."""

    def unplanned(self, options: Json) -> str | None:
        """Why a training spends other FLOPs than its plan says, so that no arm can match it; ``None`` if it doesn't."""
        return None

    def attach(self, spec: RunSpec, task: Task, optimizer: torch.optim.Optimizer) -> Controller:
        """The controller of one run; dense by default."""
        return Controller()


METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "dense": "harness.methods.dense:Dense",
        "sat": "harness.methods.sat:Sat",
        "dense-short": "harness.methods.controls:DenseShort",
        "dense-small": "harness.methods.controls:DenseSmall",
        "dense-shallow": "harness.methods.controls:DenseShallow",
    },
)
