"""Verdicts on planted truths."""

from __future__ import annotations

import itertools
import math

import pytest
from synthetic import ARMS, Planted, records, suite_arms

from harness.judge.claims import load_claims
from harness.judge.controls import only_before_holm
from harness.judge.judge import exit_code, judge
from harness.judge.logged import mean_share
from harness.judge.types import Claim, Skipped, VerdictStatus
from harness.record.record import Status
from harness.suite.spec import Experiment, FootprintOptions, Protocol
from harness.types import Basis, canonical_json

CLAIMS = load_claims("sat-article")
GOOD = {"sat": Planted(0.60, loss=0.0, accuracy=0.0, active=0.28)}
SAVES = Claim(id="saves", text="t", metric="energy_saving", at_least=0.45, arms=("sat",))
MEASURED = {"basis": Basis.MEASURED}


def judged(found, claims=CLAIMS, arms=None, **options):
    return judge("s", "t", found, claims, "dense", FootprintOptions(), arms or suite_arms(), **options)


def verdict(found, claim, **options):
    claims = CLAIMS if isinstance(claim, str) else (claim,)
    wanted = claim if isinstance(claim, str) else claim.id
    return next(v for v in judged(found, claims, **options).verdicts if v.claim.id == wanted)


def test_every_claim_gets_a_row_in_order():
    assert [v.claim.id for v in judged(records()).verdicts] == [c.id for c in CLAIMS]


def test_planted_60_is_verified_against_45():
    found = verdict(records(("0.3M", "1M", "3M"), range(4), GOOD, quality_noise=0.001, **MEASURED), "energy-small")
    assert found.status is VerdictStatus.VERIFIED
    assert {check.outcome for check in found.checks} == {"met"}
    assert "saves" in found.reason
    assert "0.3M to 3M (3 sizes), 4 pairs each, NVIDIA H100" in found.measured_range


def test_planted_20_is_refuted_against_45():
    found = verdict(records(("0.3M", "1M", "3M"), range(4), {"sat": Planted(0.2)}, **MEASURED), "energy-small")
    assert found.status is VerdictStatus.REFUTED
    assert "not met" in {check.outcome for check in found.checks}


def test_a_saving_bought_with_quality_is_refuted():
    arms = {"sat": Planted(0.7, accuracy=-1.0, loss=0.04)}
    found = verdict(records(("1M", "3M"), range(4), arms, **MEASURED), "energy-range")
    assert found.status is VerdictStatus.REFUTED
    assert "worse" in found.reason


def test_the_claim_holds_if_one_of_its_arms_does():
    arms = {"sat": Planted(0.2), "sat-width": Planted(0.6, accuracy=0.0, loss=0.0, shape="width")}
    found = verdict(records(("1M", "3M"), range(4), arms, quality_noise=0.001, **MEASURED), "energy-small")
    assert (found.status, found.arm) == (VerdictStatus.VERIFIED, "sat-width")


def test_one_open_arm_keeps_a_claim_from_being_refuted():
    arms = {"sat": Planted(0.2), "sat-width": Planted(0.44, accuracy=0.0, loss=0.0, shape="width")}
    found = verdict(records(("1M", "3M"), range(3), arms, quality_noise=0.001, noise=0.05, **MEASURED), "energy-small")
    assert (found.status, found.arm) == (VerdictStatus.INCONCLUSIVE, "sat-width")


@pytest.mark.parametrize(
    ("saving", "says"), [(0.6, "supported by a model"), (0.2, "contradicted by a model"), (0.45, "")]
)
def test_a_model_never_decides(saving, says):
    found = verdict(records(("1M", "3M"), range(4), {"sat": Planted(saving)}), SAVES)
    assert (found.status, found.model_says) == (VerdictStatus.INCONCLUSIVE, says)
    assert "modelled, not measured" in found.reason


def test_a_simulated_meter_never_decides_and_says_so():
    found = verdict(records(("1M", "3M"), range(4), {"sat": Planted(0.6)}, basis=Basis.SIMULATED), SAVES)
    assert found.status is VerdictStatus.INCONCLUSIVE
    assert "simulated: nothing was measured" in found.reason
    assert found.model_says == ""
    assert found.needs.startswith("A machine whose energy can be measured")
    assert "More seeds" not in found.needs


