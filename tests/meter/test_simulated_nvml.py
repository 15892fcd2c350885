"""The face of the simulated driver: the calls of pynvml that harness, Zeus and CodeCarbon make, and how they fail."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pynvml
import pytest

import harness
from harness.meter.base import ReadStatus
from harness.meter.nvml import NvmlMeter
from harness.meter.simulated.load import Load
from harness.meter.simulated.nvml import EPOCH_S, SimulatedNvml
from harness.meter.simulated.play import VirtualClock
from harness.meter.simulated.scenario import Card, Counter, Fault, FaultKind, Part, Scenario, Sensor
from harness.types import Basis

FULL_LOAD = Load(curve=((0, 300), (10, 500)))
FIELDS = {"energy": 83, "power_mean": 185, "power": 186, "throttle": 75}
MODULE, MEMORY = 1, 2


class Driver:
    """A simulated driver with its clock and a handle on its first card."""

    def __init__(self, *cards: Card, driver: str = "580.95.05", idle: Load | None = None, own=tuple, **card) -> None:
        self.clock = VirtualClock()
        scenario = Scenario(load=FULL_LOAD, cards=cards or (Card(**card),), driver=driver, idle=idle)
        self.nvml = SimulatedNvml(scenario, clock=self.clock, sleep=self.clock.advance, own=own)
        self.nvml.nvmlInit()
        self.handle = self.nvml.nvmlDeviceGetHandleByIndex(0)

    def at(self, seconds: float) -> Driver:
        self.clock.advance(seconds - self.nvml.seconds)
        return self

    def field(self, id_: int, scope: int = 0):
        return self.nvml.nvmlDeviceGetFieldValues(self.handle, [(id_, scope)])[0]

    def ask(self, function: str, *arguments):
        return getattr(self.nvml, function)(self.handle, *arguments)

    def code(self, function: str, *arguments) -> int:
        with pytest.raises(pynvml.NVMLError) as caught:
            self.ask(function, *arguments)
        return caught.value.value


def faulty(kind: FaultKind, **fields) -> Driver:
    return Driver(faults=(Fault(kind=kind, **fields),))


# It is all there, and it is marked


def called_of(path: Path) -> set[str]:
    """Names of pynvml's functions in a source file, called on a module or looked up by a string."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for name in names if name.startswith("nvml") and callable(getattr(pynvml, name, None))}


ROOT = Path(harness.__file__).parent
OURS = [path for path in ROOT.rglob("*.py") if "simulated" not in path.parts and "nvml" in path.read_text()]
ZEUS = {
    "nvmlDeviceGetArchitecture", "nvmlDeviceGetC2cModeInfoV", "nvmlDeviceGetCount", "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceGetPowerManagementDefaultLimit", "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints", "nvmlDeviceGetSupportedGraphicsClocks",
    "nvmlDeviceGetSupportedMemoryClocks", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceResetGpuLockedClocks", "nvmlDeviceResetMemoryLockedClocks", "nvmlDeviceSetGpuLockedClocks",
    "nvmlDeviceSetMemoryLockedClocks", "nvmlDeviceSetPersistenceMode", "nvmlDeviceSetPowerManagementLimit", "nvmlInit",
    "nvmlShutdown",
}  # fmt: skip
"""What ``zeus/device/gpu/nvidia.py`` of Zeus 0.16.0 calls."""


def test_every_function_that_anybody_calls_is_there():
    spec = importlib.util.find_spec("codecarbon")
    assert spec is not None
    codecarbon = called_of(Path(str(spec.origin)).parent / "core" / "gpu_nvidia.py")
    ours = set().union(*map(called_of, OURS))
    assert {"nvmlDeviceGetUtilizationRates", "nvmlDeviceGetComputeMode"} <= codecarbon
    assert {"nvmlDeviceGetFieldValues", "nvmlDeviceGetMemoryInfo"} <= ours
    face = Driver().nvml
    assert sorted(name for name in ZEUS | codecarbon | ours if not hasattr(face, name)) == []


