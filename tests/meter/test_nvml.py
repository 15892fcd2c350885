from __future__ import annotations

import ctypes
import json
import math
import os
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import pynvml
import pytest
from fake_pynvml import UINT, ULL, Card, FakeNvml
from hypothesis import given
from hypothesis import strategies as st
from stub_nvml import build

from harness.meter import foreign
from harness.meter import nvml_fields as fields
from harness.meter.base import MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.energy import energy_of, scopes_of
from harness.meter.foreign import Kin
from harness.meter.nvml import NvmlMeter
from harness.types import UserError

A, B = "GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-1111"


def opened(fake: FakeNvml, device: str | None = A, pid: int | None = None) -> tuple[NvmlMeter, MeterInfo]:
    meter = NvmlMeter(nvml=fake)
    return meter, meter.open(pid, device)


def by_name(info: MeterInfo, samples: list[Sample]) -> dict[str, Sample]:
    return {info.channels[sample.channel].name: sample for sample in samples}


def test_millijoules_and_milliwatts_become_joules_and_watts_with_the_drivers_time():
    meter, info = opened(FakeNvml(Card(A).all_fields()))
    read = by_name(info, meter.read())
    assert read["gpu0/energy"].value == 1000.0
    assert read["gpu0/power"].value == 300.0
    assert read["gpu0/power_mean"].value == 295.0
    assert read["gpu0/throttle_power_cap"].value == 123
    assert read["gpu0/temperature"].value == 50
    assert read["gpu0/power_limit"].value == 350.0
    assert read["gpu0/foreign"].value == 0
    assert read["gpu0/energy"].sensor_ns == 1_700_000_000_000_000_000
    assert scopes_of(info) == ["gpu"]
    assert all(channel.device == A for channel in info.channels)
    assert info.source == "NVML, NVIDIA H100 PCIe, driver 580.95.05"


def test_one_field_values_call_per_sample_and_the_slow_ones_once_a_second():
    fake = FakeNvml(Card(A).all_fields())
    meter, _ = opened(fake)
    fake.calls.clear()
    for _ in range(5):
        meter.read()
    assert fake.calls.count("nvmlDeviceGetFieldValues") == 5
    assert fake.calls.count("nvmlDeviceGetTemperatureV") == 1
    assert len(fake.calls) == 8


def test_the_card_is_found_by_uuid_whatever_cuda_calls_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    fake = FakeNvml(Card(A).all_fields(), Card(B, power_mw=111_000).all_fields())
    for device in (B, B.removeprefix("GPU-")):  # torch leaves the prefix out
        meter, info = opened(fake, device)
        assert by_name(info, meter.read())["gpu0/power"].value == 111.0
        assert {channel.device for channel in info.channels} == {B}


def test_several_cards_and_all_cards():
    fake = FakeNvml(Card(A).all_fields(), Card(B, power_mw=111_000).all_fields())
    for device in (None, f"{A},{B}"):
        meter, info = opened(fake, device)
        read = by_name(info, meter.read())
        assert (read["gpu0/power"].value, read["gpu1/power"].value) == (300.0, 111.0)


def test_an_unknown_uuid_names_those_there_are():
    with pytest.raises(UserError, match=f"knows no card GPU-cc; it sees {A}, {B}"):
        opened(FakeNvml(Card(A), Card(B)), "GPU-cc")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, ReadStatus.UNSUPPORTED),
        (pynvml.NVML_ERROR_NO_PERMISSION, ReadStatus.DENIED),
        (pynvml.NVML_ERROR_GPU_IS_LOST, ReadStatus.LOST),
        (pynvml.NVML_ERROR_RESET_REQUIRED, ReadStatus.LOST),
        (pynvml.NVML_ERROR_TIMEOUT, ReadStatus.MISSING),
        (pynvml.NVML_ERROR_NO_DATA, ReadStatus.MISSING),
        (pynvml.NVML_ERROR_UNKNOWN, ReadStatus.MISSING),
    ],
)
def test_a_fields_return_code_is_looked_at_before_its_value(code, status):
    card = Card(A).all_fields()
    meter, info = opened(FakeNvml(card))
    card.fields[83, 0] = (code, ULL, 999_999_999)
    read = by_name(info, meter.read())
    assert (read["gpu0/energy"].status, read["gpu0/energy"].value) == (status, None)
    assert read["gpu0/power"].status is ReadStatus.OK


