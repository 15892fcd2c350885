"""Plans of made-up methods, checked against sums done by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.meter.base import Energy
from harness.methods.base import METHODS
from harness.record.record import Record, Status, WindowEnergy
from harness.run.events import WindowKind
from harness.suite.expand import PlanError, matching_order
from harness.suite.flops import total_flops
from harness.suite.load import SuiteError, loads
from harness.suite.machine import Machine
from harness.suite.plan import Plan, plan
from harness.suite.predict import START_S, History, expect, predict
from harness.suite.show import footer, print_plan
from harness.suite.spec import Arm, Experiment, Phase, PlannedRun, Protocol, Suite
from harness.types import Basis, UserError
from harness.workloads.base import WORKLOADS

pytestmark = pytest.mark.usefixtures("toys")

CPU = Machine(
    device="cpu",
    name="AMD EPYC",
    cores=4,
    memory_bytes=8 * 2**30,
    flops_per_second=1e11,
    layer_step_s=0.001,
    watts=50.0,
)
GPU = CPU.model_copy(
    update={
        "device": "cuda",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 80 * 2**30,
        "flops_per_second": 3e14,
        "watts": 700.0,
    }
)
TEXT = """\
name: demo
workload: toy
arms:
  again: dense
  sat:
  short: {method: dense-short, match: sat}
experiments:
- {protocol: train, sizes: [0.1M, 0.2M], seeds: 4, arms: [short, dense, again, sat]}
- {protocol: steady, sizes: [1B], seeds: 2, arms: [dense, sat]}
- {protocol: count, sizes: [13B], arms: [dense, sat]}
"""


def suite(*changes: str, text: str = TEXT) -> Suite:
    return loads(text, changes=changes)


def run_of(planned: Plan, arm: str, size: str = "0.1M", seed: int = 0) -> PlannedRun:
    return next(r for r in planned.runs if (r.spec.arm, r.spec.size, r.spec.seed) == (arm, size, seed))


def orders(planned: Plan) -> list[list[str]]:
    return [[run.spec.arm for run in block.runs] for block in planned.blocks]


def test_blocks_are_the_crossing_in_the_order_of_the_file() -> None:
    assert [(b.protocol.value, b.size, b.seed) for b in plan(suite(), CPU).blocks] == [
        *(("train", size, seed) for size in ("0.1M", "0.2M") for seed in range(4)),
        ("steady", "1B", 0),
        ("steady", "1B", 1),
        ("count", "13B", 0),
    ]


def test_order_is_abba_over_the_blocks_of_an_experiment() -> None:
    listed = ["short", "dense", "again", "sat"]
    train, steady = orders(plan(suite(), CPU))[:8], orders(plan(suite(), CPU))[8:10]
    assert train == [listed, listed[::-1]] * 4
    assert steady == [["dense", "sat"], ["sat", "dense"]]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_shard_is_balanced_in_itself(count: int) -> None:
    """Each pair's arm comes first as often as second, on every machine, up to one block."""
    for index in range(count):
        planned = plan(suite("experiments[0].seeds=10"), CPU, shard=f"{index}/{count}")
        trains = [
            order for order, block in zip(orders(planned), planned.blocks, strict=True) if block.protocol == "train"
        ]
        first = sum(order.index("dense") < order.index("sat") for order in trains)
        assert abs(2 * first - len(trains)) <= 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 14))
def test_shards_are_a_partition(count: int) -> None:
    whole = plan(suite(), CPU)
    parts = [plan(suite(), CPU, shard=f"{index}/{count}") for index in range(count)]
    ids = Counter(block.block_id for part in parts for block in part.blocks)
    assert ids == Counter(block.block_id for block in whole.blocks)
    assert {r.spec.run_id for part in parts for r in part.runs} == {r.spec.run_id for r in whole.runs}


