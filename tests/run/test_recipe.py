"""The learning rate is warm-up, stable, decay, and the evaluation points end with the last step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run.train import evaluation_steps
from harness.suite.spec import Recipe


def a_recipe(steps: int, **changes: float) -> Recipe:
    return Recipe(steps=steps, batch_size=1, learning_rate=1.0, **changes)


@given(st.integers(1, 3000), st.floats(0, 0.5), st.floats(0, 0.5))
def test_shape(steps: int, warmup: float, decay: float) -> None:
    recipe = a_recipe(steps, warmup_share=warmup, decay_share=decay)
    rates = [recipe.learning_rate_at(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_stable_part_is_stable_and_the_end_is_near_zero() -> None:
    recipe = a_recipe(100, warmup_share=0.1, decay_share=0.2)
    assert {recipe.learning_rate_at(step) for step in range(10, 80)} == {1.0}
    assert recipe.learning_rate_at(0) == pytest.approx(1 / 11)
    assert recipe.learning_rate_at(99) == pytest.approx(1 / 21)


@given(st.integers(1, 5000), st.integers(1, 50))
def test_evaluation_points(steps: int, evaluations: int) -> None:
    points = evaluation_steps(a_recipe(steps, evaluations=evaluations))
    assert points == sorted(set(points))
    assert points[-1] == steps
    assert len(points) == min(steps, evaluations)