def test_constants_and_errors_are_the_real_ones_and_functions_never():
    face = Driver().nvml
    assert face.NVMLError is pynvml.NVMLError
    assert face.NVMLError_NotSupported is pynvml.NVMLError_NotSupported
    assert face.NVML_ERROR_GPU_IS_LOST == pynvml.NVML_ERROR_GPU_IS_LOST
    assert callable(face._nvmlGetFunctionPointer)  # by which Zeus knows the maker's own bindings
    with pytest.raises(AttributeError, match="no function nvmlDeviceGetFanSpeed"):
        face.nvmlDeviceGetFanSpeed  # noqa: B018


def test_a_field_value_is_laid_out_like_the_real_one():
    value = Driver().field(186)
    real = pynvml.c_nvmlFieldValue_t
    assert [(name, kind) for name, kind in value._fields_] == list(real._fields_)
    again = real.from_buffer_copy(bytes(value))
    assert (again.value.uiVal, again.fieldId, again.nvmlReturn) == (300_000, 186, 0)


def test_whoever_asks_is_told_that_it_is_simulated():
    one = Driver(Card(name="NVIDIA H100 PCIe"), Card(mig=True))
    assert one.ask("nvmlDeviceGetName") == "NVIDIA H100 PCIe (simulated)"
    assert one.nvml.nvmlSystemGetDriverVersion() == "580.95.05 (simulated)"
    assert one.nvml.basis is Basis.SIMULATED
    for index in (0, 1):
        assert "SIMULATED" in one.nvml.uuid_of(index)
        assert "SIMULATED" in one.nvml.nvmlDeviceGetUUID(one.nvml.nvmlDeviceGetHandleByIndex(index))
    for fact in ("nvmlDeviceGetBoardPartNumber", "nvmlDeviceGetVbiosVersion"):
        assert "simulated" in one.ask(fact).lower()
    assert "SIMULATED" in one.ask("nvmlDeviceGetPciInfo").busId


def test_the_real_meter_on_it_marks_every_number():
    one = Driver(Card(), Card(module=Part(rest_w=100), memory=Part(share=0.1)))
    info = NvmlMeter(nvml=one.nvml, clock=one.clock).open(None, None)
    assert info.basis is Basis.SIMULATED
    assert {channel.basis for channel in info.channels} == {Basis.SIMULATED}
    assert all("SIMULATED" in channel.device for channel in info.channels)
    assert "(simulated)" in info.source


def test_another_scenario_has_other_cards():
    assert Driver().nvml.uuid_of(0) != Driver(gain=1.1).nvml.uuid_of(0)
    assert Driver().nvml.uuid_of(0) == Driver().nvml.uuid_of(0)


# Readings


def test_numbers_are_those_of_the_card_in_milli_units():
    one = Driver(counter=Counter(of="power", start_j=1000)).at(5)
    assert one.field(FIELDS["power"]).value.uiVal == one.ask("nvmlDeviceGetPowerUsage") == 300_000
    assert one.field(FIELDS["energy"]).value.ullVal == one.ask("nvmlDeviceGetTotalEnergyConsumption") == 2_500_000
    one.at(10.5)
    assert one.field(FIELDS["power"]).value.uiVal == 500_000
    assert 300_000 < one.field(FIELDS["power_mean"]).value.uiVal < 500_000
    assert one.ask("nvmlDeviceGetEnforcedPowerLimit") == one.ask("nvmlDeviceGetPowerManagementLimit") == 700_000


def test_timestamps_are_of_the_refresh_or_of_the_read():
    for timestamps, at_s in (("refresh", 3.2), ("read", 3.26)):
        one = Driver(timestamps=timestamps, sensor=Sensor(period_s=0.1)).at(3.26)
        assert one.field(FIELDS["power"]).timestamp == round((EPOCH_S + at_s) * 1e6)


