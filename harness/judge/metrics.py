"""Which way a metric of quality is better, and which is a workload's headline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.registry import did_you_mean
from harness.types import UserError
from harness.workloads.base import WORKLOADS, Metric


def metrics_of(workload: str) -> tuple[Metric, ...]:
    """Metrics of a registered workload, the headline first. Raises ``UserError`` for an unknown one."""
    return WORKLOADS.get(workload).metrics


class Directions:
    """Looks metrics up by name."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = {metric.name: metric for metric in metrics}

    def metric(self, name: str) -> Metric:
        """The metric called ``name``. Raises ``UserError`` where the workload has none of that name."""
        if name not in self.metrics:
            raise UserError(
                f"no metric {name!r} in this workload{did_you_mean(name, list(self.metrics))}; "
                f"it has: {', '.join(self.metrics)}"
            )
        return self.metrics[name]

    def worse(self, name: str, difference: float) -> float:
        """A difference (arm - other) turned so that positive is worse."""
        return difference if self.metric(name).better == "lower" else -difference

    def headline(self, available: Iterable[str]) -> str | None:
        """The workload's first metric among those available."""
        known = set(available)
        return next((name for name in self.metrics if name in known), None)