@pytest.mark.parametrize("basis", [Basis.MODELLED, Basis.SIMULATED])
def test_measured_quality_refutes_whatever_the_meter(basis):
    found = verdict(records(("1M", "3M"), range(4), {"sat": Planted(0.6, accuracy=-2.0)}, basis=basis), "energy-small")
    assert found.status is VerdictStatus.REFUTED
    assert "measured whatever the meter" in found.reason
    assert f"{basis.value}" in found.reason


def test_parity_is_measured_whatever_the_meter():
    assert (
        verdict(records(("1M", "3M"), range(4), GOOD, quality_noise=0.001), "parity").status is VerdictStatus.VERIFIED
    )


def test_one_pair_decides_nothing():
    judgement = judged(records(("1M",), (0,), GOOD, **MEASURED))
    by_id = {v.claim.id: v for v in judgement.verdicts}
    for claim in ("energy-range", "energy-small", "parity", "cost"):
        assert by_id[claim].status is VerdictStatus.INCONCLUSIVE
        assert "n=1, no interval" in by_id[claim].reason
        assert by_id[claim].checks[0].estimate.low is None


def test_one_pair_at_each_of_three_sizes_decides_nothing():
    found = verdict(records(("0.3M", "1M", "3M"), (0,), GOOD, **MEASURED), SAVES)
    assert found.status is VerdictStatus.INCONCLUSIVE


def test_large_models_are_not_tested_without_large_models():
    found = verdict(records(("1M", "3M"), range(4), GOOD, **MEASURED), "energy-large")
    assert found.status is VerdictStatus.NOT_TESTED
    assert found.needs
    assert found.arm == ""


def test_small_models_under_steady_say_nothing_of_large_ones():
    small = records(("1M", "7B"), range(4), {"sat": Planted(0.75)}, noise=0.01, protocol=Protocol.STEADY, **MEASURED)
    assert verdict(small, "energy-large").status is VerdictStatus.NOT_TESTED


def test_large_models_each_by_itself_under_steady():
    steady = {"protocol": Protocol.STEADY, **MEASURED}
    both = records(("13B", "30B"), range(4), {"sat": Planted(0.75)}, noise=0.01, **steady)
    assert verdict(both, "energy-large").status is VerdictStatus.VERIFIED
    falling = records(("13B", "30B"), range(4), {"sat": Planted(0.75, slope=-0.3)}, noise=0.01, **steady)
    assert verdict(falling, "energy-large").status is VerdictStatus.REFUTED


@pytest.mark.parametrize(
    ("slope", "status"),
    [(0.1, VerdictStatus.VERIFIED), (0.0, VerdictStatus.INCONCLUSIVE), (-0.1, VerdictStatus.REFUTED)],
)
def test_scale_trend(slope, status):
    arms = {"sat": Planted(0.4, slope=slope)}
    found = verdict(
        records(("0.1M", "0.3M", "1M", "3M", "10M"), range(4), arms, noise=0.005, **MEASURED), "scale-trend"
    )
    assert found.status is status


def test_two_sizes_have_no_trend_to_speak_of():
    found = verdict(
        records(("1M", "3M"), range(4), {"sat": Planted(0.4, slope=0.2)}, noise=0.001, **MEASURED), "scale-trend"
    )
    assert found.status is VerdictStatus.INCONCLUSIVE
    assert "no interval" in found.reason


@pytest.mark.parametrize(
    ("flops", "status"),
    [(0.74, VerdictStatus.INCONCLUSIVE), (0.73, VerdictStatus.INCONCLUSIVE), (0.6, VerdictStatus.REFUTED)],
)
def test_flops_at_13b_are_counted_and_perplexity_stays_open(flops, status):
    found = verdict(records(("13B",), (0,), {"sat": Planted(flops=flops)}, protocol=Protocol.COUNT), "flops-13b")
    assert found.status is status
    outcomes = [check.outcome for check in found.checks]
    assert outcomes == ["met" if flops > 0.7 else "not met", "open"]
    assert found.checks[0].estimate.basis is Basis.COUNTED
    assert "perplexity" in found.reason


