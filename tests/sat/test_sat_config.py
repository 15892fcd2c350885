"""The schedule and its settings: pure arithmetic, and no torch."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat.config import SATConfig, decisions, phases
from sat.units import MLP_UNIT_SIZES, attention_units, mlp_units, units_kept


def test_importing_sat_loads_no_torch():
    code = "import sys, sat, sat.config; sat.phases(sat.SATConfig(), 10); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(n=st.integers(1, 400), percent=st.integers(0, 100), floor=st.integers(1, 5))
def test_units_kept_is_the_nearest_whole_number_within_its_bounds(n, percent, floor):
    kept = units_kept(n, percent / 100, floor)
    exact = Fraction(percent, 100) * n
    assert 1 <= kept <= n
    if floor < kept < n:
        assert -Fraction(1, 2) <= exact - kept < Fraction(1, 2)
    assert kept >= min(floor, n)


@pytest.mark.parametrize(
    ("n", "share", "kept"), [(4, 0.125, 1), (4, 0.375, 2), (6, 0.25, 2), (50, 0.29, 15), (8, 0, 1)]
)
def test_halves_go_up(n, share, kept):
    assert units_kept(n, share) == kept


@given(st.integers(1, 2000).map(lambda k: 16 * k))
def test_mlp_units_follow_the_documented_rule(hidden):
    unit, n = mlp_units(hidden)
    assert unit * n == hidden
    fitting = [size for size in MLP_UNIT_SIZES if hidden % size == 0 and hidden // size >= 6]
    assert unit == (max(fitting) if fitting else 8)


def test_units_of_odd_sizes_and_heads():
    assert mlp_units(100) == (4, 25)
    assert mlp_units(13824) == (128, 108)
    assert attention_units(8, 2) == (4, 2)
    with pytest.raises(ValueError, match="6 query heads can't be shared by 4 KV heads"):
        attention_units(6, 4)


schedules = st.lists(st.integers(1, 99), max_size=5, unique=True).flatmap(
    lambda starts: st.tuples(
        *[st.tuples(st.just(start / 100), st.floats(0, 1)) for start in [0, *sorted(starts)]],
    )
)


@given(schedule=schedules, steps=st.integers(1, 5000), interval=st.integers(1, 700))
def test_phases_add_up_and_agree_with_the_decisions(schedule, steps, interval):
    config = SATConfig(
        axis="width", schedule=schedule, regime="rotating", interval=interval, swap_share=0.5, swap_until=0.75
    )
    planned = phases(config, steps)
    made = decisions(config, steps)
    assert sum(phase.steps for phase in planned) == steps
    assert planned[0].first_step == 0
    for phase, following in itertools.pairwise(planned):
        assert phase.first_step + phase.steps == following.first_step
        assert phase.share != following.share
    assert sum(phase.probes for phase in planned) == sum(decision.probe for decision in made)
    assert [d.step for d in made] == sorted({d.step for d in made})
    for decision in made:
        holder = next(p for p in planned if p.first_step <= decision.step < p.first_step + p.steps)
        assert holder.share == decision.share


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_by_default_half_the_units_train_the_first_half_and_nothing_is_probed_at_the_end(axis):
    planned = phases(SATConfig(axis=axis), 1000)
    assert [(p.first_step, p.share) for p in planned] == [(0, 0.5), (500, 1.0)]
    assert planned[-1].probes == 0


def test_new_layers_are_copies_where_the_depth_grows_and_nowhere_else():
    assert SATConfig().entry == "copy"
    assert SATConfig(regime="rotating", score="gate_probe").entry == "zero"
    assert SATConfig(axis="width").entry == SATConfig(mode="freeze").entry == "zero"


def test_what_needs_no_probe_plans_none():
    assert [phase.probes for phase in phases(SATConfig(mode="freeze"), 2000)] == [3, 0]
    assert SATConfig(axis="width", score="random").needs_probe is False


def test_rechoosing_stops_when_the_swap_share_is_spent():
    config = SATConfig(axis="width", regime="persistent", schedule=((0.0, 0.5),), interval=10, swap_until=0.75)
    assert [d.step for d in decisions(config, 100)] == [0, 10, 20, 30, 40, 50, 60, 70]
    assert config.swap_share_at(0, 100) == 0.3
    assert config.swap_share_at(75, 100) == 0.0


def test_round_trip_through_plain_values():
    config = SATConfig(axis="width", schedule=[[0, 0.5], [0.5, 1]])
    assert config.schedule == ((0.0, 0.5), (0.5, 1.0))
    assert SATConfig(**config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.interval = 3


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mode": "half"}, "mode must be one of skip, freeze, backward_drop, prefix, not 'half'"),
        ({"axis": "heads"}, "axis must be one of depth, width, not 'heads'"),
        ({"score": "fisher"}, "score must be one of order, gate_probe, taylor, magnitude, random, not 'fisher'"),
        ({"entry": "net2net"}, "entry must be one of zero, copy, interleaved, split, random, not 'net2net'"),
        ({"entry": "split", "regime": "persistent", "score": "magnitude"}, "entry 'split' shares a layer's result"),
        ({"entry": "zero", "entry_state": "copied"}, "entry 'zero' copies nothing"),
        ({"mode": "freeze", "bank": "host"}, "mode 'freeze' leaves none out; leave bank out"),
        ({"protect": 0.5}, "set protect_steps, or leave protect out"),
        ({"protect_steps": 5}, "protects nothing; set protect below 1"),
        ({"protect": 1.5, "protect_steps": 5}, "protect must be between 0 and 1"),
        ({"regime": "shrinking"}, "regime must be one of growing, rotating, persistent, narrowing, not 'shrinking'"),
        ({"bank": "disk"}, "bank must be one of device, host, not 'disk'"),
        ({"mode": "freeze", "axis": "width"}, "mode 'freeze' switches whole layers"),
        ({"mode": "freeze", "regime": "growing"}, "mode 'freeze' re-chooses layers"),
        ({"mode": "freeze", "entry": "copy"}, "no unit enters it"),
        ({"axis": "width", "entry": "copy"}, "entry 'copy' copies layers"),
        ({"axis": "width", "score": "order"}, "score 'order' places layers"),
        ({"regime": "rotating"}, "needs a score, not 'order'"),
        ({"schedule": ()}, "schedule is empty"),
        ({"schedule": (0.5,)}, "schedule must be pairs"),
        ({"schedule": ((0.1, 0.5), (0.5, 1.0))}, "the first stage must start at 0, not 0.1"),
        ({"schedule": ((0.0, 0.5), (0.5, 0.7), (0.5, 1.0))}, "starts must rise"),
        ({"schedule": ((0.0, 0.5), (1.0, 1.0))}, "0 <= start < 1, not 1.0"),
        ({"schedule": ((0.0, 1.5),)}, "an active share lies between 0 and 1, not 1.5"),
        ({"schedule": ((0.0, float("nan")),)}, "an active share lies between 0 and 1, not nan"),
        ({"schedule": ((0.0, 0.5), (0.5, 0.25), (0.7, 1.0))}, "never drops a unit, but the shares fall"),
        ({"schedule": ((0.0, 0.5),)}, "ends with the full model, but the last share is 0.5"),
        ({"interval": 0}, "interval must be a whole number >= 1, not 0"),
        ({"interval": 2.5}, "interval must be a whole number >= 1, not 2.5"),
        ({"floor": 0}, "floor must be a whole number >= 1"),
        ({"seed": "7"}, "seed must be a whole number, not '7'"),
        ({"explore": 1.5}, "explore must be between 0 and 1, not 1.5"),
        ({"hysteresis": -0.1}, "hysteresis must be 0 or more, not -0.1"),
        ({"swap_until": 2.0}, "swap_until must be between 0 and 1"),
    ],
)  # fmt: skip
def test_bad_settings_say_what_is_wrong(settings, text):
    with pytest.raises(ValueError, match=r"^SATConfig: ") as caught:
        SATConfig(**settings)
    assert text in str(caught.value)


def test_no_steps_no_schedule():
    with pytest.raises(ValueError, match="total_steps must be a whole number >= 1, not 0"):
        phases(SATConfig(), 0)
