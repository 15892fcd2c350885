"""What a step of SAT takes beside what it should take: time ratios beside FLOP ratios, from one run each.

    OMP_NUM_THREADS=1 pytest tests/benchmarks/test_sat_step.py --benchmark-only

Steps of the models that are compared take turns (``studies/sat_step.py``, which writes the tables of docs/sat-cost.md,
says how); what pytest-benchmark times is one turn of all of them. ``extra_info`` has the ratios: ``flop_ratio``,
``time_ratio`` and ``time_over_flops`` of the SAT step to the full dense step, ``time_of_floor`` to a plain dense model
of the same compact shapes. Targets: ``time_over_flops`` 1.15, ``time_of_floor`` 1.05, probe and switch 0.01 of a run.
"""

from __future__ import annotations

import pytest
import sat_step as study

ROUNDS = 7


@pytest.mark.parametrize("share", study.SHARES)
@pytest.mark.parametrize("axis", study.AXES)
@pytest.mark.parametrize("size", ["1.6M", "10M"])
def test_step_against_dense_and_against_the_plain_compact_model(benchmark, size, axis, share):
    found = benchmark.pedantic(study.steps, args=(size, axis, share, ROUNDS), rounds=1)
    benchmark.extra_info.update(
        size=size,
        share=share,
        flop_ratio=round(found.flops, 4),
        time_ratio=round(found.of_dense.median, 4),
        time_over_flops=round(found.over_flops, 3),
        time_of_floor=round(found.of_floor.median, 4),
        floor_over_flops=round(found.floor_of_dense.median / found.flops, 3),
    )
    assert found.flops < 1


@pytest.mark.parametrize("size", ["1.6M", "10M"])
def test_probe_and_switch_as_a_share_of_a_run(benchmark, size):
    """A re-evaluation every 500 steps at a third: probe of four micro-batches and exchange of units."""
    found = benchmark.pedantic(study.overhead, args=(size, 0.33, ROUNDS), rounds=1)
    benchmark.extra_info.update(
        probe_share_of_dense_run=round(found.probe_of_dense, 5),
        switch_share_of_dense_run=round(found.switch_of_dense, 6),
        probe_share_of_sat_run=round(found.probe_of_sat, 5),
        switch_share_of_sat_run=round(found.switch_of_sat, 6),
        units_exchanged=found.exchanged,
    )
    assert found.exchanged > 0


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_freezing_against_dense(benchmark, share):
    """Its forward pass is whole, so its floor is the dense forward pass and input gradients."""
    shape = study.shape_of("1.6M")
    full, ours = study.dense(shape), study.sparse(shape, mode="freeze", score="magnitude")
    ours.controller.set_share(share)
    times = benchmark.pedantic(study.turns, args=([full.step, ours.step], ROUNDS), rounds=1)
    flop_ratio, time_ratio = ours.flops / full.flops, study.ratio(times[1], times[0]).median
    benchmark.extra_info.update(
        share=share,
        flop_ratio=round(flop_ratio, 4),
        time_ratio=round(time_ratio, 4),
        time_over_flops=round(time_ratio / flop_ratio, 3),
    )
    assert flop_ratio < 1