def test_flops_alone_verify_where_nothing_else_is_claimed():
    claim = Claim(
        id="f", text="t", metric="flops_saving", protocol="count", at_least=0.7, aggregate="each", arms=("sat",)
    )
    found = records(("13B",), (0,), {"sat": Planted(flops=0.74)}, protocol=Protocol.COUNT)
    assert verdict(found, claim).status is VerdictStatus.VERIFIED


def test_cost_follows_paired_wall_time():
    arms = {"sat": Planted(0.5, time=0.8, flops=0.8, accuracy=0.0, loss=0.0)}
    found = verdict(records(("1M", "3M"), range(4), arms, quality_noise=0.001, **MEASURED), "cost")
    assert found.status is VerdictStatus.VERIFIED
    assert "80" in found.reason


def test_active_share_is_averaged_over_steps():
    inside = verdict(records(("1M",), (0,), {"sat": Planted(0.6, active=0.28)}), "active-share")
    assert inside.status is VerdictStatus.INCONCLUSIVE
    share = inside.checks[0].estimate.value
    assert share == pytest.approx(0.08 + 0.92 * 0.28, abs=0.002)
    outside = verdict(records(("1M",), (0,), {"sat": Planted(0.6, active=0.6)}), "active-share")
    assert outside.status is VerdictStatus.NOT_TESTED  # a schedule chosen here refutes nobody
    assert "the schedule chosen here is not the one described" in outside.reason
    assert outside.needs


def test_before_the_first_switch_a_model_is_dense():
    record = records(("1M",), (0,), {"sat": Planted(0.6)})[1]
    late = record.activity[0].model_copy(update={"step": 150, "active_parameters": 0.2})
    assert mean_share(record.model_copy(update={"activity": (late,)})) == pytest.approx(0.75 * 1 + 0.25 * 0.2)


def test_a_growing_regime_has_no_returns_and_the_verdict_says_so():
    found = verdict(records(("1M",), (0,), {"sat": Planted(0.6)}), "re-entry")
    assert found.status is VerdictStatus.NOT_TESTED
    assert "a growing regime only adds units" in found.reason


def test_returns_verify_and_exits_without_returns_refute():
    assert (
        verdict(records(("1M",), (0,), {"sat": Planted(0.6, returns=9)}), "re-entry").status is VerdictStatus.VERIFIED
    )
    assert verdict(records(("1M",), (0,), {"sat": Planted(0.6, returns=1)}), "re-entry").status is VerdictStatus.REFUTED


def test_hardware_needs_measured_runs_on_both_cards():
    h100 = records(("1M",), (0,), GOOD, **MEASURED)
    a100 = records(("3M",), (0,), GOOD, card="NVIDIA A100-SXM4-80GB", **MEASURED)
    assert verdict(h100, "hardware").status is VerdictStatus.INCONCLUSIVE
    assert "A100 was not at hand" in verdict(h100, "hardware").reason
    assert verdict([*h100, *a100], "hardware").status is VerdictStatus.VERIFIED
    assert verdict(records(("1M",), (0,), GOOD), "hardware").status is VerdictStatus.NOT_TESTED


def test_an_invalid_comparison_makes_the_verdict_invalid_but_not_the_quality():
    arms = {"sat": Planted(0.6, flops=0.3, accuracy=0.0, loss=0.0)}
    found = records(("1M", "3M"), range(4), arms, quality_noise=0.001, **MEASURED)
    assert verdict(found, "energy-small").status is VerdictStatus.INVALID
    assert "more than the counted FLOPs allow" in verdict(found, "energy-small").reason
    assert verdict(found, "parity").status is VerdictStatus.VERIFIED
    assert judged(found).problems


def test_runs_refused_by_a_gate_make_the_verdict_invalid():
    statuses = {("1M", seed, "sat"): Status.INVALID for seed in range(3)}
    found = verdict(records(("1M",), range(3), GOOD, statuses=statuses, **MEASURED), "energy-small")
    assert found.status is VerdictStatus.INVALID
    assert "coverage 81 %" in found.reason


