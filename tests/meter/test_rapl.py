from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.energy import energy_of
from harness.meter.proctree import cpu_ns
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


def energies(info: MeterInfo) -> list[str]:
    return [channel.device for channel in info.channels if channel.quantity is Quantity.ENERGY_J]


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
    energies = [channel for channel in info.channels if channel.quantity is Quantity.ENERGY_J]
    assert [channel.device for channel in energies] == ["package-0", "package-1", "dram-0", "dram-1"]
    assert {channel.scope for channel in energies} == {"packages and memory"}
    assert [sample.value for sample in meter.read()][:4] == pytest.approx([1000, 5000, 100, 500])
    assert info.channels[0].wrap_at == pytest.approx(RANGE * 1e-6)
    meter.close()


def test_energy_is_the_sum_and_a_wrap_is_mended(server):
    meter = RaplMeter(server)
    info = meter.open(None, None).model_copy(update={"sample_hz": 1000.0})
    (server / "intel-rapl:0" / "energy_uj").write_text(f"{RANGE - 1_000_000}\n")
    first = meter.read()
    (server / "intel-rapl:0" / "energy_uj").write_text("2000000\n")
    (server / "intel-rapl:1" / "energy_uj").write_text("5010000000\n")
    second = [sample._replace(at_ns=sample.at_ns + 100_000_000) for sample in meter.read()]  # whatever the machine does
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
    (tmp_path / "intel-rapl").mkdir()
    (tmp_path / "intel-rapl:0").symlink_to(tmp_path / "masked")
    assert "a container hides them" in missing(tmp_path)


@pytest.fixture
def refusing(monkeypatch):
    """Makes counters answer with an error though they can be opened: root, who runs tests too, may read all."""
    errors: dict[Path, OSError] = {}
    read_text = Path.read_text

    def refuse(path: Path, *args, **kwargs) -> str:
        if path in errors:
            raise errors[path]
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    return errors


def test_permission_denied_gives_the_remedy(server, refusing):
    refusing[server / "intel-rapl:1" / "energy_uj"] = PermissionError(errno.EACCES, "Permission denied")
    assert "package-1 may not be read by this user. Grant it: sudo chmod a+r" in missing(server)
    with pytest.raises(UserError, match=r"70-rapl\.rules"):
        RaplMeter(server).open(None, None)


def test_a_package_that_opens_but_can_not_be_read_is_never_left_out_silently(server, refusing):
    refusing[server / "intel-rapl:1" / "energy_uj"] = OSError(errno.ENODATA, "No data available")
    with pytest.raises(UserError, match=r"can be opened but not read: package-1 \(No data available\)"):
        RaplMeter(server).open(None, None)


def test_memory_that_can_not_be_read_is_left_out_and_said_to_be(server, refusing):
    refusing[server / "intel-rapl:1:1" / "energy_uj"] = OSError(errno.ENODATA, "No data available")
    info = RaplMeter(server).open(None, None)
    assert energies(info) == ["package-0", "package-1", "dram-0"]
    assert "dram-1 can't be read and is left out" in info.assumptions


def test_a_counter_that_stands_at_0_is_none(server, tmp_path):
    (server / "intel-rapl:0:1" / "energy_uj").write_text("0\n")
    (server / "intel-rapl:1:1" / "energy_uj").write_text("0\n")
    info = RaplMeter(server).open(None, None)
    assert energies(info) == ["package-0", "package-1"]
    assert {channel.scope for channel in info.channels[:2]} == {"packages"}
    assert any("dram-0 stands at 0" in note for note in info.assumptions)
    assert any("memory is not in the figure" in note for note in info.assumptions)
    for socket in (0, 1):
        (server / f"intel-rapl:{socket}" / "energy_uj").write_text("0\n")
    with pytest.raises(UserError, match=r"no package that counts: .*package-0 stands at 0"):
        RaplMeter(server).open(None, None)


