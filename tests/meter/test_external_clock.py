"""Offset and drift of a source's clock, from lags that are known."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.meter.base import Channel, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.external.clock import Clock, drift_of, offset_of
from harness.meter.validity import conditions_of
from harness.types import Basis, UserError

NS = 1_000_000_000
INFO = MeterInfo(
    name="external",
    basis=Basis.MEASURED,
    source="plug",
    channels=(
        Channel(name="w", quantity=Quantity.POWER_W, device="plug", scope="plug", basis=Basis.MEASURED),
        Channel(name="clock/lag", quantity=Quantity.CLOCK_LAG_S, device="plug", scope="clock", basis=Basis.MEASURED),
    ),
)


def test_a_stamp_of_now_is_now() -> None:
    clock = Clock()
    assert abs(clock.monotonic_ns(time.time_ns()) - time.monotonic_ns()) < 50_000_000
    clock.offset_s = 3600.0
    assert clock.lag_s(time.time_ns() + 3600 * NS, time.monotonic_ns()) == pytest.approx(0.0, abs=0.05)


@given(offset=st.floats(-1e5, 1e5), ways=st.lists(st.floats(0.0, 5.0), min_size=1))
def test_auto_never_puts_a_reading_into_the_future(offset: float, ways: list[float]) -> None:
    lags = [way - offset for way in ways]
    found, _ = offset_of(lags, "auto", 60.0, "plug")
    assert min(lag + found for lag in lags) == pytest.approx(0.0, abs=1e-9)
    assert found == pytest.approx(offset - min(ways), abs=1e-6)


@pytest.mark.parametrize(("lags", "offset"), [([0.3, 0.1], 0.0), ([59.0], 0.0), ([-0.5, 0.2], 0.5), ([], 0.0)])
def test_clocks_agree_unless_the_lags_say_they_can_not(lags: list[float], offset: float) -> None:
    found, note = offset_of(lags, None, 60.0, "plug")
    assert found == pytest.approx(offset)
    assert "clock" in note


@pytest.mark.parametrize(
    ("lags", "wanted", "words"),
    [
        ([-3600.0], None, r"3600.0 s ahead.*clock_offset_s: 3600.0.*time zone"),
        ([3600.2], None, r"3600.2 s behind.*clock_offset_s: -3600.2.*time zone"),
        ([-7.0], None, "7.0 s ahead"),
        ([-3600.0], 60.0, "3540.0 s ahead of this machine's clock with clock_offset_s: 60"),
        ([], "auto", "needs readings that arrive"),
    ],
)
def test_clocks_too_far_apart_are_refused(lags: list[float], wanted: float | str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        offset_of(lags, wanted, 60.0, "plug")


def lags(drift_ppm: float, count: int = 600) -> list[Sample]:
    rng = random.Random(1)
    return [
        Sample(1, NS * i, ReadStatus.OK, 0.05 + drift_ppm * 1e-6 * i + rng.expovariate(1 / 0.01), NS * i)
        for i in range(count)
    ]


@pytest.mark.parametrize("ppm", [0.0, 50.0, -200.0])
def test_drift_is_found_within_its_own_error(ppm: float) -> None:
    drift = drift_of(INFO, lags(ppm))
    assert drift is not None
    assert drift.drift_ppm is not None
    assert drift.drift_sd_ppm is not None
    assert abs(drift.drift_ppm - ppm) < 3 * drift.drift_sd_ppm
    assert drift.drift_sd_ppm < 5
    assert conditions_of(INFO, lags(ppm))["source_clock"]["drift_ppm"] == drift.drift_ppm


def test_few_readings_have_a_lag_and_no_drift() -> None:
    drift = drift_of(INFO, lags(0.0, 3))
    assert drift is not None
    assert drift.drift_ppm is None
    assert "drift_ppm" not in conditions_of(INFO, lags(0.0, 3))["source_clock"]
    assert drift_of(INFO, []) is None