@pytest.mark.parametrize("shard", ["4/4", "1", "a/b", "-1/2", "1/0", "0/0", ""])
def test_a_shard_that_makes_no_sense(shard: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        plan(suite(), CPU, shard=shard)


def test_ids_are_unique_and_stay_when_other_things_change() -> None:
    base = plan(suite(), CPU)
    ids = {(r.spec.arm, r.spec.size, r.spec.seed, r.spec.protocol): r.spec.run_id for r in base.runs}
    blocks = {(b.size, b.seed, b.protocol): b.block_id for b in base.blocks}
    assert len(set(ids.values())) == len(base.runs)
    assert len(set(blocks.values())) == len(base.blocks)
    assert ids["dense", "0.1M", 0, Protocol.TRAIN].startswith("0.1M-s0-dense-train-")
    assert blocks["0.1M", 0, Protocol.TRAIN].startswith("toy-0.1M-s0-train-")
    changed = plan(
        suite(
            "arms.more={method: sat, share: 0.25}",
            "experiments[0].arms=[sat, more, dense, again, short]",
            "experiments[0].sizes=[1B, 0.2M, 0.1M]",
            "experiments[0].seeds=6",
            "arms.sat={share: 0.5, mode: skip}",  # the defaults, spelt out
            "timeout=2h",
        ),
        CPU,
    )
    for run in changed.runs:
        key = (run.spec.arm, run.spec.size, run.spec.seed, run.spec.protocol)
        assert ids.get(key, run.spec.run_id) == run.spec.run_id
    for block in changed.blocks:
        key = (block.size, block.seed, block.protocol)
        assert blocks.get(key, block.block_id) == block.block_id


def test_ids_change_with_what_decides_the_outcome() -> None:
    base = run_of(plan(suite(), CPU), "sat").spec.run_id
    for change in (
        "arms.sat={share: 0.25}",
        "experiments[0].recipe={steps: 90}",
        "workload_options={context: 32}",
        "experiments[0].options={context: 32}",
    ):
        assert run_of(plan(suite(change), CPU), "sat").spec.run_id != base
    assert run_of(plan(suite(), GPU), "sat").spec.run_id != base


def test_total_flops_are_steps_and_probes() -> None:
    workload = WORKLOADS.get("toy")()
    spec = run_of(plan(suite(), CPU), "sat").spec
    step = 6.0 * 1e5 * 4 * 64
    by_hand = 80 * step * 0.5 + 4 * step / 2 + 20 * step  # half depth, four probes of half a step, dense
    assert total_flops(workload, spec.model, spec.recipe, spec.workload_options, spec.phases) == by_hand


def test_a_matching_arm_gets_the_flops_of_the_arm_it_matches_even_if_listed_before_it() -> None:
    planned = plan(suite(), CPU)
    sat, short, dense = (run_of(planned, arm).prediction.flops for arm in ("sat", "short", "dense"))
    assert sat is not None
    assert short is not None
    assert dense is not None
    assert abs(short - sat) <= dense / 100 / 2  # to the nearest of its 100 steps
    assert run_of(planned, "short").spec.recipe.steps == 62


def test_an_arm_that_spends_other_flops_than_planned_is_matched_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS.get("sat"), "unplanned", lambda self, options: "scores decide")
    with pytest.raises(SuiteError, match="arm 'short': arm 'sat' can't be matched: scores decide"):
        plan(suite(), CPU)


def test_precision_is_bf16_on_a_gpu_unless_the_suite_says_otherwise() -> None:
    assert run_of(plan(suite(), CPU), "sat").spec.recipe.precision == "fp32"
    assert run_of(plan(suite(), GPU), "sat").spec.recipe.precision == "bf16"
    assert run_of(plan(suite("recipe={precision: fp32}"), GPU), "sat").spec.recipe.precision == "fp32"
    counts = {plan(suite(), machine).blocks[-1].block_id for machine in (CPU, GPU)}
    assert len(counts) == 1  # a count is the same run on every machine


