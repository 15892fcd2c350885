"""The controls spend what the matched arm spends, whatever that is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.methods.base import METHODS, PlanRequest
from harness.methods.controls import DenseShallow, DenseShort, DenseSmall
from harness.suite.spec import Recipe
from harness.types import UserError

STEP_OVERHEAD = 3.0  # what embeddings and head cost, whatever the depth


def a_request(target: float | None, steps: int = 1000, layers: int = 8) -> PlanRequest:
    def step_flops(model: dict[str, Any], *_: object) -> float:
        return float(model["layers"] + STEP_OVERHEAD)

    workload: Any = SimpleNamespace(
        name="fake",
        step_flops=step_flops,
        learning_rate_of=lambda smaller, model, rate: rate * model["layers"] / smaller["layers"],
        layers=lambda model: model["layers"],
        smaller=lambda model, axis: (
            [{"layers": n} for n in range(model["layers"] - 1, 0, -1)] if axis == "depth" else []
        ),
    )
    recipe = Recipe(steps=steps, batch_size=1, learning_rate=0.1)
    return PlanRequest(workload, {}, {"layers": layers}, recipe, target)


@given(st.floats(0.05, 1.0), st.integers(1000, 100_000))
def test_shorter_dense_spends_the_target_to_half_a_step(share: float, steps: int) -> None:
    step = 8 + STEP_OVERHEAD
    target = share * steps * step
    plan = DenseShort().plan({}, a_request(target, steps))
    assert abs(plan.recipe.steps * step - target) <= step / 2
    assert plan.model == {"layers": 8}
    assert plan.recipe.learning_rate_at(plan.recipe.steps - 1) < 0.3 * plan.recipe.learning_rate


@given(st.floats(0.35, 0.95), st.integers(100, 100_000))
def test_smaller_dense_spends_the_target_to_half_a_step(share: float, steps: int) -> None:
    target = share * steps * (8 + STEP_OVERHEAD)
    plan = DenseSmall().plan({"axis": "depth"}, a_request(target, steps))
    step = plan.model["layers"] + STEP_OVERHEAD
    assert plan.model["layers"] < 8
    assert abs(plan.recipe.steps * step - target) <= step / 2


def test_smaller_dense_takes_the_nearest_cost() -> None:
    plan = DenseSmall().plan({"axis": "depth"}, a_request(1000 * (3 + STEP_OVERHEAD)))
    assert plan.model == {"layers": 3}
    assert plan.recipe.steps == 1000


def test_smaller_dense_learns_at_the_rate_of_its_own_size() -> None:
    plan = DenseSmall().plan({"axis": "depth"}, a_request(1000 * (3 + STEP_OVERHEAD)))
    assert plan.recipe.learning_rate == pytest.approx(0.1 * 8 / 3)
    short = DenseShort().plan({}, a_request(1000 * (3 + STEP_OVERHEAD)))
    assert short.recipe.learning_rate == 0.1


def test_a_control_without_a_match_says_what_is_missing() -> None:
    with pytest.raises(UserError, match="name it with 'match: ARM'"):
        DenseShort().plan({}, a_request(None))


def test_a_model_that_cannot_shrink_says_so() -> None:
    with pytest.raises(UserError, match="no smaller version along 'width'"):
        DenseSmall().plan({"axis": "width"}, a_request(100.0))


def test_controls_that_match_declare_it() -> None:
    assert {name for name, method in METHODS.items() if method.matches} == {"dense-short", "dense-small"}


@pytest.mark.parametrize(("share", "layers"), [(0.01, 1), (0.25, 2), (0.6, 5), (0.99, 7)])
def test_shallow_dense_takes_the_nearest_depth_and_the_same_steps(share: float, layers: int) -> None:
    plan = DenseShallow().plan({"share": share}, a_request(None, steps=100))
    assert (plan.model, plan.recipe.steps) == ({"layers": layers}, 100)
    assert sum(phase.steps for phase in plan.phases) == 100
    assert plan.recipe.learning_rate == pytest.approx(0.1 * 8 / layers)  # the workload's rule


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_shallow_dense_refuses_a_share_that_is_none(share: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        DenseShallow().plan({"share": share}, a_request(None))
