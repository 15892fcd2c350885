from __future__ import annotations

import gzip
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meter_samples import NS, channel, counter, info, ok

from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.samples import SYNC_READS, SamplesWriter, read, write
from harness.types import UserError

METER = info(
    channel(Quantity.ENERGY_J, quantum=1e-3),
    channel(Quantity.POWER_W, quantum=1e-3),
    channel(Quantity.TEMPERATURE_C),
)

values = st.one_of(
    st.integers(0, 10**12).map(lambda n: n * 1e-3), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 99)
)
sample = st.builds(
    lambda channel, status, value, sensor, step: (
        step,
        Sample(channel, 0, status, float(value) if status is ReadStatus.OK else None, sensor),
    ),
    st.integers(0, 2),
    st.sampled_from([*ReadStatus, ReadStatus.OK, ReadStatus.OK]),
    values,
    st.none() | st.integers(0, 2**62),
    st.sampled_from([0, 0, 1, 999, 50_000_000, 50_013_000]),
)


def timed(rows: list[tuple[int, Sample]]) -> list[Sample]:
    at, out = 12_345_678_901, []
    for step, row in rows:
        at += step
        out.append(Sample(row.channel, at, row.status, row.value, row.sensor_ns))
    return out


@given(st.lists(sample, max_size=50))
def test_what_is_read_is_what_was_written_and_bytes_repeat(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("samples")
    samples = timed(rows)
    assert write(folder / "a", METER, samples) == len(samples)
    back = read(folder / "a")
    assert back.info == METER
    assert list(back.samples) == samples
    assert back.torn == ""
    write(folder / "b", METER, back.samples)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def modelled(seconds: float = 10.0) -> tuple[MeterInfo, list[Sample]]:
    """20 Hz of a busy two-core process: jitter of the sampler and of the scheduler as seen on a shared machine."""
    rng = random.Random(3)
    meter = info(channel(Quantity.CPU_S, "cpu/seconds", quantum=1e-6, scale=4.0))
    at, used, samples = 5_000_000_000_000, 0, []
    for i in range(round(seconds * 20)):
        now = at + i * 50_000_000 + rng.randrange(60, 400) * 1000
        used += 98_000 + rng.randrange(-4000, 2000)
        samples.append(ok(0, now, used * 1e-6))
    return meter, samples


def card(seconds: float = 10.0) -> tuple[MeterInfo, list[Sample]]:
    """20 Hz of an NVML card: counter and power refreshed every 100 ms, throttle counters mostly still."""
    rng = random.Random(4)
    names = ["energy", "power", "power_mean", "power_cap", "thermal", "sw_thermal", "hw_thermal", "brake"]
    quantities = [Quantity.ENERGY_J, Quantity.POWER_W, Quantity.POWER_MEAN_W] + [Quantity.THROTTLE_NS] * 5
    meter = info(
        *(
            channel(q, f"gpu0/{n}", quantum=1.0 if q is Quantity.THROTTLE_NS else 1e-3)
            for q, n in zip(quantities, names, strict=True)
        )
    )
    at, energy, samples = 5_000_000_000_000, 10**9, []
    values = [0] * 8
    for i in range(round(seconds * 20)):
        now = at + i * 50_000_000 + rng.randrange(60, 400) * 1000
        if i % 2 == 0:
            watts = 400_000 + rng.randrange(-60_000, 60_000)
            energy += watts // 10
            values = [
                energy,
                watts,
                400_000 + rng.randrange(-2000, 2000),
                rng.randrange(3) * 10**7 + values[3],
                0,
                0,
                0,
                0,
            ]
        sensor = 1_700_000_000_000_000_000 + now
        samples += [
            Sample(c, now, ReadStatus.OK, v * meter.channels[c].quantum, sensor // 1000 * 1000)
            for c, v in enumerate(values)
        ]
    return meter, samples


@pytest.mark.parametrize(("make", "bits"), [(modelled, 40), (card, 11)])
def test_bits_per_sample_are_what_the_docstring_states(tmp_path, make, bits):
    meter, samples = make(60.0)
    path = tmp_path / "s"
    write(path, meter, samples)
    header = tmp_path / "h"
    write(header, meter, [])
    assert 8 * (path.stat().st_size - header.stat().st_size) / len(samples) < bits
    meter, samples = make(10.0)
    write(tmp_path / "ten", meter, samples)
    assert (tmp_path / "ten").stat().st_size < 4000


def test_the_writer_appends_read_by_read_to_the_same_bytes(tmp_path):
    meter, samples = card()
    write(tmp_path / "whole", meter, samples)
    with SamplesWriter(tmp_path / "live", meter) as writer:
        for i in range(0, len(samples), 8):
            writer.append(samples[i : i + 8])
    assert (tmp_path / "live").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_writer_that_never_closed_leaves_all_but_the_last_seconds(tmp_path):
    meter, samples = modelled(30.0)
    writer = SamplesWriter(tmp_path / "s", meter)
    for one in samples:
        writer.append([one])
    back = read(tmp_path / "s")  # as if the sampler had been killed here
    assert len(samples) - SYNC_READS <= len(back.samples) <= len(samples)
    assert back.samples == tuple(samples[: len(back.samples)])
    assert "cut at byte" in back.torn
    assert str(tmp_path / "s") in back.torn
    writer.close()
    assert read(tmp_path / "s").torn == ""


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_cut_file_is_read_up_to_the_cut_and_named(tmp_path, keep):
    meter, samples = card(60.0)
    path = tmp_path / "s"
    write(path, meter, samples)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    back = read(path)
    assert len(back.samples) > 0.5 * keep * len(samples)
    assert back.samples == tuple(samples[: len(back.samples)])
    assert back.torn.startswith(f"{path}: after {len(back.samples)} samples")


def test_a_flipped_bit_is_found(tmp_path):
    meter, samples = card(30.0)
    path = tmp_path / "s"
    write(path, meter, samples)
    data = bytearray(path.read_bytes())
    for at in range(1000, len(data), len(data) // 20):
        broken = data.copy()
        broken[at] ^= 0x10
        path.write_bytes(broken)
        assert read(path).torn, at


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("end 40\n", ""), "no end mark"),
        (lambda text: text.replace("end 40", "end 41"), "counts 41 samples, 40 are there"),
        (lambda text: text + "50000 1\n", "follows the end mark"),
        (lambda text: text.replace("end 40\n", "nonsense\nend 40\n"), "line 42 can't be read: 'nonsense'"),
        (lambda text: text.replace("end 40\n", "50000 7:1\nend 40\n"), "line 42 can't be read"),
    ],
)
def test_damage_within_a_sound_stream_is_named(tmp_path, change, says):
    path = tmp_path / "s"
    write(path, info(channel(Quantity.ENERGY_J)), counter(100, 2)[:40])
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(change(text).encode()))
    back = read(path)
    assert says in back.torn
    assert len(back.samples) == 40