def test_untested_says_what_failed_and_what_was_skipped():
    statuses = {("1M", 0, "sat"): Status.OUT_OF_MEMORY}
    skipped = [Skipped(run_id="13B-s0-sat-train-abc", arm="sat", size="13B", seed=0, reason="needs 98 GB")]
    found = verdict(records(("1M",), (0,), GOOD, statuses=statuses), "parity", skipped=skipped)
    assert found.status is VerdictStatus.NOT_TESTED
    assert "out of memory" in found.reason
    assert "needs 98 GB" in found.reason


def test_another_workload_is_not_tested():
    claim = Claim(id="v", text="t", metric="quality", workload="vision", quality_metric="top1", quality_margin=0.2)
    assert "workload vision" in verdict(records(("1M",), (0, 1), GOOD), claim).reason


def test_no_records_at_all():
    judgement = judged([])
    assert {v.status for v in judgement.verdicts} == {VerdictStatus.NOT_TESTED}
    assert exit_code(judgement) == 3
    assert judgement.footprint is None
    assert "No pair" in judgement.headline


def test_attribution_names_the_control_that_does_as_well():
    arms = {
        **GOOD,
        "dense-aa": ARMS["dense-aa"],
        "dense-small": Planted(0.6, method="dense-small", match="sat", shape="small"),
    }
    found = records(("1M", "3M"), range(4), arms, **MEASURED)
    text = verdict(found, "energy-small", arms=suite_arms(arms)).attribution
    assert "At the same FLOPs sat is not shown to be better than dense-small" in text
    assert "the saving is real but not shown to be sat's" in text
    assert "dense-aa" not in text


def test_attribution_where_the_control_is_better_and_where_the_arm_is():
    better = {
        "sat": Planted(0.6, loss=0.05),
        "dense-small": Planted(0.6, method="dense-small", match="sat", shape="small"),
    }
    found = records(("1M", "3M"), range(4), better, **MEASURED)
    row = judged(found, arms=suite_arms(better)).controls[0]
    assert (row.outcome, row.metric) == ("control better", "loss")
    assert row.difference.value == pytest.approx(0.05, abs=0.01)
    assert (
        "does better at the same FLOPs: the saving is real but not sat's"
        in verdict(found, SAVES, arms=suite_arms(better)).attribution
    )
    worse = {
        "sat": Planted(0.6),
        "dense-small": Planted(0.6, method="dense-small", loss=0.1, match="sat", shape="small"),
    }
    text = verdict(records(("1M", "3M"), range(4), worse, **MEASURED), SAVES, arms=suite_arms(worse)).attribution
    assert text.startswith("sat beats every control that spends the same FLOPs: dense-small")


def test_a_control_with_other_flops_is_no_fair_match():
    arms = {"sat": Planted(0.6), "freeze": Planted(0.15, method="freeze", shape="freeze")}
    text = verdict(records(("1M",), range(3), arms, **MEASURED), SAVES, arms=suite_arms(arms)).attribution
    assert "No control spent the same FLOPs as sat" in text
    assert "freeze (it has" in text


def test_controls_are_matched_as_the_suite_says():
    rows = judged(records()).controls
    pairs = {(row.arm, row.control) for row in rows}
    assert ("sat", "dense-small") in pairs
    assert ("sat-width", "dense-small") not in pairs
    assert ("sat-width", "sat-random") in pairs
    assert {arm for arm, _ in pairs} == {"sat", "sat-width"}


def test_same_records_in_any_order_give_the_same_bytes():
    found = records(retried=[("1M", 0, "sat")])
    assert canonical_json(judged(found)) == canonical_json(judged(found[::-1]))


def test_holm_makes_a_family_stricter():
    found = records(("1M",), range(3), {"sat": Planted(0.5)}, noise=0.02, **MEASURED)
    alone = verdict(found, SAVES).checks[0].p_value
    crowd = tuple(SAVES.model_copy(update={"id": f"c{i}"}) for i in range(5))
    together = judged(found, crowd).verdicts[0].checks[0].p_value
    assert together == pytest.approx(min(1.0, 5 * alone))


