"""The statistics of paired runs. Pure functions on plain lists of floats; nothing random.

The unit of analysis is ``ln(E_arm / E_baseline)`` of one pair (same block, machine and card). All tests
here are one-sided at :data:`ALPHA` = 0.025, so that a verdict can never contradict the two-sided 95 %
interval that is printed beside it.

Three choices that a sceptic should know:

* *No percentile bootstrap.* At few seeds it is far too narrow (a nominal 95 % interval covers 73 % at
  n = 3); Student's t is exact for normal scatter and close for anything symmetric.
* *Several sizes* are averaged with equal weights on the scale of the claim (a share, not its logarithm:
  the geometric mean would flatter a saving that differs between sizes). Sizes are fixed, not drawn from
  a population, so the interval speaks of the sizes measured and no others. Welch-Satterthwaite degrees
  of freedom, bounded below by the smallest stratum's own.
* *The trend over sizes* is fitted through one mean per size, with Student's t on (sizes - 2) degrees of
  freedom. Whatever makes one size deviate from a line is shared by all its seeds, so seeds must not be
  counted as independent evidence of a slope. Least squares over pairs calls far too many slopes real
  (over 10 % instead of 2.5 %), and so does the cluster bootstrap at 3 sizes (17 %; 4 to 5 % at 4 to 8
  sizes); the tests simulate all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ALPHA = 0.025  # one-sided, the twin of a two-sided 95 % interval
LEVEL = 0.95

Side = Literal["above", "below"]


def t_cdf(t: float, df: float) -> float:
    """Student's t distribution function."""
    from scipy.special import stdtr

    return float(stdtr(df, t))


def t_quantile(p: float, df: float) -> float:
    """Inverse of :func:`t_cdf`."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


@dataclass(frozen=True, slots=True)
class Mean:
    """An estimated mean: value, standard error and degrees of freedom.

    ``error`` and ``df`` are ``None`` where there is nothing to estimate scatter from (n = 1).
    """

    value: float
    error: float | None
    df: float | None
    n: int

    def interval(self, level: float = LEVEL) -> tuple[float | None, float | None]:
        """Two-sided t interval, ``(None, None)`` at n = 1."""
        if self.error is None or self.df is None:
            return None, None
        half = t_quantile(0.5 + level / 2, self.df) * self.error if self.error else 0.0
        return self.value - half, self.value + half

    def p(self, side: Side, bound: float) -> float | None:
        """One-sided p-value of "the mean lies ``side`` of ``bound``"; ``None`` at n = 1.

        Without any scatter the answer is certain: 0 or 1 (a mean equal to the bound is not beyond it).
        """
        if self.error is None or self.df is None:
            return None
        distance = self.value - bound if side == "above" else bound - self.value
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return t_cdf(-distance / self.error, self.df)

    def p_two_sided(self, bound: float = 0.0) -> float | None:
        """Two-sided p-value of "the mean differs from ``bound``"."""
        above, below = self.p("above", bound), self.p("below", bound)
        return None if above is None or below is None else min(1.0, 2 * min(above, below))


def _variance(values: Sequence[float]) -> float:
    """Unbiased sample variance; exactly 0 for equal values, whatever rounding says."""
    if min(values) == max(values):
        return 0.0
    centre = math.fsum(values) / len(values)
    return math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)


def mean(values: Sequence[float]) -> Mean:
    """Mean of paired differences or log ratios with its t error. Raises ``ValueError`` when empty."""
    if not values:
        raise ValueError("no values")
    n = len(values)
    centre = values[0] if min(values) == max(values) else math.fsum(values) / n
    if n == 1:
        return Mean(centre, None, None, 1)
    return Mean(centre, math.sqrt(_variance(values) / n), n - 1, n)


def saving(log_ratios: Sequence[float], level: float = LEVEL) -> tuple[float, float | None, float | None]:
    """``1 - exp(mean)`` and its t interval, a share. The interval is ``None`` at n = 1."""
    found = mean(log_ratios)
    low, high = found.interval(level)
    return (
        -math.expm1(found.value),
        None if high is None else -math.expm1(high),
        None if low is None else -math.expm1(low),
    )


def saving_mean(log_ratios: Sequence[float]) -> Mean:
    """Mean saving at one size on the scale of shares (delta method), to be averaged over sizes."""
    found = mean(log_ratios)
    ratio = math.exp(found.value)
    return Mean(1 - ratio, None if found.error is None else ratio * found.error, found.df, found.n)


def stratified(strata: Sequence[Mean]) -> Mean:
    """Unweighted mean over sizes, sizes fixed; Welch-Satterthwaite degrees of freedom.

    If some stratum holds one pair, its scatter is taken to be the pooled scatter of the others, with the
    others' degrees of freedom. If all of them hold one pair there is no interval: a spread *between*
    sizes is not the scatter of a measurement.
    """
    if not strata:
        raise ValueError("no strata")
    n = sum(s.n for s in strata)
    centre = math.fsum(s.value for s in strata) / len(strata)
    known = [(s.error, s.df, s.n) for s in strata if s.error is not None and s.df is not None]
    if not known:
        return Mean(centre, None, None, n)
    if len(known) < len(strata):
        df = sum(d for _, d, _ in known)
        pooled = sum(e * e * count * d for e, d, count in known) / df
        variance = sum(pooled / s.n for s in strata) / len(strata) ** 2
        return Mean(centre, math.sqrt(variance), df, n)
    parts = [e * e for e, _, _ in known]
    total = sum(parts)
    if total == 0:
        return Mean(centre, 0.0, min(d for _, d, _ in known), n)
    df = total**2 / sum(part**2 / d for part, (_, d, _) in zip(parts, known, strict=True))
    return Mean(centre, math.sqrt(total) / len(strata), df, n)


def sign_flip(values: Sequence[float], centre: float = 0.0) -> float:
    """Exact two-sided sign-flip test of "the values are symmetric about ``centre``".

    All ``2**n`` sign patterns are tried, so the smallest possible p is ``2**(1-n)``: 6 values are
    needed to reach 5 %. Raises ``ValueError`` above 20 values, where t needs no help.
    """
    deviations = [v - centre for v in values]
    if not deviations or len(deviations) > 20:
        raise ValueError("sign_flip takes 1 to 20 values")
    import numpy as np

    sums = np.zeros(1)
    for deviation in deviations:
        sums = np.concatenate([sums + deviation, sums - deviation])
    observed = abs(math.fsum(deviations))
    slack = 1e-12 * math.fsum(abs(d) for d in deviations)  # ties must count in spite of rounding
    return float(np.mean(np.abs(sums) >= observed - slack))


def non_inferiority(worse: Sequence[float], margin: float) -> float | None:
    """One-sided p of "the arm is worse by less than ``margin``"; ``worse`` > 0 means worse."""
    return mean(worse).p("below", margin)


def tost(differences: Sequence[float], margin: float) -> float | None:
    """Two one-sided tests: p of "the mean lies within +/- ``margin``"; ``None`` at n = 1."""
    found = mean(differences)
    above, below = found.p("above", -margin), found.p("below", margin)
    return None if above is None or below is None else max(above, below)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line through size means: ``value = intercept + slope * x``."""

    intercept: float
    slope: Mean  # error and df are None with two sizes


