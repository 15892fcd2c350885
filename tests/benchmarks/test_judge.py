"""How long judging takes at 1,000 runs, and the audit beside it."""

from __future__ import annotations

import pytest
from synthetic import many, suite_arms

from harness.audit.arithmetic import arithmetic
from harness.judge.claims import load_claims
from harness.judge.judge import judge
from harness.suite.spec import FootprintOptions


@pytest.fixture(scope="module")
def thousand():
    return many(1000)


def _judge(found):
    return judge("s", "t", found, load_claims("sat-article"), "dense", FootprintOptions(), suite_arms())


@pytest.mark.benchmark(group="judge, 1,000 runs")
def test_judge(benchmark, thousand):
    assert len(benchmark(_judge, thousand).verdicts) == 16


@pytest.mark.benchmark(group="judge, 1,000 runs")
def test_audit(benchmark, thousand, tmp_path):
    assert benchmark(arithmetic, tmp_path, thousand, _judge(thousand)) == []
