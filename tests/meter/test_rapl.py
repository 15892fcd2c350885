from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.meter.base import ReadStatus
from harness.meter.energy import energy_of
from harness.meter.rapl import RaplMeter, domains, mirrored, missing
from harness.types import UserError

RANGE = 262_143_328_850


def domain(root: Path, folder: str, name: str, energy_uj: int | None, limit: int | None = RANGE) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    if energy_uj is not None:
        (path / "energy_uj").write_text(f"{energy_uj}\n")
    if limit is not None:
        (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path


@pytest.fixture
def server(tmp_path):
    """Two sockets with memory, a platform domain, core and uncore parts, and the same again over MMIO."""
    for socket, energy in ((0, 1_000_000_000), (1, 5_000_000_000)):
        domain(tmp_path, f"intel-rapl:{socket}", f"package-{socket}", energy)
        domain(tmp_path, f"intel-rapl:{socket}:0", "core", 7)
        domain(tmp_path, f"intel-rapl:{socket}:1", "dram", energy // 10)
        domain(tmp_path, f"intel-rapl-mmio:{socket}", f"package-{socket}", energy)
    domain(tmp_path, "intel-rapl:2", "psys", 9_000_000_000)
    return tmp_path


def test_packages_and_memory_are_counted_once_and_nothing_else(server):
    meter = RaplMeter(server)
    info = meter.open(None, None)
    assert [channel.device for channel in info.channels] == ["package-0", "package-1", "dram-0", "dram-1"]
    assert {channel.scope for channel in info.channels} == {"packages and memory"}
    assert [sample.value for sample in meter.read()] == pytest.approx([1000, 5000, 100, 500])
    assert info.channels[0].wrap_at == pytest.approx(RANGE * 1e-6)
    meter.close()


def test_energy_is_the_sum_and_a_wrap_is_mended(server):
    meter = RaplMeter(server)
    info = meter.open(None, None).model_copy(update={"sample_hz": 1000.0})
    (server / "intel-rapl:0" / "energy_uj").write_text(f"{RANGE - 1_000_000}\n")
    first = meter.read()
    (server / "intel-rapl:0" / "energy_uj").write_text("2000000\n")
    (server / "intel-rapl:1" / "energy_uj").write_text("5010000000\n")
    second = meter.read()
    energy = energy_of(info, first + second, first[0].at_ns, second[0].at_ns)
    assert energy.joules == pytest.approx(3 + 10)
    meter.close()


def test_an_unreadable_range_is_said_and_its_wrap_is_missing(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000, limit=None)
    meter = RaplMeter(tmp_path)
    info = meter.open(None, None)
    assert any("wrap-around is missing" in note for note in info.assumptions)
    assert any("memory is not in the figure" in note for note in info.assumptions)
    first = meter.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n")
    second = meter.read()
    energy = energy_of(info, first + second, first[0].at_ns, second[0].at_ns)
    assert energy.joules is None
    meter.close()


def test_dies_that_mirror_one_counter_count_once(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0-die-0", 5_000_000)
    domain(tmp_path, "intel-rapl:1", "package-0-die-1", 5_000_000)
    domain(tmp_path, "intel-rapl:2", "package-1-die-0", 5_000_001)
    domain(tmp_path, "intel-rapl:3", "package-1-die-1", 0)
    domain(tmp_path, "intel-rapl:4", "package-2-die-0", 0)  # zero says nothing
    assert mirrored(domains(tmp_path)) == {"package-0-die-1": "package-0-die-0"}
    info = RaplMeter(tmp_path).open(None, None)
    assert "package-0-die-1" not in {channel.device for channel in info.channels}
    assert any("package-0-die-1 repeats the counter of package-0-die-0" in note for note in info.assumptions)


def test_what_is_missing_is_said(tmp_path):
    assert "does not exist (virtual machines have none" in missing(tmp_path / "nowhere")
    assert "no package domain" in missing(tmp_path)
    domain(tmp_path, "intel-rapl:0", "package-0", None)
    assert "package-0 may not be read by this user. Grant it: sudo chmod a+r" in missing(tmp_path)
    with pytest.raises(UserError, match="sudo chmod"):
        RaplMeter(tmp_path).open(None, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_gives_the_remedy(server):
    (server / "intel-rapl:1" / "energy_uj").chmod(0)
    assert "package-1 may not be read" in missing(server)


def test_a_counter_that_breaks_is_missing_not_zero(server):
    meter = RaplMeter(server)
    meter.open(None, None)
    (server / "intel-rapl:0" / "energy_uj").write_text("")
    first = meter.read()[0]
    assert (first.status, first.value) == (ReadStatus.MISSING, None)
    meter.close()