def line(x: Sequence[float], groups: Sequence[Sequence[float]]) -> Line | None:
    """Least squares through the mean of each group at its ``x`` (log10 of the parameters).

    Returns ``None`` with fewer than two distinct ``x``; the slope has no interval with two.
    """
    if len(set(x)) < 2:
        return None
    means = [math.fsum(g) / len(g) for g in groups]
    k = len(x)
    centre_x, centre_y = math.fsum(x) / k, math.fsum(means) / k
    spread = math.fsum((v - centre_x) ** 2 for v in x)
    slope = math.fsum((v - centre_x) * (m - centre_y) for v, m in zip(x, means, strict=True)) / spread
    intercept = centre_y - slope * centre_x
    if k < 3:
        return Line(intercept, Mean(slope, None, None, k))
    residual = math.fsum((m - intercept - slope * v) ** 2 for v, m in zip(x, means, strict=True))
    return Line(intercept, Mean(slope, math.sqrt(residual / (k - 2) / spread), k - 2, k))


def pairs_needed(
    expected: float, at_least: float, scatter: float, *, alpha: float = ALPHA, power: float = 0.8, most: int = 1000
) -> int | None:
    """Smallest number of pairs that verifies a saving with probability ``power``.

    Args:
        expected: the saving that is believed to be true, a share.
        at_least: the claimed saving, a share below ``expected``.
        scatter: standard deviation of ln(energy) of one *run*; a pair's is sqrt(2) times that.
        alpha: one-sided error of the test.
        power: wanted probability of success.
        most: where the search ends.

    Returns:
        The number of pairs (at least 2), or ``None`` where even ``most`` do not suffice, as when the
        expected saving is no larger than the claimed one.

    Source: power of the one-sample t test by the noncentral t distribution.
    """
    from scipy.special import nctdtr

    if expected <= at_least:
        return None
    effect = (math.log1p(-at_least) - math.log1p(-expected)) / (math.sqrt(2) * scatter) if scatter else math.inf
    if math.isinf(effect):
        return 2
    for n in range(2, most + 1):
        critical = t_quantile(1 - alpha, n - 1)
        if 1 - float(nctdtr(n - 1, effect * math.sqrt(n), critical)) >= power:
            return n
    return None


def half_width(saving_share: float, scatter: float, pairs: int, level: float = LEVEL) -> float:
    """Expected half-width of the interval of a saving, in shares (delta method)."""
    t = t_quantile(0.5 + level / 2, pairs - 1)
    return (1 - saving_share) * math.sqrt(2) * scatter * t / math.sqrt(pairs)
