"""What a factor does to a saving: planted ratios come back, paired by seed, and only one factor changes at a time."""

from __future__ import annotations

import math

import pytest

from harness.judge.effects import effects
from harness.judge.types import Comparison, Estimate, PairRow
from harness.types import Basis


def comparison(ratio: float, *, invalid: str = "", **levels: object) -> Comparison:
    """Three seeds around an energy ratio; what is common to a seed differs much between seeds."""
    seeds = {seed: ratio * common for seed, common in enumerate((0.8, 1.0, 1.25))}
    return Comparison(
        arm="sat", baseline="dense", size="350M", parameters=350_000_000, protocol="steady", levels=levels,
        pairs=tuple(
            PairRow(block_id=f"b{seed}", seed=seed, base_run="d", arm_run="s", log_energy_ratio=math.log(value))
            for seed, value in seeds.items()
        ),
        saving=Estimate(value=1 - ratio, low=None, high=None, n=3, unit="share", basis=Basis.MEASURED),
        invalid=invalid, invalid_scope="energy" if invalid else "",
    )  # fmt: skip


def test_a_saving_that_halves_under_compile_is_found_with_its_interval():
    (effect,) = effects([comparison(0.6, compile=True), comparison(0.4, compile=False)])
    assert (effect.factor, effect.reference, effect.level) == ("compile", False, True)
    assert effect.ratio.value == pytest.approx(1.5)
    assert effect.ratio.low == pytest.approx(1.5)  # what is common to a seed cancels
    assert effect.ratio.n == 3


def test_every_effect_holds_the_other_factors_still():
    ratios = {("fp32", False): 0.4, ("fp32", True): 0.5, ("bf16", False): 0.6, ("bf16", True): 0.9}
    found = effects([comparison(ratio, precision=p, compile=c) for (p, c), ratio in ratios.items()])
    shown = {(e.factor, *e.others.values()): e.ratio.value for e in found}
    assert shown == {
        ("precision", False): pytest.approx(0.6 / 0.4), ("precision", True): pytest.approx(0.9 / 0.5),
        ("compile", "fp32"): pytest.approx(0.5 / 0.4), ("compile", "bf16"): pytest.approx(0.9 / 0.6),
    }  # fmt: skip
    assert {e.reference for e in found} == {"fp32", False}


def test_what_a_gate_refused_has_no_effect():
    assert effects([comparison(0.6, compile=True, invalid="aliased"), comparison(0.4, compile=False)]) == ()