def test_what_holds_alone_may_not_hold_in_a_crowd():
    """Scatter chosen so that p lies between 0.025 / 30 and 0.025."""
    found = records(("1M",), range(3), {"sat": Planted(0.5)}, noise=0.004, **MEASURED)
    assert 0.025 / 30 < verdict(found, SAVES).checks[0].p_value < 0.025
    crowd = tuple(SAVES.model_copy(update={"id": f"c{i}"}) for i in range(30))
    assert verdict(found, SAVES).status is VerdictStatus.VERIFIED
    assert {v.status for v in judged(found, crowd).verdicts} == {VerdictStatus.INCONCLUSIVE}


def test_aa_null_verifies_at_most_five_percent():
    """Nothing is saved; the claim is that anything is, with one and with two arms, over three seeds."""
    claim = Claim(id="any", text="t", metric="energy_saving", at_least=0.0, arms=("sat", "sat-width"))
    null = {"sat": Planted(), "sat-width": Planted()}
    trials, wrong = 300, 0
    for seed in range(trials):
        found = records(("1M",), range(3), null, seed=seed, steps=8, evaluations=1, **MEASURED)
        wrong += verdict(found, claim).status is VerdictStatus.VERIFIED
    assert wrong / trials <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / trials)


@pytest.mark.parametrize("saving", [0.6, 0.2])
def test_planted_truths_are_found_out_nearly_always(saving):
    trials = 20
    wanted = VerdictStatus.VERIFIED if saving > 0.45 else VerdictStatus.REFUTED
    hits = sum(
        verdict(records(("1M", "3M"), range(3), {"sat": Planted(saving)}, seed=s, steps=8, **MEASURED), SAVES).status
        is wanted
        for s in range(trials)
    )
    assert hits >= trials - 1


def test_a_quality_difference_at_the_margin_is_not_called_parity():
    wrong = 0
    for seed in range(40):
        arms = {"sat": Planted(0.6, accuracy=-0.3, loss=0.0)}
        found = records(("1M",), range(4), arms, seed=seed, steps=8, evaluations=1)
        wrong += verdict(found, "parity").status is VerdictStatus.VERIFIED
    assert wrong <= 5


EXIT = {"verified": 0, "refuted": 1, "inconclusive": 3, "invalid": 4}


@pytest.mark.parametrize("statuses", list(itertools.combinations(EXIT, 2)))
def test_exit_code_of_two_verdicts(statuses):
    judgement = judged(records(("1M",), (0,), GOOD))
    mixed = tuple(
        judgement.verdicts[0].model_copy(update={"status": VerdictStatus(status)})
        for status in (*statuses, "not tested")
    )
    order = ["invalid", "refuted", "inconclusive", "verified"]
    assert exit_code(judgement.model_copy(update={"verdicts": mixed})) == EXIT[min(statuses, key=order.index)]


def test_no_verdict_makes_a_simulated_set_pass():
    judgement = judged(records(("1M",), (0,), GOOD, basis=Basis.SIMULATED))
    counted = judgement.verdicts[0].model_copy(update={"status": VerdictStatus.VERIFIED})
    for statuses, code in (((VerdictStatus.VERIFIED,), 3), ((VerdictStatus.VERIFIED, VerdictStatus.REFUTED), 1)):
        mixed = tuple(counted.model_copy(update={"status": status}) for status in statuses)
        assert exit_code(judgement.model_copy(update={"verdicts": mixed})) == code


def test_a_set_that_mixes_simulated_with_measured_energies_is_simulated_and_says_so():
    real = records(("1M",), range(4), GOOD, **MEASURED)
    made_up = records(("3M",), range(4), GOOD, basis=Basis.SIMULATED)
    found = judged([*real, *made_up])
    assert found.basis is Basis.SIMULATED
    assert exit_code(found) != 0
    (said,) = [problem for problem in found.problems if "mixes energies" in problem]
    assert f"{len(real)} measured and {len(made_up)} simulated" in said
    assert not [problem for problem in judged(real).problems if "mixes energies" in problem]