def test_module_and_memory_are_scopes_of_power_alone():
    one = Driver(module=Part(rest_w=140), memory=Part(share=0.2), counter=Counter(scope="module"))
    assert [one.field(186, scope).value.uiVal for scope in (0, MODULE, MEMORY)] == [300_000, 440_000, 60_000]
    assert one.field(83, MODULE).nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert one.ask("nvmlDeviceGetC2cModeInfoV").isC2cEnabled
    bare = Driver()
    assert {bare.field(186, scope).nvmlReturn for scope in (MODULE, MEMORY, 7)} == {pynvml.NVML_ERROR_NOT_SUPPORTED}
    assert bare.code("nvmlDeviceGetC2cModeInfoV") == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_processes_are_the_runs_own_and_those_of_others():
    one = Driver(faults=(Fault(kind=FaultKind.FOREIGN, from_s=2, value=3),), own=lambda: (11, 12))
    assert [process.pid for process in one.ask("nvmlDeviceGetComputeRunningProcesses")] == [11, 12]
    pids = [process.pid for process in one.at(2).ask("nvmlDeviceGetComputeRunningProcesses")]
    assert pids[:2] == [11, 12]
    assert len(pids) == 5
    assert not [pid for pid in pids[2:] if Path(f"/proc/{pid}").exists()]
    assert one.ask("nvmlDeviceGetGraphicsRunningProcesses") == []


def test_a_card_says_what_it_is():
    one = Driver(architecture="ampere", memory_gib=40, power_limit_w=400, vgpu=True, idle=Load(power_w=400))
    assert one.ask("nvmlDeviceGetArchitecture") == pynvml.NVML_DEVICE_ARCH_AMPERE
    assert one.ask("nvmlDeviceGetMemoryInfo").total == 40 * 2**30
    assert one.ask("nvmlDeviceGetVirtualizationMode") == 2
    assert one.ask("nvmlDeviceGetPowerManagementLimitConstraints")[1] == 400_000
    assert [one.at(at).ask("nvmlDeviceGetUtilizationRates").gpu for at in (1, 11)] == [0, 100]
    (memory_mhz,) = one.ask("nvmlDeviceGetSupportedMemoryClocks")
    assert one.ask("nvmlDeviceGetSupportedGraphicsClocks", memory_mhz)


def test_nothing_can_be_set():
    one = Driver()
    for function in sorted(name for name in ZEUS if "Set" in name):
        assert one.code(function, 1) == pynvml.NVML_ERROR_NO_PERMISSION


def test_the_library_must_be_open_and_the_card_there():
    one = Driver()
    for index in (-1, 1):
        with pytest.raises(pynvml.NVMLError) as caught:
            one.nvml.nvmlDeviceGetHandleByIndex(index)
        assert caught.value.value == pynvml.NVML_ERROR_INVALID_ARGUMENT
    with pytest.raises(pynvml.NVMLError) as caught:
        one.nvml.nvmlDeviceGetHandleByUUID("GPU-SIMULATED-other-0")
    assert caught.value.value == pynvml.NVML_ERROR_NOT_FOUND
    one.nvml.nvmlShutdown()
    assert one.code("nvmlDeviceGetPowerUsage") == pynvml.NVML_ERROR_UNINITIALIZED
    with pytest.raises(pynvml.NVMLError):
        one.nvml.nvmlShutdown()


def test_a_mig_instance_has_no_readings_and_its_board_has():
    one = Driver(mig=True)
    instance = one.nvml.nvmlDeviceGetHandleByUUID(one.nvml.uuid_of(0))
    with pytest.raises(pynvml.NVMLError) as caught:
        one.nvml.nvmlDeviceGetPowerUsage(instance)
    assert caught.value.value == pynvml.NVML_ERROR_NOT_SUPPORTED
    board = one.nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    assert one.nvml.nvmlDeviceGetPowerUsage(board) == 300_000
    assert one.nvml.nvmlDeviceGetUUID(board).startswith("GPU-SIMULATED-")
    assert one.ask("nvmlDeviceGetMigMode")[0] == 1


# What an old driver or card lacks


