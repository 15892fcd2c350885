"""Which series of a page are the meter, and which addresses are read at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from external_sources import Exporter

from harness.meter.base import METERS, Quantity
from harness.meter.external.endpoint import EndpointSource
from harness.meter.external.options import load
from harness.meter.external.source import Reading, Stream
from harness.types import UserError

KEPLER_OLD = """
# TYPE kepler_node_platform_joules_total counter
kepler_node_platform_joules_total{instance="n",mode="dynamic",source="acpi"} 70
kepler_node_platform_joules_total{instance="n",mode="idle",source="acpi"} 30
kepler_node_package_joules_total{instance="n",mode="dynamic",package="0"} 20
kepler_node_package_joules_total{instance="n",mode="idle",package="0"} 10
kepler_node_package_joules_total{instance="n",mode="dynamic",package="1"} 5
kepler_container_joules_total{container_name="x",mode="dynamic"} 1
"""
KEPLER_NEW = """
kepler_node_cpu_joules_total{zone="package",path="/sys/class/powercap/intel-rapl:0"} 50
kepler_node_cpu_joules_total{zone="dram",path="/sys/class/powercap/intel-rapl:0:1"} 9
kepler_node_cpu_joules_total{zone="core",path="/sys/class/powercap/intel-rapl:0:0"} 40
"""
DCGM = """
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 300
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b"} 100
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b",GPU_I_ID="1"} 40
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a"} 5000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b"} 7000
"""


def read(tmp_path: Path, page: str, device: str | None = None, **options: object) -> list[tuple[Stream, float | None]]:
    """Streams of a page with their values."""
    with Exporter(lambda: page) as exporter:
        (tmp_path / "o.yaml").write_text(yaml.safe_dump({"source": exporter.url} | options))
        source = EndpointSource(load(str(tmp_path / "o.yaml")))
        source.open(device)
        reading: Reading = source.poll()[0]
    return list(zip(source.streams, reading.values, strict=True))


def test_dcgm_counts_millijoules_card_by_card_and_leaves_instances_out(tmp_path: Path) -> None:
    found = {(s.device, s.quantity): value for s, value in read(tmp_path, DCGM)}
    assert found == {
        ("GPU-a", Quantity.ENERGY_J): 5.0,
        ("GPU-b", Quantity.ENERGY_J): 7.0,
        ("GPU-a", Quantity.POWER_MEAN_W): 300.0,
        ("GPU-b", Quantity.POWER_MEAN_W): 100.0,
    }
    assert {s.device for s, _ in read(tmp_path, DCGM, device="b")} == {"GPU-b"}


def test_kepler_adds_up_modes_and_never_unlike_scopes(tmp_path: Path) -> None:
    old = {(s.scope, s.device): value for s, value in read(tmp_path, KEPLER_OLD)}
    assert old == {
        ("node by Kepler", "node by Kepler"): 100.0,
        ("packages by Kepler", "0"): 30.0,
        ("packages by Kepler", "1"): 5.0,
    }
    new = {s.scope: value for s, value in read(tmp_path, KEPLER_NEW)}
    assert new == {"package by Kepler": 50.0, "dram by Kepler": 9.0, "core by Kepler": 40.0}


def test_an_unknown_exporter_with_one_series_in_a_unit_needs_no_options(tmp_path: Path) -> None:
    page = 'process_cpu_seconds_total 4\nplug_power_watts{name="desk"} 12.5\nplug_volts 230\n'
    ((stream, value),) = read(tmp_path, page)
    assert (stream.quantity, value, stream.name) == (Quantity.POWER_W, 12.5, 'plug_power_watts{name="desk"}')


def test_a_metric_is_chosen_by_labels_or_added_up_when_told_to(tmp_path: Path) -> None:
    page = 'outlet_watts{n="1"} 5\noutlet_watts{n="2"} 7\n'
    one = [{"metric": "outlet_watts", "labels": {"n": "2"}, "scope": "outlet 2"}]
    ((stream, value),) = read(tmp_path, page, channels=one)
    assert (stream.scope, value) == ("outlet 2", 7.0)
    ((_, total),) = read(tmp_path, page, channels=[{"metric": "outlet_watts", "sum": True}])
    assert total == 12.0


@pytest.mark.parametrize(
    ("page", "options", "words"),
    [
        ("outlet_watts{n='1'} 5", {}, "is no Prometheus text"),
        ('outlet_watts{n="1"} 5\noutlet_watts{n="2"} 7', {}, r'which series.*outlet_watts\{n="1"\}, outlet_watts'),
        ("up 1\nvolts 230", {}, "which series is the meter. metrics up, volts"),
        ("a_watts 5", {"channels": [{"metric": "b_watts"}]}, "no series b_watts; it has metrics a_watts"),
        ('a_watts{n="1"} 5', {"channels": [{"metric": "a_watts", "labels": {"n": "2"}}]}, 'its series: a_watts{n="1"}'),
        ("a 5", {"channels": [{"metric": "a"}]}, "names no unit"),
        (
            'a_watts{n="1"} 5\na_watts{n="2"} 5',
            {"channels": [{"metric": "a_watts"}]},
            r"2 series fit a_watts.*sum: true",
        ),
    ],
)
def test_a_page_that_does_not_tell_is_refused_with_what_it_has(
    tmp_path: Path, page: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, page, **options)


@pytest.mark.parametrize("host", ["10.0.0.7", "meters.example.org", "0.0.0.0", "[2001:db8::1]"])
def test_only_this_machine_is_asked(host: str) -> None:
    with pytest.raises(UserError, match=r"Only loopback addresses.*ssh -N -L 9400:127.0.0.1:9400"):
        METERS.get("external").options_of(f"http://{host}:9400/metrics")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9400/metrics", "http://localhost:1", "http://[::1]:9/metrics"])
def test_every_loopback_address_is_taken(url: str) -> None:
    assert METERS.get("external").options_of(url) == {"source": url}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("", "needs a source"),
        ("https://127.0.0.1/metrics", "not https://"),
        ("http://127.0.0.1:x/metrics", "Port could not be cast"),
        ("none.csv", "'none.csv' is no file"),
    ],
)
def test_arguments_that_name_nothing(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        METERS.get("external").options_of(argument)


def test_nothing_that_listens_is_said_at_once() -> None:
    exporter = Exporter(lambda: "")
    exporter.close()
    with pytest.raises(UserError, match="nothing listens"):
        EndpointSource(load(exporter.url)).open(None)
