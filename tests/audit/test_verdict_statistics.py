"""The audit's own p-values, Holm and margins: they agree with the judge's, and disagree with every planted lie."""

from __future__ import annotations

from collections import Counter

import pytest
from synthetic import Planted, records, suite_arms

from harness.audit.trials import Level, mean_level
from harness.audit.verdicts import verdict_statistics
from harness.judge.judge import judge
from harness.judge.types import Claim, Judgement, VerdictStatus
from harness.suite.spec import FootprintOptions, Protocol
from harness.types import Basis


def claims() -> list[Claim]:
    """Every metric that is tested with a p-value, over means and each size, several arms, bounds and protocols."""
    found = []
    for aggregate in ("mean", "each"):
        common = {"text": "x", "aggregate": aggregate}
        found += [
            Claim(id=f"energy-{aggregate}", metric="energy_saving", at_least=0.45, arms=("sat", "sat-width"), **common),
            Claim(id=f"cost-{aggregate}", metric="cost_saving", at_least=0.2, arms=("sat",), **common),
            Claim(id=f"quality-{aggregate}", metric="quality", quality_metric="loss", quality_margin=0.01,
                  quality_relative=True, arms=("sat",), **common),
            Claim(id=f"both-{aggregate}", metric="energy_saving", at_least=0.3, quality_metric="accuracy",
                  quality_margin=0.5, arms=("sat", "sat-width"), **common),
            Claim(id=f"any-{aggregate}", metric="energy_saving", at_least=0.4, protocol="any", min_parameters=5e5,
                  arms=("sat",), **common),
        ]  # fmt: skip
    return [
        *found,
        Claim(id="slope", text="x", metric="energy_saving_slope", at_least=0.0, arms=("sat",)),
        Claim(id="flops", text="x", metric="flops_saving", at_least=0.5, arms=("sat",), protocol="count"),
    ]


def made(basis: Basis, seeds: int, saving: float, noise: float):
    arms = {"sat": Planted(saving, flops=saving + 0.02, loss=0.002, slope=0.03), "sat-width": Planted(0.5)}
    return [
        record
        for protocol in Protocol
        for record in records(
            ("0.3M", "1M", "3M", "10M"), tuple(range(seeds)), arms, basis=basis, protocol=protocol, noise=noise,
            seed=seeds,
        )
    ]  # fmt: skip


def judged(found) -> Judgement:
    return judge("s", "t", found, claims(), "dense", FootprintOptions(), suite_arms())


@pytest.mark.parametrize(
    ("basis", "seeds"),
    [(Basis.MEASURED, 1), (Basis.MEASURED, 2), (Basis.MEASURED, 3), (Basis.MODELLED, 3), (Basis.SIMULATED, 2)],
)
def test_both_pairs_of_eyes_see_the_same(basis, seeds):
    statuses: Counter[VerdictStatus] = Counter()
    for saving in (0.3, 0.46, 0.6):
        for noise in (0.0, 0.02, 0.1):
            found = made(basis, seeds, saving, noise)
            judgement = judged(found)
            assert list(verdict_statistics(found, judgement)) == []
            statuses.update(verdict.status for verdict in judgement.verdicts)
    if basis is Basis.MEASURED and seeds == 3:  # the agreement is about something
        assert {VerdictStatus.VERIFIED, VerdictStatus.REFUTED, VerdictStatus.INCONCLUSIVE} <= statuses.keys()


@pytest.fixture(scope="module")
def three_seeds():
    found = made(Basis.MEASURED, 3, 0.6, 0.02)
    return found, judged(found)


def with_verdict(judgement: Judgement, claim: str, **update) -> Judgement:
    verdicts = [v.model_copy(update=update) if v.claim.id == claim else v for v in judgement.verdicts]
    return judgement.model_copy(update={"verdicts": tuple(verdicts)})


def check_of(judgement: Judgement, claim: str):
    return next(v for v in judgement.verdicts if v.claim.id == claim).checks


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"p_value": 1e-9}, "p after adjustment is given as 1e-09"),
        ({"p_value": None}, "p after adjustment is given as unknown"),
        ({"bound": 0.1}, "is tested against 0.1, the claim says 0.45"),
        ({"outcome": "not met"}, "is called 'not met', 'met' follows"),
    ],
)
def test_a_check_that_was_changed(three_seeds, update, says):
    found, judgement = three_seeds
    first, *others = check_of(judgement, "energy-mean")
    lying = with_verdict(judgement, "energy-mean", checks=(first.model_copy(update=update), *others))
    assert any(says in finding for finding in verdict_statistics(found, lying))


def test_a_margin_that_was_widened_in_the_checks(three_seeds):
    found, judgement = three_seeds
    (check,) = check_of(judgement, "quality-mean")
    lying = with_verdict(judgement, "quality-mean", checks=(check.model_copy(update={"bound": 0.1}),))
    assert any("is tested against 0.1, the claim says 0.01" in one for one in verdict_statistics(found, lying))


def test_a_condition_that_was_left_out(three_seeds):
    found, judgement = three_seeds
    checks = check_of(judgement, "both-mean")
    lying = with_verdict(judgement, "both-mean", checks=checks[1:])
    assert any("conditions are listed" in finding for finding in verdict_statistics(found, lying))


def test_statuses_that_no_p_allows(three_seeds):
    found, judgement = three_seeds
    refuted = with_verdict(judgement, "energy-mean", status=VerdictStatus.REFUTED)
    assert any("energy-mean: is called refuted" in finding for finding in verdict_statistics(found, refuted))
    weak = made(Basis.MEASURED, 3, 0.3, 0.02)
    honest = judged(weak)
    verified = with_verdict(honest, "energy-each", status=VerdictStatus.VERIFIED, arm="sat")
    assert any("is called verified by sat" in finding for finding in verdict_statistics(weak, verified))
    status = {v.claim.id: v.status for v in honest.verdicts}
    loser = next(claim for claim, one in status.items() if one is VerdictStatus.REFUTED)
    hidden = with_verdict(honest, loser, status=VerdictStatus.INCONCLUSIVE)
    assert any("every arm fails after Holm" in finding for finding in verdict_statistics(weak, hidden))


def test_modelled_energy_called_verified():
    found = made(Basis.MODELLED, 3, 0.6, 0.02)
    lying = with_verdict(judged(found), "energy-mean", status=VerdictStatus.VERIFIED, arm="sat")
    assert any("is called verified by sat" in finding for finding in verdict_statistics(found, lying))


def test_p_values_are_those_of_scipy():
    from scipy.stats import ttest_1samp

    values = [-0.9, -0.7, -0.85, -1.1]
    level = mean_level(values)
    assert level.p_below(-0.5) == pytest.approx(ttest_1samp(values, -0.5, alternative="less").pvalue)
    assert level.p_above(-0.5) == pytest.approx(ttest_1samp(values, -0.5, alternative="greater").pvalue)
    assert Level(0.5, 0.0, 2).p_above(0.5) == 1.0  # without scatter: the bound itself is not beyond it
    assert Level(0.5, None, None).p_above(0.1) is None