@pytest.mark.parametrize(
    ("driver", "unknown"),
    [("580.95.05", set()), ("580.65.06", {269, 270, 271}), ("550.54.15", {269, 271}), ("470.57.02", {185, 186, 269})],
)
def test_an_old_driver_does_not_know_newer_fields(driver, unknown):
    one = Driver(driver=driver)
    codes = {id_: one.field(id_).nvmlReturn for id_ in (74, 75, 83, 185, 186, 269, 270, 271)}
    assert {id_ for id_, code in codes.items() if code == pynvml.NVML_ERROR_INVALID_ARGUMENT} >= unknown
    assert {codes[id_] for id_ in (74, 75, 83)} == {pynvml.NVML_SUCCESS}


def test_an_old_driver_has_only_the_older_call_for_temperature():
    one = Driver(driver="550.54.15")
    assert one.code("nvmlDeviceGetTemperatureV", 0) == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert one.ask("nvmlDeviceGetTemperature", 0) == Driver().ask("nvmlDeviceGetTemperatureV", 0) == 55


def test_a_card_before_volta_has_no_counter():
    one = Driver(counter=None)
    assert one.code("nvmlDeviceGetTotalEnergyConsumption") == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert one.field(83).nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_the_call_for_many_fields_can_be_missing_while_the_single_ones_work():
    one = faulty(FaultKind.NO_FUNCTION, readings=("fields",))
    assert one.code("nvmlDeviceGetFieldValues", [83]) == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert one.ask("nvmlDeviceGetPowerUsage") == 300_000


# Faults


CODES = {
    FaultKind.MISSING: pynvml.NVML_ERROR_UNKNOWN,
    FaultKind.UNSUPPORTED: pynvml.NVML_ERROR_NOT_SUPPORTED,
    FaultKind.DENIED: pynvml.NVML_ERROR_NO_PERMISSION,
    FaultKind.NO_FUNCTION: pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
}


@pytest.mark.parametrize("kind", CODES)
def test_a_reading_that_fails_has_its_code_in_fields_and_functions_and_only_while_it_lasts(kind):
    one = faulty(kind, from_s=1, until_s=2, readings=("energy", "power_mean"))
    assert one.field(83).nvmlReturn == pynvml.NVML_SUCCESS
    one.at(1.5)
    in_fields = pynvml.NVML_ERROR_INVALID_ARGUMENT if kind is FaultKind.NO_FUNCTION else CODES[kind]
    assert [one.field(FIELDS[name]).nvmlReturn for name in ("energy", "power_mean")] == [in_fields] * 2
    assert one.code("nvmlDeviceGetTotalEnergyConsumption") == one.code("nvmlDeviceGetPowerUsage") == CODES[kind]
    assert one.field(FIELDS["power"]).nvmlReturn == pynvml.NVML_SUCCESS
    one.at(2)
    assert one.field(83).nvmlReturn == pynvml.NVML_SUCCESS


@pytest.mark.parametrize(
    ("reading", "function"),
    [
        ("temperature", "nvmlDeviceGetTemperature"),
        ("power_limit", "nvmlDeviceGetEnforcedPowerLimit"),
        ("processes", "nvmlDeviceGetComputeRunningProcesses"),
        ("energy", "nvmlDeviceGetTotalEnergyConsumption"),
        ("power_mean", "nvmlDeviceGetPowerUsage"),
        ("fields", "nvmlDeviceGetFieldValues"),
    ],
)
def test_each_reading_can_be_denied_by_itself(reading, function):
    one = faulty(FaultKind.DENIED, readings=(reading,))
    arguments = {"nvmlDeviceGetTemperature": (0,), "nvmlDeviceGetFieldValues": ([83],)}.get(function, ())
    assert one.code(function, *arguments) == pynvml.NVML_ERROR_NO_PERMISSION


def test_lies_come_with_success():
    not_available = faulty(FaultKind.NOT_AVAILABLE)
    assert not_available.field(83).value.ullVal == 2**64 - 1
    assert not_available.field(186).value.uiVal == 2**32 - 1
    zero = faulty(FaultKind.ZERO)
    assert (zero.field(83).nvmlReturn, zero.field(83).value.ullVal, zero.ask("nvmlDeviceGetPowerUsage")) == (0, 0, 0)
    negative = faulty(FaultKind.NEGATIVE, readings=("power",)).field(186)
    assert (negative.nvmlReturn, negative.valueType, negative.value.sllVal) == (0, 4, -300_000)