@pytest.mark.parametrize(
    "answer", [(0, UINT, 0xFFFF_FFFF), (0, ULL, 0xFFFF_FFFF_FFFF_FFFF), (0, 42, 300_000), (0, 5, -1)]
)
def test_not_available_is_missing_and_never_a_number(answer):
    card = Card(A).all_fields()
    meter, info = opened(FakeNvml(card))
    card.fields[186, 0] = answer
    read = by_name(info, meter.read())["gpu0/power"]
    assert (read.status, read.value) == (ReadStatus.MISSING, None)


def test_a_card_lost_in_mid_run_is_lost_not_zero_and_comes_back():
    card = Card(A).all_fields()
    meter, info = opened(FakeNvml(card))
    meter.read()
    card.lost = True
    lost = meter.read()
    assert {sample.status for sample in lost} == {ReadStatus.LOST}
    assert all(sample.value is None for sample in lost)
    card.lost = False
    assert by_name(info, meter.read())["gpu0/energy"].status is ReadStatus.OK
    meter.close()


def test_without_fields_the_older_calls_stand_in_and_say_so():
    card = Card(A, "Tesla V100", failing={"nvmlDeviceGetFieldValues": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
    meter, info = opened(FakeNvml(card, driver="390.1"))
    quantities = {channel.name: channel.quantity for channel in info.channels}
    assert quantities["gpu0/energy"] is Quantity.ENERGY_J
    assert quantities["gpu0/power_mean"] is Quantity.POWER_MEAN_W
    assert "gpu0/power" not in quantities
    read = by_name(info, meter.read())
    assert (read["gpu0/energy"].value, read["gpu0/power_mean"].value) == (1000.0, 300.0)
    notes = " ".join(info.assumptions)
    assert "nvmlDeviceGetPowerUsage stands in" in notes
    assert "no field for energy (unsupported), power (unsupported)" in notes


def test_a_card_without_counter_has_power_alone():
    card = Card(A).all_fields()
    del card.fields[83, 0]
    card.failing = {"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED}
    meter, info = opened(FakeNvml(card))
    assert Quantity.ENERGY_J not in {channel.quantity for channel in info.channels}
    samples = [Sample(s.channel, s.at_ns + i * 50_000_000, s.status, s.value) for i in range(21) for s in meter.read()]
    first = min(sample.at_ns for sample in samples)
    energy = energy_of(info.model_copy(update={"sample_hz": 20.0}), samples, first, first + 10**9)
    assert energy.joules == pytest.approx(300, rel=0.01)
    assert "integral of instant power" in energy.source


def test_a_card_with_nothing_to_read_is_refused():
    dead = Card(
        A,
        "GRID vGPU",
        virtualization=2,
        failing={
            "nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED,
            "nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NOT_SUPPORTED,
        },
    )
    with pytest.raises(UserError, match="neither energy nor power"):
        opened(FakeNvml(dead))


def test_the_counter_of_a_gh200_is_named_the_modules():
    card = Card(A, "NVIDIA GH200 480GB").all_fields()
    card.fields[186, 1] = (0, UINT, 700_000)
    _, info = opened(FakeNvml(card))
    scopes = {channel.name: channel.scope for channel in info.channels}
    assert scopes["gpu0/energy"] == scopes["gpu0/module_power"] == "module"
    assert scopes["gpu0/power"] == "gpu"
    assert scopes_of(info)[0] == "module"
    assert any("whole module" in note for note in info.assumptions)


def test_a_board_is_read_once_for_all_its_instances():
    instance = A.replace("GPU", "MIG")
    meter, info = opened(FakeNvml(Card(A, mig=True).all_fields(), Card(B).all_fields()), f"{instance}a,{instance}b,{B}")
    devices = {channel.device for channel in info.channels}
    assert devices == {f"{instance}a", B}
    assert any(f"{instance}b is on the same board as {instance}a" in note for note in info.assumptions)
    assert len([sample for sample in meter.read() if "energy" in info.channels[sample.channel].name]) == 2


def test_torch_gives_an_instance_without_its_kind():
    instance = A.replace("GPU", "MIG") + "a"
    for name in (instance.removeprefix("MIG-"), instance.replace("MIG", "GPU")):
        _, info = opened(FakeNvml(Card(A, mig=True).all_fields()), name)
        assert {channel.device for channel in info.channels} == {instance}
        assert scopes_of(info) == ["board"]


@pytest.mark.parametrize(
    ("card", "scope", "says"),
    [
        (Card(A, mig=True), "board", "cut into MIG instances"),
        (Card(A, virtualization=2), "vgpu", "is a virtual GPU"),
        (Card(A, virtualization=3), "board", "shared out to virtual machines"),
        (Card(A, virtualization=1), "gpu", ""),  # passed through whole
    ],
)
def test_what_a_shared_card_covers_is_named(card, scope, says):
    _, info = opened(FakeNvml(card.all_fields()))
    assert scopes_of(info) == [scope]
    assert any(says in note for note in info.assumptions)


@pytest.mark.parametrize(
    ("failing", "says"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "lost or needs a reset"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "this user may not read them"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "a virtual GPU or an old card"),
    ],
)
def test_a_card_that_gives_nothing_is_refused_with_the_reason(failing, says):
    calls = ["nvmlDeviceGetFieldValues", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]
    with pytest.raises(UserError, match=says):
        opened(FakeNvml(Card(A, failing=dict.fromkeys(calls, failing))))


def test_a_card_that_is_lost_before_it_is_opened_is_a_users_error():
    with pytest.raises(UserError, match="NVML can't reach the card GPU-aaaaaaaa-0000: GPU is lost"):
        opened(FakeNvml(Card(A, lost=True)))


def test_identity_and_modes_are_recorded_or_said_to_be_not_readable():
    facts = {
        "nvmlDeviceGetBoardPartNumber": "900-21010-0000-000",
        "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:17:00.0"),
        "nvmlDeviceGetVbiosVersion": "96.00.5E.00.01",
        "nvmlDeviceGetEccMode": [1, 0],
        "nvmlDeviceGetPersistenceMode": 0,
        "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
        "nvmlDeviceGetMaxClockInfo": 1980,
    }
    _, info = opened(FakeNvml(Card(A, facts=facts).all_fields()))
    assert (
        f"{A}: part 900-21010-0000-000, PCI 00000000:17:00.0, VBIOS 96.00.5E.00.01, ECC on, MIG off, "
        "persistence mode off, power limit 350 W, by default 700 W, application clocks not readable, "
        "highest clocks 1980 MHz and memory 1980 MHz"
    ) in info.assumptions


@pytest.mark.parametrize(
    ("name", "period_s", "look_s", "says"),
    [
        ("NVIDIA H100 PCIe", 0.1, 0.0226, "SC24"),
        ("NVIDIA A100 80GB PCIe", 0.1, 0.0243, "SC24"),
        ("NVIDIA A100-SXM4-80GB", 0.1, 0.0243, "SC24"),
        ("NVIDIA A100-PCIE-40GB", 0.1, 0.0187, "SC24"),
        ("Tesla V100-SXM2-16GB", 0.02, 0.0106, "SC24"),
        ("NVIDIA H100 80GB HBM3", 0.1, 0.025, "nobody has published"),
        ("NVIDIA GeForce RTX 4090", 0.1, 0.025, "nobody has published"),
    ],
)
def test_how_long_the_sensor_looks_is_published_or_said_to_be_taken(name, period_s, look_s, says):
    _, info = opened(FakeNvml(Card(A, name).all_fields()))
    assert (info.update_period_s, info.look_s) == (period_s, look_s)
    assert any(says in note for note in info.assumptions)


def test_unlike_cards_share_no_published_figure():
    fake = FakeNvml(Card(A, "Tesla V100-SXM2-16GB").all_fields(), Card(B, "NVIDIA H100 PCIe").all_fields())
    _, info = opened(fake, None)
    assert (info.update_period_s, info.look_s) == (0.1, 0.025)


REAL = """
import json, sys
import pynvml
from harness.meter import nvml_fields as fields
from harness.meter.nvml import NvmlMeter

meter = NvmlMeter()
info = meter.open(None, sys.argv[1] if len(sys.argv) > 1 else None)
read = {info.channels[s.channel].name: [s.status, s.value, s.sensor_ns] for s in meter.read()}
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
wanted = [fields.Wanted(f, s, i, 1.0) for i, (f, s) in enumerate([(83, 0), (185, 0), (186, 0), (186, 1), (9999, 0)])]
direct = fields.Fields(pynvml, handle, wanted)
public = fields.Fields(type("Hidden", (), {"__getattr__": lambda _, name: getattr(pynvml, name)})(), handle, wanted)
ways = []
for one in (direct, public):
    for _ in range(3):
        ways.append([[s.channel, s.status] for s in one.read(0)])
print(json.dumps({"read": read, "ways": ways, "notes": info.assumptions}))
"""


def real(tmp_path, *without: str, cards: int = 1) -> dict:
    """What the meter reads by the real ``pynvml`` from a library that stands in for NVIDIA's."""
    environment = os.environ | build(tmp_path, *without) | {"STUB_NVML_CARDS": str(cards)}
    done = subprocess.run([sys.executable, "-c", REAL], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_real_pynvml_is_called_directly_and_by_its_own_function_alike(tmp_path):
    told = real(tmp_path, cards=2)
    assert {"gpu0/energy", "gpu0/power", "gpu1/energy", "gpu1/throttle_power_brake"} <= told["read"].keys()
    status, watts, stamp = told["read"]["gpu1/power"]
    assert status == "ok"
    assert 300 <= watts < 400
    assert abs(stamp - time.time_ns()) < 60e9
    expected = [[0, "ok"], [1, "ok"], [2, "ok"], [3, "unsupported"], [4, "unsupported"]]
    assert all(way == expected for way in told["ways"])


def test_a_driver_without_field_values_is_read_by_the_older_calls(tmp_path):
    told = real(tmp_path, "OLD")
    assert told["read"]["gpu0/energy"][0] == "ok"
    assert told["read"]["gpu0/power_mean"] == ["ok", 350.0, None]
    assert "gpu0/power" not in told["read"]


def test_a_card_before_volta_has_mean_power_alone(tmp_path):
    told = real(tmp_path, "OLD", "VOLTA")
    assert "gpu0/energy" not in told["read"]
    assert told["read"]["gpu0/power_mean"] == ["ok", 350.0, None]
    assert any("nvmlDeviceGetPowerUsage stands in" in note for note in told["notes"])


def test_a_field_that_the_driver_leaves_out_is_missing_not_zero_nor_stale(tmp_path):
    told = real(tmp_path, "FORGETFUL")
    assert told["read"]["gpu0/power_mean"] == ["missing", None, None]


def test_a_mig_instance_reads_its_board_and_says_so():
    _, info = opened(FakeNvml(Card(A).all_fields()), A.replace("GPU", "MIG"))
    assert scopes_of(info) == ["board"]
    assert any("whole board" in note for note in info.assumptions)


@pytest.mark.parametrize(
    ("driver", "known"), [("570.86.10", False), ("575.51.03", False), ("580.65.06", False), ("580.82.07", True)]
)
def test_renumbered_throttle_fields_are_left_alone_on_older_drivers(driver, known):
    _, info = opened(FakeNvml(Card(A).all_fields(), driver=driver))
    names = {channel.name for channel in info.channels}
    assert "gpu0/throttle_thermal" in names
    assert ("gpu0/throttle_power_brake" in names) is known


def test_field_numbers_are_those_of_the_installed_pynvml():
    assert pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION == fields.ENERGY
    assert pynvml.NVML_FI_DEV_POWER_INSTANT == fields.POWER
    assert pynvml.NVML_FI_DEV_POWER_AVERAGE == fields.POWER_MEAN
    assert pynvml.NVML_FI_DEV_PERF_POLICY_POWER == 74
    assert pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL == 75
    assert pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN == 269
    assert pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN == 270
    assert pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN == 271
    assert (pynvml.NVML_POWER_SCOPE_GPU, pynvml.NVML_POWER_SCOPE_MODULE, pynvml.NVML_POWER_SCOPE_MEMORY) == (0, 1, 2)
    types = [
        pynvml.NVML_VALUE_TYPE_DOUBLE,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
        pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG,
        pynvml.NVML_VALUE_TYPE_SIGNED_INT,
        pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT,
    ]
    assert types == list(range(7))


def test_the_layout_of_a_field_value_is_that_of_the_installed_pynvml():
    value = pynvml.c_nvmlFieldValue_t
    offsets = [getattr(value, name).offset for name, _ in value._fields_]
    sizes = [struct.calcsize("=" + fields.LAYOUT[:i]) for i in range(len(fields.LAYOUT))]
    assert offsets == sizes
    assert ctypes.sizeof(value) == struct.calcsize("=" + fields.LAYOUT)


@given(
    kind=st.sampled_from(list(enumerate(["uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal"], start=1))),
    bits=st.integers(0, 2**64 - 1),
)
def test_a_value_is_decoded_as_ctypes_reads_the_union(kind, bits):
    number, attribute = kind
    value = pynvml.c_nvmlValue_t.from_buffer_copy(struct.pack("=Q", bits))
    said = getattr(value, attribute)
    width = 8 * type(value).__dict__[attribute].size
    assert fields.decode(number, bits) == (said if 0 <= said < 2**width - 1 else None)


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_a_double_is_decoded_too_and_what_is_no_number_is_missing(number):
    assert fields.decode(0, struct.unpack("=Q", struct.pack("=d", number))[0]) == number
    for bad in (math.nan, math.inf, -1.0):
        assert fields.decode(0, struct.unpack("=Q", struct.pack("=d", bad))[0]) is None
    assert fields.decode(7, 1) is None


def test_everything_called_exists_in_the_installed_pynvml():
    called = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert [name for name in called if not callable(getattr(pynvml, name, None))] == []


def test_availability_says_what_is_missing():
    assert NvmlMeter.available(FakeNvml(Card(A))) is None
    assert "sees no NVIDIA card" in NvmlMeter.available(FakeNvml())
    missing = NvmlMeter.available(FakeNvml(init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert "NVML Shared Library Not Found" in missing
    assert "--gpus all" in missing


def test_nvml_is_shut_down_once():
    fake = FakeNvml(Card(A).all_fields())
    meter, _ = opened(fake)
    assert fake.open == 1
    meter.close()
    meter.close()
    assert fake.open == 0
    NvmlMeter.available(fake)
    assert fake.open == 0


def test_processes_outside_the_runs_tree_are_foreign(monkeypatch):
    monkeypatch.setattr(foreign, "in_pid_namespace", lambda: False)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        card = Card(A, processes=[os.getpid(), child.pid]).all_fields()
        meter, info = opened(FakeNvml(card), pid=os.getpid())
        assert by_name(info, meter.read())["gpu0/foreign"].value == 0
        meter, info = opened(FakeNvml(card), pid=child.pid)
        assert by_name(info, meter.read())["gpu0/foreign"].value == 1
        assert Kin(None).strangers([1, 2]) == 2
    finally:
        child.communicate(b"\n")


def test_in_a_container_the_runs_own_unknown_number_is_not_foreign(monkeypatch):
    monkeypatch.setattr(foreign, "in_pid_namespace", lambda: True)
    nobody = [4_194_300, 4_194_301]  # near the kernel's highest: no such processes here
    assert Kin(os.getpid()).strangers(nobody[:1]) == 0
    assert Kin(os.getpid()).strangers(nobody) == 1
    assert Kin(os.getpid()).strangers([os.getpid(), nobody[0]]) == 1
    assert Kin(os.getpid()).strangers([os.getppid(), nobody[0]]) == 1