def test_open_questions_do_not_count_in_the_exit_code():
    judgement = judged(records(("1M",), (0,), GOOD))
    context = CLAIMS[-1]
    assert context.context
    one = judgement.verdicts[0].model_copy(update={"status": VerdictStatus.VERIFIED})
    other = one.model_copy(update={"claim": context, "status": VerdictStatus.REFUTED})
    assert exit_code(judgement.model_copy(update={"verdicts": (one, other)})) == 0


def test_headline_says_how_the_energy_came_to_be():
    assert "modelled, not measured" in judged(records()).headline
    measured = judged(records(**MEASURED)).headline
    assert ", measured, with a loss 0.0" in measured
    assert " nats per token higher" in measured
    assert measured.startswith("At 3M and 0.26 tokens per parameter, sat takes ")
    assert "simulated, nothing was measured" in judged(records(basis=Basis.SIMULATED)).headline


SOLID = {"quality_noise": 0.001, **MEASURED}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.FAILED, VerdictStatus.INCONCLUSIVE),
        (Status.INVALID, VerdictStatus.INCONCLUSIVE),
        (Status.OUT_OF_MEMORY, VerdictStatus.VERIFIED),  # hangs on the size, not on how the training went
        (Status.OK, VerdictStatus.VERIFIED),
    ],
)
@pytest.mark.parametrize("arm", ["sat", "dense"])
def test_nothing_is_verified_on_the_runs_that_survived(status, expected, arm):
    found = records(("1M", "3M"), range(6), GOOD, statuses={("3M", 2, arm): status}, **SOLID)
    got = verdict(found, SAVES)
    assert got.status is expected
    assert (f"{arm} at 3M, seed 2: {status.value}" in got.reason) == (expected is VerdictStatus.INCONCLUSIVE)


def test_a_failure_made_good_or_out_of_scope_costs_nothing():
    retried = records(("1M", "3M"), range(6), GOOD, retried=[("3M", 2, "sat")], **SOLID)
    assert verdict(retried, SAVES).status is VerdictStatus.VERIFIED
    large = records(("1M", "3M", "7B"), range(6), GOOD, statuses={("7B", 2, "sat"): Status.FAILED}, **SOLID)
    assert verdict(large, SAVES.model_copy(update={"max_parameters": 1e9})).status is VerdictStatus.VERIFIED
    assert verdict(large, SAVES).status is VerdictStatus.INCONCLUSIVE


def test_a_set_that_is_not_finished_verifies_nothing():
    """Whoever looks at every run and stops when it suits him would find what he looks for."""
    found = records(("1M", "3M"), range(6), GOOD, **SOLID)
    planned = Experiment(protocol=Protocol.TRAIN, sizes=("1M", "3M"), seeds=tuple(range(6)), arms=("dense", "sat"))
    more = planned.model_copy(update={"seeds": tuple(range(7))})
    assert verdict(found, SAVES, experiments=(planned,)).status is VerdictStatus.VERIFIED
    early = judged(found, (SAVES,), experiments=(more,))
    assert early.verdicts[0].status is VerdictStatus.INCONCLUSIVE
    assert "not run yet" in early.verdicts[0].reason
    assert early.problems[0].startswith("4 planned runs not made yet")
    skipped = [
        Skipped(run_id=f"{size}-s6-{arm}-train-abc", arm=arm, size=size, seed=6, reason="needs 98 GB")
        for size in ("1M", "3M") for arm in ("dense", "sat")
    ]  # fmt: skip
    assert verdict(found, SAVES, experiments=(more,), skipped=skipped).status is VerdictStatus.VERIFIED


@pytest.mark.parametrize(("factor", "status"), [(1.0, VerdictStatus.VERIFIED), (1.8, VerdictStatus.INCONCLUSIVE)])
def test_two_channels_that_answer_differently_leave_a_claim_open(factor, status):
    """By the counter 60 % are saved, by the integral of power 28 %: one of them is wrong."""
    found = []
    for record in records(("1M", "3M"), range(6), GOOD, **SOLID):
        energy = record.energy
        if record.spec.arm == "sat":
            energy = energy.model_copy(update={"second_joules": energy.second_joules * factor})
        found.append(record.model_copy(update={"energy": energy}))
    got = verdict(found, SAVES)
    assert got.status is status
    assert ("second channel shows a saving of 2" in got.reason) == (factor > 1)