def test_seconds_energy_and_price_follow_from_the_flops() -> None:
    planned = plan(suite(), CPU)
    expected = run_of(planned, "dense", "0.2M").prediction
    assert expected.flops == 100 * 6 * 2e5 * 4 * 64
    steps_s = expected.flops / 1e11 + 100 * 4 * 0.001  # 4 layers
    assert expected.seconds == pytest.approx(START_S["cpu"] + 1.1 * steps_s)
    assert expected.energy_j == pytest.approx(steps_s * 50.0)
    assert expected.memory_bytes == 16 * 2e5
    assert expected.price_usd is not None
    assert expected.seconds is not None
    per_hour = expected.price_usd / expected.seconds * 3600
    assert f"rental: {per_hour / CPU.cores:g} USD per vCPU and hour x 4" in "\n".join(planned.notes)
    assert planned.basis["seconds"] is Basis.PROJECTED
    assert planned.basis["flops"] is Basis.COUNTED


def test_steady_runs_execute_a_sample_of_each_phase() -> None:
    spec = run_of(plan(suite(), CPU), "sat", "1B").spec
    step = 6.0 * 1e9 * 4 * 64
    executed = (2 + spec.recipe.sampled_steps) * step * (0.5 + 1.0) + 2 * step / 2
    assert expect(spec, WORKLOADS.get("toy")(), CPU).flops == executed


def test_a_workload_without_flops_is_unknown_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = WORKLOADS.get("toy")
    monkeypatch.setattr(kind, "step_flops", lambda self, *arguments: None)
    planned = plan(suite("experiments=[{protocol: train, sizes: [0.1M], seeds: 1, arms: [dense, sat]}]"), CPU)
    assert planned.runs[0].prediction.flops is None
    assert planned.runs[0].prediction.seconds is None
    assert planned.totals.seconds is None
    assert planned.totals.energy_j is None
    assert "time unknown" in planned.summary


def test_counts_have_flops_but_nothing_metered_and_are_not_in_the_totals() -> None:
    planned = plan(suite(), CPU, only="count")
    assert planned.runs[0].prediction.flops == 100 * 6 * 13e9 * 4 * 64
    assert (planned.runs[0].prediction.energy_j, planned.runs[0].prediction.price_usd) == (None, None)
    assert planned.totals.flops == 0
    assert planned.totals.runs == 2


def skips(planned: Plan, protocol: str) -> list[str | None]:
    return [r.skip for block in planned.blocks if block.protocol == protocol for r in block.runs]


def test_what_does_not_fit_into_memory_is_skipped_with_the_figures() -> None:
    planned = plan(suite("timeout=100000h"), CPU)
    assert set(skips(planned, "train")) == {None}
    assert set(skips(planned, "steady")) == {"needs 15 GiB, this machine has 8.0 GiB"}
    assert set(skips(planned, "count")) == {None}
    assert planned.totals.skipped == 4


def test_a_missing_gpu_skips_all_but_the_counts() -> None:
    planned = plan(suite("device=cuda"), CPU)
    for protocol in ("train", "steady"):
        assert set(skips(planned, protocol)) == {"needs an NVIDIA GPU, this machine has none that NVML can see"}
    assert set(skips(planned, "count")) == {None}
    first = planned.runs[0]
    assert first.spec.device == "cuda"
    assert first.prediction.flops is not None
    assert first.prediction.seconds is None


def test_what_would_take_longer_than_the_timeout_is_skipped() -> None:
    planned = plan(suite("timeout=2.6s"), CPU)
    assert run_of(planned, "dense", "0.2M").skip == "would take about 2.8 s, the suite's timeout is 2.6 s"
    assert run_of(planned, "dense", "0.1M").skip is None


def test_without_its_baseline_a_run_is_not_worth_its_energy() -> None:
    planned = plan(suite("timeout=2.6s"), CPU)
    sat = run_of(planned, "sat", "0.2M")
    assert (sat.prediction.seconds or 0) == pytest.approx(2.48, abs=0.01)  # it would fit by itself
    assert sat.skip == ("no baseline to compare with: dense would take about 2.8 s, the suite's timeout is 2.6 s")