def test_dies_with_counters_of_their_own_both_count(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0-die-0", 5_000_000)
    domain(tmp_path, "intel-rapl:1", "package-0-die-1", 9_000_000)
    assert energies(RaplMeter(tmp_path).open(None, None)) == ["package-0-die-0", "package-0-die-1"]


def test_mirrored_memory_counts_once(tmp_path):
    for socket in (0, 1):
        domain(tmp_path, f"intel-rapl:{socket}", f"package-{socket}", 5_000_000 * (socket + 1))
        domain(tmp_path, f"intel-rapl:{socket}:0", "dram", 700_000)
    assert energies(RaplMeter(tmp_path).open(None, None)) == ["package-0", "package-1", "dram-0"]


def test_zones_of_the_same_name_are_told_apart(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    domain(tmp_path, "intel-rapl:3", "package-0", 9_000_000)
    info = RaplMeter(tmp_path).open(None, None)
    assert energies(info) == ["package-0 (intel-rapl:0)", "package-0 (intel-rapl:3)"]


def test_mmio_is_read_where_there_is_no_other(tmp_path):
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    info = RaplMeter(tmp_path).open(None, None)
    assert energies(info) == ["package-0"]
    assert any("MMIO" in note for note in info.assumptions)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.ENODEV, ReadStatus.LOST),
        (errno.EACCES, ReadStatus.DENIED),
        (errno.EIO, ReadStatus.MISSING),
        (errno.ENODATA, ReadStatus.MISSING),
    ],
)
def test_a_domain_that_goes_away_in_mid_run_has_its_status_and_no_number(server, monkeypatch, code, status):
    meter = RaplMeter(server)
    meter.open(None, None)

    def fail(*_):
        raise OSError(code, "gone")

    monkeypatch.setattr(os, "pread", fail)
    assert {(sample.status, sample.value) for sample in meter.read()[:4]} == {(status, None)}


def test_a_counter_that_may_have_gone_round_twice_in_a_silence_gives_no_joules(server):
    """At the highest plausible power 262 kJ go by in 26 s: after a longer silence nobody can tell."""
    info = RaplMeter(server).open(None, None).model_copy(update={"sample_hz": 20.0})

    def at(second: float, joules: float) -> list[Sample]:
        return [Sample(i, round(second * 1e9), ReadStatus.OK, joules + i) for i in range(4)]

    watched = [row for second in range(100) for row in at(second / 20, 100.0 + second)]
    short = [*watched, *at(25, 200.0)]
    assert energy_of(info, short, 0, round(4.95e9)).joules == pytest.approx(4 * 99, rel=1e-3)
    silent = [*watched, *at(60, 10.0), *[row for s in range(1, 100) for row in at(60 + s / 20, 10.0 + s)]]
    assert energy_of(info, silent, 0, round(64.95e9)).joules is None


def test_the_cpu_time_of_neighbours_is_told_from_the_runs_own(server):
    busy = "import time\nwhile True: pass"
    run, neighbour = (subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2))
    try:
        meter = RaplMeter(server)
        info = meter.open(run.pid, None)
        first = {info.channels[s.channel].quantity: s.value for s in meter.read()}
        began = cpu_ns(run.pid), cpu_ns(neighbour.pid)
        time.sleep(1.0)
        own, foreign = ((cpu_ns(p.pid) - b) / 1e9 for p, b in zip((run, neighbour), began, strict=True))
        last = {info.channels[s.channel].quantity: s.value for s in meter.read_last()}
    finally:
        for process in (run, neighbour):
            process.kill()
            process.wait()
    busy_s = last[Quantity.BUSY_CPU_S] - first[Quantity.BUSY_CPU_S]
    others_s = last[Quantity.FOREIGN_CPU_S] - first[Quantity.FOREIGN_CPU_S]
    assert busy_s - others_s == pytest.approx(own, abs=0.1)  # and the reader's own few milliseconds
    assert others_s >= foreign - 0.1


def test_cpu_time_is_read_four_times_a_second_and_missing_once_the_run_is_gone(server):
    run = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    meter = RaplMeter(server)
    meter.open(run.pid, None)
    assert [len(meter.read()) for _ in range(5)] == [6, 4, 4, 4, 4]
    run.communicate(b"\n")
    assert [sample.status for sample in meter.read_last()[4:]] == [ReadStatus.MISSING] * 2


def test_a_counter_that_breaks_is_missing_not_zero(server):
    meter = RaplMeter(server)
    meter.open(None, None)
    (server / "intel-rapl:0" / "energy_uj").write_text("")
    first = meter.read()[0]
    assert (first.status, first.value) == (ReadStatus.MISSING, None)
    meter.close()