def test_a_mean_over_sizes_may_not_pass_the_ceiling_that_no_size_alone_shows():
    found = records(("0.3M", "1M", "3M", "10M"), range(2), {"sat": Planted(0.6, flops=0.5)}, seed=8, **SOLID)
    assert not any(c.invalid for c in judged(found).comparisons)  # two pairs are too few to tell
    got = verdict(found, SAVES)
    assert got.status is VerdictStatus.INVALID
    assert "more than the counted FLOPs allow (50 %)" in got.reason


def test_each_size_needs_its_own_quality():
    claim = Claim(
        id="c", text="t", metric="flops_saving", protocol="count", aggregate="each", at_least=0.5, arms=("sat",),
        quality_metric="accuracy", quality_margin=0.3,
    )  # fmt: skip
    counted = records(("1M", "3M"), (0,), GOOD, protocol=Protocol.COUNT)
    one, both = (records(sizes, range(6), GOOD, **SOLID) for sizes in (("1M",), ("1M", "3M")))
    assert verdict([*counted, *both], claim).status is VerdictStatus.VERIFIED
    got = verdict([*counted, *one], claim)
    assert got.status is VerdictStatus.INCONCLUSIVE
    assert "accuracy was not measured at 3M" in got.reason


def test_a_verdict_says_how_long_was_trained():
    got = verdict(records(("1M", "3M"), range(3), GOOD, **SOLID), SAVES)
    assert got.measured_range.endswith(", 0.26 to 0.78 tokens per parameter")


def test_re_entry_names_the_interval_that_was_used():
    got = verdict(
        records(("1M",), (0,), {"sat-width": Planted(0.5, returns=9, shape="width", active=0.36)}), "re-entry"
    )
    assert "about every 60 steps here" in got.reason  # 180 of 200 steps in three phases, one scoring in each


def test_a_better_quality_and_its_interval_count_in_one_direction():
    got = verdict(records(("1M", "3M"), range(4), {"sat": Planted(0.6, accuracy=0.5, loss=-0.02)}, **SOLID), "parity")
    (check,) = got.checks
    assert (check.estimate.value, check.estimate.unit) == (pytest.approx(-0.5, abs=0.1), "points worse")
    low, high = -check.estimate.high, -check.estimate.low
    assert f"{-check.estimate.value:.2f} points better (95 % interval {low:.2f} to {high:.2f})" in got.reason


def test_an_interval_off_0_that_holm_does_not_let_pass_is_said_to_be_one():
    arms = {**GOOD, "dense-small": Planted(0.6, loss=-0.02, method="dense-small", match="sat", shape="small")}
    arms |= {f"other-{i}": Planted(0.6, loss=0.0, method="dense-small", match="sat", shape="small") for i in range(9)}
    judgement = judged(records(("1M",), range(4), arms, quality_noise=0.005), arms=suite_arms(arms))
    row = next(r for r in judgement.controls if r.control == "dense-small" and r.metric == "loss")
    assert row.difference.low > 0
    assert row.outcome == "no difference shown"
    text = next(v.attribution for v in judgement.verdicts if v.claim.id == "energy-small")
    assert text.count("off 0 by itself but not after Holm's correction") == sum(
        map(only_before_holm, judgement.controls[:10])
    )


def test_sizes_in_sentences_are_for_people():
    assert "at sizes above 10 billion parameters" in verdict(records(("1M",), (0,), GOOD), "energy-large").reason


def test_headline_calls_no_difference_a_better_quality():
    """A point estimate on the good side of 0 is no finding while its interval holds 0."""
    found = judged(records(("1M",), range(3), {"sat": Planted(0.6, loss=0.0)}, quality_noise=0.01)).headline
    assert "with no difference in loss shown (95 % interval -0.0" in found


def test_headline_counts_claims_and_not_open_questions():
    claims = sum(not claim.context for claim in CLAIMS)
    assert f"of {claims} claims" in judged(records()).headline
