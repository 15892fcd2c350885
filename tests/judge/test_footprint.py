"""Grid intensities, prices and the footprint's arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from synthetic import Planted, records

from harness.judge.compare import latest_ok, wasted
from harness.judge.footprint import electricity_price, footprint, list_prices, list_regions, prices, rental_price
from harness.judge.grid import intensity, regions
from harness.record.record import Status
from harness.suite.spec import FootprintOptions
from harness.types import Basis, UserError


def test_values_are_codecarbons_own():
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import CloudMetadata, GeoMetadata
    from codecarbon.input import DataSource

    oracle = Emissions(DataSource())
    one = Energy.from_energy(kWh=1.0)
    for key, geo in {
        "FRA": GeoMetadata("FRA", country_name="France"),
        "USA-CA": GeoMetadata("USA", country_name="United States", region="california"),
        "CAN-ontario": GeoMetadata("CAN", country_name="Canada", region="ontario"),
        "CN-BJ": GeoMetadata("CHN", country_name="China", region="beijing"),
        "SE3": GeoMetadata("SWE", country_name="Sweden", region="SE3"),
    }.items():
        assert intensity(key).value / 1000 == pytest.approx(oracle.get_private_infra_emissions(one, geo)), key
    cloud = oracle.get_cloud_emissions(one, CloudMetadata("gcp", "europe-west1"))
    assert intensity("gcp:europe-west1").value / 1000 == pytest.approx(cloud)


def test_world_is_the_weighted_mean_and_never_475():
    assert intensity("world").value == pytest.approx(480.62, abs=0.01)
    assert all(figure.value != 475 for figure in regions().values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("FRX", "did you mean"), ("france", "did you mean 'FRA'"), ("gcp:us-wst1", "gcp:us-west1"), ("", "unknown")],
)
def test_unknown_regions_are_errors_with_a_hint(name, hint):
    with pytest.raises(UserError, match="unknown region") as error:
        intensity(name)
    assert hint in str(error.value)


def test_traps_in_the_tables():
    known = regions()
    assert "gcp:me-central1" in known
    assert "gcp:me-cenrtal1" not in known
    assert "CAF" not in known  # 0 g/kWh in the table
    assert known["USA-CA"].kind.startswith("direct")
    assert known["FRA"].kind.startswith("life-cycle")
    assert "CO2 only" in known["CN-BJ"].kind
    assert known["SE1"].year == 2025
    assert known["gcp:us-west1"].year is None


def test_every_region_and_price_is_cited():
    assert len(regions()) > 300
    for figure in regions().values():
        assert figure.value > 0
        assert "CodeCarbon" in figure.source
        assert figure.kind
    for row in list_prices():
        assert row["low"] <= row["value"] <= row["high"]
        assert row["source"]
        assert row["year"] >= 2024
        looked_up = "Eurostat" in row["source"]
        assert looked_up or row["kind"].startswith("recalled, to be checked")
    assert {row["region"] for row in list_regions()} == set(regions())
    json.dumps([list_regions(), list_prices()])


def test_prices_are_found_by_device_or_key_and_never_guessed():
    assert (rental_price(None, "NVIDIA H100 80GB HBM3").low, prices()["h100"].high) == (1.49, 12.29)
    assert rental_price(None, "cpu").key == "cpu"
    assert rental_price(None, "NVIDIA L4") is None
    assert rental_price("a100", "NVIDIA L4").key == "a100"
    with pytest.raises(UserError, match="did you mean 'h100'"):
        rental_price("h10", "cpu")


@pytest.mark.parametrize(("region", "key", "stand_in"), [
    ("USA-CA", "USA", False), ("FRA", "EU", False), ("SE1", "EU", False), ("world", "USA", True), ("NO1", "USA", True),
    ("CN-BJ", "USA", True), ("gcp:us-west1", "USA", True),
])  # fmt: skip
def test_electricity_price(region, key, stand_in):
    price, stands_in = electricity_price(region)
    assert (price.key, stands_in) == (key, stand_in)


def made(found, **options):
    return footprint(latest_ok(found), FootprintOptions(**options), wasted(found))


def test_arithmetic_on_one_run():
    found = records(("1M",), (0,), {"sat": Planted(0.5)}, noise=0, basis=Basis.MEASURED)
    whole = made(found, region="FRA", pue=1.5, pue_source="somewhere")
    dense, sat = ({row.arm: row for row in whole.rows}[arm] for arm in ("dense", "sat"))
    kwh = found[0].energy.joules / 3.6e6
    assert dense.energy.value == pytest.approx(kwh)
    assert (dense.energy.unit, dense.energy.basis) == ("kWh", Basis.MEASURED)
    assert dense.carbon.value == pytest.approx(kwh * 1.5 * 56.039 / 1000)
    assert (dense.carbon.year, dense.carbon.basis) == (2023, Basis.MODELLED)
    assert dense.electricity.value == pytest.approx(kwh * 1.5 * 0.1902)
    assert dense.electricity.unit == "EUR"
    assert dense.rental.value == pytest.approx(found[0].seconds / 3600 * 2.69)
    assert dense.rental.high == pytest.approx(found[0].seconds / 3600 * 12.29)
    assert sat.carbon.value / dense.carbon.value == pytest.approx(0.5)
    assert any("no second finding" in note.lower() for note in whole.notes)


def test_a_processor_is_rented_by_its_cores():
    found = records(("1M",), (0,), {}, noise=0)
    row = made(found).rows[0]
    assert row.rental.value == pytest.approx(found[0].seconds / 3600 * 2 * 0.048)


def test_simulated_energy_makes_a_simulated_footprint():
    row = made(records(("1M",), (0,), {}, basis=Basis.SIMULATED)).rows[0]
    assert {row.energy.basis, row.carbon.basis, row.rental.basis, row.electricity.basis} == {Basis.SIMULATED}


def test_unknown_card_has_no_rental_and_says_so():
    whole = made(records(("1M",), (0,), {}, basis=Basis.MEASURED, card="NVIDIA L4"))
    assert whole.rows[0].rental is None
    assert any("No rental price ships for NVIDIA L4" in note for note in whole.notes)


def test_wasted_energy_is_told_and_in_no_row():
    plain = made(records(("1M",), (0,), {"sat": Planted(0.5)}))
    found = records(("1M",), (0,), {"sat": Planted(0.5)}, retried=[("1M", 0, "sat")])
    whole = made(found)
    lost = next(r for r in found if r.status is Status.FAILED)
    assert any(f"{lost.energy.joules:.4g} J more" in note for note in whole.notes)
    assert [row.energy.value for row in whole.rows] == [row.energy.value for row in plain.rows]


def test_listing_and_judging_import_nothing_heavy():
    code = (
        "import sys, harness.audit.audit; from harness.judge import footprint, judge, gate, claims; "
        "footprint.list_regions(); footprint.list_prices(); claims.load_claims('sat-article'); "
        "heavy = {'torch', 'scipy', 'numpy', 'pandas', 'codecarbon', 'matplotlib', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
