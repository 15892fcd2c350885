"""Named schedules, and where they expand under a learning rate that decays."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat import SATConfig, phases, schedules


def test_the_recipes():
    assert schedules.constant(0.3) == ((0.0, 0.3),)
    assert schedules.zero_one_layer() == ((0.0, 0.0), (0.8, 1.0))
    assert schedules.one_expansion(0.5, 0.5) == SATConfig().schedule
    assert schedules.zero_one_layer(None, decay_from=0.8, stable_left=0.25) == ((0.0, 0.0), (0.6, 1.0))
    assert schedules.one_expansion(0.6, 0.25) == ((0.0, 0.25), (0.6, 1.0))
    assert schedules.doubling(0.125, 0.2, 0.6) == ((0.0, 0.125), (0.2, 0.25), (0.4, 0.5), (0.6, 1.0))
    assert schedules.doubling(0.3, 0.2, 0.6) == ((0.0, 0.3), (0.2, 0.6), (0.6, 1.0))
    assert schedules.doubling(0.5, 0.4) == ((0.0, 0.5), (0.4, 1.0))


@given(
    start_share=st.floats(0.01, 0.99),
    first=st.floats(0.01, 0.4),
    decay_from=st.floats(0.6, 1.0),
    stable_left=st.floats(0.05, 0.3),
)
def test_every_doubling_is_a_schedule_that_leaves_the_stable_phase_it_was_told(
    start_share, first, decay_from, stable_left
):
    if start_share >= 0.5:
        made = schedules.doubling(start_share, first, decay_from=decay_from)
    else:
        made = schedules.doubling(start_share, first, decay_from=decay_from, stable_left=stable_left)
        assert decay_from - made[-1][0] == pytest.approx(stable_left * decay_from, abs=1e-8)
    config = SATConfig(schedule=made, decay_from=decay_from)
    shares = [phase.share for phase in phases(config, 100_000)]
    assert shares[-1] == 1.0
    assert all(a < b <= 2 * a * (1 + 1e-6) for a, b in pairwise(shares)) or len(shares) == 2
    assert made[1][0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: schedules.constant(1.2), "share must be >= 0 and <= 1, not 1.2"),
        (schedules.one_expansion, "give at, or decay_from"),
        (lambda: schedules.one_expansion(0.8, stable_left=0.1), "at and stable_left both place"),
        (lambda: schedules.one_expansion(0.8, decay_from=0.8), "at 0.8 of the steps, but .* decays from 0.8 on"),
        (lambda: schedules.one_expansion(0.8, 1.0), "start_share must be >= 0 and < 1, not 1"),
        (lambda: schedules.doubling(0.0, 0.2, 0.6), "start_share must be > 0 and < 1, not 0"),
        (lambda: schedules.doubling(0.25, 0.6, 0.6), "last expansion, at 0.6, must come after the first"),
        (lambda: schedules.doubling(0.25, 0.3, 0.9, decay_from=0.85), "decays from 0.85 on"),
        (lambda: schedules.doubling(0.5, 0.3, 0.6), "there is one expansion"),
        (lambda: schedules.doubling(0.25, 0.3, decay_from=1.5), "decay_from must be > 0 and <= 1"),
        (lambda: SATConfig(axis="width", decay_from=0.5), "from 0.5 to 1 at 0.5 of the steps"),
        (lambda: SATConfig(decay_from=0.0), "decay_from must be > 0"),
    ],
)
def test_what_cannot_be_is_said(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_only_expansions_are_held_against_the_decay():
    falling = ((0.0, 0.5), (0.9, 0.3))
    assert SATConfig(axis="width", regime="persistent", schedule=falling, decay_from=0.8).schedule == falling
