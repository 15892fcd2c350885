"""Statistics against scipy, statsmodels, plain loops and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from harness.judge import stats

oracle = settings(max_examples=40, deadline=None)

values = st.lists(st.floats(-3, 3).map(lambda v: round(v, 6)), min_size=2, max_size=12)


@oracle
@given(values)
def test_interval_is_scipys(x):
    low, high = stats.mean(x).interval()
    if min(x) == max(x):
        assert low == high == x[0]
        return
    expected = scipy.stats.t.interval(0.95, len(x) - 1, np.mean(x), scipy.stats.sem(x))
    assert (low, high) == pytest.approx(expected, abs=1e-9)


@oracle
@given(values, st.floats(-1, 1))
def test_one_sided_p_is_scipys(x, bound):
    if np.std(x) < 1e-6:
        return
    for side, alternative in (("above", "greater"), ("below", "less")):
        expected = scipy.stats.ttest_1samp(x, bound, alternative=alternative).pvalue
        assert stats.mean(x).p(side, bound) == pytest.approx(expected, abs=1e-9)


@oracle
@given(values)
def test_saving_interval_holds_its_value_and_mirrors_the_log_interval(x):
    value, low, high = stats.saving(x)
    assert low <= value <= high
    log_low, log_high = stats.mean(x).interval()
    assert (low, high) == pytest.approx((1 - math.exp(log_high), 1 - math.exp(log_low)))


def test_one_pair_has_no_interval_and_no_p():
    assert stats.saving([math.log(0.4)]) == (pytest.approx(0.6), None, None)
    assert stats.mean([0.3]).p("above", 0.0) is None
    assert stats.tost([0.0], 1.0) is None
    assert stats.non_inferiority([0.0], 1.0) is None


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        stats.mean([])


@oracle
@given(st.lists(st.floats(-3, 3).map(lambda v: round(v, 3)), min_size=1, max_size=7))
def test_sign_flip_is_the_plain_loop(x):
    observed = abs(math.fsum(x))
    hits = [
        abs(math.fsum(s * v for s, v in zip(signs, x, strict=True))) >= observed - 1e-9
        for signs in itertools.product((1, -1), repeat=len(x))
    ]
    assert stats.sign_flip(x) == sum(hits) / len(hits)


def test_sign_flip_needs_six_pairs_for_five_percent():
    assert stats.sign_flip([0.5, 0.4, 0.6, 0.5, 0.45]) == 2 / 32
    assert stats.sign_flip([0.5, 0.4, 0.6, 0.5, 0.45, 0.55]) == 2 / 64


def test_tost_is_statsmodels():
    x = np.random.default_rng(0).normal(0.1, 0.2, 9)
    expected = DescrStatsW(x).ttost_mean(-0.4, 0.4)[0]
    assert stats.tost(list(x), 0.4) == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_statsmodels(p):
    assert stats.holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


@oracle
@given(st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=5), min_size=2, max_size=2))
def test_stratified_is_welch(groups):
    a, b = groups
    if np.std(a) < 1e-3 or np.std(b) < 1e-3:
        return
    both = stats.stratified([stats.mean(a), stats.mean([-v for v in b])])
    expected = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert both.p_two_sided() == pytest.approx(expected.pvalue, abs=1e-9)
    assert both.df == pytest.approx(expected.df)


def test_stratified_lends_the_scatter_of_the_others_to_a_single_pair():
    found = stats.stratified([stats.mean([0.5, 0.6, 0.7]), stats.mean([0.9])])
    assert found.value == pytest.approx(0.75)
    assert found.df == 2
    assert found.error == pytest.approx(math.sqrt((0.01 / 3 + 0.01) / 4))


def test_stratified_without_any_repeat_has_no_interval():
    assert stats.stratified([stats.mean([0.5]), stats.mean([0.6])]).interval() == (None, None)


def test_savings_over_sizes_are_averaged_as_shares_not_as_logarithms():
    found = stats.stratified([stats.saving_mean([math.log(0.9)] * 3), stats.saving_mean([math.log(0.2)] * 3)])
    assert found.value == pytest.approx(0.45)  # the geometric mean would say 0.58


def test_line_is_ordinary_least_squares_through_the_size_means():
    rng = np.random.default_rng(3)
    x = [5.0, 5.5, 6.2, 7.0]
    groups = [list(rng.normal(0.1 * v, 0.05, 3)) for v in x]
    found = stats.line(x, groups)
    expected = scipy.stats.linregress(x, [np.mean(g) for g in groups])
    assert found.slope.value == pytest.approx(expected.slope)
    assert found.intercept == pytest.approx(expected.intercept)
    assert found.slope.error == pytest.approx(expected.stderr)
    assert found.slope.p("above", 0) * 2 == pytest.approx(expected.pvalue)


def test_line_needs_two_sizes_and_three_for_an_interval():
    assert stats.line([5.0], [[0.1, 0.2]]) is None
    assert stats.line([5.0, 6.0], [[0.1], [0.2]]).slope.interval() == (None, None)


@pytest.mark.parametrize("sizes", [3, 4, 5])
def test_slope_test_keeps_its_level_where_each_size_deviates_in_its_own_way(sizes):
    """No slope, but every size has a deviation that its four seeds share.

    One mean per size keeps the level; least squares over pairs, shown beside it, does not.
    """
    rng = np.random.default_rng(11)
    x = list(np.linspace(5, 7, sizes))
    trials, seeds = 600, 4
    ours = naive = 0
    for _ in range(trials):
        groups = rng.normal(0.5, 0.03, (sizes, 1)) + rng.normal(0, 0.03, (sizes, seeds))
        ours += stats.line(x, groups.tolist()).slope.p("above", 0) < stats.ALPHA
        fit = scipy.stats.linregress(np.repeat(x, seeds), groups.ravel(), alternative="greater")
        naive += fit.pvalue < stats.ALPHA
    assert ours / trials < 0.025 + 3 * math.sqrt(0.025 * 0.975 / trials)
    assert naive / trials > 0.05


def test_cluster_bootstrap_would_not_keep_its_level():
    """Why the slope's interval is Student's t on sizes: the alternative, on the same null with 3 sizes."""
    rng = np.random.default_rng(12)
    x = np.linspace(5, 7, 3)
    wrong = 0
    for _ in range(300):
        means = rng.normal(0.5, 0.03, 3)
        draws = rng.integers(0, 3, (200, 3))
        xs, ys = x[draws], means[draws]
        dx = xs - xs.mean(1, keepdims=True)
        spread = (dx**2).sum(1)
        slopes = (dx * ys).sum(1)[spread > 0] / spread[spread > 0]
        wrong += np.quantile(slopes, stats.ALPHA) > 0
    assert wrong / 300 > 0.1


@pytest.mark.parametrize("n", [3, 5])
def test_paired_interval_covers_what_it_says(n):
    rng = np.random.default_rng(n)
    trials = 1000
    covered = 0
    for x in rng.normal(math.log(0.4), 0.05, (trials, n)).tolist():
        _, low, high = stats.saving(x)
        covered += low <= 0.6 <= high
    assert abs(covered / trials - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials)


def test_stratified_mean_keeps_its_level_with_two_seeds_and_unequal_scatter():
    rng = np.random.default_rng(5)
    trials, wrong = 1000, 0
    for _ in range(trials):
        strata = [stats.saving_mean(list(rng.normal(math.log(0.55), sd, 2))) for sd in (0.01, 0.03, 0.06)]
        wrong += stats.stratified(strata).p("above", 0.45) < stats.ALPHA
    assert wrong / trials < 0.025 + 3 * math.sqrt(0.025 * 0.975 / trials)


def test_half_width_is_the_published_table():
    """2 % scatter per arm at 50 % saving: +/- 3.5 points at n = 3, 1.5 at n = 6; 5 %: 8.8 and 3.7."""
    table = {(0.02, 3): 0.035, (0.02, 6): 0.015, (0.05, 3): 0.088, (0.05, 6): 0.037}
    for (scatter, n), expected in table.items():
        assert stats.half_width(0.5, scatter, n) == pytest.approx(expected, abs=0.0006)


@pytest.mark.parametrize(("expected", "claimed", "scatter"), [(0.5, 0.45, 0.05), (0.66, 0.62, 0.02), (0.7, 0.3, 0.1)])
def test_pairs_needed_is_statsmodels(expected, claimed, scatter):
    effect = (math.log1p(-claimed) - math.log1p(-expected)) / (math.sqrt(2) * scatter)
    n = stats.pairs_needed(expected, claimed, scatter)
    power = lambda count: TTestPower().power(effect, count, 0.025, alternative="larger")  # noqa: E731
    assert power(n) >= 0.8
    assert n == 2 or power(n - 1) < 0.8


def test_pairs_needed_does_not_promise_the_impossible():
    assert stats.pairs_needed(0.4, 0.45, 0.02) is None
    assert stats.pairs_needed(0.4501, 0.45, 0.2, most=50) is None
    assert stats.pairs_needed(0.5, 0.45, 0.0) == 2
