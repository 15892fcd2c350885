from __future__ import annotations

import math
import random

import pytest
from sampler_on_off import ratio_of
from scipy import stats


def test_the_interval_is_that_of_a_paired_t_test_on_logarithms():
    rng = random.Random(1)
    pairs = [(rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.2)) for _ in range(12)]
    ratio = ratio_of(pairs)
    oracle = stats.ttest_rel(*([math.log(pair[i]) for pair in pairs] for i in (1, 0))).confidence_interval(0.95)
    assert (ratio.low, ratio.high) == pytest.approx((math.expm1(oracle.low), math.expm1(oracle.high)))
    assert ratio.low < ratio.mean < ratio.high
