"""One threshold for all sites under a budget of FLOPs, and counts of units that stay few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sat_families import FAMILIES
from sat_models import adamw, attach, llama, train

import sat
from sat.select import allocate
from sat.units import counts_allowed, units_kept

SITES = st.lists(
    st.tuples(
        st.lists(st.floats(0, 1e3), min_size=1, max_size=12),
        st.floats(0.1, 50),  # FLOPs of a unit
        st.integers(1, 3),  # floor
    ),
    min_size=1,
    max_size=6,
)


def prepared(sites, buckets=None):
    ranked = [sorted(scores, reverse=True) for scores, _, _ in sites]
    counts = [counts_allowed(len(scores), min(floor, len(scores)), buckets) for scores, _, floor in sites]
    return ranked, [cost for _, cost, _ in sites], counts


@given(sites=SITES, share=st.floats(0, 1))
def test_the_flops_are_within_one_unit_of_the_budget_and_floors_are_kept(sites, share):
    ranked, costs, counts = prepared(sites)
    budget = share * sum(len(scores) * cost for scores, cost, _ in sites)
    kept, _ = allocate(ranked, costs, counts, budget)
    spent = sum(count * cost for count, cost in zip(kept, costs, strict=True))
    least = sum(allowed[0] * cost for allowed, cost in zip(counts, costs, strict=True))
    assert all(count in allowed for count, allowed in zip(kept, counts, strict=True))
    if least > budget:
        assert spent == pytest.approx(least)
    else:
        assert abs(spent - budget) <= max(costs) * (0.5 + 1e-9)
    assert allocate(ranked, costs, counts, budget) == allocate(ranked, costs, counts, budget)


@given(sites=SITES, share=st.floats(0, 1))
def test_with_units_of_one_cost_what_is_in_is_better_than_what_is_out(sites, share):
    """The oracle: sort all units that are not needed for the floors, and take as many as there is room for."""
    ranked, _, counts = prepared(sites)
    costs = [1.0] * len(ranked)
    total = share * sum(len(scores) for scores in ranked)
    kept, threshold = allocate(ranked, costs, counts, total)
    pool = sorted((s for scores, c in zip(ranked, counts, strict=True) for s in scores[c[0] :]), reverse=True)
    base = sum(allowed[0] for allowed in counts)
    taken = sorted((s for r, c, k in zip(ranked, counts, kept, strict=True) for s in r[c[0] : k]), reverse=True)
    assert taken == pool[: len(taken)]
    assert len(taken) == max(0, sum(kept) - base)
    assert threshold == (pytest.approx(taken[-1]) if taken else None)


@given(sites=SITES, share=st.floats(0, 1), buckets=st.integers(1, 5))
def test_buckets_bound_the_counts(sites, share, buckets):
    ranked, costs, counts = prepared(sites, buckets)
    budget = share * sum(len(scores) * cost for scores, cost, _ in sites)
    kept, _ = allocate(ranked, costs, counts, budget)
    for count, allowed, scores in zip(kept, counts, ranked, strict=True):
        assert count in allowed
        assert len(allowed) <= buckets
        assert allowed[-1] == len(scores)


@given(n=st.integers(1, 64), share=st.floats(0, 1), floor=st.integers(1, 4), buckets=st.integers(1, 5))
def test_a_share_keeps_the_nearest_count_allowed(n, share, floor, buckets):
    allowed = counts_allowed(n, floor, buckets)
    kept = units_kept(n, share, floor, buckets)
    assert kept in allowed
    assert abs(kept - share * n) <= min(abs(count - share * n) for count in allowed) + 1e-9
    assert units_kept(n, 1.0, floor, buckets) == n
    assert len({units_kept(n, at / 50, floor, buckets) for at in range(51)}) <= buckets


def flops(controller):
    return sum(len(part.active) * part.unit_flops for part in controller.parts)


REGIMES = {
    "growing": {"schedule": ((0.0, 0.35), (0.3, 0.6), (0.7, 1.0))},
    "rotating": {"schedule": ((0.0, 0.5), (0.4, 0.35)), "regime": "rotating", "interval": 2, "ramp_steps": 0},
    "persistent": {"schedule": ((0.0, 0.5),), "regime": "persistent", "interval": 2, "hysteresis": 0.0},
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("score", ["gate_probe", "magnitude", "random"])
def test_sites_share_one_budget_in_every_regime(regime, score):
    model = llama(layers=3, mlp=128, heads=8, kv_heads=8, hidden=32)
    optimizer = adamw(model)
    settings = {"axis": "width", "threshold": "global", "score": score, "probe_batches": 1, **REGIMES[regime]}
    controller = attach(model, optimizer, 10, start=False, **settings)
    whole = sum(part.units * part.unit_flops for part in controller.parts)
    largest = max(part.unit_flops for part in controller.parts)
    uneven, before = False, {}
    for step in range(10):
        due = controller.due(step)
        train(model, optimizer, controller, step, step + 1)
        if not due:
            continue
        share = controller.report().share
        assert abs(flops(controller) - share * whole) <= largest
        assert all(len(part.active) >= 1 for part in controller.parts)
        uneven |= any(len(p.active) != units_kept(p.units, share) for p in controller.parts)
        now = {part.name: set(part.active) for part in controller.parts}
        if regime == "growing":
            assert all(before.get(name, set()) <= units for name, units in now.items())
        before = now
        assert (controller.report().global_threshold is None) == (share == 1.0)
    assert uneven
    sat.densify_(model)


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_convolutions_are_not_compared_across_stages(axis):
    model = FAMILIES["resnet"].build()
    with pytest.raises(ValueError, match=r"those of .* are convolutions, .* use threshold 'site'"):
        sat.sparsify_(
            model, None, sat.SATConfig(axis=axis, threshold="global", score="random"), total_steps=10, start=False
        )


def test_fewer_than_the_swap_share_leave_a_site():
    model = llama(layers=2, mlp=128, heads=8, kv_heads=8)
    optimizer = adamw(model)
    controller = attach(
        model, optimizer, 20, axis="width", threshold="global", score="random", regime="persistent", interval=1,
        schedule=((0.0, 0.5),), swap_share=0.0, swap_until=None,
    )  # fmt: skip
    before = controller.report().active
    controller.begin_step(1)
    assert all(len(units) == len(before[name]) for name, units in controller.report().active.items())


def test_a_resume_has_the_threshold_too():
    settings = {"axis": "width", "threshold": "global", "buckets": 3, "schedule": ((0.0, 0.6), (0.5, 1.0))}
    model = llama(layers=2)
    controller = attach(model, adamw(model), 20, **settings)
    other = llama(3, layers=2)
    resumed = attach(other, adamw(other), 20, **settings)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.report() == controller.report()
    assert resumed.report().global_threshold is not None


@pytest.mark.parametrize("axis", ["depth", "width"])
def test_few_counts_of_units_whatever_the_schedule(axis):
    model = llama(layers=6, mlp=96, heads=6, kv_heads=6, hidden=48)
    shares = [at / 12 for at in range(1, 13)]
    schedule = tuple((at / 12, share) for at, share in enumerate(shares))
    controller = attach(model, None, 48, start=False, axis=axis, score="random", schedule=schedule, buckets=3)
    seen: dict[str, set[int]] = {part.name: set() for part in controller.parts}
    for share in shares:
        controller.set_share(share)
        for part in controller.parts:
            seen[part.name].add(len(part.active))
    assert all(counts == {2, 4, 6} for name, counts in seen.items() if "mlp" not in name)
    assert all(len(counts) <= 3 for counts in seen.values())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"threshold": "global"}, "threshold 'global' ranks units by score, and 'order' has none"),
        ({"threshold": "layer"}, "threshold must be one of site, global, not 'layer'"),
        ({"buckets": 6}, "buckets must be 5 at most, not 6"),
        ({"buckets": 0}, "buckets must be a whole number >= 1"),
        ({"mode": "prefix", "threshold": "global", "score": "taylor"}, "regime 'narrowing' moves one boundary"),
    ],
)
def test_what_cannot_be_followed_is_said(wrong, text):
    with pytest.raises(ValueError, match=text):
        sat.SATConfig(**wrong)