def test_cpu_suites_are_not_planned_for_a_gpu() -> None:
    with pytest.raises(ValueError, match="detect"):
        plan(suite("device=cpu"), GPU)


def test_only_keeps_the_baseline_of_what_it_keeps() -> None:
    planned = plan(suite(), CPU, only="*-sat-*")
    assert {r.spec.arm for r in planned.runs} == {"sat", "dense"}
    assert all(any(r.spec.arm == "dense" for r in block.runs) for block in planned.blocks)
    assert {r.spec.size for r in plan(suite(), CPU, only="0.2M").runs} == {"0.2M"}
    assert {r.spec.arm for r in plan(suite(), CPU, only="sat, short").runs} == {"sat", "short", "dense"}
    assert {r.spec.arm for r in plan(suite(), CPU, only="dense").runs} == {"dense"}


def test_only_changes_neither_ids_nor_order() -> None:
    whole = [r.spec.run_id for r in plan(suite(), CPU).runs if r.spec.arm in ("sat", "dense")]
    assert [r.spec.run_id for r in plan(suite(), CPU, only="sat").runs] == whole


def test_only_that_matches_nothing_says_what_there_is() -> None:
    with pytest.raises(UserError) as raised:
        plan(suite(), CPU, only="sta*")
    assert str(raised.value) == (
        "--only sta*: matches no run; arms: short, dense, again, sat; sizes: 0.1M, 0.2M, 1B, 13B"
    )


def test_the_budget_says_which_blocks_fit() -> None:
    whole = plan(suite(), CPU)
    first = sum(r.prediction.seconds or 0 for r in whole.blocks[0].runs)
    planned = plan(suite(), CPU, budget_s=first + 0.1)
    assert planned.beyond_budget == tuple(block.block_id for block in planned.blocks[1:])
    assert plan(suite("budget=3h"), CPU).beyond_budget == ()
    assert plan(suite("budget=3h"), CPU).budget_s == 10800
    assert whole.budget_s is None


def test_arms_that_can_not_be_planned_are_all_reported_at_loading() -> None:
    with pytest.raises(SuiteError) as raised:
        loads(TEXT, "s.yaml", changes=["experiments[0].recipe.steps=3", "experiments[2].recipe.warmup_share=0.95"])
    assert raised.value.problems == (
        "s.yaml:8: experiments[0]: at 0.1M: arm 'sat': needs at least 5 steps",
        "s.yaml:8: experiments[0]: at 0.2M: arm 'sat': needs at least 5 steps",
        "s.yaml:10: experiments[2]: at 13B: recipe: warmup_share + decay_share must be at most 1",
    )
    broken = suite().model_copy(
        update={"experiments": (Experiment(protocol=Protocol.TRAIN, sizes=("7B",), seeds=(0,), arms=("dense",)),)}
    )
    with pytest.raises(PlanError, match=r"^experiments\[0\]: at 7B: no size 7B$"):
        plan(broken, CPU)


@given(st.permutations(["a", "b", "c", "d"]))
def test_matched_arms_come_before_those_that_match(names: list[str]) -> None:
    arms = {
        "a": Arm(method="m", match="b"),
        "b": Arm(method="m", match="c"),
        "c": Arm(method="m"),
        "d": Arm(method="m"),
    }
    order = matching_order(names, arms)
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order.index("c") < order.index("b") < order.index("a")


def test_a_circle_is_an_error_not_a_hang() -> None:
    with pytest.raises(UserError, match="circle"):
        matching_order(["a", "b"], {"a": Arm(method="m", match="b"), "b": Arm(method="m", match="a")})


