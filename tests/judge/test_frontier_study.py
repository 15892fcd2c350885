"""The study behind docs/frontier.md: best learning rate of each arm, and differences from the dense line."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import frontier
import frontier_figure
import pytest
from synthetic import Planted, records

SETTING = frontier.Setting("0.1M", 20, 0.4)


def arm(name, flops, losses, rate=0.01):
    by_seed = dict(enumerate(losses))
    return frontier.Arm(name, SETTING, rate, flops, by_seed, {rate: by_seed})


def line(*losses):
    """Dense models of 25, 50 and 100 FLOPs: half as deep each."""
    return [
        arm(n, f, each) for n, f, each in zip(("shallow-2", "shallow-3", "dense"), (25, 50, 100), losses, strict=True)
    ]


def made(arms, rate, decay=0.4):
    found = records(arms=arms, sizes=("0.1M",), seeds=(0, 1, 2), noise=0.0, quality_noise=0.0)
    spec = {"workload_options": {"tokens_per_parameter": 20}}
    recipe = {"learning_rate": rate, "decay_share": decay}
    return [
        each.model_copy(
            update={"spec": each.spec.model_copy(update={**spec, "recipe": each.spec.recipe.model_copy(update=recipe)})}
        )
        for each in found
    ]


def test_every_arm_counts_at_its_own_best_rate_and_only_within_its_setting():
    slow = made({"sat": Planted(0.5, loss=0.3), "shallow-4": Planted(0.3, loss=0.1)}, 0.01)
    fast = made({"sat": Planted(0.5, loss=0.2), "shallow-4": Planted(0.3, loss=0.4)}, 0.02)
    other = made({"sat": Planted(0.5, loss=0.0)}, 0.03, decay=0.2)
    found = {(a.name, a.setting.decay_share): a for a in frontier.arms([*slow, *fast, *other])}
    assert found["sat", 0.4].learning_rate == 0.02
    assert found["shallow-4", 0.4].learning_rate == 0.01
    assert found["sat", 0.2].learning_rate == 0.03
    assert found["sat", 0.4].mean - found["dense", 0.4].mean == pytest.approx(0.2)


def test_a_rate_that_only_one_seed_had_is_no_best_rate():
    all_seeds = made({"sat": Planted(0.5, loss=0.3)}, 0.01)
    lucky = [r for r in made({"sat": Planted(0.5, loss=0.1)}, 0.02) if r.spec.seed == 0]
    found = {a.name: a for a in frontier.arms([*all_seeds, *lucky])}
    assert found["sat"].learning_rate == 0.01


def test_the_dense_line_is_straight_in_the_logarithm_of_flops_for_each_seed():
    dense = line([1.8, 1.9], [1.6, 1.7], [1.4, 1.3])
    assert frontier.dense_line(50, dense, 1) == pytest.approx(1.7)
    assert frontier.dense_line(50 * math.sqrt(2), dense, 0) == pytest.approx(1.5)
    assert frontier.dense_line(50 * math.sqrt(2), dense, 1) == pytest.approx(1.5)
    assert frontier.dense_line(24, dense, 0) is None
    assert frontier.dense_line(101, dense, 0) is None


def test_differences_from_the_line_are_paired_by_seed():
    """Seeds differ by far more than the arm does from the line."""
    dense = line([1.8, 2.8, 3.8], [1.6, 2.6, 3.6], [1.4, 2.4, 3.4])
    mine = arm("half", 50 * math.sqrt(2), [1.49, 2.48, 3.47])
    off = frontier.against_line(mine, [*dense, mine])
    assert off.mean == pytest.approx(-0.02)
    assert off.half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)


def test_an_arm_outside_the_line_has_no_difference_from_it():
    here = [*line([1.8] * 2, [1.6] * 2, [1.4] * 2), arm("one", 10, [1.9, 1.9])]
    assert frontier.against_line(here[-1], here) is None
    assert "| one | 10% | 0.01 | 2 | 1.9000 | +0.5000 ± 0.0000 | not known |  |" in frontier.table(here)


def test_a_single_setting_is_compared_with_the_arm_it_was_changed_in():
    names = ("half", "half-split", "half-split-state", "half-zero", "backward-drop", "backward-random", "short-half")
    here = [arm(name, 50, [1.5, 1.6]) for name in names]
    found = {each.name: other.name for each in here if (other := frontier.base(each, here)) is not None}
    assert found == {
        "half-split": "half", "half-split-state": "half-split", "half-zero": "half", "backward-random": "backward-drop",
    }  # fmt: skip
    here[0] = replace(here[0], by_rate={**here[0].by_rate, 0.02: {0: 9.0, 1: 9.0}})  # a base counts at the same rate
    better = arm("half-zero", 50, [1.4, 1.48])
    assert "| -0.1100 ± 0.1271 |" in frontier.table([*line([1.8] * 2, [1.6] * 2, [1.4] * 2), here[0], better])


def test_models_of_another_depth_are_another_setting():
    ladder = made({"sat": Planted(0.5, loss=0.3)}, 0.01)
    deep = [
        r.model_copy(
            update={"spec": r.spec.model_copy(update={"workload_options": {"tokens_per_parameter": 20, "layers": 12}})}
        )
        for r in ladder
    ]
    found = frontier.by_setting(frontier.arms([*ladder, *deep]))
    assert [setting.layers for setting in found] == [0, 12]
    assert "0.1M in 12 layers, 20 tokens per parameter" in str(list(found)[1])


def test_the_figure_names_every_arm_and_is_well_formed():
    here = [*line([1.8, 1.9], [1.6, 1.7], [1.4, 1.5]), arm("half", 75, [1.5, 1.55]), arm("narrow-half", 75, [1.6, 1.7])]
    text = frontier_figure.draw(here)
    words = "".join(ElementTree.fromstring(text).itertext())
    assert all(a.name in words for a in here)
