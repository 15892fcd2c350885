"""What is made of a table's heading and rows, and what is said of those that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.meter.base import Quantity
from harness.meter.external.options import load
from harness.meter.external.table import TableSource
from harness.meter.external.units import unit_in, unit_of
from harness.types import UserError

P, E = Quantity.POWER_W, Quantity.ENERGY_J


def source_of(tmp_path: Path, text: str, **options: object) -> TableSource:
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"source": "t.csv"} | options))
    return TableSource(load(str(tmp_path / "t.yaml")))


@pytest.mark.parametrize(
    ("name", "quantity", "factor"),
    [
        ("power_w", P, 1.0),
        ("Power [kW]", P, 1e3),
        ("watts", P, 1.0),
        ("power (mW)", P, 1e-3),
        ("node_milliwatts", P, 1e-3),
        ("energy_kwh", E, 3.6e6),
        ("Total (Wh)", E, 3600.0),
        ("energy_wh_total", E, 3600.0),
        ("energy in watt hours", E, 3600.0),
        ("package_joules_total", E, 1.0),
        ("energy_uj", E, 1e-6),
        ("energy_MJ", E, 1e6),
    ],
)
def test_a_heading_names_its_unit(name: str, quantity: Quantity, factor: float) -> None:
    unit = unit_in(name)
    assert unit is not None
    assert unit.quantity is quantity
    assert unit.factor == pytest.approx(factor)


@pytest.mark.parametrize("name", ["power", "energy_mj", "power_mw", "status", "volts", "temperature_c"])
def test_a_heading_that_names_none_or_might_mean_two_names_no_unit(name: str) -> None:
    assert unit_in(name) is None


def test_millijoules_and_megajoules_are_told_apart_by_their_capital_alone() -> None:
    millijoule, megajoule = unit_of("mJ"), unit_of("MJ")
    assert millijoule is not None
    assert megajoule is not None
    assert megajoule.factor == pytest.approx(1e9 * millijoule.factor)


@pytest.mark.parametrize(
    ("heading", "cell"),
    [
        ("time", "1790000000.25"),
        ("timestamp_ms", "1790000000250"),
        ("ts", "1790000000250000"),
        ("unix_time", "1790000000250000000"),
        ("Date Time", "2026-09-21T14:13:20.250Z"),
        ("date", "2026-09-21 16:13:20.25+02:00"),
    ],
)
def test_times_in_every_usual_spelling(tmp_path: Path, heading: str, cell: str) -> None:
    (reading,) = source_of(tmp_path, f"{heading},power_w\n{cell},5\n").open(None)
    assert reading.stamp_ns == 1_790_000_000_250_000_000


def test_a_time_without_zone_needs_one(tmp_path: Path) -> None:
    table = "time,power_w\n2026-09-21T16:13:20,5\n"
    with pytest.raises(UserError, match=r"has no time zone.*timezone: Area/City"):
        source_of(tmp_path, table).open(None)
    (reading,) = source_of(tmp_path, table, timezone="Europe/Berlin").open(None)
    assert reading.stamp_ns == 1_790_000_000_000_000_000


def test_other_delimiters_decimal_commas_comments_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufeff# logger 1.2\nZeit;Leistung [kW];time\n;0,25;1790000000,5\n# note\n;0,5;1790000001,5\n"
    readings = source_of(tmp_path, text).open(None)
    assert [reading.values for reading in readings] == [(250.0,), (500.0,)]
    assert readings[0].stamp_ns == 1_790_000_000_500_000_000


def test_period_and_resolution_are_seen_in_the_rows_that_are_there(tmp_path: Path) -> None:
    rows = "".join(f"{1790000000 + 5 * i},{i / 100:.2f}\n" for i in range(20))
    source = source_of(tmp_path, "time,energy_kwh\n" + rows)
    source.open(None)
    assert source.period_s == 5.0
    assert source.stamp_step_s == 1.0
    assert source.streams[0].quantum == pytest.approx(36_000)


def test_channels_are_chosen_by_name_with_unit_quantity_scope_and_resolution(tmp_path: Path) -> None:
    channels = [
        {"column": "a", "unit": "kW", "quantity": "mean_power", "scope": "rack"},
        {"column": "b", "unit": "Wh", "device": "feed B", "resolution": 0.1},
    ]
    source = source_of(tmp_path, "t0,a,b\n1790000000,1,2\n", channels=channels, time={"column": "t0", "unit": "s"})
    (reading,) = source.open(None)
    assert reading.values == (1000.0, 7200.0)
    first, second = source.streams
    assert (first.quantity, first.scope) == (Quantity.POWER_MEAN_W, "rack")
    assert (second.device, second.quantum) == ("feed B", pytest.approx(360.0))


@pytest.mark.parametrize("cell", ["NaN", "unavailable", "", "inf", "-1", "1e400"])
def test_a_cell_that_is_no_amount_is_none_and_its_neighbour_is_kept(tmp_path: Path, cell: str) -> None:
    source = source_of(tmp_path, f"time,power_w,energy_j\n1790000000,{cell},7\n1790000001\n")
    assert [reading.values for reading in source.open(None)] == [(None, 7.0), (None, None)]


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    source = source_of(tmp_path, "time,power_w\n1790000000,5\n1790000001,")
    assert len(source.open(None)) == 1
    with (tmp_path / "t.csv").open("a") as stream:
        stream.write("7")
        stream.flush()
        assert source.poll() == []
        stream.write("5\n1790000002,8\n")
        stream.flush()
        assert [reading.values for reading in source.poll()] == [(75.0,), (8.0,)]


def test_of_a_long_file_only_the_tail_is_read(tmp_path: Path) -> None:
    rows = "".join(f"{1790000000 + i},{i}\n" for i in range(200_000))
    source = source_of(tmp_path, "time,power_w\n" + rows)
    readings = source.open(None)
    assert readings[-1].values == (199_999.0,)
    assert len(readings) < 10_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no finished first line"),
        ("1790000000,5\n1790000001,6\n", "has no heading: its first line is '1790000000,5'"),
        ("clock,power_w\n", "no column of times among 'clock', 'power_w'"),
        ("time,power\n", r"no column names a unit .* among 'time', 'power'.*kWh"),
        ("time,a_w,b_w\n", r"several columns of one kind \(a_w, b_w\)"),
        ("time,power_w\n12.5,5\n", "is no Unix time"),
        ("time_s,power_w\n17.5,5\n", "is no Unix time"),
        ("time,energy_j\n" + "".join(f"{1790000000 + i},{i % 2}\n" for i in range(9)), "falls 4 times"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_what_was_seen(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        source_of(tmp_path, text).open(None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": [{"column": "power_w", "unit": "hp"}]}, "channels.0.unit: .*unknown unit 'hp'"),
        ({"channels": [{"column": "x"}]}, "no column 'x'; it has 'time', 'power_w'"),
        ({"channels": [{"metric": "x"}]}, "has no metrics"),
        ({"channels": [{"column": "power_w", "unit": "W", "quantity": "energy"}]}, "W is no unit of energy"),
        ({"time": {"column": "when"}}, "no column 'when'"),
        ({"timezone": "Mars/Olympus"}, "unknown time zone"),
        ({"accuracy_percent": 1, "gain_error": 0.01}, "not both"),
        ({"acuracy_percent": 1}, "acuracy_percent: Extra inputs"),
        ({"source": "none.csv"}, "is no file"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        source_of(tmp_path, "time,power_w\n1790000000,5\n", **options).open(None)
