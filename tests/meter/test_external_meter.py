"""The external meter against real sources: a CSV that another thread writes, an HTTP server on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from external_sources import Exporter, growing

from harness.meter.base import METERS, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.energy import energy_of
from harness.meter.external.clock import drift_of
from harness.meter.external.meter import ExternalMeter
from harness.meter.sampler import Sampler
from harness.meter.samples import read as read_samples
from harness.meter.validity import reasons_against
from harness.types import Basis, UserError

NS = 1_000_000_000
WATTS = 250.0
PERIOD_S = 0.05


def watch(meter: ExternalMeter, seconds: float, device: str | None = None) -> tuple[MeterInfo, list[Sample], int, int]:
    """Meter for so long; info, samples, and the window."""
    info = meter.open(None, device)
    samples = meter.read()
    start_ns = time.monotonic_ns()
    while time.monotonic_ns() < start_ns + seconds * NS:
        time.sleep(0.01)
        samples += meter.read()
    end_ns = time.monotonic_ns()
    samples += meter.read_last()
    meter.close()
    return info, samples, start_ns, end_ns


def options(path: Path, source: str, **more: object) -> str:
    path.write_text(yaml.safe_dump({"source": source, "update_period_s": PERIOD_S} | more))
    return str(path)


def by_name(info: MeterInfo, samples: list[Sample], name: str) -> list[Sample]:
    index = next(i for i, channel in enumerate(info.channels) if channel.name == name)
    return [sample for sample in samples if sample.channel == index]


def plug(since: float) -> Callable[[float], str]:
    """Rows of a plug under a constant load: time, watts, watt hours."""
    return lambda now: f"{now:.6f},{WATTS},{WATTS * (now - since) / 3600:.9f}\n"


class TestTable:
    def test_a_growing_file_gives_the_energy_of_its_window(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w,energy_wh\n")
        with growing(table, plug(time.time()), PERIOD_S):
            time.sleep(0.2)
            meter = ExternalMeter(options(tmp_path / "plug.yaml", "plug.csv", scope="wall socket", accuracy_percent=1))
            info, samples, start, end = watch(meter, 1.0)
        energy = energy_of(info, samples, start, end)
        true_j = WATTS * (end - start) / NS
        assert energy.joules == pytest.approx(true_j, rel=0.01)
        assert energy.second_joules == pytest.approx(true_j, rel=0.01)
        assert (energy.basis, energy.scope, energy.coverage) == (Basis.MEASURED, "wall socket", 1.0)
        assert {c.quantity for c in info.channels} == {Quantity.POWER_W, Quantity.ENERGY_J, Quantity.CLOCK_LAG_S}
        assert info.channels[0].gain_error == pytest.approx(0.01 / 3**0.5)

    def test_readings_carry_the_sources_time_and_none_is_repeated(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w\n")
        with growing(table, lambda now: f"{now:.6f},{WATTS}\n", PERIOD_S):
            info, samples, *_ = watch(ExternalMeter(options(tmp_path / "p.yaml", "plug.csv")), 0.5)
        rows = {round(float(line.split(",")[0]) * 1e6) for line in table.read_text().splitlines()[1:]}
        stamps = [s.sensor_ns // 1000 for s in by_name(info, samples, "power_w") if s.sensor_ns is not None]
        assert len(stamps) > 8
        assert len(set(stamps)) == len(stamps)
        assert set(stamps) <= rows

    def test_a_change_of_load_is_placed_where_it_happened_however_late_its_row_came(self, tmp_path: Path) -> None:
        """A logger that writes in bursts: rows are late, their times are right."""
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w\n")
        step_s = time.time() + 2.0
        held: list[str] = []

        def burst(now: float) -> str:
            held.append(f"{now:.6f},{100.0 if now < step_s else 300.0}\n")
            if len(held) < 12:
                return ""
            rows, held[:] = "".join(held), []
            return rows

        with growing(table, burst, PERIOD_S):
            time.sleep(0.4)
            meter = ExternalMeter(options(tmp_path / "p.yaml", "plug.csv", wait_s=3))
            info = meter.open(None, None)
            samples = meter.read()
            to_mono = time.monotonic_ns() - time.time_ns()
            step_ns = round(step_s * NS) + to_mono
            while time.monotonic_ns() < step_ns + NS // 2:
                time.sleep(0.02)
                samples += meter.read()
            samples += meter.read_last()
        energy = energy_of(info, samples, step_ns - NS // 2, step_ns + NS // 2)
        assert energy.joules == pytest.approx(200.0, abs=300 * 2 * PERIOD_S)
        assert energy.coverage == pytest.approx(1.0, abs=0.02)

    def test_the_end_of_a_window_is_waited_for(self, tmp_path: Path) -> None:
        """Without the wait the last row is up to a period older than the window's end."""
        table = tmp_path / "plug.csv"
        table.write_text("time,energy_j\n")
        since = time.time()
        with growing(table, lambda now: f"{now:.6f},{WATTS * (now - since)}\n", 0.3):
            time.sleep(0.7)
            meter = ExternalMeter(options(tmp_path / "p.yaml", "plug.csv", update_period_s=0.3))
            info, samples, start, end = watch(meter, 0.8)
        assert max(sample.at_ns for sample in samples if sample.channel == 0) >= end
        assert energy_of(info, samples, start, end).coverage == 1.0

    def test_a_logger_that_stops_leaves_missing_samples_and_no_energy_for_the_rest(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w\n")
        with growing(table, lambda now: f"{now:.6f},{WATTS}\n", PERIOD_S) as stop:
            meter = ExternalMeter(options(tmp_path / "p.yaml", "plug.csv", wait_s=0.1))
            info = meter.open(None, None)
            samples, start = meter.read(), time.monotonic_ns()
            while time.monotonic_ns() < start + 1.3 * NS:
                if time.monotonic_ns() > start + 0.4 * NS:
                    stop.set()
                time.sleep(0.01)
                samples += meter.read()
        power = by_name(info, samples, "power_w")
        missing = [s for s in power if s.status is ReadStatus.MISSING]
        assert 4 < len(missing) < 30  # once a period, not once a read
        energy = energy_of(info, samples, start, time.monotonic_ns())
        assert energy.joules is None
        assert energy.coverage < 0.5

    def test_a_cell_that_is_no_number_is_missing(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w\n")
        rows = iter(range(10_000))
        with growing(table, lambda now: f"{now:.6f},{'NaN' if next(rows) % 5 == 0 else WATTS}\n", PERIOD_S):
            info, samples, *_ = watch(ExternalMeter(options(tmp_path / "p.yaml", "plug.csv")), 0.6)
        power = by_name(info, samples, "power_w")
        assert {s.status for s in power} == {ReadStatus.OK, ReadStatus.MISSING}
        assert {s.value for s in power} == {WATTS, None}

    def test_a_counter_that_starts_again_is_no_energy(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,energy_kwh\n")
        since = time.time()

        def row(now: float) -> str:
            kwh = WATTS * (now - since) / 3.6e6
            return f"{now:.6f},{1.0 + kwh if now - since < 0.9 else kwh:.9f}\n"

        with growing(table, row, PERIOD_S):
            time.sleep(0.3)
            info, samples, start, end = watch(ExternalMeter(options(tmp_path / "p.yaml", "plug.csv")), 1.0)
        assert any("reset" in reason for reason in reasons_against(info, samples, [(start, end)]))
        joules = energy_of(info, samples, start, end).joules
        assert joules == pytest.approx(WATTS * (end - start) / NS, rel=0.15)  # never the kilowatt hour

    def test_a_file_that_is_replaced_is_lost_once_and_followed_again(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text(f"time,power_w\n{time.time():.3f},{WATTS}\n")
        meter = ExternalMeter(options(tmp_path / "p.yaml", "plug.csv"))
        meter.open(None, None)
        meter.read()
        (tmp_path / "new.csv").write_text("time,power_w\n")
        (tmp_path / "new.csv").replace(table)
        assert [s.status for s in meter.read()] == [ReadStatus.LOST]
        with table.open("a") as stream:
            stream.write(f"{time.time():.6f},{WATTS}\n")
        assert ReadStatus.OK in {s.status for s in meter.read()}
        table.unlink()
        assert [s.status for s in meter.read()] == [ReadStatus.LOST]
        meter.close()


class TestClock:
    @pytest.mark.parametrize("hours", [1, -1])
    def test_a_clock_an_hour_off_is_refused_with_the_cure(self, tmp_path: Path, hours: int) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w\n")
        with (
            growing(table, lambda now: f"{now + 3600 * hours:.6f},{WATTS}\n", PERIOD_S),
            pytest.raises(UserError, match=rf"clock_offset_s: {'-' if hours < 0 else ''}3[56]\d\d\..*time zone"),
        ):
            ExternalMeter(options(tmp_path / "p.yaml", "plug.csv")).open(None, None)

    @pytest.mark.parametrize("offset", [3600.0, "auto"])
    def test_a_known_offset_is_taken_out(self, tmp_path: Path, offset: float | str) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,energy_j\n")
        since = time.time()
        with growing(table, lambda now: f"{now + 3600:.6f},{WATTS * (now - since)}\n", PERIOD_S):
            time.sleep(0.2)
            meter = ExternalMeter(options(tmp_path / "p.yaml", "plug.csv", clock_offset_s=offset))
            info, samples, start, end = watch(meter, 0.5)
        assert energy_of(info, samples, start, end).joules == pytest.approx(WATTS * (end - start) / NS, rel=0.02)
        drift = drift_of(info, samples)
        assert drift is not None
        assert drift.readings > 5
        least_s = 0 if offset == 3600.0 else -PERIOD_S  # auto takes the lag for a part of the offset
        assert least_s <= drift.median_lag_s < 0.1

    def test_a_clock_that_jumps_in_mid_run_makes_readings_missing(self, tmp_path: Path) -> None:
        table = tmp_path / "plug.csv"
        table.write_text("time,power_w\n")
        since = time.time()
        with growing(table, lambda now: f"{now + (3600 if now - since > 0.9 else 0):.6f},{WATTS}\n", PERIOD_S):
            time.sleep(0.2)
            meter = ExternalMeter(options(tmp_path / "p.yaml", "plug.csv", wait_s=0.1))
            info, samples, start, end = watch(meter, 1.3)
        assert ReadStatus.MISSING in {s.status for s in by_name(info, samples, "power_w")}
        assert energy_of(info, samples, start, end).coverage < 0.95


class TestEndpoint:
    def test_dcgm_shows_the_card_that_is_asked_for(self) -> None:
        since = time.monotonic()

        def page() -> str:
            mj = {
                uuid: 1e9 + watts * 1e3 * (time.monotonic() - since) for uuid, watts in (("GPU-a", 300), ("GPU-b", 7))
            }
            lines = ["# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter"]
            lines += [f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="{i}",UUID="{u}"}} {mj[u]}' for i, u in enumerate(mj)]
            lines += [f'DCGM_FI_DEV_POWER_USAGE{{gpu="{i}",UUID="{u}"}} 300' for i, u in enumerate(mj)]
            return "\n".join([*lines, "go_gc_duration_seconds 1"])

        with Exporter(page) as exporter:
            meter = ExternalMeter(exporter.url)
            info, samples, start, end = watch(meter, 2.2, device="a")
        assert {c.device for c in info.channels} == {"GPU-a"}
        energy = energy_of(info, samples, start, end)
        assert energy.uncertainty_j is not None
        assert energy.scope == "gpu by DCGM"
        assert abs((energy.joules or 0) - 300 * (end - start) / NS) < 2 * energy.uncertainty_j
        with Exporter(page) as exporter, pytest.raises(UserError, match="shows no card GPU-c; it shows GPU-a, GPU-b"):
            ExternalMeter(exporter.url).open(None, "c")

    def test_a_page_with_timestamps_is_placed_by_them(self, tmp_path: Path) -> None:
        """The exporter reads its plug every 100 ms and serves the last reading with its time."""
        since = time.time()

        def page() -> str:
            read_s = int(time.time() * 10) / 10
            return f"plug_joules_total {WATTS * (read_s - since)} {round(read_s * 1000)}"

        with Exporter(page) as exporter:
            time.sleep(0.2)
            source = options(tmp_path / "p.yaml", exporter.url, update_period_s=0.1)
            info, samples, start, end = watch(ExternalMeter(source), 1.5)
        joules = by_name(info, samples, "plug_joules_total")
        assert len({s.sensor_ns for s in joules}) == len(joules)
        assert energy_of(info, samples, start, end).joules == pytest.approx(WATTS * (end - start) / NS, rel=0.02)

    def test_a_server_that_goes_away_is_lost(self, tmp_path: Path) -> None:
        exporter = Exporter(lambda: f"plug_watts {WATTS}")
        meter = ExternalMeter(options(tmp_path / "p.yaml", exporter.url))
        info = meter.open(None, None)
        samples, start = meter.read(), time.monotonic_ns()
        while time.monotonic_ns() < start + NS:
            if time.monotonic_ns() > start + 0.3 * NS:
                exporter.close()
            time.sleep(0.01)
            samples += meter.read()
        meter.close()
        window = (start, time.monotonic_ns())
        assert ReadStatus.LOST in {s.status for s in samples}
        assert any("was lost" in reason for reason in reasons_against(info, samples, [window]))
        assert energy_of(info, samples, *window).joules is None

    def test_errors_gaps_and_nan_are_missing(self, tmp_path: Path) -> None:
        pages = iter(["plug_watts 5", "plug_watts 5", "plug_watts NaN", "other 1", "not { a page"])

        def page() -> str:
            return next(pages)  # and then: StopIteration, status 500

        with Exporter(page) as exporter:
            info, samples, *_ = watch(ExternalMeter(options(tmp_path / "p.yaml", exporter.url)), 0.4)
        assert [s.status for s in samples[:4]] == [ReadStatus.OK, *[ReadStatus.MISSING] * 3]
        assert {s.status for s in samples[4:]} == {ReadStatus.MISSING}
        assert info.channels[0].name == "plug_watts"

    def test_a_value_without_time_that_stands_still_is_not_believed_for_ever(self, tmp_path: Path) -> None:
        with Exporter(lambda: f"plug_watts {WATTS}") as exporter:
            source = options(tmp_path / "p.yaml", exporter.url, stale_s=0.4)
            _, samples, start, _ = watch(ExternalMeter(source), 1.0)
        statuses = [(s.at_ns - start, s.status) for s in samples]
        assert all(status is ReadStatus.OK for at, status in statuses if at < 0.3 * NS)
        assert all(status is ReadStatus.MISSING for at, status in statuses if at > 0.5 * NS)


def test_the_sampler_reads_it_in_its_own_process_at_the_sources_rate(tmp_path: Path) -> None:
    table = tmp_path / "plug.csv"
    table.write_text("timestamp,power_w,energy_wh\n")
    since = time.time()

    def row(now: float) -> str:
        stamp = datetime.fromtimestamp(now, UTC).isoformat()
        return f"{stamp},{WATTS},{WATTS * (now - since) / 3600:.9f}\n"

    with growing(table, row, 0.1), Sampler("external", METERS.get("external").options_of(str(table))) as sampler:
        time.sleep(0.5)
        info = sampler.start(None, None, tmp_path / "samples")
        start = time.monotonic_ns()
        time.sleep(1.0)
        end = time.monotonic_ns()
        sampler.stop()
    assert info.sample_hz == pytest.approx(10, rel=0.2)
    recording = read_samples(tmp_path / "samples")
    assert recording.torn == ""
    energy = energy_of(recording.info, recording.samples, start, end)
    assert energy.joules == pytest.approx(WATTS * (end - start) / NS, rel=0.02)
    assert energy.coverage == 1.0
