"""The seam of workloads: what one owes the plan (no torch) and what it owes the training loop.

A new workload is one file with one :class:`Workload` subclass and one line in :data:`WORKLOADS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel

from harness.registry import Registry
from harness.suite.spec import Json, Phase, Protocol, Recipe, RunSpec
from harness.types import Frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Metric(Frozen):
    """A number of held-out quality."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    label: str  # for people
    digits: int = 3


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out metrics and their standard errors over independent held-out pieces (documents, images)."""

    metrics: dict[str, float]
    standard_errors: dict[str, float]


class Task(ABC):
    """A workload made real on one device for one run: model, data, loss, evaluation."""

    model: nn.Module
    examples_per_step: int

    @abstractmethod
    def batch(self, step: int) -> Any:
        """Training batch of step ``step``; depends on the seed and the step alone, never on the arm."""

    @abstractmethod
    def probe_batch(self, index: int) -> Any:
        """Training batch for importance probes, from the training split, apart from :meth:`batch`'s stream."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Mean training loss of the batch, a scalar with gradient."""

    @abstractmethod
    def evaluate(self, *, final: bool) -> Evaluation:
        """Held-out quality: a fixed small part along the curve, the whole held-out split when ``final``."""

    def blocks(self) -> list[nn.Module]:
        """The repeated parts of the model that ``torch.compile`` takes one by one."""
        return [self.model]

    def compile(self) -> None:
        """Compile each block in place; block by block, so that a switch costs new graphs only where it cuts."""
        for block in self.blocks():
            block.compile()


class Workload(ABC):
    """What is trained. All but :meth:`build` works without importing torch."""

    name: ClassVar[str]
    version: ClassVar[int]  # raise it when results stop being comparable
    Options: ClassVar[type[BaseModel]]
    metrics: ClassVar[tuple[Metric, ...]]  # the first is the headline, minimised or maximised in training
    examples: ClassVar[str]  # what is counted: "tokens", "images" ...

    @abstractmethod
    def sizes(self) -> list[str]:
        """Rungs of the ladder, smallest first."""

    @abstractmethod
    def model(self, size: str, options: Json) -> Json:
        """Shape of the full model on a rung. Raises ``UserError`` for an unknown rung or option."""

    @abstractmethod
    def recipe(self, size: str, model: Json, options: Json, protocol: Protocol) -> Recipe:
        """The recipe of a rung, shared by all its arms."""

    @abstractmethod
    def parameters(self, model: Json) -> int:
        """Number of parameters of a shape, exact."""

    @abstractmethod
    def layers(self, model: Json) -> int:
        """Number of residual layers of a shape, the units of depth."""

    @abstractmethod
    def step_flops(self, model: Json, recipe: Recipe, options: Json, phase: Phase) -> float | None:
        """Matmul FLOPs of one optimizer step in a phase, closed form, equal to the counted number."""

    @abstractmethod
    def probe_flops(self, model: Json, recipe: Recipe, options: Json, phase: Phase) -> float | None:
        """Matmul FLOPs of one importance probe in a phase."""

    @abstractmethod
    def smaller(self, model: Json, axis: Literal["depth", "width"]) -> list[Json]:
        """Complete models shallower or narrower than ``model``, every possible one, largest first."""

    def learning_rate_of(self, smaller: Json, model: Json, learning_rate: float) -> float:
        """What ``learning_rate``, set for ``model``, becomes for a smaller one, by the workload's own rule."""
        return learning_rate

    @abstractmethod
    def memory_bytes(self, model: Json, recipe: Recipe, options: Json) -> float:
        """Rough peak memory of a dense training: parameters, gradients, optimizer state, activations."""

    @abstractmethod
    def build(self, spec: RunSpec, device: torch.device) -> Task:
        """The task on a device. On ``meta``: shapes only, for counting; no data is read."""


WORKLOADS: Registry[type[Workload]] = Registry(
    "workload", {"language": "harness.workloads.language.workload:LanguageWorkload"}
)