def test_a_lost_card_is_lost_for_every_call_and_its_neighbour_is_not():
    one = Driver(Card(faults=(Fault(kind=FaultKind.LOST, from_s=1),)), Card()).at(1)
    assert one.code("nvmlDeviceGetFieldValues", [83]) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert one.code("nvmlDeviceGetTemperature", 0) == pynvml.NVML_ERROR_GPU_IS_LOST
    for reach, key in (("nvmlDeviceGetHandleByIndex", 0), ("nvmlDeviceGetHandleByUUID", one.nvml.uuid_of(0))):
        with pytest.raises(pynvml.NVMLError) as caught:
            getattr(one.nvml, reach)(key)
        assert caught.value.value == pynvml.NVML_ERROR_GPU_IS_LOST
    neighbour = one.nvml.nvmlDeviceGetHandleByIndex(1)
    assert one.nvml.nvmlDeviceGetPowerUsage(neighbour) == 300_000


def test_a_clock_that_steps_moves_timestamps_and_nothing_else():
    one = faulty(FaultKind.CLOCK_STEP, from_s=1, until_s=2, value=-3600)
    before = one.at(0.95).field(186)
    during, after = one.at(1.55).field(186), one.at(2.05).field(186)
    assert during.timestamp - before.timestamp == pytest.approx(-3600e6 + 0.6e6)
    assert after.timestamp - before.timestamp == pytest.approx(1.1e6)
    assert before.value.uiVal == during.value.uiVal


def test_a_slow_call_takes_its_time_and_reads_at_its_end():
    one = faulty(FaultKind.SLOW, from_s=9.9, value=0.25).at(9.9)
    assert one.field(186).value.uiVal == 500_000  # the load rose at 10
    assert one.nvml.seconds == pytest.approx(10.15)
    one.ask("nvmlDeviceGetTemperature", 0)
    assert one.nvml.seconds == pytest.approx(10.40)


def test_a_library_that_breaks_down_raises_what_nobody_expects():
    one = faulty(FaultKind.CRASH, from_s=1)
    one.field(83)
    with pytest.raises(RuntimeError, match="broke down"):
        one.at(1).field(83)


def test_frozen_readings_stand_still_in_functions_too():
    one = Driver(
        faults=(Fault(kind=FaultKind.FROZEN, from_s=1, readings=("temperature", "processes")),
                Fault(kind=FaultKind.FOREIGN, from_s=2, value=1))
    )  # fmt: skip
    first = (one.ask("nvmlDeviceGetTemperature", 0), len(one.ask("nvmlDeviceGetComputeRunningProcesses")))
    one.at(60)
    assert (one.ask("nvmlDeviceGetTemperature", 0), len(one.ask("nvmlDeviceGetComputeRunningProcesses"))) == first


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.MISSING, ReadStatus.MISSING),
        (FaultKind.DENIED, ReadStatus.DENIED),
        (FaultKind.UNSUPPORTED, ReadStatus.UNSUPPORTED),
        (FaultKind.LOST, ReadStatus.LOST),
        (FaultKind.NOT_AVAILABLE, ReadStatus.MISSING),
        (FaultKind.NEGATIVE, ReadStatus.MISSING),
    ],
)
def test_the_real_meter_meets_each_fault_as_a_status(kind, status):
    one = faulty(kind, from_s=1)
    meter = NvmlMeter(nvml=one.nvml, clock=one.clock)
    info = meter.open(None, None)
    assert {sample.status for sample in meter.read()} == {ReadStatus.OK}
    one.at(2.5)
    found = {info.channels[sample.channel].name: sample for sample in meter.read()}
    for name in ("gpu0/energy", "gpu0/power"):
        assert (found[name].status, found[name].value) == (status, None)
