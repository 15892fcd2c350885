"""Choosing units: properties that hold whatever the scores are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sat_models import adamw, attach, llama, train

from sat.select import choose, generator, place


@st.composite
def situations(draw):
    n = draw(st.integers(2, 20))
    # small whole numbers, so that ties are common
    scores = draw(st.lists(st.integers(0, 5).map(float), min_size=n, max_size=n))
    active = tuple(sorted(draw(st.sets(st.integers(0, n - 1), max_size=n))))
    return scores, active, draw(st.integers(1, n))


def pick(scores, active, keep, **change):
    settings = {"grow_only": False, "swap_share": 1.0, "hysteresis": 0.0, "explore": 0.0, "rng": generator(0, 0, "x")}
    return choose(scores, active, keep, **(settings | change))


@given(situations())
def test_without_brakes_the_best_are_taken(situation):
    scores, active, keep = situation
    chosen = pick(scores, active, keep)
    assert len(chosen) == keep
    assert list(chosen) == sorted(set(chosen))
    left = [scores[u] for u in range(len(scores)) if u not in chosen]
    assert sum(scores[u] for u in chosen) == sum(sorted(scores, reverse=True)[:keep])
    assert not left or min(scores[u] for u in chosen) >= max(left)


@given(situations(), st.floats(0, 1))
def test_growing_never_drops(situation, explore):
    scores, active, keep = situation
    chosen = pick(scores, active, keep, grow_only=True, explore=explore)
    assert len(chosen) == keep
    assert set(active) <= set(chosen) if keep >= len(active) else set(chosen) <= set(active)


@given(situations(), st.floats(0, 1))
def test_the_swap_share_bounds_exchanges(situation, swap):
    scores, active, keep = situation
    chosen = pick(scores, active, keep, swap_share=swap)
    unavoidable = max(0, len(active) - keep)
    if active:
        assert len(set(active) - set(chosen)) <= unavoidable + swap * keep + 0.5


def test_hysteresis_keeps_what_is_nearly_as_good():
    assert pick([1.0, 1.05, 0.0], (0,), 1, hysteresis=0.1) == (0,)
    assert pick([1.0, 1.2, 0.0], (0,), 1, hysteresis=0.1) == (1,)


def test_ties_go_to_the_lower_index():
    assert pick([1.0] * 6, (), 3) == (0, 1, 2)


def test_exploration_draws_the_last_places_and_repeats_itself():
    scores = [float(-u) for u in range(40)]
    drawn = [pick(scores, (0,), 11, grow_only=True, explore=0.5, rng=generator(s, 7, "mlp")) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    by_score = next(n for n in range(12) if n not in drawn[0])  # the best of those outside come first
    assert 1 < by_score < 11
    assert len(drawn[0]) == 11


def test_a_single_place_is_explored_as_often_as_asked():
    """Sites of a few units have one or two places at a time: their share must not round to none."""
    scores = [float(-u) for u in range(9)]
    places = [pick(scores, (0,), 2, grow_only=True, explore=0.3, rng=generator(s, 7, "mlp")) for s in range(400)]
    surprising = sum(chosen != (0, 1) for chosen in places)
    expected = 0.3 * 7 / 8  # one draw of eight is the best
    assert surprising == pytest.approx(400 * expected, abs=3 * (400 * expected * (1 - expected)) ** 0.5)


@pytest.mark.parametrize(
    ("spread", "steps"),
    [
        (False, [(0,), (0, 1), (0, 1, 2, 3), tuple(range(8))]),
        (True, [(0,), (0, 4), (0, 2, 4, 6), tuple(range(8))]),
    ],
)
def test_places_of_doubling_depth(spread, steps):
    active: tuple[int, ...] = ()
    for expected in steps:
        active = place(8, active, len(expected), spread=spread)
        assert active == expected


@given(
    st.integers(1, 24).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)), st.integers(1, n))),
    st.booleans(),
)
def test_places_keep_what_is_there(case, spread):
    n, active, keep = case
    chosen = place(n, sorted(active), keep, spread=spread)
    assert len(set(chosen)) == keep == len(chosen)
    assert all(0 <= layer < n for layer in chosen)
    assert active <= set(chosen) if keep >= len(active) else set(chosen) <= active


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_taylor_lets_units_in_that_have_never_worked(axis):
    """It observes what works alone: what has never worked must not count as worthless for ever."""
    model = llama(layers=6)
    settings = {"regime": "rotating", "score": "taylor", "schedule": ((0.0, 0.4),), "observe_every": 1, "interval": 4}
    controller = attach(model, adamw(model), 60, axis=axis, ramp_steps=2, swap_share=0.5, swap_until=None, **settings)
    train(model, controller.optimizer, controller, 0, 60)
    report = controller.report()
    assert report.exits > 0
    assert report.returns > 0
    assert max(map(len, report.never_trained.values())) < 2
