"""A thousand runs render in seconds, and in proportion to a tenth of them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from judged import judged

from harness.report import page

SIZES = ("0.1M", "0.3M", "1M", "3M", "10M")


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_a_thousand_runs(benchmark: Any, form: page.Format) -> None:
    few = judged(seeds=range(3), sizes=SIZES)
    many = judged(seeds=range(26), sizes=SIZES)
    assert len(many[1]) > 1000
    page.render(*few, form)  # imports and template compilation are paid once per process
    start = time.perf_counter()
    page.render(*few, form)
    before = time.perf_counter() - start
    text = benchmark(page.render, *many, form)
    times = len(many[1]) / len(few[1])
    benchmark.extra_info |= {"runs": len(many[1]), "bytes": len(text.encode()), "runs_ratio": times}
    if benchmark.stats:
        benchmark.extra_info["time_ratio"] = benchmark.stats["median"] / before
        assert benchmark.stats["median"] / before < 3 * times  # nothing in it grows with the square of the runs
