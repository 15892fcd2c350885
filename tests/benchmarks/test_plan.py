"""Time to load, plan and print a suite of 1,000 runs, side by side in one run; and the main job."""

from __future__ import annotations

import io
from typing import Any

import pytest

from harness.suite.load import load, loads
from harness.suite.machine import detect
from harness.suite.plan import plan
from harness.suite.show import print_plan

TEXT = """\
name: thousand
workload: language
arms:
  dense:
  dense-aa: dense
  sat:
  sat-width: {method: sat, axis: width}
  freeze: {method: sat, mode: freeze}
experiments:
- {protocol: train, sizes: [0.1M, 0.2M, 0.4M, 0.8M], seeds: 50}
"""


@pytest.mark.benchmark(group="plan of 1,000 runs")
def test_load(benchmark: Any) -> None:
    assert len(benchmark(loads, TEXT).experiments) == 1


@pytest.mark.benchmark(group="plan of 1,000 runs")
def test_plan(benchmark: Any) -> None:
    planned = benchmark(plan, loads(TEXT), detect("cpu"))
    benchmark.extra_info["runs"] = len(planned.runs)
    assert len(planned.runs) == 1000


@pytest.mark.benchmark(group="plan of 1,000 runs")
def test_show(benchmark: Any) -> None:
    planned = plan(loads(TEXT), detect("cpu"))
    benchmark(lambda: print_plan(planned, io.StringIO()))


@pytest.mark.benchmark(group="plan of the main job")
def test_load_and_plan_the_main_job(benchmark: Any) -> None:
    assert benchmark(lambda: plan(load("suites/scaling.yaml"), detect("cpu"))).totals.runs > 100