def test_what_is_no_samples_file_is_refused(tmp_path):
    path = tmp_path / "s"
    path.write_text("hello")
    with pytest.raises(UserError, match="not a samples file"):
        read(path)
    path.write_bytes(gzip.compress(b"hello\n"))
    with pytest.raises(UserError, match="damaged in its first line"):
        read(path)
    path.write_bytes(gzip.compress(b'{"format":"harness-samples","version":9,"meter":{}}\n'))
    with pytest.raises(UserError, match="version 9, this harness reads 1 and 2"):
        read(path)


def test_raw_samples_are_never_overwritten(tmp_path):
    path = tmp_path / "s"
    write(path, METER, [])
    with pytest.raises(FileExistsError):
        write(path, METER, [])


def test_it_is_text_to_zcat(tmp_path):
    path = tmp_path / "s"
    write(path, METER, [Sample(0, NS, ReadStatus.OK, 1.5, 2 * NS), Sample(2, NS, ReadStatus.DENIED)])
    lines = subprocess.run(
        ["zcat"], stdin=path.open("rb"), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines[1:] == ["1000000 1500@2000000 2:d", "end 2"]


def test_a_timestamp_shared_with_the_neighbour_is_written_once(tmp_path):
    path = tmp_path / "s"
    samples = [
        Sample(0, NS, ReadStatus.OK, 1.5, 2 * NS),
        Sample(1, NS, ReadStatus.OK, 2.0, 2 * NS),
        Sample(2, NS, ReadStatus.OK, 3.0, 2 * NS + 1000),
        Sample(0, 2 * NS, ReadStatus.OK, 1.5, 3 * NS),
        Sample(1, 2 * NS, ReadStatus.OK, 2.0),
    ]
    write(path, METER, samples)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert lines[1:] == ["1000000 1500@2000000 2000@ 3@2000001", "1000000 0@1000000 0", "end 5"]
    assert list(read(path).samples) == samples


def test_files_of_version_1_are_still_read(tmp_path):
    path = tmp_path / "s"
    write(path, METER, [])
    header = gzip.decompress(path.read_bytes()).decode().splitlines()[0].replace('"version":2', '"version":1')
    lines = [header, "1000000 1500@2000000 2000@2000000 2:d", "50000 -500@50000 0@50010", "end 5"]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    back = read(path)
    assert back.torn == ""
    assert [sample.value for sample in back.samples] == [1.5, 2.0, None, 1.0, 2.0]
    assert [sample.sensor_ns for sample in back.samples] == [2 * NS, 2 * NS, None, 2_050_000_000, 2_050_010_000]


def test_a_shared_timestamp_without_a_neighbour_is_damage(tmp_path):
    path = tmp_path / "s"
    write(path, METER, [Sample(0, NS, ReadStatus.OK, 1.5, 2 * NS)])
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("1500@2000000", "1500@").encode()))
    assert "line 2 can't be read" in read(path).torn


def test_an_ok_sample_needs_a_value(tmp_path: Path):
    with pytest.raises(ValueError, match="needs a value"):
        write(tmp_path / "s", METER, [Sample(0, 0, ReadStatus.OK, None)])