def record(run: PlannedRun, wall_s: float, charged_s: float, joules: float | None) -> Record:
    energy = Energy(joules=joules, basis=Basis.SIMULATED, source="test", scope="cpu")
    window = WindowEnergy(kind=WindowKind.TRAIN, start_s=0, end_s=wall_s, phase=0, first_step=0, steps=1, energy=energy)
    return Record(
        run_id=run.spec.run_id, block_id="b", spec=run.spec, status=Status.OK, windows=(window,), energy=energy,
        seconds=charged_s,
    )  # fmt: skip


def test_finished_runs_correct_what_is_expected_of_the_rest() -> None:
    workload = WORKLOADS.get("toy")()
    base = plan(suite(), CPU)
    dense = run_of(base, "dense")
    assert dense.prediction.seconds is not None
    done = record(dense, wall_s=3 * dense.prediction.seconds - START_S["cpu"], charged_s=10.0, joules=80.0)
    history = History.of([done], workload, CPU)
    assert history.runs == 1
    for near in (dense, run_of(base, "sat"), run_of(base, "dense", "0.2M")):
        before, after = near.prediction, predict(near.spec, workload, CPU, history)
        assert before.seconds is not None
        assert after.seconds == pytest.approx(3 * before.seconds)
        charged = expect(near.spec, workload, CPU).charged_s
        assert charged is not None
        assert after.energy_j == pytest.approx(3 * charged * 8.0)  # 80 J in 10 s
        assert after.flops == before.flops
    steady = run_of(base, "dense", "1B")  # another protocol: no correction
    assert predict(steady.spec, workload, CPU, history) == predict(steady.spec, workload, CPU)
    assert "corrected by 1 finished runs" in "\n".join(plan(suite(), CPU, records=[done]).notes)


def test_records_that_say_nothing_about_this_machine_are_passed_over() -> None:
    workload = WORKLOADS.get("toy")()
    dense = run_of(plan(suite(), CPU), "dense")
    good = record(dense, 10, 10, 80)
    others = [
        good.model_copy(update={"status": Status.FAILED}),
        good.model_copy(update={"windows": ()}),
        good.model_copy(update={"seconds": None}),
        record(run_of(plan(suite(), GPU), "dense"), 10, 10, 80),
        good.model_copy(update={"spec": dense.spec.model_copy(update={"workload_version": 2})}),
    ]
    assert History.of(others, workload, CPU).runs == 0
    without_energy = History.of([record(dense, 10, 10, None)], workload, CPU)
    assert (without_energy.runs, without_energy.watts(dense.spec)) == (1, None)


def test_the_plan_on_paper(capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan(suite("timeout=100h", "budget=20s"), CPU)
    print_plan(planned)
    text = capsys.readouterr().out
    assert planned.summary in text
    assert text.count("baseline") == len(planned.blocks) - 2  # two blocks are skipped
    assert text.count("skipped: needs 15 GiB, this machine has 8.0 GiB") == 2
    assert text.count("skipped: likewise") == 2
    assert text.count("ends after the budget") >= 1
    assert "projected" in footer(planned)[0]


def test_the_plan_as_json_says_how_its_numbers_came_to_be() -> None:
    document = plan(suite(), CPU).model_dump(mode="json")
    assert document["basis"]["energy_j"] == "projected"
    assert document["totals"]["runs"] == 34  # 8 x 4 and the counts: 1B does not fit
    assert Plan.model_validate(document) == plan(suite(), CPU)


def test_a_copied_spec_does_not_keep_the_id_of_the_first() -> None:
    spec = plan(suite(), CPU).runs[0].spec
    assert spec.run_id.startswith("0.1M-s0-")
    assert spec.model_copy(update={"seed": 9}).run_id.startswith("0.1M-s9-")


def test_phases_of_every_run_add_up() -> None:
    for first, second in itertools.pairwise(plan(suite(), CPU).runs):
        assert sum(phase.steps for phase in first.spec.phases) == first.spec.recipe.steps
        assert first.spec.run_id != second.spec.run_id
    assert Phase(steps=1).is_dense
